"""A folder in the Hugging Face format as what a run starts from, without a run between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from gpt_jax.config import require
from gpt_jax.data.hf_tokenizers import read_tokenizer_files
from gpt_jax.interop.hf_config import read_config_json
from gpt_jax.interop.load import check_folder, check_tokenizer, read_params
from gpt_jax.interop.weights import Weights
from gpt_jax.paths import in_bucket
from gpt_jax.train.origin import Origin


def open_folder(folder: Path) -> Origin:
    """Model, tokenizer and weights of a folder on this machine.

    The weights go straight into the shards of the run: no host holds more than a block of them.
    Raises InputError where `load_hf` does; of what is wrong with the weights, when they are read.
    """
    require(
        not in_bucket(folder),
        "a model in the Hugging Face format is read from a folder on this machine, and "
        f"{folder} is in a bucket: copy it first (gcloud storage cp -r {folder} DIR), or "
        "start from a run there that `gpt-jax convert` made of it.",
    )
    folder = folder.expanduser().resolve()
    check_folder(folder)
    kind, model = read_config_json(folder)
    check_tokenizer(read_tokenizer_files(folder, kind), model, folder)

    def read(plain: Any) -> Any:
        mesh = jax.tree.leaves(plain)[0].sharding.mesh
        return read_params(kind, model, Weights(folder), None, mesh)

    return Origin(model, folder, read)
