"""A corpus that `gpt-jax data build` made, on disk.

corpus.json         what is here, written last: a folder without it is not a corpus yet
ledger.json         what each step kept and dropped, per source, with seeds and digests
recipe.json         what it was made by
tokenizer.json ...  the tokenizer (`tokenizers.load_tokenizer`)
train/SOURCE/       token shards of each source, and of what was held out of it
validation/SOURCE/
documents/SOURCE/   the text that is left, where the recipe keeps it

What the steps left for the next build is in a folder beside it, and safe to delete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gpt_jax.config import Config, DataConfig, InputError, from_dict, require
from gpt_jax.data import cache
from gpt_jax.data.corpus import Corpus, check_vocabulary, open_split
from gpt_jax.data.tokenizers import Tokenizer, load_tokenizer, read_model, read_tokenizer
from gpt_jax.paths import in_bucket, told_of_buckets, user_path

FORMAT = 1
RECORD = "corpus.json"


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


def open_built(config: Config) -> Corpus:
    """The corpus that config.data.corpus names; of a bucket a copy in the local cache.

    Raises:
      InputError: there is none; any of it is damaged, mixed up or not as it was written; the
        config asks for another tokenizer, or for a vocabulary smaller than the corpus's.
    """
    folder = user_path(config.data.corpus)
    content = _record(folder)
    built = _parsed(content, folder / RECORD)
    if in_bucket(folder):
        folder = cache.copy(config.data.cache_dir, f"{built.name}-{built.digest[:24]}", folder)
        require(
            (folder / RECORD).read_text() == content,
            f"a corpus must not change while it is copied, and {config.data.corpus} did: delete "
            f"{folder}, and run again.",
        )
    tokenizer = load_tokenizer(folder)
    _check_tokenizer(config, tokenizer)
    try:
        train, validation = (
            {
                source.name: open_split(folder / side / source.name, tokenizer)
                for source in built.sources
                if side == "train" or (folder / side / source.name).exists()
            }
            for side in ("train", "validation")
        )
    except InputError as error:
        raise InputError(
            f"a corpus is read as it was built, and {folder} is damaged. Delete it and {folder}"
            f".work, and build it again. What is wrong: {error}"
        ) from error
    require(
        bool(validation),
        f"validation needs held-out text, and {folder} has none: build it with a larger "
        "--validation-fraction.",
    )
    weights = {source.name: source.weight for source in built.sources}
    made_of = [dataclasses.asdict(split.index) for split in (*train.values(), *validation.values())]
    # The weights too: a run that continues draws the samples that it would have drawn.
    content = json.dumps([tokenizer.digest, weights, made_of])
    digest = hashlib.sha256(content.encode()).hexdigest()[:24]
    return Corpus(train, validation, weights, tokenizer, folder, digest)


def _record(folder: Path) -> str:
    """What corpus.json says; InputError where there is none."""
    with told_of_buckets():
        try:
            return (folder / RECORD).read_text()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(
                f"data.corpus names the folder of a corpus, and {folder} is none (no {RECORD}). "
                f"Build it: gpt-jax data build experiments/data/{folder.name}.py --out {folder}"
            ) from None


def _parsed(content: str, path: Path) -> BuiltCorpus:
    try:
        built = from_dict(BuiltCorpus, json.loads(content))
        require(built.format == FORMAT, f"its format is {built.format}, and {FORMAT} is known.")
        require(bool(built.sources), "it has no sources.")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} must say what a corpus holds, and it cannot be read ({error}): build the "
            "corpus again."
        ) from error
    return built


def _check_tokenizer(config: Config, tokenizer: Tokenizer) -> None:
    """Refuse a config that would read the tokens with another tokenizer, or a smaller table."""
    choice, asked = config.data.tokenizer, config.model.vocab_size
    if choice != DataConfig().tokenizer:
        given = read_model(choice) if choice.endswith(".model") else read_tokenizer(choice)
        require(
            given.digest == tokenizer.digest,
            f"a corpus is read with the tokenizer that made it, and {choice} is another than that "
            f"of {config.data.corpus} (digests {given.digest[:12]} and {tokenizer.digest[:12]}): "
            "build the corpus with this tokenizer (--vocabulary.tokenizer), or leave "
            "--data.tokenizer out.",
        )
    check_vocabulary(asked, tokenizer)
