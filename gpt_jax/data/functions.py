"""A Python function as a source: python:PATH.py:FUNCTION, or python:MODULE:FUNCTION."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gpt_jax.config import InputError, nearest, require

SCHEME = "python:"


def parse(source: str) -> tuple[str, str]:
    """(name, path) of what python:... names: name without folders, path with them from the root."""
    where, _, function = source.removeprefix(SCHEME).rpartition(":")
    require(
        bool(where) and function.isidentifier(),
        f"a Python function is named python:PATH.py:FUNCTION or python:MODULE:FUNCTION, and "
        f"{source!r} is not.",
    )
    if not where.endswith(".py"):
        return f"{where}:{function}", f"{where}:{function}"
    path = Path(where).expanduser().absolute()
    require(path.is_file(), f"there is no file {path}, which {source!r} names.")
    return f"{path.name}:{function}", f"{path}:{function}"


def code(path: str) -> str:
    """A digest of the file that a function is in, or "" of a module's: tells whether it changed.

    Not whether it still yields the same: it may read what it likes.
    """
    where, _, _ = path.rpartition(":")
    return hashlib.sha256(Path(where).read_bytes()).hexdigest() if where.endswith(".py") else ""


def values(path: str) -> Iterator[tuple[int, Any]]:
    """(number from 0, value) of all that the function yields: str, or dict by name of field.

    Raises InputError where it cannot be imported, fails, or yields something else.
    """
    where, _, name = path.rpartition(":")
    for number, value in enumerate(_told_of_faults(function(where, name), path)):
        require(
            isinstance(value, str | dict),
            f"a function that is a source yields str or dict, and {path} yields a "
            f"{type(value).__name__}: {value!r:.60}.",
        )
        yield number, value


def function(where: str, name: str) -> Callable[[], Any]:
    """The function of that name in a module or a .py file; raises InputError where it is not."""
    module = _imported(where)
    found = getattr(module, name, None)
    functions = [key for key, value in vars(module).items() if callable(value)]
    require(callable(found), f"{where} has no function {name!r}: {nearest(name, functions)}")
    return found  # pyright: ignore[reportReturnType]


def _imported(where: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        # By its path, which is the name of no other module.
        spec = importlib.util.spec_from_file_location(where, where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[where] = module  # dataclasses and pickle look it up
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            f"{where}, which python:... names, cannot be imported: {last_line(error)}."
        ) from error
    return module


def _told_of_faults(function: Callable[[], Any], path: str) -> Iterator[Any]:
    try:
        yield from function()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}, which takes no arguments and yields documents, failed: {last_line(error)}."
        ) from error


def last_line(error: BaseException) -> str:
    """What went wrong, and where."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(at.filename)}, line {at.lineno})"
