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

    def rows(self, name: str, rows: slice) -> np.ndarray:
        """Values of a tensor: those rows of its first axis."""
        with _reading(self._paths[name]):
            return self._files[name].get_slice(name)[rows]

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors are the same, bit for bit; compared in blocks."""
        shape, kind = self.shape(name), self.dtype(name)
        if (shape, kind) != (self.shape(other), self.dtype(other)):
            return False
        bits = f"u{kind.itemsize}"
        cuts = [slice(row, min(row + 4096, shape[0])) for row in range(0, shape[0], 4096)]
        return all(
            np.array_equal(self.rows(name, cut).view(bits), self.rows(other, cut).view(bits))
            for cut in cuts
        )


def check_dtype(dtype: str | None) -> None:
    """Raise InputError unless weights can be of `dtype`; None is the dtype that they have."""
    known = [np.dtype(kind).name for kind in DTYPES.values()]
    require(
        dtype is None or dtype in known,
        f"weights can be of {', '.join(known)}, and {dtype!r} is none of these.",
    )


def cast(values: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """`values` in `dtype`; raises InputError where a finite one would become infinite."""
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    require(
        bool(np.array_equal(np.isfinite(values), np.isfinite(narrow))),
        f"weights must be in the range of their dtype, and {name} has values that are infinite in "
        f"{np.dtype(dtype).name}: ask for bfloat16 or float32.",
    )
    return narrow


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
