"""Samples by hash: as large as asked for, by weight, and the same for any split into parts."""

import hashlib

import numpy as np
import pytest

from gpt_jax.data.build import sample as sample_module
from gpt_jax.data.build.sample import Drawn, at_most, drawn, excerpts, rates, uniform
from gpt_jax.data.sources import Document


def some_documents(count: int, length: int = 100) -> list[Document]:
    return [Document(f"{i}.txt", f"{i} ".ljust(length, "x")) for i in range(count)]


def test_a_draw_is_the_hash_of_what_it_is_of():
    digest = hashlib.sha256(b'[7, "vocabulary", "web", "a.txt"]').hexdigest()
    assert uniform(7, "vocabulary", "web", "a.txt") == (int(digest[:16], 16) >> 11) / 2**53
    others = {uniform(*of) for of in [(7, "p", "s", "n"), (8, "p", "s", "n"), (7, "q", "s", "n")]}
    assert len(others | {uniform(7, "p", "t", "n"), uniform(7, "p", "s", "m")}) == 5


def test_rates_give_each_source_its_weight():
    assert rates([1000, 3000], [0.0, 0.0], 400) == [0.1, 0.1]
    assert rates([1000, 3000], [3.0, 1.0], 400) == pytest.approx([0.3, 100 / 3000])
    assert rates([10, 3000], [1.0, 1.0], 400) == pytest.approx([1.0, 200 / 3000])
    assert rates([0, 100], [1.0, 1.0], 10) == [1.0, 0.05]


def test_a_sample_has_the_size_and_the_shares_that_were_asked_for():
    """Of 4,000 and 8,000 documents, 3 to 1 by weight: within four standard deviations."""
    found = {}
    sources = {"a": some_documents(4000), "b": some_documents(8000)}
    wanted = rates([400_000, 800_000], [3.0, 1.0], 120_000)
    for (name, documents), rate in zip(sources.items(), wanted, strict=True):
        found[name] = drawn(documents, rate, 0, "test", name)
        expected = rate * len(documents)
        assert abs(len(found[name]) - expected) < 4 * np.sqrt(expected)
        ranks = [one.rank for one in found[name]]
        assert 0 <= min(ranks) < 0.05
        assert 0.95 < max(ranks) < 1
    both = [*found["a"], *found["b"]]
    assert at_most(both, 10**9) == [one.text for one in both]
    cut = at_most(both, 60_000)
    assert len(cut) == 600
    of_a = len({one.text for one in found["a"]} & {*cut}) / 600
    assert abs(of_a - 0.75) < 0.08


def test_parts_draw_what_the_whole_would():
    documents = some_documents(1000)
    whole = drawn(documents, 0.3, 5, "test", "a")
    parts = [drawn(documents[i : i + 77], 0.3, 5, "test", "a") for i in range(0, 1000, 77)]
    assert [one for part in parts for one in part] == whole
    assert drawn(documents, 0.3, 6, "test", "a") != whole
    assert len(drawn(documents, 1.0, 5, "test", "a")) == 1000


def test_the_highest_ranks_are_cut():
    found = [Drawn(0.9, "aa"), Drawn(0.1, "bb"), Drawn(0.5, "cc"), Drawn(0.2, "\u00e9")]
    assert at_most(found, 6) == ["bb", "cc", "\u00e9"]
    assert at_most(found, 5) == ["bb", "\u00e9"]
    assert at_most(found, 1) == ["bb"]
    assert at_most([], 1) == []


def test_long_documents_are_drawn_in_excerpts(monkeypatch):
    monkeypatch.setattr(sample_module, "EXCERPT", 10)
    text = "123\n567\n9012345678901\n56"
    found = [*excerpts([Document("a", text), Document("b", "short")])]
    assert found == [
        Document("a#0", "123\n567\n"),
        Document("a#1", "9012345678"),
        Document("a#2", "901\n56"),
        Document("b#0", "short"),
    ]
