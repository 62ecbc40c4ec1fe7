"""Documents on disk between the steps of a build: Parquet files of ids and texts.

A step that takes documents away leaves the file as it is and writes a mask beside it; only text
that is changed is written anew.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpt_jax.data.build.runner import left_here
from gpt_jax.data.sources import Document

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
GROUP_BYTES = 1 << 20
"""Text of one row group: what is held in memory at a time, or one document if that is longer."""
CUT = re.compile(r"#cut\d+$")
"""The end of the id of a piece of a document that was cut."""


@dataclass(frozen=True)
class Part:
    """A file of documents of one source, less those that were taken away since."""

    source: str
    path: Path
    documents: int
    """In the file."""
    bytes: int
    mask: Path | None = None
    """A .npy file, (documents,) bool: those that are left. None: all."""

    def kept(self) -> np.ndarray:
        """Which documents of the file are left, (documents,) bool."""
        if self.mask is None:
            return np.ones(self.documents, bool)
        with left_here(self.mask):
            return np.load(self.mask)

    def read(self) -> Iterator[Document]:
        """The documents that are left, in order."""
        kept = None if self.mask is None else self.kept()
        return (document for i, document in enumerate(self.read_all()) if kept is None or kept[i])

    def read_all(self) -> Iterator[Document]:
        """All documents of the file, in order, a row group in memory at a time."""
        with left_here(self.path), pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                for name, text in zip(
                    table["id"].to_pylist(), table["text"].to_pylist(), strict=True
                ):
                    yield Document(name, text)

    def ids(self) -> list[str]:
        """The ids of all documents of the file."""
        with left_here(self.path):
            return pq.read_table(self.path, columns=["id"], use_threads=False)["id"].to_pylist()

    def masked(self, mask: Path | None) -> Part:
        """The same file with another mask."""
        return dataclasses.replace(self, mask=mask)


def write_documents(path: Path, documents: Iterable[Document]) -> tuple[int, int]:
    """Fill a new file, the same documents with the same bytes; returns (documents, text bytes)."""
    count, size = 0, 0
    # Neither dictionaries nor statistics pay for texts that are all different.
    with pq.ParquetWriter(
        path, SCHEMA, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        for group in batches(documents, GROUP_BYTES):
            columns = [[document.name for document in group], [document.text for document in group]]
            writer.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], schema=SCHEMA))
            count += len(group)
            size += sum(len(document.text.encode()) for document in group)
    return count, size


def batches(documents: Iterable[Document], limit: int) -> Iterator[list[Document]]:
    """Lists of documents, closed as soon as they hold `limit` characters."""
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size >= limit:
            yield held
            held, size = [], 0
    if held:
        yield held


def piece_names(name: str, count: int) -> Sequence[str]:
    """Ids of the pieces that a document was cut to."""
    return [f"{name}#cut{i}" for i in range(count)]


def uncut(name: str) -> str:
    """The id of the document that a piece was cut from; of a whole document its own."""
    return CUT.sub("", name)
