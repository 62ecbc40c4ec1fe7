"""The last steps: the tokenizer, and the token shards of every source."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from gpt_jax.config import require
from gpt_jax.data import sources
from gpt_jax.data.build.documents import Part, uncut, write_documents
from gpt_jax.data.build.ledger import State
from gpt_jax.data.build.runner import Job, Result, Runner, atomic, digest_of, left_here
from gpt_jax.data.build.sample import at_most, drawn, excerpts, rates, read_drawn
from gpt_jax.data.cache import new_folder
from gpt_jax.data.encode import batches, encode, loaded
from gpt_jax.data.recipe import Recipe, Vocabulary
from gpt_jax.data.shards import FORMAT, ShardIndex, ShardWriter, read_index
from gpt_jax.data.sources import Document
from gpt_jax.data.tokenizers import (
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    read_model,
    read_tokenizer,
    train_sentencepiece,
)

SIDES = ("train", "validation")


def make_tokenizer(runner: Runner, recipe: Recipe, state: State) -> Path:
    """The folder of the corpus's tokenizer, trained on its training text or taken as it is."""
    choice = recipe.vocabulary.tokenizer
    if choice != "sentencepiece":
        if choice == "bytes":
            tokenizer = ByteTokenizer()
        else:
            tokenizer = read_model(choice) if choice.endswith(".model") else read_tokenizer(choice)
        folder = runner.folder("tokenizer", [tokenizer.digest])
        _save(tokenizer, folder / "tokenizer")
        return folder / "tokenizer"
    weights = [source.weight for source in recipe.sources]
    sizes = [state.tallies[source.name]["bytes"] for source in recipe.sources]
    made_from = [weights, dataclasses.asdict(recipe.vocabulary), recipe.validation_fraction]
    folder = runner.folder("tokenizer", [state.key, recipe.seed, *made_from])
    of_source = dict(
        zip(state.tallies, rates(sizes, weights, recipe.vocabulary.sample_bytes), strict=True)
    )
    jobs = [
        Job(folder / f"{i:05d}.json", draw_excerpts, (part, of_source[part.source], recipe))
        for i, part in enumerate(state.parts)
    ]
    runner.run("tokenizer: sample", jobs)
    samples = [job.marker for job in jobs]
    arguments = (folder / "tokenizer", samples, recipe.vocabulary)
    runner.job("tokenizer: learn", Job(folder / "done.json", train_tokenizer, arguments))
    return folder / "tokenizer"


def draw_excerpts(part: Part, rate: float, recipe: Recipe) -> Result:
    """What the tokenizer learns from of a part: some of its training text."""
    training = (document for document in part.read() if not is_held_out(document, recipe))
    found = drawn(excerpts(training), rate, recipe.seed, "tokenizer", part.source)
    return {"drawn": [dataclasses.astuple(one) for one in found]}


def train_tokenizer(folder: Path, samples: Sequence[Path], vocabulary: Vocabulary) -> Result:
    """Train a tokenizer on what was drawn."""
    texts = at_most(read_drawn(samples), vocabulary.sample_bytes)
    tokenizer = train_sentencepiece(texts, vocabulary.vocab_size, vocabulary.sample_bytes)
    _save(tokenizer, folder)
    return {"sha256": tokenizer.digest}


def _save(tokenizer: Tokenizer, folder: Path) -> None:
    if not folder.exists():
        with new_folder(folder) as partial:
            tokenizer.save(partial)


def is_held_out(document: Document, recipe: Recipe) -> bool:
    """Whether a document is of the validation split; the pieces of one stay together."""
    return sources.is_held_out(uncut(document.name), recipe.validation_fraction)


