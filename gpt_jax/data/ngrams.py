"""Words and n-grams of documents, as arrays: what deduplication and decontamination compare.

A word is what stands between white space, in lower case and without punctuation (appendix C of the
GPT-3 paper): "Don't (ever) stop --" is dont, ever, stop. In full:

- White space is what `str.isspace` says.
- Punctuation is Unicode's categories P, ASCII's other symbols ($+<=>^`|~), and control and format
  characters (NUL, zero-width space, soft hyphen). It is taken out and divides nothing; what
  consists of it alone is no word. Other symbols (€, ☃, emoji) stay.
- Lower case is of each code point by itself. There is no other normalisation: é of one code point
  and é of two differ (repairing the text before makes one of both).
- Han and kana are written without spaces: each of their characters is a word. Thai, Lao, Khmer and
  Burmese have spaces between phrases, and a phrase is a word.

Everything is 64-bit hashes, the same on every machine. Words are hashed by a polynomial modulo
2^64 over random values of their characters, windows of n words by another over those. Two of the
10^11 n-grams of a large corpus have the same hash with probability 1 - exp(-10^22 / 2^65), so a few
do; of one n-gram and the 10^7 of all benchmarks it is 5e-13.
"""

from __future__ import annotations

import functools
import itertools
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpt_jax.data.hashes import GOLDEN, mix64

DROPPED, SPACE, LETTER, WORD = range(4)
"""Kinds of characters: taken out, between words, a word's, and a word by itself."""
CODE_POINTS = 0x110000
BASE = GOLDEN
"""Of the polynomials, odd: it has an inverse modulo 2^64."""
CHUNK = 1 << 17
"""Characters that are looked at at once: the arrays of so many stay in a core's cache."""
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
_WHITE = re.compile(r"\s")


@dataclass(frozen=True)
class Words:
    """The words of D texts, one after the other, W in all."""

    hash_W: np.ndarray
    """uint64."""
    start_W: np.ndarray
    """int64: the first character of the word that is no punctuation, in its own text."""
    end_W: np.ndarray
    """int64: after the last one."""
    bounds: np.ndarray
    """(D + 1,) int64: the words of text d are [bounds[d], bounds[d + 1])."""


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of D texts, one after the other, G in all."""

    hash_G: np.ndarray
    """uint64."""
    first_G: np.ndarray
    """int64: the first word of each, counted through all texts."""
    bounds: np.ndarray
    """(D + 1,) int64: the n-grams of text d are [bounds[d], bounds[d + 1])."""


def words(texts: Sequence[str]) -> Words:
    """The words of each text.

    It takes 64 bytes of memory a word, so hand over some MB of text at a time; and 80 bytes a
    character of the longest word, if that is longer than CHUNK.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for batch in _batches(texts):
        found.append(_words_of(batch))
    of_W, start_W, end_W, hash_W = (
        np.concatenate(parts) if parts else np.zeros(0, np.int64)
        for parts in (zip(*found, strict=True) if found else [()] * 4)
    )
    counts = np.bincount(of_W, minlength=len(texts))
    return Words(hash_W.astype(np.uint64, copy=False), start_W, end_W, _bounds(counts))


def ngrams(words: Words, n: int, short: bool = False) -> Ngrams:
    """Each window of n words within a text; `short`: a text of fewer words is one n-gram.

    That one is of all its words, or of none.
    """
    lengths = np.diff(words.bounds)
    counts = np.maximum(lengths - n + 1, 1 if short else 0)
    bounds, is_whole = _bounds(counts), lengths >= n
    of_G = np.repeat(np.arange(len(counts)), counts)
    first_G = np.arange(bounds[-1]) + (words.bounds[:-1] - bounds[:-1])[of_G]
    hash_G = np.zeros(len(of_G), np.uint64)
    if len(words.hash_W) >= n:
        window_W = np.zeros(len(words.hash_W) - n + 1, np.uint64)
        for place in range(n):
            window_W *= np.uint64(BASE)
            window_W += words.hash_W[place : place + len(window_W)]
        whole = is_whole[of_G]
        hash_G[whole] = window_W[first_G[whole]]
    if short:
        less = np.flatnonzero(~is_whole)
        hash_G[bounds[less]] = _sequences(words, less, lengths[less])
    return Ngrams(mix(hash_G), first_G, bounds)


