"""The steps that take text away, as jobs over the parts of a corpus."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.data.build import dedup, quality
from gpt_jax.data.build.documents import Part, batches
from gpt_jax.data.build.ledger import EXAMPLES, State, Tally, drop, tally, total
from gpt_jax.data.build.runner import Job, Result, Runner, atomic, digest_of
from gpt_jax.data.build.sample import at_most, drawn, read_drawn
from gpt_jax.data.recipe import Recipe
from gpt_jax.data.sources import Document

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
        "held_out_accuracy": round(trained.accuracy, 6),
    }


def judge(mask: Path, part: Part, model: Path, recipe: Recipe) -> Result:
    """Write which documents of a part are kept; returns the tally, with scores of some that go."""
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
    found = dedup.duplicates(
        [dedup.Signatures.open(signed) for signed in signatures],
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
    with np.load(found) as arrays:
        better = arrays["better"][first : first + part.documents]
        similarity = arrays["similarity"][first : first + part.documents]
    counts, kept = tally(), part.kept()
    for place, document in enumerate(part.read_all()):
        if kept[place]:
            keep, reason = bool(better[place] < 0), _likeness(float(similarity[place]))
            _count(counts, document, keep, reason, f"{similarity[place]:.2f}")
    _save(mask, kept & (better < 0))
    return counts


def _likeness(similarity: float) -> str:
    return "same words as a better one" if similarity == 1 else "near duplicate of a better one"


def _part_of(document: int, first: np.ndarray) -> int:
    return int(np.searchsorted(first, document, side="right")) - 1


def _name(document: int, parts: Sequence[Part], first: np.ndarray) -> str:
    """The id of a document, counted through all parts."""
    part = _part_of(document, first)
    return parts[part].ids()[document - int(first[part])]


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