def keep_text(runner: Runner, state: State) -> dict[str, list[Path]]:
    """Per source, Parquet files of the documents that are left."""
    folder = runner.folder("text", [state.key])
    jobs = [
        Job(folder / f"{i:05d}.json", write_text, (folder / f"{i:05d}.parquet", part))
        for i, part in enumerate(state.parts)
    ]
    runner.run("keep the text", jobs)
    found: dict[str, list[Path]] = {}
    for part, job in zip(state.parts, jobs, strict=True):
        found.setdefault(part.source, []).append(job.arguments[0])
    return found


def write_text(path: Path, part: Part) -> Result:
    """The documents that are left of a part, in a file of their own."""
    with atomic(path) as partial:
        documents, size = write_documents(partial, part.read())
    return {"documents": documents, "bytes": size}


def write_shards(
    runner: Runner, recipe: Recipe, state: State, tokenizer: Path
) -> dict[str, dict[str, tuple[ShardIndex, list[Path]]]]:
    """Per source and side of the split that has text: its index, and its shards in their order."""
    with left_here(tokenizer):
        digest = load_tokenizer(tokenizer).digest
    folder = runner.folder("shards", [state.key, digest, FORMAT, recipe.validation_fraction])
    jobs = [
        Job(folder / f"{i:05d}.json", write_part, (folder / f"{i:05d}", part, tokenizer, recipe))
        for i, part in enumerate(state.parts)
    ]
    found: dict[str, dict[str, list[Path]]] = {}
    for part, job, sides in zip(state.parts, jobs, runner.run("write shards", jobs), strict=True):
        for side in sides:
            of_side = found.setdefault(part.source, {}).setdefault(side, [])
            of_side.append(job.marker.with_suffix("") / side)
    for side, what in zip(SIDES, ("to train on", "held out"), strict=True):
        require(
            any(side in sides for sides in found.values()),
            f"a corpus needs text on both sides of its split, and none of what the steps left is "
            f"{what} (validation_fraction={recipe.validation_fraction}): change the fraction, or "
            "give more documents.",
        )
    return {
        source: {side: _joined(folders) for side, folders in sides.items()}
        for source, sides in found.items()
    }


def write_part(folder: Path, part: Part, tokenizer_folder: Path, recipe: Recipe) -> Result:
    """The shards of a part, one for each side of the split that has any text."""
    if folder.exists():  # its writer was killed before it could say so
        return {side: {} for side in SIDES if (folder / side).exists()}
    with left_here(tokenizer_folder):
        tokenizer = loaded(tokenizer_folder)
    sided = ((SIDES[is_held_out(document, recipe)], document.text) for document in part.read())
    with new_folder(folder) as partial, contextlib.ExitStack() as open_files:
        writers: dict[str, ShardWriter] = {}
        for side, texts in batches(sided):
            if side not in writers:
                writer = ShardWriter(partial / side, tokenizer, measure_gzip=side == "validation")
                writers[side] = open_files.enter_context(writer)
            writers[side].add_batch(texts, encode(texts, tokenizer))
        for writer in writers.values():
            writer.finish(sources=part.path.name)
    return {side: {} for side in SIDES if side in writers}


def _joined(folders: Sequence[Path]) -> tuple[ShardIndex, list[Path]]:
    """One index over the shards in `folders`, which take the numbers of their order."""
    indexes = []
    for folder in folders:
        with left_here(folder):
            indexes.append(read_index(folder))
    paths = [
        folder / shard.name
        for folder, index in zip(folders, indexes, strict=True)
        for shard in index.shards
    ]
    files = [shard for index in indexes for shard in index.shards]
    size = sum(index.bytes for index in indexes)
    gzipped = sum(index.gzip_bits_per_byte * index.bytes for index in indexes)
    return dataclasses.replace(
        indexes[0],
        documents=sum(index.documents for index in indexes),
        tokens=sum(index.tokens for index in indexes),
        bytes=size,
        sources=digest_of([index.sources for index in indexes]),
        gzip_bits_per_byte=gzipped / max(size, 1),
        shards=tuple(
            dataclasses.replace(shard, name=f"{i:05d}.bin") for i, shard in enumerate(files)
        ),
    ), paths
