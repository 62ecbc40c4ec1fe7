"""Words and n-grams against a page of plain Python, and what counts as a word by example."""

import string
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import DataConfig
from gpt_jax.data import ngrams as module
from gpt_jax.data.ngrams import mix, ngrams, whole_texts, words
from gpt_jax.data.sources import documents

ALPHABET = "aAb\u00e9\u00c9\u0130\u4e2d\u6587\u30ab\U0001f600 \t\n\u00a0\u3000.,'-$\u201c\u200b\x00"
UNSPACED = [
    range(0x3005, 0x3008),  # iteration mark, zero
    range(0x3040, 0x3100),  # hiragana and katakana
    range(0x31F0, 0x3200),
    range(0x3400, 0x4DC0),  # Han
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0xFF66, 0xFFA0),  # katakana of half width
    range(0x1B000, 0x1B170),
    range(0x20000, 0x40000),
]
"""Blocks of Unicode whose characters are words."""


def word_list(text: str) -> list[tuple[str, int, int]]:
    """(word, start, end), a character at a time."""
    found, word, start, end = [], "", 0, 0
    for at, character in enumerate(text + " "):
        category = unicodedata.category(character)
        alone = any(ord(character) in block for block in UNSPACED)
        removed = category in ("Cc", "Cf") or category[0] == "P" or character in string.punctuation
        if word and (character.isspace() or (alone and not removed)):
            found.append((word, start, end))
            word = ""
        if character.isspace() or removed:
            continue
        if alone:
            found.append((character, at, at + 1))
            continue
        start = at if not word else start
        word, end = word + character.lower()[0], at + 1
    return found


def gram_list(text: str, n: int, short: bool) -> list[tuple[str, ...]]:
    found = [word for word, *_ in word_list(text)]
    if short and len(found) < n:
        return [tuple(found)]
    return [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]


def number(value: int) -> int:
    """`mix` in Python's integers."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def hash_of(word: str) -> int:
    values = (number(ord(c)) * pow(module.BASE, i, 2**64) for i, c in enumerate(word))
    return number(sum(values) % 2**64)


def hash_of_gram(gram: tuple[str, ...]) -> int:
    value = 0
    for word in gram:
        value = (value * module.BASE + hash_of(word)) % 2**64
    return number(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't (ever) stop --", ["dont", "ever", "stop"]),
        ("caf\u00e9 CAF\u00c9 \u00a320", ["caf\u00e9", "caf\u00e9", "\u00a320"]),
        ("x=f(y); 1<2", ["xfy", "12"]),
        ("\u201csmart\u201d\u2014quotes\u2026 a\u00adb\ufeff", ["smartquotes", "ab"]),
        (
            "\u6211\u4eec\uff0c\u4e2d\u6587 GPT3\u6a21\u578b",
            [*"\u6211\u4eec\u4e2d\u6587", "gpt3", *"\u6a21\u578b"],
        ),
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e04\u0e23\u0e31\u0e1a",
            ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0e04\u0e23\u0e31\u0e1a"],
        ),
        ("\u039f\u0394\u039f\u03a3 \u0130\u0130", ["\u03bf\u03b4\u03bf\u03c3", "ii"]),
        ("\U0001f600 \U0001f600!", ["\U0001f600", "\U0001f600"]),
        ("a\nb\tc\u00a0d\u3000e\x1cf", [*"abcdef"]),
        ("-- ... \x00", []),
        ("", []),
        ("half \ud800 pair", ["half", "\ud800", "pair"]),
    ],
)
def test_what_is_a_word(text, expected):
    """Written by hand."""
    assert words([text]).hash_W.tolist() == [hash_of(word) for word in expected]
    assert [word for word, *_ in word_list(text)] == expected


def test_spans_are_of_the_text_as_it_was():
    found = words(["", 'He said: "Don\'t!"', "\u4e2d\u6587, ok"])
    assert found.bounds.tolist() == [0, 0, 3, 6]
    texts = ['He said: "Don\'t!"'] * 3 + ["\u4e2d\u6587, ok"] * 3
    spans = zip(texts, found.start_W, found.end_W, strict=True)
    cut = [text[start:end] for text, start, end in spans]
    assert cut == ["He", "said", "Don't", "\u4e2d", "\u6587", "ok"]


@settings(max_examples=50)
@given(
    texts=st.lists(st.text(st.sampled_from(ALPHABET), max_size=30) | st.text(max_size=10)),
    n=st.integers(1, 4),
    short=st.booleans(),
    chunk=st.sampled_from([1, 5, 1000]),
)
def test_the_arrays_are_what_plain_python_finds(texts, n, short, chunk):
    """Words, spans and n-grams, however the text is divided for the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = words(texts)
    expected = [word_list(text) for text in texts]
    assert np.diff(found.bounds).tolist() == [len(some) for some in expected]
    flat = [one for some in expected for one in some]
    got = zip(found.hash_W, found.start_W, found.end_W, strict=True)
    assert [*got] == [(hash_of(word), start, end) for word, start, end in flat]

    grams = ngrams(found, n, short)
    lists = [gram_list(text, n, short) for text in texts]
    assert np.diff(grams.bounds).tolist() == [len(some) for some in lists]
    assert grams.hash_G.tolist() == [hash_of_gram(gram) for some in lists for gram in some]
    firsts = [found.bounds[d] + i for d, some in enumerate(lists) for i in range(len(some))]
    assert grams.first_G.tolist() == firsts

    whole = whole_texts(found).tolist()
    sequences = [tuple(word for word, *_ in some) for some in expected]
    for one, a in zip(whole, sequences, strict=True):
        assert [other == one for other in whole] == [b == a for b in sequences]


def test_words_and_n_grams_of_the_standard_library_have_hashes_of_their_own():
    """As many different hashes as there are different words, and 3-grams of them."""
    texts = [document.text for document in documents(DataConfig())][:40]
    lists = [[word for word, *_ in word_list(text)] for text in texts]
    found = words(texts)
    different = {word for some in lists for word in some}
    assert len(different) > 5_000
    assert len(np.unique(found.hash_W)) == len(different)
    grams = {gram for some in lists for gram in zip(some, some[1:], some[2:], strict=False)}
    assert len(np.unique(ngrams(found, 3).hash_G)) == len(grams)


def test_bits_of_a_hash_are_even():
    """Anagrams and neighbours too: each bit is set in half of the hashes, and between two."""
    found = words([" ".join(f"{i:06d}" for i in range(20_000))]).hash_W
    for values in (found, found[1:] ^ found[:-1], mix(np.arange(20_000, dtype=np.uint64))):
        bits = np.unpackbits(values.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(len(values))
