"""The steps that take text away, as jobs over the parts of a corpus."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.data.build import decontaminate, dedup, quality
from gpt_jax.data.build.documents import Part, batches, piece_names, write_documents
from gpt_jax.data.build.ledger import EXAMPLES, State, Tally, drop, tally, total
from gpt_jax.data.build.read import piece_keys
from gpt_jax.data.build.runner import Job, Result, Runner, atomic, digest_of, left_here
from gpt_jax.data.build.sample import at_most, drawn, read_drawn
from gpt_jax.data.recipe import Decontaminate, Recipe
from gpt_jax.data.sources import Document, pieces, pieces_id
from gpt_jax.paths import open_many_files

BATCH = 1 << 20
"""Characters of documents that are looked at together."""


def by_quality(runner: Runner, recipe: Recipe, state: State) -> State:
    """Filter the sources with quality="filter" by what those with quality="reference" are like."""
    roles = {source.name: source.quality for source in recipe.sources}
    made_from = [state.key, roles, dataclasses.asdict(recipe.quality), recipe.seed]
    folder = runner.folder("quality", made_from)
    samples = {}
    for role in ("reference", "filter"):
        of_role = [part for part in state.parts if roles[part.source] == role]
        size = sum(part.bytes for part in of_role)
        rate = min(1.0, recipe.quality.sample_bytes / max(size, 1))
        jobs = [
            Job(folder / f"{role}-{i:05d}.json", draw_documents, (part, rate, recipe.seed))
            for i, part in enumerate(of_role)
        ]
        runner.run(f"quality: sample {role}", jobs)
        samples[role] = [job.marker for job in jobs]
    model = folder / "classifier.npz"
    training = (model, samples["reference"], samples["filter"], recipe)
    notes = runner.job("quality: learn", Job(folder / "classifier.json", learn, training))
    jobs = {
        part: Job(folder / f"{i:05d}.json", judge, (folder / f"{i:05d}.npy", part, model, recipe))
        for i, part in enumerate(state.parts)
        if roles[part.source] == "filter"
    }
    return _masked(state, jobs, runner.run("quality: filter", [*jobs.values()]), made_from, notes)


def draw_documents(part: Part, rate: float, seed: int) -> Result:
    """The documents of a part that the classifier learns from."""
    found = drawn(part.read(), rate, seed, "quality sample", part.source)
    return {"drawn": [dataclasses.astuple(one) for one in found]}


def learn(model: Path, reference: Sequence[Path], raw: Sequence[Path], recipe: Recipe) -> Result:
    """Train the classifier; returns what it was learned from, and how often it is right."""
    limit = recipe.quality.sample_bytes
    texts = [at_most(read_drawn(paths), limit) for paths in (reference, raw)]
    trained = quality.train(texts[0], texts[1], recipe.quality)
    with atomic(model) as partial:
        trained.classifier.save(partial)
    return {
        "reference_documents": trained.reference_documents,
        "raw_documents": trained.raw_documents,
        "held_out_accuracy": round(trained.accuracy, 4),
        "expected_share_kept": round(trained.share_kept, 4),
    }


def judge(mask: Path, part: Part, model: Path, recipe: Recipe) -> Result:
    """Write which documents of a part are kept; returns the tally, with scores of some that go."""
    with left_here(model):
        classifier, alpha = quality.Classifier.load(model), recipe.quality.alpha
    counts, kept = tally(), part.kept()
    place = 0
    for some in batches(part.read_all(), BATCH):
        scores = classifier.scores([document.text for document in some])
        keeps = quality.keep(some, scores, alpha, recipe.seed, part.source)
        for document, score, keep in zip(some, scores, keeps, strict=True):
            if kept[place]:
                _count(counts, document, keep, "unlike the reference", f"score {score:.3f}")
            kept[place] &= keep
            place += 1
    _save(mask, kept)
    return counts


def by_dedup(runner: Runner, recipe: Recipe, state: State) -> State:
    """Drop what is like a better document: one of an earlier source, or earlier in its own."""
    made_from = [state.key, dataclasses.asdict(recipe.dedup), recipe.seed]
    folder = runner.folder("dedup", made_from)
    signing = [
        Job(folder / f"{i:05d}-signed.json", sign, (folder / f"{i:05d}-signed.npy", part, recipe))
        for i, part in enumerate(state.parts)
    ]
    runner.run("dedup: sign", signing)
    found = folder / "better.npz"
    comparing = (found, state.parts, [job.arguments[0] for job in signing], recipe)
    notes = runner.job("dedup: compare", Job(folder / "better.json", compare, comparing))
    first = np.cumsum([0, *(part.documents for part in state.parts)]).tolist()
    jobs = {
        part: Job(folder / f"{i:05d}.json", drop_like, (folder / f"{i:05d}.npy", part, found, at))
        for i, (part, at) in enumerate(zip(state.parts, first, strict=False))
    }
    tallies = runner.run("dedup: drop", [*jobs.values()])
    left = _masked(state, jobs, tallies, made_from, {"pairs_compared": notes["pairs_compared"]})
    for name, examples in notes["examples"].items():
        for reason, some in examples.items():
            left.tallies[name]["dropped"][reason]["examples"] = some
    return left


def sign(path: Path, part: Part, recipe: Recipe) -> Result:
    """Write the signatures of all documents of a part's file."""
    texts = (document.text for document in part.read_all())
    with atomic(path) as partial:
        dedup.sign(texts, recipe.dedup, recipe.seed).save(partial)
    return {}


