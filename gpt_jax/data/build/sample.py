"""Draws that are functions of (seed, document) alone: what a step takes of a corpus at random.

A part of the corpus draws for itself, in any process, and all parts together are the sample.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_jax.data.build.runner import read_json
from gpt_jax.data.sources import Document

EXCERPT = 8192
"""Characters of what is drawn of a long document at a time."""


@dataclass(frozen=True)
class Drawn:
    """A text that was drawn."""

    rank: float
    """Uniform in [0, 1), whatever the rate it was drawn at; where too much was drawn, the highest
    go."""
    text: str


def uniform(seed: int, purpose: str, source: str, name: str) -> float:
    """A number in [0, 1) for a document of a source, another for each purpose.

    The first 53 bits of the SHA-256 of the arguments.
    """
    key = json.dumps([seed, purpose, source, name]).encode()
    return (int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 11) / 2**53


def rates(sizes: Sequence[int], weights: Sequence[float], sample_bytes: int) -> list[float]:
    """The part of each source that is drawn, so that weight x sample_bytes are expected of it.

    Args:
      sizes: bytes of each source.
      weights: of each source, relative to the others'; all 0: in proportion to `sizes`.
      sample_bytes: of all sources together. A source that has less than its share gives all.
    """
    shares = weights if any(weights) else sizes
    total = sum(shares)
    return [
        min(1.0, share / total * sample_bytes / max(size, 1))
        for share, size in zip(shares, sizes, strict=True)
    ]


def excerpts(documents: Iterable[Document]) -> Iterator[Document]:
    """Each document in pieces of at most EXCERPT characters, cut after a line where there is one.

    So that of a document that is larger than a sample a part can be drawn.
    """
    for document in documents:
        start, number, text = 0, 0, document.text
        while start < len(text):
            stop = start + EXCERPT
            if stop < len(text):
                stop = text.rfind("\n", start, stop) + 1 or stop
            yield Document(f"{document.name}#{number}", text[start:stop])
            start, number = stop, number + 1


def drawn(
    documents: Iterable[Document], rate: float, seed: int, purpose: str, source: str
) -> list[Drawn]:
    """The documents that are drawn, each with the probability `rate`, in their order."""
    draws = ((uniform(seed, purpose, source, d.name), d.text) for d in documents)
    return [Drawn(draw / rate, text) for draw, text in draws if draw < rate]


def at_most(found: Sequence[Drawn], sample_bytes: int) -> list[str]:
    """The texts of all parts, in their order, less those of the highest ranks that exceed the size.

    What was expected is met but for chance; this cuts what chance has given too much, of all
    sources alike. One text at least is kept.
    """
    sizes = [len(one.text.encode()) for one in found]
    kept, size = set(), 0
    for i in sorted(range(len(found)), key=lambda i: found[i].rank):
        size += sizes[i]
        if size > sample_bytes and kept:
            break
        kept.add(i)
    return [one.text for i, one in enumerate(found) if i in kept]


def read_drawn(paths: Sequence[Path]) -> list[Drawn]:
    """What jobs have drawn of the parts of a corpus, in their order."""
    return [Drawn(*row) for path in paths for row in read_json(path)["drawn"]]
