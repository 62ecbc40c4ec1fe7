"""Removal of benchmarks from training text, and how much of them was in it (appendix C).

The filter, as in the paper: where a document and an example of a benchmark share 13 words in a row
(`ngrams.py` says what words are), these words and 200 characters around them are cut out. Pieces
of fewer than 200 characters are dropped, and so is a document that is cut into more than 10. What
more than 10 documents have in common is no collision, but a common phrase. The paper does not say,
and we take it so: the 200 characters are on each side; pieces are counted before the short ones are
dropped; an example of fewer than 13 words is not looked for, as it has no 13-gram.

The report, as in the paper's Table C.1: of each benchmark, how many examples are dirty, which is to
share N words in a row with any document, common phrase or not. N is the 5th percentile of its
examples' lengths in words, but 8 at least and 13 at most; examples of fewer words are clean. Where
we differ: the paper counts once, in text that was to have been filtered and was not; we count
before the filter and after it.

A build finds, part by part, which n-grams of the benchmarks occur (`find`), adds up over all parts
in how many documents (`totals`), and cleans part by part the documents that collide (`clean`).
Memory: about 50 bytes for each n-gram of the benchmarks, and a part's collisions.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.config import InputError, read_template, require
from gpt_jax.data.build.documents import batches
from gpt_jax.data.examples import fill
from gpt_jax.data.ngrams import Words, ngrams, words
from gpt_jax.data.recipe import Benchmark, Decontaminate
from gpt_jax.data.sources import Document, pieces, records

LEAST_WORDS = 8
"""Of the n-grams of the report."""
PERCENTILE = 5
"""Of the lengths of a benchmark's examples."""
GROUP = 4_000_000
"""Characters of text that are looked at together."""
NAMED = 5
"""Pairs of an example and a document, in the report of a benchmark."""


@dataclass(frozen=True)
class Index:
    """The n-grams of E examples of benchmarks: U different ones."""

    hash_U: np.ndarray
    """uint64: those of the filter's n, in order, and then those of each other n."""
    example_U: np.ndarray
    """int64: the first example that has it."""
    tables: tuple[tuple[int, int, int], ...]
    """(n, begin, end) of the n-grams of each n; the filter's is the first."""
    benchmarks: tuple[tuple[str, int, int], ...]
    """(name, n, examples) of each benchmark, n that of the report; its examples follow those of
    the one before it."""
    names: tuple[str, ...]
    """Of each example: BENCHMARK:POSITION."""
    gram_R: np.ndarray
    """int64: n-grams of the report's n, example by example, by their number in hash_U."""
    bounds: np.ndarray
    """(E + 1,) int64: those of example e are gram_R[bounds[e]:bounds[e + 1]]."""

    def save(self, path: Path) -> None:
        """Write an .npz file; the same index gives the same bytes."""
        _save(path, self, ("hash_U", "example_U", "gram_R", "bounds"))

    @classmethod
    def load(cls, path: Path) -> Index:
        """What `save` wrote; raises InputError where it is not that."""
        return cls(**_load(path))


@dataclass(frozen=True)
class Found:
    """What of the benchmarks occurs in some documents."""

    gram_H: np.ndarray
    """int64: numbers of the n-grams that occur, in order."""
    documents_H: np.ndarray
    """int64: in how many documents."""
    first_H: np.ndarray
    """int64: the first of these, by its place in `names`."""
    names: tuple[str, ...]
    """Of documents that are the first to have an n-gram."""
    touched: np.ndarray
    """int64: which documents have n-grams of the filter."""

    def save(self, path: Path) -> None:
        """Write an .npz file; the same findings give the same bytes."""
        _save(path, self, ("gram_H", "documents_H", "first_H", "touched"))

    @classmethod
    def load(cls, path: Path) -> Found:
        """What `save` wrote; raises InputError where it is not that."""
        return cls(**_load(path))


@dataclass(frozen=True)
class Cleaned:
    """A document after the filter."""

    pieces: tuple[str, ...]
    """What is left of it: the text itself where nothing collides."""
    reason: str | None
    """Why that is not all."""
    cuts: tuple[tuple[int, int, str], ...]
    """(start, end) of what was cut out, in characters of the text, and the name of an example."""


def examples(benchmark: Benchmark) -> Iterator[Document]:
    """The examples of a benchmark, named BENCHMARK:POSITION; null is an empty field.

    Raises InputError where a record has not what the template names, or nothing has any text.
    """
    empty, template = True, read_template(benchmark.template)
    for piece in pieces(benchmark.files):
        for name, record in records(piece):
            text = fill(template, record, name, null="")
            if text.strip():
                empty = False
                yield Document(f"{benchmark.name}:{name}", text)
    require(not empty, f"the benchmark {benchmark.name!r} has no text.")


