"""How a corpus is made, as frozen data: the sources and the steps of GPT-3's section 2.2.

What `get_config()` of a file in experiments/data/ returns, and `gpt-jax data build` carries out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from gpt_jax.config import read_template, require, require_positive, require_types

Step = Literal["quality", "dedup", "decontaminate"]


@dataclass(frozen=True)
class Source:
    """Text of one kind, with its own share of the training samples."""

    name: str = ""
    """Names its folder in the corpus, and it in the ledger and in a mixture."""
    files: tuple[str, ...] = ()
    """Globs of files, tfds:NAME or python:FUNCTION, as in `DataConfig.files`."""
    text_field: str = "text"
    """The field of a record (JSONL, Parquet, TFDS, a dict) that holds the document."""
    weight: float = 0.0
    """Its share of the training samples, relative to the others' (Table 2.2). All 0: each source
    in proportion to its tokens."""
    quality: Literal["keep", "reference", "filter"] = "keep"
    """Left alone; or left alone and what good text is learned from; or filtered by it."""

    def __post_init__(self) -> None:
        require_types(self)
        _require_folder_name("source", self.name)
        require(bool(self.files), f"the source {self.name!r} names no files.")
        require(self.weight >= 0, f"the weight of {self.name!r} is negative: {self.weight}.")


@dataclass(frozen=True)
class Benchmark:
    """A set of questions that the corpus must not contain."""

    name: str = ""
    files: tuple[str, ...] = ()
    """As a source's."""
    template: str = "{text}"
    """The text of an example, with its fields in braces, such as "{question} {answer}"."""

    def __post_init__(self) -> None:
        require_types(self)
        require(bool(self.name) and bool(self.files), f"a benchmark has a name and files: {self}.")
        require(
            any(field for _, field in read_template(self.template)),
            f"a template names fields in braces, as in '{{question}} {{answer}}', and that of "
            f"{self.name!r} is {self.template!r}.",
        )


@dataclass(frozen=True)
class Quality:
    """The classifier of appendix A: logistic regression, reference text against raw text."""

    num_features: int = 1 << 18
    """Buckets that words are hashed to."""
    sample_bytes: int = 50_000_000
    """Text of each of the two kinds that it learns from, at most."""
    alpha: float = 9.0
    """A document is kept where a draw from Pareto(alpha), numpy's, is above 1 - its score."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "num_features", "sample_bytes", "alpha")


@dataclass(frozen=True)
class Dedup:
    """Fuzzy deduplication by MinHash and LSH, within and across sources."""

    ngram: int = 13
    """Words in a shingle. A shorter document is one shingle."""
    threshold: float = 0.8
    """A document goes where a better one shares this part of their shingles (Jaccard)."""
    bands: int = 20
    """Two documents are compared where any band of their signatures is the same ..."""
    rows: int = 6
    """... which is so many MinHashes: at Jaccard s with probability 1 - (1 - s^rows)^bands."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "ngram", "bands", "rows")
        require(0 < self.threshold <= 1, f"threshold must be in (0, 1]: {self.threshold}.")
        compared = 1 - (1 - self.threshold**self.rows) ** self.bands
        require(
            compared >= 0.95,
            f"of the pairs at the threshold of {self.threshold}, {compared:.2f} would be compared "
            f"with {self.bands} bands of {self.rows} rows, and it should be 0.95 at least: take "
            "fewer rows or more bands.",
        )


