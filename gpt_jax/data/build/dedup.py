"""Fuzzy deduplication by MinHash and LSH, within and across sources (appendix A of the paper).

The similarity of two documents is the Jaccard index s of their sets of n-grams (`ngrams.py`). Each
document is signed, part by part: for each of bands * rows, or SKETCH if that is more, hash
functions, the least hash of its n-grams, which two documents share with probability s. Kept of it
are a key for each band, a key of all words in order, and a byte of each of the first SKETCH.

Then, over all parts at once: of documents with the same words the first stays. Others are compared
where the key of any band is the same, by the share m of bytes that agree: s = (256 m - 1) / 255
within a standard deviation of sqrt(s (1 - s) / SKETCH). A document goes where s is above
`least_similar(threshold)`, which is two of those below the threshold. So with Phi the normal
distribution, one that is s like a better document goes with a probability of about

    (1 - (1 - s^rows)^bands) Phi((s - least) / sqrt(s (1 - s) / SKETCH)),

by the defaults 0.975 at 0.8, 0.9999 at 0.85, 0.49 at 0.75, 0.04 at 0.7 and 3e-7 at 0.6. It does not
matter whether the better document goes too: of a, b, c in a chain of likeness only a stays.

Where this is less than every pair: in a bucket of more than 2 REACH + 1 documents each is compared
with the REACH first and the REACH before it alone, so that a million versions of one page take
linear time; what this misses must be missed in all bands in which the two meet.

Of libraries, datasketch 2.0 signs source code at 7 MB/s with 256 hashes after the n-grams are made
(this: 40 MB/s with making them), and its LSH takes 6.8 KB of memory and 0.24 ms a document. rensa
0.5 makes signatures as fast as is needed; but its LSH takes 2 KB of memory a document, says which
have others like them and not which is better, and its hashes change between its versions. Ours
takes 0.4 KB of disk, 45 bytes of memory and 3 microseconds a document.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt_jax.config import InputError
from gpt_jax.data.ngrams import BASE, Ngrams, mix, ngrams, whole_texts, words
from gpt_jax.data.recipe import Dedup

SKETCH = 256
"""MinHashes of which a byte is kept, to estimate a similarity by."""
REACH = 8
"""Documents of a bucket that another is compared with, of the first and of the nearest."""
GROUP = 4_000_000
"""Characters of text that are signed at once, or those of one text if that is longer."""
BLOCK = 1 << 15
"""N-grams that are hashed at once: they stay in a core's cache."""
PAIRS = 1 << 16
"""Pairs of documents that are compared at once."""


@dataclass(frozen=True)
class Signatures:
    """What is kept of N documents: 8 (bands + 1) + SKETCH bytes of each, 424 by default."""

    keys_KN: np.ndarray
    """uint64, K = 1 + bands: of all words in order, and of each band."""
    sketch_NS: np.ndarray
    """uint8: a byte of each of S MinHashes."""

    def save(self, path: Path) -> None:
        """Write a .npy file; the same signatures give the same bytes."""
        keys = self.keys_KN.ravel()
        sketch = np.ascontiguousarray(self.sketch_NS).view(np.uint64).ravel()
        with path.open("wb") as file:
            np.save(file, np.concatenate([[np.uint64(len(self.keys_KN))], keys, sketch]))

    @classmethod
    def open(cls, path: Path) -> Signatures:
        """Map what `save` wrote into memory; raises InputError where it is not that."""
        try:
            # A plain array over the map, as in `TokenShards.open`.
            array = np.asarray(np.load(path, mmap_mode="r"))
            kinds = int(array[0])
            documents = (len(array) - 1) // (kinds + SKETCH // 8)
            keys, sketch = np.split(array[1:], [kinds * documents])
            keys_KN = keys.reshape(kinds, documents)
            return cls(keys_KN, sketch.view(np.uint8).reshape(documents, SKETCH))
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise InputError(
                f"signatures of documents cannot be read from {path} ({error}): delete it."
            ) from error


@dataclass(frozen=True)
class Duplicates:
    """Which of N documents have a better one like them."""

    better_N: np.ndarray
    """int64: the number of a better document, or -1."""
    similarity_N: np.ndarray
    """float32: how like it this is, by the estimate; 1 where the words are the same, and below 1
    where they are not."""
    compared: int
    """Pairs that were compared."""


def sign(texts: Iterable[str], dedup: Dedup, seed: int) -> Signatures:
    """The signatures of documents. A document without words is one with no other words."""
    count = max(dedup.bands * dedup.rows, SKETCH)
    keys = [np.zeros((1 + dedup.bands, 0), np.uint64)]
    sketches = [np.zeros((0, SKETCH), np.uint8)]
    for group in _groups(texts):
        found = words(group)
        least_HN = minhashes(ngrams(found, dedup.ngram, short=True), count, seed)
        bands = least_HN[: dedup.bands * dedup.rows].reshape(dedup.bands, dedup.rows, -1)
        keys_BN = np.zeros((dedup.bands, len(group)), np.uint64)
        for row in range(dedup.rows):
            keys_BN = mix(keys_BN * np.uint64(BASE) + bands[:, row])
        keys.append(np.concatenate([whole_texts(found)[None], keys_BN]))
        # The least hashes are small numbers: all their bits go into the byte.
        byte_SN = (least_HN[:SKETCH] * np.uint32(BASE >> 32 | 1)) >> np.uint32(24)
        sketches.append(byte_SN.T.astype(np.uint8))
    return Signatures(np.concatenate(keys, axis=1), np.concatenate(sketches))


