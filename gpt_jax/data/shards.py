"""Token ids on disk: flat binary files, mapped into memory, with an index in JSON.

Every document's tokens are followed by the separator, and no document is spread over two shards.
`corpus.prepare` makes a filled folder appear at once and whole; here it is only filled.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gpt_jax.config import InputError, from_dict, require
from gpt_jax.data.cache import VERIFIED
from gpt_jax.data.encode import TokenBatch, encode, token_dtype
from gpt_jax.data.sources import settled
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.paths import find, open_many_files

FORMAT = 1
GZIP_AHEAD = 8
SHARD_TOKENS = 1 << 28
"""A new shard is begun rather than let one grow past this; one longer document may exceed it."""


@dataclass(frozen=True)
class ShardFile:
    """One .bin file."""

    name: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """What index.json holds about the shards beside it."""

    format: int
    documents: int
    tokens: int
    """Separators included."""
    bytes: int
    """Of the UTF-8 text that was tokenised."""
    dtype: Literal["uint16", "uint32"]
    separator: int
    vocab_size: int
    tokenizer: str
    """Digest of the tokenizer that made them."""
    sources: str
    """Digest of the documents that they were made from, those of the other split included; of a
    built corpus, of the names of its parts: its ledger has the digests of the text."""
    gzip_bits_per_byte: float
    """What `gzip -9` makes of the text as one file, or of a built corpus as one for each shard; 0
    where it was not measured."""
    shards: tuple[ShardFile, ...]


class ShardWriter:
    """Fills a new folder with the shards of one split, holding what is added at a time.

    A context manager: leaving it closes the files, and only `finish` writes the index.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        measure_gzip: bool = False,
        shard_tokens: int = SHARD_TOKENS,
    ):
        folder.mkdir(parents=True)
        self._folder, self._tokenizer, self._shard_tokens = folder, tokenizer, shard_tokens
        self._dtype = token_dtype(tokenizer)
        self._gzip = _Gzip() if measure_gzip else None
        self._closed: list[ShardFile] = []
        self._open: _OpenShard | None = None
        self.documents = 0
        self.bytes = 0
        self.token_bytes = 0
        """What the tokens stand for: `bytes`, unless the tokenizer loses or adds some."""

    def add(self, text: str) -> None:
        """Append a document."""
        self.add_batch([text], encode([text], self._tokenizer))

    def add_batch(self, texts: Sequence[str], batch: TokenBatch) -> None:
        """Append documents and their tokens, as `encode` gives them for this tokenizer."""
        ends = [0, *np.cumsum(batch.lengths).tolist()]
        done = 0
        while done < len(batch.lengths):
            room = self._shard_tokens - (self._open.tokens if self._open else 0)
            stop = bisect.bisect_right(ends, ends[done] + room) - 1
            if stop <= done and self._open:
                self._close_shard()
                continue
            if not self._open:
                self._open = _OpenShard(self._folder / f"{len(self._closed):05d}.bin")
            stop = max(stop, done + 1)  # a document longer than a shard has one to itself
            self._open.append(batch.tokens[ends[done] : ends[stop]])
            done = stop
        if self._gzip:
            self._gzip.add("".join(texts).encode())
        self.bytes += batch.bytes
        self.token_bytes += batch.token_bytes
        self.documents += len(batch.lengths)

    def finish(self, sources: str) -> None:
        """Close the last shard and write the index; `sources` is the digest of the documents."""
        self._close_shard()
        gzip_bytes = self._gzip.finish() if self._gzip else 0
        index = ShardIndex(
            format=FORMAT,
            documents=self.documents,
            tokens=sum(shard.tokens for shard in self._closed),
            bytes=self.bytes,
            dtype="uint16" if self._dtype == np.uint16 else "uint32",
            separator=self._tokenizer.separator,
            vocab_size=self._tokenizer.vocab_size,
            tokenizer=self._tokenizer.digest,
            sources=sources,
            gzip_bits_per_byte=8 * gzip_bytes / max(self.bytes, 1),
            shards=tuple(self._closed),
        )
        (self._folder / "index.json").write_text(json.dumps(dataclasses.asdict(index), indent=1))

    def _close_shard(self) -> None:
        if self._open:
            self._closed.append(self._open.close())
        self._open = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_shard()
        if self._gzip:
            self._gzip.close()


