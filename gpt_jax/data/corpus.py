"""Text to token shards, once: the cache of tokenised corpora, keyed by what they are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_jax.config import Config, DataConfig, from_dict, read_labels, read_template, require
from gpt_jax.data import cache, shards
from gpt_jax.data.encode import batches, encode_in_order, processes_for
from gpt_jax.data.examples import examples
from gpt_jax.data.shards import ShardWriter, TokenShards
from gpt_jax.data.sources import Document, content_id, documents, held_out, is_held_out
from gpt_jax.data.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    read_model,
    read_tokenizer,
    train_sentencepiece,
)

PLAIN = "text"
"""The one source of a corpus that is made of plain files."""
REPORT_BYTES = 32_000_000
"""Text between two lines of progress."""


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus, ready to draw batches from."""

    train: Mapping[str, TokenShards]
    """By source; plain files are one, PLAIN."""
    validation: Mapping[str, TokenShards]
    """What was held out, of each source that has any."""
    weights: Mapping[str, float]
    """What each source weighs in the training samples; all 0: each counts by its size."""
    tokenizer: Tokenizer
    folder: Path
    digest: str
    """Tells the text, its tokenizer and its split from all others."""

    @property
    def gzip_bits_per_byte(self) -> float:
        """What `gzip -9` makes of the validation text."""
        indexes = [split.index for split in self.validation.values()]
        bits = sum(index.gzip_bits_per_byte * index.bytes for index in indexes)
        return bits / max(sum(index.bytes for index in indexes), 1)


def prepare(config: Config, progress: Callable[[str], None] = print) -> Corpus:
    """The corpus of the text that `config` names, tokenised now or taken from the cache.

    The cache entry is named by a digest of the documents, the tokenizer and the split, so that it
    can never be stale. It appears at once and whole: a killed build leaves nothing that would be
    read, and of two builds at once the first to end is kept. Where data.cache_dir is in a bucket,
    the corpus that is returned is a copy on this machine, and others find the entry in the bucket.

    Raises:
      InputError: `Config.check_vocabulary` does, before anything is read; any fault of the sources
        or the tokenizer, a split with an empty side, a
        vocabulary smaller than the tokenizer's, a damaged cache entry, labels without tokens.
    """
    config.check_vocabulary()
    survey = _survey(config)
    chosen = _chosen_tokenizer(config, survey)

    def fill(folder: Path) -> None:
        _write(config, folder, chosen or _train(config, progress), survey, progress)

    folder = cache.entry(config.data.cache_dir, _key(config, survey, chosen), fill)
    corpus = open_corpus(folder)
    check_labels(config.data, corpus.tokenizer)
    cache.share(config.data.cache_dir, folder)
    return corpus


def open_corpus(folder: Path) -> Corpus:
    """A corpus that `prepare` made; raises InputError where any of it is damaged or mixed up."""
    tokenizer = load_tokenizer(folder)
    train, validation = (
        {PLAIN: open_split(folder / side, tokenizer)} for side in ("train", "validation")
    )
    return Corpus(train, validation, {PLAIN: 0.0}, tokenizer, folder, folder.name)


def open_split(folder: Path, tokenizer: Tokenizer) -> TokenShards:
    """Token shards of `tokenizer`, whole and undamaged; raises InputError where they are not."""
    split = TokenShards.open(folder)
    require(
        split.index.tokenizer == tokenizer.digest,
        "token shards must be read with the tokenizer that made them, and the corpus's tokenizer "
        f"does not match the shards in {folder} (digests {tokenizer.digest[:12]} and "
        f"{split.index.tokenizer[:12]}): delete the folder {folder.parent}.",
    )
    split.verify()
    return split


@dataclass
class _Survey:
    """What a first reading of the documents tells."""

    sources: str = ""
    documents: int = 0
    train_bytes: int = 0
    validation_bytes: int = 0
    characters: str = ""
    """Each that occurs, once, in order; only where they are to be the tokens."""


def _survey(config: Config) -> _Survey:
    """Read the documents, unless those of a bucket have been read before and are the same."""
    data, known_by = config.data, content_id(config.data)
    characters = data.tokenizer == CharacterTokenizer.kind
    made_from = [known_by, data.split, data.validation_fraction, characters]
    if data.supervised:
        made_from += [data.prompt, data.target, data.rejected, data.chat, data.labels]
        made_from += [config.tune.classes]
    key = f"survey-{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]}.json"
    if known_by and (said := cache.recall(data.cache_dir, key)):
        return from_dict(_Survey, said)
    survey = _read_all(config)
    if known_by and known_by == content_id(data):  # it has not changed in between
        cache.remember(data.cache_dir, key, dataclasses.asdict(survey))
    return survey


def _read_all(config: Config) -> _Survey:
    survey, digest, characters = _Survey(), hashlib.sha256(), set[str]()
    for document in _digested(_documents(config), digest):
        train, validation = held_out(document, config.data)
        survey.documents += 1
        survey.train_bytes += len(train.encode())
        survey.validation_bytes += len(validation.encode())
        if config.data.tokenizer == CharacterTokenizer.kind:
            characters.update(document.text)
    total = survey.train_bytes + survey.validation_bytes
    require(
        total > 0 or not config.data.chat,
        f"a conversation is learned from for its replies, and in none of the "
        f"{survey.documents // 2} in {', '.join(config.data.files)} does the assistant speak.",
    )
    by_tail = "" if config.data.supervised else " (or the tail of each, by --data.split position)"
    for side, size in (("training", survey.train_bytes), ("validation", survey.validation_bytes)):
        require(
            size > 0,
            f"both sides of the split need text, and none of the {survey.documents} documents is "
            f"in the {side} split (data.split={config.data.split!r}, data.validation_fraction="
            f"{config.data.validation_fraction}): change the fraction, or give more{by_tail}.",
        )
    survey.sources, survey.characters = digest.hexdigest(), "".join(sorted(characters))
    return survey


