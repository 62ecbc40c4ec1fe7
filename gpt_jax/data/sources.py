"""Where text comes from, and which of it is held out.

A corpus is a sequence of named documents in a fixed order. The names are the same on every machine
(they hold no absolute path), because the split into training and validation text hashes them.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from gpt_jax.config import DataConfig, InputError, require
from gpt_jax.paths import find, in_bucket, resolved, told_of_buckets

NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Folders under the standard library that hold other people's code, or no prose and few ideas."""


@dataclass(frozen=True)
class Document:
    """One text that stands by itself."""

    name: str
    """Source and position: "json/decoder.py", or "x.jsonl:17" for a line."""
    text: str


def documents(config: DataConfig) -> Iterator[Document]:
    """Every document of the corpus that has any text, in an order that does not change.

    With no `files`, the source files of the running Python's standard library; one that is not
    UTF-8 (CPython keeps those among its tests) is left out. Line ends are kept as they are.

    Raises:
      InputError: a glob without a match, a file that cannot be read, bytes that are not UTF-8, a
        bad line of JSON, or no text at all.
    """
    found = _local(config) if config.files else _standard_library()
    empty = True
    for document in found:
        if document.text:
            empty = False
            yield document
    where = ", ".join(config.files) or sysconfig.get_paths()["stdlib"]
    require(not empty, f"there is no text in {where}: name files that have some (--data.files).")


def held_out(document: Document, config: DataConfig) -> tuple[str, str]:
    """The (training, validation) parts of a document's text; either may be empty.

    split="path" gives the whole document to the side that the SHA-256 of its name picks, so that
    adding documents moves no other. split="position" cuts off the tail, by characters.
    """
    text = document.text
    if config.split == "position":
        cut = int(len(text) * (1 - config.validation_fraction))
        return text[:cut], text[cut:]
    draw = int.from_bytes(hashlib.sha256(document.name.encode()).digest()[:8], "big") / 2**64
    return ("", text) if draw < config.validation_fraction else (text, "")


def _standard_library() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in NOT_LIBRARY]
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
        try:
            yield Document(name, path.read_bytes().decode())
        except UnicodeDecodeError:
            continue


def _local(config: DataConfig) -> Iterator[Document]:
    for name, path, _ in _matches(config.files):
        try:
            with _open(path) as file:
                if path.name.endswith((".jsonl", ".jsonl.gz")):
                    yield from _json_lines(name, path, file, config.jsonl_field)
                else:
                    yield Document(name, _decode(file.read(), str(path)))
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"every file of the corpus must be readable, and {path} is not ({error}): repair "
                "it or leave it out of --data.files."
            ) from error


def content_id(config: DataConfig) -> str | None:
    """What the text of the corpus is known by without reading it; None where nothing tells it.

    In a bucket an object's generation is of one content. A file of this machine can change with
    nothing to show for it.
    """
    found = _matches(config.files)
    if not found or not all(version for *_, version in found):
        return None
    said = [config.jsonl_field, *([name, version] for name, _, version in found)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _matches(patterns: tuple[str, ...]) -> list[tuple[str, Path, str]]:
    """(name, path, version) of each file once, by name, which is the path below its glob's root."""
    found: dict[Path, tuple[str, str]] = {}
    for pattern in patterns:
        with told_of_buckets():
            root, files = find(pattern)
        require(
            bool(files),
            f"data.files must match at least one file, and {pattern!r} matches none: check the "
            "path, and quote globs on the command line; 'folder/**/*.txt' takes a whole tree.",
        )
        for path, version in files.items():
            name = os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
            found.setdefault(resolved(path), (name, version))
    return sorted((name, path, version) for path, (name, version) in found.items())


def _open(path: Path) -> IO[bytes]:
    """A file to be read from its beginning to its end, unpacked."""
    if path.suffix != ".gz":
        return path.open("rb")
    return cast(IO[bytes], gzip.open(path.open("rb") if in_bucket(path) else path))


def _json_lines(name: str, path: Path, file: IO[bytes], field: str) -> Iterator[Document]:
    offset = 0
    for number, line in enumerate(file, 1):
        text = _decode(line, str(path), offset)
        offset += len(line)
        if text.strip():
            yield Document(f"{name}:{number}", _json_text(text, f"{path}:{number}", field))


def _json_text(line: str, where: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(
            f"every line of a .jsonl file must be a JSON object, and {where} is not ({error}): "
            "correct the line or remove it."
        ) from error
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(
            f"every line of a .jsonl file must be an object whose field {field!r} is a string, and "
            f"{where} is not: {line.strip()[:60]!r}. --data.jsonl-field names the field."
        )
    require(
        text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text),
        f"text must be valid Unicode, and {where} has half of a surrogate pair (\\ud800-\\udfff).",
    )
    return text


def _decode(data: bytes, path: str, offset: int = 0) -> str:
    """UTF-8 text; `offset` is where in the unpacked file `data` starts."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"text must be UTF-8, and {path} is not at byte {offset + error.start} (0x"
            f"{data[error.start]:02x}): convert it, or leave it out of --data.files."
        ) from error
