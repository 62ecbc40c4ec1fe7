"""The safetensors files of a Hugging Face folder, read tensor by tensor."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from gpt_jax.config import InputError, require

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
"""The dtypes that are read, by safetensors' names."""


class Weights:
    """All tensors of a folder by name, whichever file each is in.

    Opening reads the headers alone. Raises InputError where there are no safetensors files, or
    one is missing or cut short.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        for path, listed in _listed_files(folder).items():
            with _reading(path):
                file = safe_open(path, framework="numpy")
                held = set(file.keys())
            missing = sorted((listed or held) - held)
            require(
                not missing,
                f"{INDEX} must tell where each tensor is, and {path} has no {missing[:1]}: "
                "download the folder again.",
            )
            for name in listed or held:
                self._files[name], self._paths[name] = file, path

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._files[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> Any:
        """NumPy's name of a tensor's dtype; raises InputError where it is none that is read."""
        dtype = self._files[name].get_slice(name).get_dtype()
        require(
            dtype in DTYPES,
            f"weights must be of {', '.join(DTYPES)}, and {name} in {self._paths[name]} is of "
            f"{dtype}: quantised and integer weights are not read here.",
        )
        return np.dtype(DTYPES[dtype])

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor."""
        with _reading(self._paths[name]):
            return self._files[name].get_tensor(name)

    def blocks(self, name: str, limit: int = 1 << 26) -> Iterator[np.ndarray]:
        """The values of one tensor in blocks of rows, each of about `limit` bytes."""
        shape = self.shape(name)
        size = max(int(limit // (np.prod(shape[1:]) * self.dtype(name).itemsize)), 1)
        with _reading(self._paths[name]):
            part = self._files[name].get_slice(name)
            for row in range(0, shape[0], size):
                yield part[row : min(row + size, shape[0])]


def _listed_files(folder: Path) -> dict[Path, set[str] | None]:
    """The files to read, each with the tensors that an index says it has, if there is an index."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    if not (folder / INDEX).is_file():
        raise InputError(_no_weights(folder))
    try:
        places = json.loads((folder / INDEX).read_text())["weight_map"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / INDEX} must be JSON with a weight_map of tensors to files, and it cannot "
            f"be read ({error!r}): download it again."
        ) from error
    files: dict[Path, set[str] | None] = {}
    for name, file in places:
        require(
            isinstance(file, str) and Path(file).name == file,
            f"{INDEX} must name files beside itself, and for {name} it names {file!r}.",
        )
        listed = files.setdefault(folder / file, set())
        assert listed is not None
        listed.add(name)
    missing = sorted(path.name for path in files if not path.is_file())
    require(
        not missing,
        f"every file that {INDEX} names must be in {folder}, and there is no "
        f"{', '.join(missing[:3])}: {len(missing)} of {len(files)} are missing; download them.",
    )
    return files


def _no_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if not pickles:
        return (
            f"weights are read from {SINGLE}, or from the files that {INDEX} names, and {folder} "
            "has neither: give the folder that holds them."
        )
    return (
        f"weights are read from safetensors files alone, and {folder} has {pickles[0]}, a pickle: "
        "loading one runs whatever program it holds. Where you trust it, with PyTorch installed, "
        'this writes a folder that can be read: python -c "from transformers import '
        "AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained('{folder}').save_pretrained('NEW'); "
        f"T.from_pretrained('{folder}').save_pretrained('NEW')\""
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} must be a whole safetensors file, and it cannot be read ({error}): download "
            "it again."
        ) from error
