"""Files of text: what each holds, read from its beginning to its end in bounded memory.

Plain text, JSON lines and Parquet; the first two also packed by gzip or zstd.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

from gpt_jax.config import InputError, nearest, require
from gpt_jax.paths import in_bucket

Format = Literal["text", "jsonl", "parquet"]
PACKED = (".gz", ".zst")
ROWS = 256
"""Rows of a Parquet file that are made Python objects at a time."""


class InvalidText(InputError):
    """A document that is no valid Unicode: what may be skipped and counted, where others end."""


def format_of(name: str) -> Format:
    """What a file of this name holds; what has no ending that we know is text."""
    packed = name.endswith(PACKED)
    inner = Path(name).stem if packed else name
    if inner.endswith(".parquet"):
        require(
            not packed,
            f"a Parquet file is read in parts and packed within, and {name} is packed as a whole: "
            "unpack it.",
        )
        return "parquet"
    return "jsonl" if inner.endswith(".jsonl") else "text"


def text(path: Path) -> str:
    """The whole of a text file; raises InvalidText where it is not UTF-8."""
    with readable(path), unpacked(path) as file:
        return decoded(file.read(), str(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | InvalidText]]:
    """(line number from 1, the object on it) of each line that is not blank.

    A line that is not UTF-8 gives the InvalidText that it would raise.
    """
    with readable(path), unpacked(path) as file:
        offset = 0
        for number, line in enumerate(file, 1):
            try:
                said = decoded(line, str(path), offset)
            except InvalidText as error:
                yield number, error
            else:
                if said.strip():
                    yield number, _json(said, f"{path}:{number}")
            offset += len(line)


def rows(path: Path, column: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 0, the row) of a Parquet file; with `column`, of it alone.

    In memory are a row group's columns as they are stored, packed, and ROWS as they are read.
    Text that is not UTF-8 gives bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with readable(path), _told_of_arrow(), path.open("rb") as raw:
        file = pq.ParquetFile(raw, page_checksum_verification=True)
        schema = file.schema_arrow
        require(
            column is None or column in schema.names,
            f"{path} has no column {column!r}: {nearest(column or '', schema.names)}",
        )
        names = None if column is None else [column]
        groups = (
            file.iter_batches(ROWS, row_groups=[group], columns=names, use_threads=False)
            for group in range(file.num_row_groups)
        )
        for batch in itertools.chain.from_iterable(groups):
            for i, field in enumerate(batch.schema):
                if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                    # Arrow does not check what a file claims to be UTF-8.
                    binary = batch.column(i).cast(pa.large_binary())
                    batch = batch.set_column(i, field.name, binary)
            for row in batch.to_pylist():
                yield number, {name: _text_or_bytes(value) for name, value in row.items()}
                number += 1


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Name the file where the body cannot read it."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"every file that is named must be readable, and {path} is not "
            f"({' '.join(str(error).split())}): repair it or leave it out."
        ) from error


def unpacked(path: Path) -> IO[bytes]:
    """A file to be read from its beginning to its end."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path.open("rb") if in_bucket(path) else path))
    if path.suffix == ".zst":
        import pyarrow as pa

        # A PythonFile closes what it reads when it is closed.
        packed = pa.PythonFile(path.open("rb"), "r")
        return cast(IO[bytes], io.BufferedReader(pa.CompressedInputStream(packed, "zstd"), 1 << 16))
    return path.open("rb")


def decoded(data: bytes, path: str, offset: int = 0) -> str:
    """UTF-8 text; `offset` is where in the unpacked file `data` starts."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidText(
            f"text must be UTF-8, and {path} is not at byte {offset + error.start} (0x"
            f"{data[error.start]:02x}): convert it, or leave it out (a build may: "
            "--invalid-utf8 skip)."
        ) from error


def _json(line: str, where: str) -> dict[str, Any]:
    fault = None
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    except (json.JSONDecodeError, RecursionError) as error:
        fault = error
    raise InputError(
        f"every line of a .jsonl file must be a JSON object, and {where} is not "
        f"({fault or line.strip()[:60]}): correct the line or remove it."
    ) from fault


def _text_or_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


@contextlib.contextmanager
def _told_of_arrow() -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into OSError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter of text within records
        raise OSError(str(error)) from error