def whole_texts(words: Words) -> np.ndarray:
    """A hash of the words of each text, (D,) uint64: equal where they are the same in order."""
    powers, inverses = _powers(len(words.hash_W))
    sums = np.append(np.uint64(0), np.cumsum(words.hash_W * powers[: len(words.hash_W)]))
    spans = sums[words.bounds[1:]] - sums[words.bounds[:-1]]
    return mix(spans * inverses[words.bounds[:-1]])


def mix(values: np.ndarray) -> np.ndarray:
    """Each uint64 as another that depends on all its bits, one to one (the end of splitmix64)."""
    return mix64(values + np.uint64(BASE))


def _sequences(words: Words, texts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """As the hash of a window, of all the words of each of these texts, which have few."""
    hashes = np.zeros(len(texts), np.uint64)
    for place in range(int(lengths.max(initial=0))):
        here = np.flatnonzero(lengths > place)
        word = words.hash_W[words.bounds[texts[here]] + place]
        hashes[here] = hashes[here] * np.uint64(BASE) + word
    return hashes


def _bounds(counts: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(counts)).astype(np.int64)


def _batches(texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """(text's number, where in the text it begins, piece): all texts, about CHUNK at once.

    A text is cut at white space alone.
    """
    batch, size = [], 0
    for number, text in enumerate(texts):
        at = 0
        while at < len(text):
            cut = _WHITE.search(text, at + CHUNK - size) if len(text) - at > CHUNK - size else None
            piece = text[at : cut.start()] if cut else text[at:]
            batch.append((number, at, piece))
            at, size = at + len(piece), size + len(piece) + 1
            if size >= CHUNK:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _words_of(batch: list[tuple[int, int, str]]) -> tuple[np.ndarray, ...]:
    """(text, start, end, hash) of each word of some pieces, (words,) each."""
    kind_of, value_of = _table()
    joined = "\n".join(piece for *_, piece in batch)
    if joined.isascii():
        code = np.frombuffer(joined.encode(), np.uint8)
    else:
        code = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kind = kind_of[code]
    at = np.flatnonzero(kind)  # where what is left stood: DROPPED is 0
    code, kind = code[at], kind[at]
    inside = np.empty(len(kind) + 2, bool)
    inside[0] = inside[-1] = False
    np.greater(kind, SPACE, out=inside[1:-1])
    # Between each two characters, and before and after all: does a word end, or begin?
    edge = np.empty(len(kind) + 1, bool)
    np.not_equal(inside[1:], inside[:-1], out=edge)
    alone = np.flatnonzero(kind == WORD)
    edge[alone] = edge[alone + 1] = True
    first = np.flatnonzero(edge & inside[1:])
    after = np.flatnonzero(edge & inside[:-1])
    powers, inverses = _powers(len(code))
    sums = np.empty(len(code) + 1, np.uint64)
    sums[0] = 0
    np.cumsum(value_of[code] * powers[: len(code)], out=sums[1:])
    hashes = mix((sums[after] - sums[first]) * inverses[first])
    starts, ends = at[first], at[after - 1] + 1
    lengths = np.array([len(piece) + 1 for *_, piece in batch])
    begins = np.cumsum(lengths) - lengths
    piece = np.searchsorted(begins, starts, side="right") - 1
    shift = (np.array([offset for _, offset, _ in batch]) - begins)[piece]
    number = np.array([number for number, *_ in batch])[piece]
    return number, starts + shift, ends + shift, hashes


def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """(BASE^i, BASE^-i) modulo 2^64 for i of [0, length] at least, uint64."""
    return _many_powers(1 << max(length, CHUNK).bit_length())


@functools.lru_cache(maxsize=4)
def _many_powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    factors = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        factor = np.full(length, base, np.uint64)
        factor[0] = 1
        factors.append(np.cumprod(factor))
    return factors[0], factors[1]


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """(kind, value) of each code point, uint8 and uint64; values are the lower case's, mixed."""
    kinds = np.full(CODE_POINTS, LETTER, np.uint8)
    lower = np.arange(CODE_POINTS, dtype=np.uint64)
    # The other planes have no characters yet, or private ones.
    for code in itertools.chain(range(0x40000), range(0xE0000, 0xE1000)):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            kinds[code] = SPACE
        elif category in ("Cc", "Cf") or category[0] == "P" or character in string.punctuation:
            kinds[code] = DROPPED
        elif category[0] == "L" and (small := character.lower()) != character:
            lower[code] = ord(small[0])
        if _UNSPACED.match(character) and kinds[code] == LETTER:
            kinds[code] = WORD
    return kinds, mix(lower)
