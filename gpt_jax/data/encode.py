"""Texts to tokens over every core, in the order of the texts."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from gpt_jax.data import workers
from gpt_jax.data.tokenizers import Tokenizer, load_tokenizer

BATCH_CHARACTERS = 250_000
"""What a process encodes at a time; a longer document is a batch by itself."""
ALONE_BYTES = 4_000_000
"""Less text than this is encoded sooner than other processes have started."""
AHEAD = 2
"""Batches a process that are read and not yet written."""
CHEAP = ("bytes", "characters")
"""Kinds of tokenizer that take less time than it takes to hand a text to another process."""

Label = TypeVar("Label")


@dataclass(frozen=True)
class TokenBatch:
    """Some documents as a shard holds them."""

    tokens: np.ndarray
    """(N,) uint16 or uint32, the separator after each document."""
    lengths: np.ndarray
    """(D,) int64, tokens of each document with its separator."""
    bytes: int
    """Of the UTF-8 text."""
    token_bytes: int
    """What the tokens stand for: `bytes`, unless the tokenizer loses or adds some."""


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    """The smaller of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> TokenBatch:
    """The tokens of some documents; raises InputError as `Tokenizer.encode` does."""
    batch = tokenizer.encode_batch(texts)
    separator = np.array([tokenizer.separator], np.int32)
    ids = np.concatenate([separator[:0], *(part for ids in batch for part in (ids, separator))])
    return TokenBatch(
        ids.astype(token_dtype(tokenizer)),
        np.array([len(ids) + 1 for ids in batch], np.int64),
        sum(len(text.encode()) for text in texts),
        int(tokenizer.byte_lengths[ids].sum()),
    )


def batches(labelled: Iterable[tuple[Label, str]]) -> Iterator[tuple[Label, list[str]]]:
    """(label, text) as (label, texts): those of one label together, in their order.

    At most BATCH_CHARACTERS of each label, and the text that exceeds them, are held.
    """
    held: dict[Label, list[str]] = {}
    sizes: dict[Label, int] = {}
    for label, text in labelled:
        held.setdefault(label, []).append(text)
        sizes[label] = sizes.get(label, 0) + len(text)
        if sizes[label] >= BATCH_CHARACTERS:
            yield label, held.pop(label)
            del sizes[label]
    yield from held.items()


def processes_for(tokenizer: Tokenizer, size: int) -> int:
    """Processes that encode `size` bytes of text fastest: this one alone, or all cores."""
    cheap = tokenizer.kind in CHEAP or size < ALONE_BYTES
    return 1 if cheap else workers.num_cores()


def encode_in_order(
    tasks: Iterable[tuple[Label, list[str]]], tokenizer: Tokenizer, folder: Path, processes: int
) -> Iterator[tuple[Label, list[str], TokenBatch]]:
    """`encode` of the texts of each task, whatever `processes` is.

    At most AHEAD tasks a process are held, with their tokens.

    Args:
      tasks: (label, texts), such as `batches` gives; drawn in this process.
      tokenizer: encodes here where one process is asked for.
      folder: where it was saved, for the others.
      processes: 1 is this one alone.

    Raises:
      InputError: as `encode` does.
    """
    if processes == 1:
        for label, texts in tasks:
            yield label, texts, encode(texts, tokenizer)
        return
    waiting: deque[tuple[Label, list[str]]] = deque()

    def drawn() -> Iterator[list[str]]:
        for label, texts in tasks:
            waiting.append((label, texts))
            yield texts

    work = functools.partial(_encode, folder)
    with workers.pool(processes, loaded, folder) as executor:
        for batch in workers.in_order(executor, work, drawn(), AHEAD * processes):
            yield *waiting.popleft(), batch


@functools.lru_cache(maxsize=1)
def loaded(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in `folder`, once in a process: for work in many pieces.

    It goes on with the words that it remembers. What is in the folder must not change.
    """
    return load_tokenizer(folder)


def _encode(folder: Path, texts: list[str]) -> TokenBatch:
    return encode(texts, loaded(folder))