def compare(
    path: Path, parts: Sequence[Part], signatures: Sequence[Path], recipe: Recipe
) -> Result:
    """Write which documents of all parts have a better one; returns some of them, by source."""
    open_many_files()
    found = dedup.duplicates(
        [_opened(signed) for signed in signatures],
        np.concatenate([part.kept() for part in parts]),
        recipe.dedup.threshold,
    )
    with atomic(path) as partial, partial.open("wb") as file:
        np.savez(file, better=found.better_N, similarity=found.similarity_N)
    first = np.cumsum([0, *(part.documents for part in parts)])
    examples: dict[str, dict[str, list[str]]] = {}
    for document in np.flatnonzero(found.better_N >= 0).tolist():
        source = parts[_part_of(document, first)].source
        similarity = float(found.similarity_N[document])
        some = examples.setdefault(source, {}).setdefault(_likeness(similarity), [])
        if len(some) < EXAMPLES:
            better = _name(int(found.better_N[document]), parts, first)
            some.append(f"{_name(document, parts, first)} ({similarity:.2f} like {better})")
    return {"pairs_compared": found.compared, "examples": examples}


def drop_like(mask: Path, part: Part, found: Path, first: int) -> Result:
    """Write which documents of a part have no better one like them."""
    with left_here(found), np.load(found) as arrays:
        better = arrays["better"][first : first + part.documents]
        similarity = arrays["similarity"][first : first + part.documents]
    counts, kept = tally(), part.kept()
    for place, document in enumerate(part.read_all()):
        if kept[place]:
            keep, reason = bool(better[place] < 0), _likeness(float(similarity[place]))
            _count(counts, document, keep, reason, f"{similarity[place]:.2f}")
    _save(mask, kept & (better < 0))
    return counts


def _opened(path: Path) -> dedup.Signatures:
    with left_here(path):
        return dedup.Signatures.open(path)


def _likeness(similarity: float) -> str:
    return "same words as a better one" if similarity == 1 else "near duplicate of a better one"


def _part_of(document: int, first: np.ndarray) -> int:
    return int(np.searchsorted(first, document, side="right")) - 1


def _name(document: int, parts: Sequence[Part], first: np.ndarray) -> str:
    """The id of a document, counted through all parts."""
    part = _part_of(document, first)
    return parts[part].ids()[document - int(first[part])]


def by_decontamination(runner: Runner, recipe: Recipe, state: State) -> State:
    """Cut out what benchmarks have in it, and tell how much of each was in the text."""
    config = recipe.decontaminate
    found = [pieces(benchmark.files) for benchmark in config.benchmarks]
    said = [piece_keys(some) for some in found]
    of_benchmarks = runner.folder("benchmarks", [said, dataclasses.asdict(config)])
    if not runner.goes_on and any(pieces_id(some, "") is None for some in found):
        runner.forget(of_benchmarks)
    grams = of_benchmarks / "index.npz"
    indexing = Job(of_benchmarks / "index.json", index_benchmarks, (grams, config))
    made_from = [
        state.key,
        dataclasses.asdict(config),
        runner.job("decontaminate: index", indexing),
    ]
    folder = runner.folder("decontaminate", made_from)

    def seen(when: str, parts: Sequence[Part]) -> list[Path]:
        jobs = []
        for i, part in enumerate(parts):
            path = folder / f"{when}-{i:05d}.npz"
            jobs.append(Job(path.with_suffix(".json"), find, (path, part, grams)))
        runner.run(f"decontaminate: find {when}", jobs)
        return [job.arguments[0] for job in jobs]

    before = seen("before", state.parts)
    colliding = folder / "colliding.npy"
    adding = Job(folder / "colliding.json", add_up, (colliding, before, grams, config))
    notes = runner.job("decontaminate: add up", adding)
    jobs = [
        Job(
            folder / f"{i:05d}.json",
            clean,
            (folder / f"{i:05d}.parquet", part, where, colliding, grams, config),
        )
        for i, (part, where) in enumerate(zip(state.parts, before, strict=True))
    ]
    tallies = runner.run("decontaminate: cut", jobs)
    parts = tuple(
        Part(part.source, job.arguments[0], counts["documents"], counts["bytes"])
        if counts["is_new"]
        else part
        for part, job, counts in zip(state.parts, jobs, tallies, strict=True)
    )
    reporting = (before, seen("after", parts), grams)
    notes |= runner.job("decontaminate: report", Job(folder / "report.json", report, reporting))
    left = {
        name: total(
            counts for part, counts in zip(parts, tallies, strict=True) if part.source == name
        )
        for name in state.tallies
    }
    return State(parts, left, digest_of(made_from), notes)