def _digested(found: Iterable[Document], digest: hashlib._Hash) -> Iterator[Document]:
    """The same documents, each added to the digest as it passes."""
    for document in found:
        for part in (document.name.encode(), document.text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
        yield document


def _documents(config: Config) -> Iterator[Document]:
    """The documents of text, or the parts of examples, of which an empty one is a document too.

    Those of an example have its name, which no two documents of text have.
    """
    if not config.data.supervised:
        yield from documents(config.data)
        return
    for name, parts in examples(config.data, config.tune.classes):
        for part in parts:
            yield Document(name, part)


def _sides(found: Iterable[Document], config: Config) -> Iterator[tuple[str, str]]:
    """(split, text) of each document, or of both its parts."""
    for document in found:
        if config.data.supervised:
            held = is_held_out(document.name, config.data.validation_fraction)
            yield "validation" if held else "train", document.text
            continue
        train, validation = held_out(document, config.data)
        if train:
            yield "train", train
        if validation:
            yield "validation", validation


def _chosen_tokenizer(config: Config, survey: _Survey) -> Tokenizer | None:
    """The tokenizer that the config names, or None where one is to be trained."""
    choice, asked = config.data.tokenizer, config.model.vocab_size
    if choice == SentencePieceTokenizer.kind:
        return None
    if choice == ByteTokenizer.kind:
        tokenizer = ByteTokenizer()
    elif choice == CharacterTokenizer.kind:
        tokenizer = CharacterTokenizer(survey.characters)
    else:
        tokenizer = read_model(choice) if choice.endswith(".model") else read_tokenizer(choice)
    check_vocabulary(asked, tokenizer)
    return tokenizer


def check_vocabulary(asked: int, tokenizer: Tokenizer) -> None:
    """Raise InputError where a model of `asked` tokens (0: any) has none for some of them."""
    needed = tokenizer.vocab_size
    require(
        asked == 0 or asked >= needed,
        f"the model must have a row for every token, and model.vocab_size={asked} is less than the "
        f"tokenizer's {needed}: set it to 0, which takes the tokenizer's, or to {needed} or more.",
    )


def check_labels(data: DataConfig, tokenizer: Tokenizer) -> None:
    """Raise InputError unless the tokens of each target with a label tell it from the others."""
    if data.labels:
        (before, _), *rest = read_template(data.target)
        after = "".join(text for text, _ in rest)
        targets = [f"{before}{word}{after}" for word in read_labels(data.labels).values()]
        distinct_tokens(targets, tokenizer, "data.labels")


def distinct_tokens(
    targets: Sequence[str], tokenizer: Tokenizer, where: str
) -> tuple[tuple[int, ...], ...]:
    """The tokens of targets that `where` names; raises InputError where one has none, or another's.

    Where one begins another, the separator that follows each tells them apart.
    """
    seen: dict[tuple[int, ...], str] = {}
    for target in targets:
        ids = tuple(tokenizer.encode(target).tolist())
        require(
            bool(ids),
            f"a label must have tokens, and the tokenizer has none for {target!r}, a target by "
            f"{where}: give it another word.",
        )
        require(
            ids not in seen,
            f"labels must differ in their tokens, and {target!r}, a target by {where}, has those "
            f"of {seen.get(ids)!r}: give it another word.",
        )
        seen[ids] = target
    return tuple(seen)


def _key(config: Config, survey: _Survey, chosen: Tokenizer | None) -> str:
    data = config.data
    made_from = {
        "format": shards.FORMAT,
        "sources": survey.sources,
        "split": [data.split, data.validation_fraction],
        "tokenizer": chosen.digest
        if chosen
        else [data.tokenizer, config.model.vocab_size, data.tokenizer_sample_bytes],
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]


def _train(config: Config, progress: Callable[[str], None]) -> Tokenizer:
    data, size = config.data, config.model.vocab_size
    progress(f"training a SentencePiece tokenizer of {size} tokens")
    texts = (held_out(document, data)[0] for document in _documents(config))
    return train_sentencepiece(texts, size, data.tokenizer_sample_bytes)


def _write(
    config: Config,
    folder: Path,
    tokenizer: Tokenizer,
    survey: _Survey,
    progress: Callable[[str], None],
) -> None:
    """Fill `folder` with the tokenizer and the shards of both splits."""
    tokenizer.save(folder)
    digest, total, reported = hashlib.sha256(), survey.train_bytes + survey.validation_bytes, 0
    with (
        ShardWriter(folder / "train", tokenizer) as train,
        # What gzip makes of prompts and targets together says nothing of the targets.
        ShardWriter(folder / "validation", tokenizer, not config.data.supervised) as validation,
    ):
        writers = {"train": train, "validation": validation}
        sides = _sides(_digested(_documents(config), digest), config)
        processes = processes_for(tokenizer, total)
        for split, texts, batch in encode_in_order(batches(sides), tokenizer, folder, processes):
            writers[split].add_batch(texts, batch)
            done = train.bytes + validation.bytes
            if done - reported >= REPORT_BYTES or done == total:
                progress(f"tokenised {done / 1e6:.1f} of {total / 1e6:.1f} MB")
                reported = done
        require(
            digest.hexdigest() == survey.sources,
            "the text must not change while it is read, and it did: run again.",
        )
        train.finish(survey.sources)
        validation.finish(survey.sources)
    kept = train.token_bytes + validation.token_bytes
    if kept != total:
        progress(
            f"note: this tokenizer is not lossless: its tokens stand for {kept} bytes and the text "
            f"has {total}; bits per byte will be of the former"
        )
