"""Where text comes from, and which of it is held out.

A corpus is a sequence of named documents in a fixed order. The names are the same on every machine
(they hold no absolute path), because the split into training and validation text hashes them.
What is read from its beginning to its end, by one process, is a piece.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_jax.config import DataConfig, InputError, nearest, require
from gpt_jax.data import formats, functions, tfds
from gpt_jax.data.formats import InvalidText
from gpt_jax.paths import absolute, find, in_bucket, resolved, told_of_buckets, user_path

LIBRARY = "stdlib:"
"""Names the source files of the running Python's standard library."""
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
"""Folders under the standard library that hold other people's code, or no prose and few ideas."""
SETTLED_SECONDS = 2
"""A file that changed less than this ago could change again within one tick of its clock."""


@dataclass(frozen=True)
class Document:
    """One text that stands by itself."""

    name: str
    """Source and position: "json/decoder.py", or "x.jsonl:17" for a line."""
    text: str


@dataclass(frozen=True)
class Piece:
    """A file, a shard of a dataset, or a function: documents that are read one after the other."""

    name: str
    """The same on every machine; the names of its documents begin with it. Two parts of one shard
    have one name, and other documents."""
    path: str
    """Of the file, from the root; of a function, with its name."""
    kind: Literal["text", "jsonl", "parquet", "library", "tfds", "python"]
    size: int = 0
    """Bytes as they are stored; 0 for a function."""
    version: str = ""
    """Another if the content is, without reading it (`paths.Stored`); empty for a function."""
    start: int = 0
    """Records of a shard before this one are left out ..."""
    stop: int = -1
    """... and this one and those after it; -1 where all are read."""


def pieces(files: tuple[str, ...]) -> list[Piece]:
    """What `DataConfig.files` names, each once, in an order that is the same on every machine.

    Raises InputError for a glob without a match, or a dataset or function that is not there.
    """
    found: dict[str, list[Piece]] = {}
    for pattern in files or (LIBRARY,):
        for piece in _named(pattern):
            at = piece.path if piece.kind == "python" else str(resolved(user_path(piece.path)))
            found.setdefault(at, []).append(piece)
    taken, result = Counter[str](), []
    # Where two globs give the same names, those of the first keep them.
    for same in sorted(found.values(), key=lambda same: same[0].name):
        name = same[0].name
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        for start, stop in _joined((piece.start, piece.stop) for piece in same):
            result.append(dataclasses.replace(same[0], name=name, start=start, stop=stop))
    return result


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order; those that overlap are one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(set(spans)):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined


def read(
    piece: Piece, text_field: str, skipped: Callable[[str, str], None] | None = None
) -> Iterator[Document]:
    """The documents of a piece that have any text, in order.

    A text file is one document, named as its piece. The others are named PIECE:POSITION, which is
    the line, from 1, or the number of the record in its file, from 0. `text_field` is where a
    record (JSONL, Parquet, TFDS, a dict) has its text; "a/b" is the field b in the field a, and
    null is no text. Line ends are kept as they are.

    `skipped(name, reason)` is told of each document that is no valid Unicode, and the rest is read;
    where it is None such a document is an error.

    Raises:
      InputError: a piece that cannot be read or is damaged, bytes that are not UTF-8, half of a
        surrogate pair, a bad line of JSON, a record without that field or without text in it.
    """
    for name, where, value in _values(piece, text_field):
        try:
            text = _text(value, where, text_field)
        except InvalidText as error:
            if piece.kind == "library":  # CPython keeps those for its tests
                continue
            if skipped is None:
                raise
            skipped(name, str(error))
        else:
            if text:
                yield Document(name, text)


def records(piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, whole record) of all that a piece holds; a text alone is {"text": it}.

    Values are str, int, float, bool, None, and lists and dicts of them; a class label is its name.
    Raises InputError as `read` does.
    """
    for name, where, value in _values(piece, None):
        record = {"text": value} if isinstance(value, str) else value
        if isinstance(record, InvalidText):
            raise record
        _check_unicode(record, where)
        yield name, record


def documents(config: DataConfig) -> Iterator[Document]:
    """Every document of the corpus that has any text, in an order that does not change.

    With no `files`, the source files of the running Python's standard library; one that is not
    UTF-8 (CPython keeps those among its tests) is left out.

    Raises InputError as `pieces` and `read` do, and where there is no text at all.
    """
    empty = True
    for piece in pieces(config.files):
        for document in read(piece, config.jsonl_field):
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
    return ("", text) if is_held_out(document.name, config.validation_fraction) else (text, "")


def is_held_out(name: str, fraction: float) -> bool:
    """Whether a document of this name is among those held out, of which there is this part."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return draw < fraction


