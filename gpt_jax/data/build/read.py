"""The first step: every source's documents, read and normalised, in files of their own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt_jax.config import require
from gpt_jax.data import functions
from gpt_jax.data.build.documents import Part, batches, write_documents
from gpt_jax.data.build.ledger import State, Tally, drop, tally, total
from gpt_jax.data.build.normalise import repaired, require_repair
from gpt_jax.data.build.runner import Job, Runner, atomic, digest_of
from gpt_jax.data.recipe import Recipe, Source
from gpt_jax.data.sources import Document, Piece, pieces, pieces_id, read


def read_sources(runner: Runner, recipe: Recipe) -> State:
    """The documents of all sources, in order, and what each source gave and left out.

    Raises InputError where a source has no text.
    """
    if recipe.repair:
        require_repair()
    jobs: list[Job] = []
    for source in recipe.sources:
        found = pieces(source.files)
        made_from = [
            piece_keys(found),
            [source.text_field, recipe.invalid_utf8, recipe.repair, recipe.part_bytes],
        ]
        folder = runner.folder(f"documents-{source.name}", made_from)
        if not runner.goes_on and pieces_id(found, source.text_field) is None:
            # Nothing tells whether a function still says the same.
            runner.forget(folder)
        jobs += [
            Job(folder / f"{i:05d}.json", read_group, (folder, i, group, source, recipe))
            for i, group in enumerate(groups(found, recipe.part_bytes))
        ]
    parts: list[Part] = []
    tallies: dict[str, list[Tally]] = {source.name: [] for source in recipe.sources}
    for job, result in zip(jobs, runner.run("read", jobs), strict=True):
        source = job.arguments[3].name
        for name, documents, size in result["parts"]:
            parts.append(Part(source, job.marker.parent / name, documents, size))
        tallies[source].append(result)
    for name, found in tallies.items():
        require(
            any(one["documents"] for one in found),
            f"every source needs text, and {name!r} has none: see its files, and its text_field.",
        )
    digests = {name: digest_of([one["sha256"] for one in found]) for name, found in tallies.items()}
    # The jobs of all later steps are numbered by part: the order of the sources counts.
    key = digest_of([[*digests.items()], recipe.part_bytes])
    summed = {name: total(found) for name, found in tallies.items()}
    return State(tuple(parts), summed, key, {"sha256": digests})


def piece_keys(found: Sequence[Piece]) -> list[Any]:
    """What tells pieces from others, and from themselves after a change that can be seen."""
    code = [functions.code(piece.path) for piece in found if piece.kind == "python"]
    return [[dataclasses.astuple(piece) for piece in found], code]


def groups(found: Sequence[Piece], limit: int) -> Iterator[list[Piece]]:
    """Pieces in their order, together until they hold `limit` bytes."""
    held: list[Piece] = []
    size = 0
    for piece in found:
        if held and size + piece.size > limit:
            yield held
            held, size = [], 0
        held.append(piece)
        size += piece.size
    if held:
        yield held


def read_group(
    folder: Path, number: int, group: Sequence[Piece], source: Source, recipe: Recipe
) -> Tally:
    """Write the documents of some pieces to files of `part_bytes` of text each."""
    counts, digest = tally(), hashlib.sha256()
    parts = []

    def skipped(name: str, reason: str) -> None:
        drop(counts, "not UTF-8", f"{name}: {reason}")

    def documents() -> Iterator[Document]:
        for piece in group:
            on_invalid = skipped if recipe.invalid_utf8 == "skip" else None
            for document in read(piece, source.text_field, on_invalid):
                text = repaired(document.text) if recipe.repair else document.text
                if not text.strip():
                    drop(counts, "empty", document.name, len(document.text.encode()))
                    continue
                for field in (document.name.encode(), text.encode()):
                    digest.update(len(field).to_bytes(8, "big") + field)
                yield Document(document.name, text)

    for i, some in enumerate(batches(documents(), recipe.part_bytes)):
        name = f"{number:05d}-{i:03d}.parquet"
        with atomic(folder / name) as partial:
            kept, size = write_documents(partial, some)
        parts.append([name, kept, size])
        counts["documents"] += kept
        counts["bytes"] += size
    return counts | {"parts": parts, "sha256": digest.hexdigest()}