class _Gzip:
    """The size of what `gzip -9` makes of a text, in a thread of its own: that takes long."""

    def __init__(self):
        self._stream, self._thread = zlib.compressobj(9, zlib.DEFLATED, 31), ThreadPoolExecutor(1)
        self._waiting: deque[Future[bytes]] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Go on with the text; at most GZIP_AHEAD of those that were added are held."""
        self._waiting.append(self._thread.submit(self._stream.compress, data))
        if len(self._waiting) > GZIP_AHEAD:
            self._size += len(self._waiting.popleft().result())

    def finish(self) -> int:
        """The size of all of it, in bytes."""
        self._waiting.append(self._thread.submit(self._stream.flush))
        return self._size + sum(len(future.result()) for future in self._waiting)

    def close(self) -> None:
        """End the thread, whatever is left to do."""
        self._thread.shutdown(cancel_futures=True)


class _OpenShard:
    """The shard that is being written."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._name, self._sha256, self.tokens = path.name, hashlib.sha256(), 0

    def append(self, tokens: np.ndarray) -> None:
        data = tokens.tobytes()
        self._file.write(data)
        self._sha256.update(data)
        self.tokens += len(tokens)

    def close(self) -> ShardFile:
        self._file.close()
        return ShardFile(self._name, self.tokens, self._sha256.hexdigest())


@dataclass(frozen=True)
class TokenShards:
    """The shards of one split, mapped into memory and never loaded whole."""

    folder: Path
    index: ShardIndex
    tokens: tuple[np.ndarray, ...]
    """Per shard, (tokens,) uint16 or uint32, read-only."""

    @classmethod
    def open(cls, folder: Path) -> TokenShards:
        """Map the shards of `folder`; raises InputError where the index or a size is wrong."""
        index = read_index(folder)
        for shard in index.shards:
            path, size = folder / shard.name, shard.tokens * np.dtype(index.dtype).itemsize
            found = path.stat().st_size if path.exists() else 0
            require(
                found == size,
                f"a shard must be as long as its index says, and {path} has {found} bytes of {size}"
                f": delete the folder {folder.parent} to have it made again.",
            )
        open_many_files()
        maps = (np.memmap(folder / shard.name, index.dtype, "r") for shard in index.shards)
        # A plain array over the map: slices of np.memmap itself cost ten times as much.
        return cls(folder, index, tuple(np.asarray(tokens) for tokens in maps))

    def verify(self) -> None:
        """Read the shards; raises InputError where one is not the one that was written.

        One that was found intact, and has not been written to since, is not read again: what was
        found is kept in VERIFIED beside the index, where that can be written.
        """
        known, intact = _recalled(self.folder), {}
        for shard, tokens in zip(self.index.shards, self.tokens, strict=True):
            path = self.folder / shard.name
            (stored,) = find(str(path))[1].values()
            require(
                known.get(shard.name) == [stored.version, shard.sha256]
                or hashlib.sha256(tokens.data).hexdigest() == shard.sha256,
                f"a shard must have the digest in its index, and {path} has another: it is "
                f"damaged. Delete the folder {self.folder.parent}.",
            )
            if settled(stored.version):
                intact[shard.name] = [stored.version, shard.sha256]
        if intact != known:
            with contextlib.suppress(OSError):
                descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=VERIFIED)
                with open(descriptor, "w") as file:
                    json.dump(intact, file)
                os.replace(name, self.folder / VERIFIED)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the split, (stop - start,), counted through all its shards."""
        parts = []
        for tokens in self.tokens:
            parts.append(tokens[max(start, 0) : max(stop, 0)])
            start, stop = start - len(tokens), stop - len(tokens)
        return np.concatenate(parts)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The tokens at `places` (N,), counted through all shards; (N,) int32."""
        if len(self.tokens) == 1:
            return self.tokens[0][places].astype(np.int32)
        first = np.cumsum([0, *map(len, self.tokens)])
        shard = np.searchsorted(first, places, side="right") - 1
        taken = np.empty(len(places), np.int32)
        for i in np.unique(shard):
            mine = shard == i
            taken[mine] = self.tokens[i][places[mine] - first[i]]
        return taken


def _recalled(folder: Path) -> dict[str, list[str]]:
    """What `verify` found here before: a version and the digest of each shard that was intact."""
    try:
        known = json.loads((folder / VERIFIED).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def read_index(folder: Path) -> ShardIndex:
    """The index of the shards in `folder`; raises InputError where it cannot be read."""
    path = folder / "index.json"
    try:
        index = from_dict(ShardIndex, json.loads(path.read_bytes()))
        require(index.format == FORMAT, f"its format is {index.format}, and {FORMAT} is known.")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"token shards need their index, and {path} cannot be read ({error}): delete the "
            f"folder {folder.parent} to have it made again."
        ) from error
    return index