def content_id(config: DataConfig) -> str | None:
    """What the text of the corpus is known by without reading it; None where nothing tells it."""
    return pieces_id(pieces(config.files), config.jsonl_field)


def pieces_id(found: Iterable[Piece], text_field: str) -> str | None:
    """`content_id` of these pieces: a digest of what they are known by, where all are known.

    A function is not. Nor is a file of this machine that changed within SETTLED_SECONDS: another
    change so soon could leave its times as they are.
    """
    said = []
    for piece in found:
        if not piece.version:
            return None
        if not in_bucket(piece.path) and not settled(piece.version):
            return None
        said.append([piece.name, piece.version, piece.start, piece.stop])
    return hashlib.sha256(json.dumps([text_field, *said]).encode()).hexdigest()


def settled(version: str) -> bool:
    """Whether a file of this machine, which `find` gives this version, has another if it changes.

    Not where it changed within SETTLED_SECONDS.
    """
    changed = max(map(int, version.split()[1:3]))
    return time.time_ns() - changed >= SETTLED_SECONDS * 10**9


def _named(pattern: str) -> Iterator[Piece]:
    """The pieces that one entry of `files` names."""
    if pattern == LIBRARY:
        yield from _library()
    elif pattern.startswith(functions.SCHEME):
        name, path = functions.parse(pattern)
        yield Piece(name, path, "python")
    elif pattern.startswith(tfds.SCHEME):
        for shard in tfds.shards(pattern):
            yield Piece(shard.name, shard.path, "tfds", *shard[2:])
    else:
        with told_of_buckets():
            root, files = find(pattern)
        require(
            bool(files),
            f"a source is at least one file, and {pattern!r} matches none: check the "
            "path, and quote globs on the command line; 'folder/**/*.txt' takes a whole tree.",
        )
        for path, (size, version) in sorted(files.items()):
            name = _readable_name(path.relative_to(root))
            yield Piece(name, str(absolute(path)), formats.format_of(name), size, version)


def _library() -> Iterator[Piece]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in NOT_LIBRARY]
        for name in names:
            if name.endswith(".py"):
                for path, (size, version) in find(str(Path(folder, name)))[1].items():
                    inner = path.relative_to(root).as_posix()
                    yield Piece(inner, str(path), "library", size, version)


def _readable_name(path: Path) -> str:
    """A path as text; names of files need not be UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def _values(piece: Piece, field: str | None) -> Iterator[tuple[str, str, Any]]:
    """(name, where it is, value) of all that a piece holds; with `field`, of records it alone.

    A value is a text, a record, or an InvalidText in the place of either.
    """
    if piece.kind in ("text", "library"):
        path = user_path(piece.path)
        try:
            yield piece.name, piece.path, formats.text(path)
        except InvalidText as error:
            yield piece.name, piece.path, error
        return
    if piece.kind == "jsonl":
        found = formats.json_lines(user_path(piece.path))
    elif piece.kind == "parquet":
        found = formats.rows(user_path(piece.path), field)
    elif piece.kind == "tfds":
        found = tfds.records(piece.path, piece.start, piece.stop, field)
    else:
        found = functions.values(piece.path)
    for position, value in found:
        yield f"{piece.name}:{position}", f"{piece.path}:{position}", value


def _text(value: Any, where: str, field: str) -> str:
    """The text in a value; raises InputError where it has none."""
    if isinstance(value, InvalidText):
        raise value
    text = value if isinstance(value, str) else _inner(value, field)
    if text is None:
        return ""
    if isinstance(text, bytes):
        return formats.decoded(text, where)
    if not isinstance(text, str):
        raise InputError(
            f"every record must be an object whose field {field!r} is a string, and {where} is "
            f"not: {_hint(value, field)} --data.jsonl-field names it (text_field in a recipe)."
        )
    _check_unicode(text, where)
    return text


def _hint(record: Any, field: str) -> str:
    """What a record has where its text was looked for."""
    outer, _, rest = field.partition("/")
    if rest and field not in record and isinstance(record.get(outer), dict):
        return _hint(record[outer], rest)
    if field in record:
        return f"its type is {type(record[field]).__name__}."
    return nearest(field, record) if record else "it is empty."


def _inner(record: Any, field: str) -> Any:
    """The field of a record, or of a record in it; a number where there is none."""
    if not isinstance(record, dict):
        return 0
    if field in record:
        return record[field]
    outer, _, rest = field.partition("/")
    return _inner(record.get(outer), rest) if rest else 0


def _check_unicode(value: Any, where: str) -> None:
    """Raise InvalidText where a string holds half of a surrogate pair, which is no character."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            _check_unicode(item, where)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(
                f"text must be valid Unicode, and {where} has half of a surrogate pair "
                "(\\ud800-\\udfff)."
            ) from error
