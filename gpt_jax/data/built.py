"""A corpus that `gpt-jax data build` made, on disk.

corpus.json         what is here, written last: a folder without it is not a corpus yet
ledger.json         what each step kept and dropped, per source, with seeds and digests
recipe.json         what it was made by
tokenizer.json ...  the tokenizer (`tokenizers.load_tokenizer`)
train/SOURCE/       token shards of each source, and of what was held out of it
validation/SOURCE/
work/               what the steps left, for the next build; safe to delete
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 1


@dataclass(frozen=True)
class BuiltSource:
    """One source of a corpus."""

    name: str
    weight: float
    """As in the recipe; 0 in all: in proportion to the tokens."""


@dataclass(frozen=True)
class BuiltCorpus:
    """What corpus.json holds."""

    format: int
    name: str
    digest: str
    """SHA-256 over the tokenizer's digest and the index.json of every folder of shards."""
    sources: tuple[BuiltSource, ...]
    """In the recipe's order; one that has no text left is not among them."""