def minhashes(grams: Ngrams, count: int, seed: int) -> np.ndarray:
    """The least of `count` hashes of the n-grams of each text, (count, texts) uint32.

    An n-gram's hash i is a_i low + b_i high modulo 2^32, of the halves of its 64 bits and two odd
    numbers that the seed gives. Each text has an n-gram.
    """
    numbers = mix(np.arange(count, dtype=np.uint64) + mix(np.array([seed], np.uint64)))
    factors = np.stack([numbers, numbers >> np.uint64(32)]).astype(np.uint32) | np.uint32(1)
    least_HN = np.full((count, len(grams.bounds) - 1), np.iinfo(np.uint32).max, np.uint32)
    for begin in range(0, len(grams.hash_G), BLOCK):
        block = grams.hash_G[begin : begin + BLOCK]
        low, high = block.astype(np.uint32), (block >> np.uint64(32)).astype(np.uint32)
        ends = [begin, begin + len(block) - 1]
        first, last = np.searchsorted(grams.bounds, ends, side="right") - 1
        starts = np.maximum(grams.bounds[first : last + 1] - begin, 0)
        hashes, term = np.empty_like(low), np.empty_like(low)
        for row, a, b in zip(least_HN[:, first : last + 1], *factors, strict=True):
            np.multiply(low, a, out=hashes)
            np.multiply(high, b, out=term)
            np.add(hashes, term, out=hashes)
            np.minimum(row, np.minimum.reduceat(hashes, starts), out=row)
    return least_HN


def least_similar(threshold: float) -> float:
    """The estimate from which on a document goes, so that 0.977 of those at the threshold do."""
    return threshold - 2 * math.sqrt(threshold * (1 - threshold) / SKETCH)


def duplicates(parts: Sequence[Signatures], keep_N: np.ndarray, threshold: float) -> Duplicates:
    """For each document a better one that it is like: an earlier one that is kept as well.

    `parts` follow each other from the best source to the worst, and documents are counted through
    them. `keep_N` (bool) says which count: neither do others go, nor is anything like them.
    It takes about 45 bytes of memory a document, and 3 SKETCH PAIRS bytes.
    """
    bounds = np.cumsum([0, *(len(part.sketch_NS) for part in parts)])
    better_N, compared = np.full(len(keep_N), -1, np.int64), 0
    similarity_N = np.zeros(len(keep_N), np.float32)
    keep_N = keep_N.copy()
    for number in range(len(parts[0].keys_KN) if parts else 0):
        keys = np.concatenate(
            [
                part.keys_KN[number][keep_N[begin:end]]
                for part, begin, end in zip(parts, bounds, bounds[1:], strict=False)
            ]
        )
        place_M, rank_M = _buckets(keys)
        del keys
        document_M = np.flatnonzero(keep_N)[place_M]
        if number == 0:
            copies = np.flatnonzero(rank_M > 0)
            better_N[document_M[copies]] = document_M[copies - rank_M[copies]]
            similarity_N[document_M[copies]] = 1
            keep_N[document_M[copies]] = False  # the first of them stands for all
            continue
        for one_P, other_P in _pairs(document_M, rank_M, better_N):
            similar_P = _similarity(parts, bounds, one_P, other_P)
            compared += len(one_P)
            found = np.flatnonzero(similar_P >= least_similar(threshold))
            better_N[one_P[found]] = other_P[found]
            # Where all of a sketch agrees, what differs is less than it can tell.
            similarity_N[one_P[found]] = np.minimum(similar_P[found], 1 - 0.5 / SKETCH)
    return Duplicates(better_N, similarity_N, compared)


def _buckets(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where keys stand that stand there twice: (place, rank within the same), bucket by bucket."""
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    same = in_order[1:] == in_order[:-1]
    as_before = np.append(False, same)[: len(keys)]
    repeated = as_before | np.append(same, False)[: len(keys)]
    order, as_before = order[repeated], as_before[repeated]
    count = np.arange(len(order))
    return order, count - np.maximum.accumulate(np.where(as_before, 0, count))


def _pairs(
    document_M: np.ndarray, rank_M: np.ndarray, better_N: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(documents, better ones) to compare, PAIRS at most at once: of those with none better yet."""
    open_M = np.flatnonzero((better_N[document_M] < 0) & (rank_M > 0))
    for step in range(REACH):
        for from_front in (True, False):
            # From the front the one of rank `step`, from behind that of rank - 1 - step, while they
            # have not met.
            open_M = open_M[better_N[document_M[open_M]] < 0]
            far_M = open_M[rank_M[open_M] > 2 * step + (not from_front)]
            for begin in range(0, len(far_M), PAIRS):
                one = far_M[begin : begin + PAIRS]
                other = one - rank_M[one] + step if from_front else one - 1 - step
                yield document_M[one], document_M[other]


def _similarity(
    parts: Sequence[Signatures], bounds: np.ndarray, one_P: np.ndarray, other_P: np.ndarray
) -> np.ndarray:
    """The estimated similarity of pairs of documents, (P,) float64."""
    same_PS = _sketches(parts, bounds, one_P) == _sketches(parts, bounds, other_P)
    return (256 * same_PS.mean(axis=1) - 1) / 255


def _sketches(parts: Sequence[Signatures], bounds: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """(documents, SKETCH) uint8, part by part."""
    of = np.searchsorted(bounds, documents, side="right") - 1
    order = np.argsort(of, kind="stable")
    found = np.empty((len(documents), SKETCH), np.uint8)
    for here in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
        if len(here):
            part = int(of[here[0]])
            found[here] = parts[part].sketch_NS[documents[here] - bounds[part]]
    return found


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group, size = [], 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