@dataclass(frozen=True)
class Decontaminate:
    """Removal of benchmarks by shared n-grams (appendix C)."""

    benchmarks: tuple[Benchmark, ...] = ()
    ngram: int = 13
    """Words in a row that must be shared. The report takes fewer where a benchmark's examples are
    short, but 8 at least."""
    margin: int = 200
    """Characters that are cut on each side of a collision; a shorter piece is dropped."""
    max_pieces: int = 10
    """A document that is cut into more is dropped whole."""
    common: int = 10
    """An n-gram that more documents than this share is a common phrase, and no collision."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "ngram", "max_pieces", "common")
        require(self.margin >= 0, f"margin is negative: {self.margin}.")
        names = [benchmark.name for benchmark in self.benchmarks]
        require(len(set(names)) == len(names), f"two benchmarks have one name: {names}.")


@dataclass(frozen=True)
class Vocabulary:
    """The corpus's tokenizer."""

    tokenizer: str = "sentencepiece"
    """As `DataConfig.tokenizer`: a new BPE, bytes, a .model file, or a folder; none: no tokens are
    made, and the corpus is its text."""
    vocab_size: int = 32_000
    """Of a new one."""
    sample_bytes: int = 100_000_000
    """Text that a new one is trained on, at most, drawn from the sources by their weights."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "vocab_size", "sample_bytes")
        require(
            self.tokenizer in ("sentencepiece", "bytes", "none")
            or self.tokenizer.endswith(".model")
            or "/" in self.tokenizer,
            "the tokenizer of a corpus is sentencepiece, bytes, none, the path of a .model file, "
            f"or that of a folder, with a slash in it, and it is {self.tokenizer!r}.",
        )


@dataclass(frozen=True)
class Recipe:
    """A corpus: what `gpt-jax data build` makes."""

    name: str = "corpus"
    """Names the corpus's folder under corpora/ where --out does not."""
    sources: tuple[Source, ...] = ()
    """The better first: of two near duplicates the earlier source keeps its own."""
    steps: tuple[Step, ...] = ()
    """Which of the steps that take text away are taken; their order is always the paper's."""
    seed: int = 0
    """Of the quality filter's draws, of the hashes, and of what the tokenizer is trained on."""
    invalid_utf8: Literal["error", "skip"] = "error"
    """A document that is not UTF-8 ends the build, or is left out and counted."""
    repair: bool = False
    """Mend text that was decoded wrongly (ftfy, which must be installed)."""
    part_bytes: int = 64_000_000
    """Text of one file of documents, and so of one shard: what a process works on at a time."""
    validation_fraction: float = 0.005
    """Documents held out, by a hash of their names."""
    keep_text: bool = False
    """Have the text that is left in the corpus too, as Parquet files in documents/SOURCE/."""
    quality: Quality = field(default_factory=Quality)
    dedup: Dedup = field(default_factory=Dedup)
    decontaminate: Decontaminate = field(default_factory=Decontaminate)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def __post_init__(self) -> None:
        require_types(self)
        _require_folder_name("recipe", self.name)
        require(bool(self.sources), "a recipe needs a source at least.")
        names = [source.name for source in self.sources]
        require(len(set(names)) == len(names), f"two sources have one name: {names}.")
        require_positive(self, "part_bytes")
        require(
            0 < self.validation_fraction < 1,
            f"validation_fraction must be between 0 and 1, and it is {self.validation_fraction}.",
        )
        weights = [source.weight > 0 for source in self.sources]
        require(
            all(weights) or not any(weights),
            "either every source has a weight or none: "
            f"{ {source.name: source.weight for source in self.sources} }.",
        )
        require(
            self.vocabulary.tokenizer != "none" or self.keep_text,
            "a corpus holds tokens, text or both, and this one has vocabulary.tokenizer='none' and "
            "keep_text=False: set the one or the other.",
        )
        require(
            "quality" not in self.steps
            or {"reference", "filter"} <= {source.quality for source in self.sources},
            "the quality step needs a source with quality='reference' to learn from, and one with "
            "quality='filter' to be filtered.",
        )
        require(
            "decontaminate" not in self.steps or bool(self.decontaminate.benchmarks),
            "the decontaminate step needs decontaminate.benchmarks.",
        )


def _require_folder_name(what: str, name: str) -> None:
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) is not None,
        f"a {what}'s name becomes a folder's: letters, digits and _.- alone, and it is {name!r}.",
    )