def index(benchmarks: Sequence[tuple[str, Iterable[Document]]], n: int) -> Index:
    """The n-grams of benchmarks, (name, examples) each; `n` is the filter's."""
    names: list[str] = []
    found: list[tuple[str, Words]] = []
    for name, documents in benchmarks:
        held = list(documents)
        names += [document.name for document in held]
        found.append((name, words([document.text for document in held])))
    counted = [(name, report_words(some, n), len(some.bounds) - 1) for name, some in found]
    firsts = np.cumsum([0, *(count for *_, count in counted)])
    tables, hashes, holders = [], [], []
    for size in [n, *sorted({size for _, size, _ in counted} - {n})]:
        # Of each n, the n-grams of the benchmarks that need it; the filter's of all.
        grams = [
            (ngrams(some, size), first)
            for (_, some), (_, own, _), first in zip(found, counted, firsts, strict=False)
            if size in (own, n)
        ]
        holder = [np.repeat(np.arange(len(g.bounds) - 1) + e, np.diff(g.bounds)) for g, e in grams]
        unique, at = np.unique(np.concatenate([g.hash_G for g, _ in grams]), return_index=True)
        begin = tables[-1][2] if tables else 0
        tables.append((size, begin, begin + len(unique)))
        hashes.append(unique)
        holders.append(np.concatenate(holder)[at])
    begins = {size: (begin, part) for (size, begin, _), part in zip(tables, hashes, strict=True)}
    rows, lengths = [], []
    for (_, some), (_, size, _) in zip(found, counted, strict=True):
        begin, unique = begins[size]
        grams = ngrams(some, size)
        rows.append(begin + np.searchsorted(unique, grams.hash_G))
        lengths.append(np.diff(grams.bounds))
    return Index(
        np.concatenate(hashes),
        np.concatenate(holders),
        tuple(tables),
        tuple(counted),
        tuple(names),
        np.concatenate(rows),
        np.cumsum([0, *np.concatenate(lengths)]),
    )


def report_words(words: Words, most: int) -> int:
    """The paper's N: the 5th percentile of the lengths, 8 at least, and `most` at most."""
    lengths = np.diff(words.bounds)
    return int(np.clip(np.percentile(lengths, PERCENTILE, method="lower"), LEAST_WORDS, most))


def find(documents: Iterable[Document], index: Index) -> Found:
    """Which n-grams of the benchmarks occur in these documents."""
    filters = [_prefilter(index.hash_U[begin:end]) for _, begin, end in index.tables]
    found_grams, found_in = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    names, place = dict[int, str](), 0
    for group in batches(documents, GROUP):
        found = words([document.text for document in group])
        for (n, begin, end), prefilter in zip(index.tables, filters, strict=True):
            grams = ngrams(found, n)
            at, number = _look_up(grams.hash_G, index.hash_U[begin:end], prefilter)
            of = np.searchsorted(grams.bounds, at, side="right") - 1
            found_grams.append(begin + number)
            found_in.append(place + of)
            names |= {place + int(i): group[i].name for i in np.unique(of)}
        place += len(group)
    # Each pair of an n-gram and a document once, as one number: quicker than rows of two.
    once = np.unique(np.concatenate(found_grams) * max(place, 1) + np.concatenate(found_in))
    gram_P, document_P = np.divmod(once, max(place, 1))
    gram_H, first, count_H = np.unique(gram_P, return_index=True, return_counts=True)
    firsts, first_H = np.unique(document_P[first], return_inverse=True)
    touched = np.unique(document_P[gram_P < index.tables[0][2]])
    return Found(gram_H, count_H, first_H, tuple(names[int(i)] for i in firsts), touched)


def totals(parts: Iterable[Found], index: Index) -> np.ndarray:
    """In how many documents of all parts each n-gram occurs, (U,) int64."""
    counts = np.zeros(len(index.hash_U), np.int64)
    for part in parts:
        counts[part.gram_H] += part.documents_H
    return counts


def collisions(counts: np.ndarray, index: Index, common: int) -> np.ndarray:
    """The hashes of the filter's n-grams that occur, and are no common phrases, in order."""
    _, begin, end = index.tables[0]
    return index.hash_U[begin:end][(counts[begin:end] > 0) & (counts[begin:end] <= common)]