def index_benchmarks(path: Path, config: Decontaminate) -> Result:
    """Write the n-grams of all benchmarks."""
    examples = [(one.name, decontaminate.examples(one)) for one in config.benchmarks]
    with atomic(path) as partial:
        decontaminate.index(examples, config.ngram).save(partial)
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def find(path: Path, part: Part, grams: Path) -> Result:
    """Write which n-grams of the benchmarks occur in what is left of a part."""
    with atomic(path) as partial:
        with left_here(grams):
            index = decontaminate.Index.load(grams)
        decontaminate.find(part.read(), index).save(partial)
    return {}


def add_up(path: Path, found: Sequence[Path], grams: Path, config: Decontaminate) -> Result:
    """Write the n-grams that collide: those that occur, in no more documents than a few."""
    with left_here(grams):
        index = decontaminate.Index.load(grams)
        counts = decontaminate.totals(map(decontaminate.Found.load, found), index)
    colliding = decontaminate.collisions(counts, index, config.common)
    _save(path, colliding)
    return {"colliding_ngrams": len(colliding)}


def clean(
    path: Path, part: Part, found: Path, colliding: Path, grams: Path, config: Decontaminate
) -> Result:
    """Cut what collides out of what is left of a part; write it anew if anything does."""
    with left_here(colliding):
        index, hashes = decontaminate.Index.load(grams), np.load(colliding)
        touched = set(decontaminate.Found.load(found).touched.tolist())
    counts, changed = tally(), dict[int, Sequence[str]]()
    for place, document in enumerate(part.read()):
        result = decontaminate.Cleaned((document.text,), None, ())
        if place in touched:
            result = decontaminate.clean(document.text, hashes, index, config)
        left = sum(len(piece.encode()) for piece in result.pieces)
        counts["documents"] += len(result.pieces)
        counts["bytes"] += left
        if result.reason:
            changed[place] = result.pieces
            where, _, example = result.cuts[0]
            size = len(document.text.encode()) - left
            example = f"{document.name} (at {where}, {example})"
            drop(counts, result.reason, example, size, documents=not result.pieces)
    if changed:
        with atomic(path) as partial:
            write_documents(partial, _with_pieces(part, changed))
    return counts | {"is_new": bool(changed)}


def _with_pieces(part: Part, changed: Mapping[int, Sequence[str]]) -> Iterator[Document]:
    """What is left of a part, with the pieces of documents that were cut in their places."""
    for place, document in enumerate(part.read()):
        if place in changed:
            texts = changed[place]
            yield from map(Document, piece_names(document.name, len(texts)), texts)
        else:
            yield document


def report(before: Sequence[Path], after: Sequence[Path], grams: Path) -> Result:
    """How much of each benchmark was in the text, and still is."""
    index, load = decontaminate.Index.load(grams), decontaminate.Found.load
    was, still = (decontaminate.totals(map(load, found), index) for found in (before, after))
    return {"benchmarks": decontaminate.report(index, was, still, map(load, before))}


def _count(counts: Tally, document: Document, keep: bool, reason: str, detail: str) -> None:
    """Count a document as left or as dropped."""
    size = len(document.text.encode())
    if keep:
        counts["documents"] += 1
        counts["bytes"] += size
    else:
        drop(counts, reason, f"{document.name} ({detail})", size)


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as partial:
        np.save(partial, array)


def _masked(
    state: State,
    jobs: Mapping[Part, Job],
    tallies: Sequence[Tally],
    made_from: Any,
    notes: Mapping[str, Any],
) -> State:
    """The state after jobs that each wrote a mask of a part, their first argument."""
    found = defaultdict(list)
    for part, counts in zip(jobs, tallies, strict=True):
        found[part.source].append(counts)
    parts = tuple(
        part.masked(jobs[part].arguments[0]) if part in jobs else part for part in state.parts
    )
    left = {
        name: total(found[name]) if name in found else tally(old["documents"], old["bytes"])
        for name, old in state.tallies.items()
    }
    return State(parts, left, digest_of(made_from), notes)
