"""Runs from checkpoints in the Hugging Face format, and such checkpoints from runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig, require
from gpt_jax.data.hf_tokenizers import HuggingFaceTokenizer
from gpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from gpt_jax.interop.hf_config import to_config_json
from gpt_jax.interop.layout import Place, places
from gpt_jax.interop.load import load_hf
from gpt_jax.interop.tokenizer_files import write_tokenizer_files
from gpt_jax.interop.weights import INDEX, SINGLE, cast, check_dtype
from gpt_jax.model.parametrisation import merged, standard_form
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.paths import in_bucket
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.run import load_model, read_config, write_json, write_run

SHARD_BYTES = 5_000_000_000
"""The largest file that is written, unless one tensor alone is larger; transformers' default."""


def convert(folder: Path, run: Path, dtype: str | None = None, fsdp: int = 1) -> Config:
    """Make a run at `run` of a folder in the Hugging Face format; returns its config.

    The run has one checkpoint, of step 0, and can be generated from, exported, and trained from:
    `gpt-jax train RUN --data.files ...`, or an experiment that names it as `init_from`.

    Args:
      folder, dtype: as in `load_hf`.
      run: a new folder; it is there whole or not at all.
      fsdp: devices that the parameters are split over on their way.

    Raises InputError where `load_hf` does, or where `run` is there already.
    """
    devices = jax.local_devices()
    require(
        1 <= fsdp <= len(devices),
        f"parameters can be split over {len(devices)} devices at most, which are all that there "
        f"are, and --fsdp asks for {fsdp}.",
    )
    with _new_folder(run) as partial:
        mesh = make_mesh(MeshConfig(data=1, fsdp=fsdp), devices[:fsdp])
        config, params, tokenizer = load_hf(folder, dtype=dtype, mesh=mesh)
        # The folder's own: `train RUN` gives it the path that the folder has then.
        data = dataclasses.replace(config.data, tokenizer="./tokenizer")
        config = dataclasses.replace(config, name=run.resolve().name, data=data)
        with Checkpointer(partial / "checkpoints", keep_last=1, keep_best=0) as checkpointer:
            meta = {"config": dataclasses.asdict(config)}
            checkpointer.save(0, params, {"step": jnp.int32(0)}, meta)
        write_run(partial, config, tokenizer)
    return config


def export(
    run: Path,
    folder: Path,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    step: int | str | None = None,
) -> str:
    """Write the parameters of a run, adapters and multipliers merged, in the Hugging Face format.

    config.json, model.safetensors (or several, with their index) and the tokenizer files, as
    transformers reads them. Returns the model_type.

    Args:
      run: trained or converted.
      folder: a new folder; it is there whole or not at all.
      dtype: float32, bfloat16 or float16. None: as they were saved.
      shard_bytes: the most that one file holds.
      step: as in `gpt_jax.load`.

    Raises InputError where `run` is no run, `folder` is there already, or the format has no
    architecture that computes what the model does.
    """
    check_dtype(dtype)
    config = read_config(run)
    model = standard_form(config.model)
    values = to_config_json(model)
    with _new_folder(folder) as partial:
        tokenizer = load_tokenizer(run / "tokenizer")
        params = merged(config.model, load_model(run, config, _host_device(), step))
        kept = dtype or str(params["embedding"].dtype)
        tensors = _tensors(values["model_type"], model, params)
        _write_weights(partial, tensors, jnp.dtype(kept), shard_bytes)
        write_tokenizer_files(tokenizer, partial, model.context_length)
        write_json(
            partial / "config.json", values | _of_tokenizer(tokenizer) | {"torch_dtype": kept}
        )
    return values["model_type"]


def _host_device() -> Any:
    """The host itself, which has room for a model that an accelerator alone may not have."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.local_devices()[0]


def _of_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """What config.json says of the tokenizer; its own files may not say what they are."""
    end = tokenizer.separator
    said = {"bos_token_id": tokenizer.prefix[0] if tokenizer.prefix else end, "eos_token_id": end}
    named = tokenizer.tokenizer_class if isinstance(tokenizer, HuggingFaceTokenizer) else ""
    return said | ({"tokenizer_class": named} if named else {})


def _tensors(kind: str, model: ModelConfig, params: Any) -> list[tuple[str, Place, np.ndarray]]:
    """(name in the file, place, the array of ours that holds it) of every tensor."""
    arrays = {path: np.asarray(leaf) for path, leaf in named_leaves(params).items()}
    return [(place.name_in_file, place, arrays[place.ours]) for place in places(kind, model)]


def _write_weights(
    folder: Path, tensors: list[tuple[str, Place, np.ndarray]], dtype: Any, shard_bytes: int
) -> None:
    """One file, or several and an index; the host holds what one file does besides the model."""
    files: list[list[tuple[str, Place, np.ndarray]]] = [[]]
    filled = total = 0
    for name, place, array in tensors:
        size = math.prod(place.their_shape) * dtype.itemsize
        if files[-1] and filled + size > shard_bytes:
            files.append([])
            filled = 0
        files[-1].append((name, place, array))
        filled, total = filled + size, total + size
    index = {}
    for number, part in enumerate(files, 1):
        file = SINGLE
        if len(files) > 1:
            file = f"model-{number:05}-of-{len(files):05}.safetensors"
        values = {name: cast(place.to_theirs(x), dtype, name) for name, place, x in part}
        try:
            save_file(values, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # which hides the number of what the system says
            raise InputError(
                f"there must be room for the weights, and {file} cannot be written ({error}): "
                "make room, and give the same command."
            ) from error
        index |= dict.fromkeys(values, file)
    if len(files) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill, which takes its name when the body ends well."""
    require(
        not in_bucket(folder),
        f"what is written goes to a folder of this machine, and {folder} is in a bucket: name such "
        f"a folder, and copy it there afterwards (gcloud storage cp -r FOLDER {folder}).",
    )
    try:
        folder = folder.expanduser().resolve()
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        require(
            not taken and folder.name != "",
            f"what is written goes to a new folder, and {folder} is there already: name another, "
            "or remove it.",
        )
        made = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}-", dir=folder.parent))
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in circles
        raise InputError(
            f"what is written goes to a new folder, and {folder} cannot be made ({error}): name "
            "another."
        ) from error
    try:
        yield partial
        partial.chmod(0o755)  # that of a new folder; temporary ones are for their owner alone
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:  # from the inside out
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