def clean(text: str, colliding: np.ndarray, index: Index, config: Decontaminate) -> Cleaned:
    """Cut out of a text what collides; `colliding` is what `collisions` gives."""
    found = words([text])
    grams = ngrams(found, config.ngram)
    at, _ = _look_up(grams.hash_G, colliding, None)
    if not len(at):
        return Cleaned((text,), None, ())
    starts = np.maximum(found.start_W[grams.first_G[at]] - config.margin, 0)
    last = grams.first_G[at] + config.ngram - 1
    ends = np.minimum(found.end_W[last] + config.margin, len(text))
    opens = np.append(True, starts[1:] > ends[:-1])
    starts, ends = starts[opens], ends[np.append(opens[1:], True)]
    _, begin, end = index.tables[0]
    numbers = np.searchsorted(index.hash_U[begin:end], grams.hash_G[at[opens]])
    named = [index.names[example] for example in index.example_U[begin + numbers]]
    cuts = tuple(zip(starts.tolist(), ends.tolist(), named, strict=True))
    edges = zip([0, *ends], [*starts, len(text)], strict=True)
    left = [text[begin:end] for begin, end in edges if end > begin]
    if len(left) > config.max_pieces:
        return Cleaned((), f"cut into more than {config.max_pieces} pieces", cuts)
    kept = tuple(piece for piece in left if len(piece) >= config.margin)
    return Cleaned(kept, "cut" if kept else "nothing left", cuts)


def report(
    index: Index, before: np.ndarray, after: np.ndarray, parts: Iterable[Found]
) -> dict[str, dict[str, Any]]:
    """How much of each benchmark was in the text, as JSON can state it.

    Args:
      before: (U,) int64, what `totals` gives for the parts before the filter.
      after: the same for what the filter left.
      parts: what was found before the filter; names a document for some of the dirty examples.
    """
    result, shown, first = {}, dict[str, dict[str, int]](), 0
    for name, n, count in index.benchmarks:
        bounds = index.bounds[first : first + count + 1]
        gram_Q = index.gram_R[bounds[0] : bounds[-1]]
        of_Q = np.repeat(np.arange(count), np.diff(bounds))
        shorter = int((np.diff(bounds) == 0).sum())
        figures: dict[str, Any] = {"examples": count, "words": n, "shorter": shorter, "dirty": {}}
        for when, counts in (("before", before), ("after", after)):
            seen_Q = counts[gram_Q] > 0
            dirty = np.unique(of_Q[seen_Q])
            figures[f"dirty_{when}"] = len(dirty)
            figures[f"ngrams_{when}"] = round(float(seen_Q.sum() / max(len(seen_Q), 1)), 6)
            # All of them by name, for a score without them.
            figures["dirty"][when] = [index.names[first + example] for example in dirty]
        seen = np.flatnonzero(before[gram_Q] > 0)
        dirty, at = np.unique(of_Q[seen], return_index=True)
        result[name] = figures
        shown[name] = {
            index.names[first + example]: int(gram)
            for example, gram in zip(dirty[:NAMED], gram_Q[seen[at[:NAMED]]], strict=True)
        }
        first += count
    holders = _holders(parts, {gram for some in shown.values() for gram in some.values()})
    for name, some in shown.items():
        result[name]["such_as"] = [[example, holders[gram]] for example, gram in some.items()]
    return result


def _holders(parts: Iterable[Found], grams: set[int]) -> dict[int, str]:
    """The name of the first document that has each n-gram."""
    wanted, found = np.array(sorted(grams), np.int64), dict[int, str]()
    for part in parts:
        _, at, _ = np.intersect1d(part.gram_H, wanted, assume_unique=True, return_indices=True)
        for here in at:
            found.setdefault(int(part.gram_H[here]), part.names[part.first_H[here]])
    return found


def _prefilter(hashes: np.ndarray) -> np.ndarray:
    """(2^k,) bool, true at the first k bits of these hashes; eight times as long as they are many.

    Nearly all n-grams of a text are in no benchmark, and a look into this says so at once.
    """
    bits = max(8 * len(hashes), 2).bit_length()
    table = np.zeros(1 << bits, bool)
    table[hashes >> np.uint64(64 - bits)] = True
    return table


def _look_up(
    hashes: np.ndarray, table: np.ndarray, prefilter: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(which hashes are in the table, and where there); the table is in order."""
    at = np.arange(len(hashes))
    if prefilter is not None:
        at = np.flatnonzero(prefilter[hashes >> np.uint64(65 - len(prefilter).bit_length())])
    place = np.searchsorted(table, hashes[at])
    inside = place < len(table)
    at, place = at[inside], place[inside]
    same = table[place] == hashes[at]
    return at[same], place[same]


def _save(path: Path, value: Index | Found, arrays: Sequence[str]) -> None:
    rest = {name: part for name, part in vars(value).items() if name not in arrays}
    data = {name: getattr(value, name) for name in arrays}
    with path.open("wb") as file:
        np.savez(file, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **data)


def _load(path: Path) -> dict[str, Any]:
    try:
        with np.load(path) as arrays:
            found = dict(arrays)
        rest = json.loads(found.pop("rest").tobytes())
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"n-grams of benchmarks cannot be read from {path} ({error}): delete it."
        ) from error
    lists = {
        name: tuple(tuple(row) if isinstance(row, list) else row for row in rows)
        for name, rows in rest.items()
    }
    return found | lists
