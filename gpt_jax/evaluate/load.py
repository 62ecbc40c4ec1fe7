"""A model from its folder onto the mesh, ready to be asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax

from gpt_jax.config import Config, MeshConfig, require
from gpt_jax.data.tokenizers import load_tokenizer, read_tokenizer
from gpt_jax.evaluate.language_model import BATCH_TOKENS, LanguageModel
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.paths import resolved, told_of_buckets
from gpt_jax.train.origin import Reader, is_foreign, read_run
from gpt_jax.train.run import read_config


@dataclass(frozen=True)
class Loaded:
    """A model, and where it comes from."""

    model: LanguageModel
    config: Config | None
    """Of the run; None of a model from elsewhere."""
    step: int | None


@told_of_buckets()
def load_model(
    folder: Path,
    step: str | int | None = None,
    reader: Reader | None = None,
    fsdp: int = 1,
    batch_tokens: int = BATCH_TOKENS,
) -> Loaded:
    """A model over all devices, each of which reads its own part of the weights.

    Args:
      folder: of a run, here or in a bucket, or one that `reader` reads.
      step: of a run, as in `gpt_jax.load`.
      reader: of folders in the Hugging Face format.
      fsdp: devices that the weights are split over; all are copies of these.
      batch_tokens: that each part of the batch has at a time.

    Raises InputError where `gpt_jax.load` does, and where the devices do not divide.
    """
    require(batch_tokens > 0, f"a device takes a token at least, and not {batch_tokens}.")
    count = len(jax.devices())
    require(
        fsdp > 0 and count % fsdp == 0,
        f"the weights are split over a number of devices that divides the {count} there are, and "
        f"--fsdp is {fsdp}.",
    )
    mesh = make_mesh(MeshConfig(fsdp=fsdp))
    path = resolved(folder)
    if reader is not None and is_foreign(path):
        require(step is None, f"{folder} is no run and has no steps: leave --step out.")
        origin = reader(path)
        tokenizer = read_tokenizer(str(origin.tokenizer))
        model = LanguageModel(origin.model, tokenizer, mesh, batch_tokens)
        model.params = origin.read(model.abstract)
        return Loaded(model, None, None)
    config = read_config(path)
    # The kernel that it was trained with may not be had here.
    plain = dataclasses.replace(config.model, attention="auto")
    model = LanguageModel(plain, load_tokenizer(path / "tokenizer"), mesh, batch_tokens)
    number, model.params = read_run(path, config, model.abstract, step)
    return Loaded(model, config, number)
