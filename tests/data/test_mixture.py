"""Mixtures against counting, big integers and tables."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data.batches import Windows
from gpt_jax.data.corpus import Corpus
from gpt_jax.data.mixture import Mixture, Stage, describe_mixture, open_mixture
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.tokenizers import ByteTokenizer

TABLE_2_2 = (60.0, 22.0, 8.0, 8.0, 3.0)
"""Common Crawl, WebText2, Books1, Books2, Wikipedia; they add up to 101 in the paper too."""


class Endless:
    """A source without text."""

    sequence_length, num_samples = 8, 10**9


def mixture_of(*stages, seed=0):
    """A mixture of as many sources without text as the stages (first, weights...) have weights."""
    names = [f"source{i}" for i in range(len(stages[0]) - 1)]
    given = [Stage(first, tuple(weights)) for first, *weights in stages]
    return Mixture({name: Endless() for name in names}, given, seed)


def by_big_integers(mixture, stage, count):
    """The sources of the first samples of a stage, by Python's integers and one at a time."""
    taken = [0] * len(mixture.names)
    order = []
    for sample in range(count):
        reached = sample
        for i in range(len(taken)):
            part, phase = int(mixture._parts[stage, i]), int(mixture._phases[stage, i])
            if ((reached + 1) * part + phase) >> 32 > taken[i]:
                order.append((i, taken[i]))
                taken[i] += 1
                break
            reached -= taken[i]
    return order


@pytest.mark.parametrize("seed", [0, 1, 2**64 + 5])
def test_the_proportions_of_the_paper_hold(seed):
    """To 0.1 % of each share over 100,000 samples, and to 3 samples after any number of them."""
    count = 100_000
    source, _ = mixture_of((0, *TABLE_2_2), seed=seed).order(np.arange(count))
    shares = np.array(TABLE_2_2) / sum(TABLE_2_2)
    found = np.bincount(source) / count
    assert np.abs(found / shares - 1).max() < 1e-3
    so_far = np.cumsum(source[:, None] == np.arange(5), axis=0)
    assert np.abs(so_far - np.arange(1, count + 1)[:, None] * shares).max() < 3


def test_epochs_are_those_of_the_paper():
    """Table 2.2: 300 B tokens of 410, 19, 12, 55 and 3 B, in samples of 2,048.

    The table is rounded; its 2.9 epochs of WebText2 and 3.4 of Wikipedia are those of each other.
    """
    sources = {}
    for name, tokens in zip("CWBbw", (410e9, 19e9, 12e9, 55e9, 3e9), strict=True):
        sources[name] = Endless()
        sources[name].num_samples = int(tokens / 2048)
    mixture = Mixture(sources, [Stage(0, TABLE_2_2)], seed=0)
    epochs = [*mixture.epochs(int(300e9 / 2048)).values()]
    assert epochs == pytest.approx([0.44, 3.4, 1.9, 0.43, 2.9], rel=0.05)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=5).filter(any),
    st.integers(0, 2**70),
)
def test_a_stage_is_the_order_by_big_integers(weights, seed):
    mixture = mixture_of((0, *weights), seed=seed)
    source, index = mixture.order(np.arange(300))
    assert list(zip(source.tolist(), index.tolist(), strict=True)) == by_big_integers(
        mixture, 0, 300
    )
    drawn = np.bincount(source, minlength=len(weights))
    assert [*mixture.counts(300).values()] == drawn.tolist()
    assert not drawn[np.array(weights) == 0].any()


def test_the_samples_of_a_source_come_in_turn_through_changes():
    """Each source's are 0, 1, 2, ... whatever its weight is; and each stage has its own shares."""
    stages = [(0, 1, 1, 2), (1000, 1, 0, 0), (2500, 0, 3, 1), (2500, 1, 3, 0), (9999, 0, 0, 1)]
    mixture = mixture_of(*stages, seed=3)
    source, index = mixture.order(np.arange(20_000))
    for i in range(3):
        mine = index[source == i]
        assert mine.tolist() == list(range(len(mine)))
    borders = [0, 1000, 2500, 9999, 20_000]
    shares = [(1 / 4, 1 / 4, 1 / 2), (1, 0, 0), (1 / 4, 3 / 4, 0), (0, 0, 1)]
    for first, last, expected in zip(borders, borders[1:], shares, strict=False):
        found = np.bincount(source[first:last], minlength=3)
        assert np.abs(found - (last - first) * np.array(expected)).max() < 3
    for count in (0, 1, 999, 1000, 2600, 20_000):
        drawn = np.bincount(source[:count], minlength=3)
        assert [*mixture.counts(count).values()] == drawn.tolist()


def test_the_order_is_a_function_of_seed_and_sample():
    mixture = mixture_of((0, *TABLE_2_2), (5000, 1, 1, 1, 1, 1), seed=7)
    samples = np.arange(10_000).reshape(10, 1000)
    source, index = mixture.order(samples)
    assert source.shape == index.shape == samples.shape
    for row, column in [(0, 0), (3, 14), (9, 999)]:
        alone = mixture.order(samples[row, column : column + 1])
        assert [found.tolist() for found in alone] == [
            [source[row, column]],
            [index[row, column]],
        ]
    other, _ = mixture_of((0, *TABLE_2_2), (5000, 1, 1, 1, 1, 1), seed=8).order(samples)
    assert (source != other).mean() > 0.3


def test_no_digit_is_lost_far_on():
    """Past 2^40 samples each source still goes on by ones, from where the count says."""
    start, mixture = 2**40 + 12_345, mixture_of((0, 0.7, 0.2, 0.1), (2**39 + 1, 3, 3, 1))
    source, index = mixture.order(np.arange(start, start + 3000))
    counts = [*mixture.counts(start).values()]
    assert sum(counts) == start
    for i in range(3):
        mine = index[source == i]
        assert mine.tolist() == list(range(counts[i], counts[i] + len(mine)))
    half = 2**39 + 1
    expected = half * np.array([0.7, 0.2, 0.1]) + (start - half) * np.array([3, 3, 1]) / 7
    # A share is rounded to 2^-32 of what reaches its source.
    assert np.abs(np.array(counts) - expected).max() < start * 2**-32 + 4


def sources_of(fake_shards, config, *sizes):
    """Windows of small sources whose tokens tell them: those of source i begin at 10,000 i."""
    found = {}
    for i, size in enumerate(sizes):
        shards = fake_shards(size)
        tokens = tuple(part + np.uint16(10_000 * i) for part in shards.tokens)
        found["abc"[i]] = Windows.of(dataclasses.replace(shards, tokens=tokens), config)
    return found


def test_no_window_comes_again_before_its_epoch_ends(experiment, fake_shards):
    """Counted in the tokens themselves, over several epochs of each of three sources."""
    sources = sources_of(fake_shards, experiment(), 8 * 41, 8 * 7 + 3, 8 * 100 + 1)
    mixture = Mixture(sources, [Stage(0, (5, 2, 3)), Stage(300, (1, 1, 4))], seed=5)
    rows = mixture.at(np.arange(1000))["inputs"]
    for i, (source, windows) in enumerate(sources.items()):
        mine = [tuple(row) for row in rows[rows[:, 0] // 10_000 == i].tolist()]
        assert len(mine) == mixture.counts(1000)[source]
        assert len(mine) > 2.5 * windows.num_samples
        for first in range(0, len(mine), windows.num_samples):
            epoch = mine[first : first + windows.num_samples]
            assert len(set(epoch)) == len(epoch)
        grid = [
            tuple(range(10_000 * i + 1 + start, 10_000 * i + 9 + start))
            for start in range(0, 8 * windows.num_samples, 8)
        ]
        assert sorted(mine[: windows.num_samples]) == grid


def test_a_sample_is_that_of_its_source(experiment, fake_shards):
    sources = sources_of(fake_shards, experiment(isolate_documents=True), 100, 200, 300)
    mixture = Mixture(sources, [Stage(0, (1, 2, 3))], seed=0)
    samples = np.arange(60).reshape(3, 4, 5)
    batch, (source, index) = mixture.at(samples), mixture.order(samples)
    assert {name: array.shape for name, array in batch.items()} == dict.fromkeys(
        ("inputs", "targets", "segment_ids", "positions"), (3, 4, 5, 8)
    )
    for place in np.ndindex(samples.shape):
        alone = sources["abc"[source[place]]].at(index[place].reshape(1))
        for name, array in batch.items():
            assert array.dtype == np.int32
            assert array[place].tolist() == alone[name][0].tolist()


@pytest.fixture
def corpus_of(fake_shards):
    """Make a Corpus in memory of sources with so many tokens, and weights where they are given."""

    def make(weights=(), **tokens) -> Corpus:
        train = {name: fake_shards(size) for name, size in tokens.items()}
        own = dict(zip(train, weights or [0.0] * len(train), strict=True))
        return Corpus(train, {}, own, ByteTokenizer(), Path("corpora/fake"), "digest")

    return make


def test_the_weights_are_the_mixtures_over_the_corpus_own(experiment, corpus_of):
    """By a table; windows are of 8 tokens, and a change counts from the first that begins then."""

    def stages(corpus, *mixture):
        found = open_mixture(
            corpus, experiment(files=(), tokenizer="sentencepiece", corpus="x", mixture=mixture)
        )
        return found.names, [(stage.first, *stage.shares) for stage in found.stages]

    weighed = corpus_of((0.5, 0.25, 0.25), web=801, books=401, wiki=81)
    assert stages(weighed) == (("web", "books", "wiki"), [(0, 0.5, 0.25, 0.25)])
    assert stages(weighed, "web=0") == (("books", "wiki"), [(0, 0.5, 0.5)])
    assert stages(weighed, "wiki=0", "wiki=0.25@17", "web=0@17", "web=.75@32") == (
        ("web", "books", "wiki"),
        [(0, 2 / 3, 1 / 3, 0), (3, 0, 0.5, 0.5), (4, 0.6, 0.2, 0.2)],
    )
    by_size = corpus_of(web=801, books=601, wiki=8, tiny=201)
    names, [(_, *shares)] = stages(by_size)
    assert names == ("web", "books", "tiny")
    assert shares == pytest.approx([100 / 200, 75 / 200, 25 / 200], rel=1e-12)
    assert stages(by_size, "tiny=0.125", "web=0")[1] == [(0, 0.75, 0.25)]


def test_by_size_is_one_epoch_of_everything(experiment, corpus_of):
    corpus = corpus_of(web=5000, books=777, wiki=90)
    mixture = open_mixture(corpus, experiment())
    assert mixture.num_samples == 625 + 97 + 11
    source, _ = mixture.order(np.arange(mixture.num_samples))
    drawn = np.bincount(source)
    assert np.abs(drawn - [625, 97, 11]).max() <= 1


@pytest.mark.parametrize(
    ("mixture", "rule"),
    [
        (("boks=1",), r"'boks' is none of them: did you mean 'books'\?"),
        (("web=0", "books=0"), "from 0 tokens on all of web, books, wiki weigh 0"),
        (("web=0@64", "books=0@128"), "from 128 tokens on all of"),
        (("wiki=0.1@64",), r"'wiki' of corpora/fake has 8 tokens .* \(--data.mixture wiki=0\)"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(experiment, corpus_of, mixture, rule):
    corpus = corpus_of((2.0, 1.0, 0.0), web=800, books=400, wiki=8)
    with pytest.raises(InputError, match=rule):
        open_mixture(
            corpus,
            experiment(files=(), tokenizer="sentencepiece", corpus="x", mixture=mixture),
        )


def test_a_corpus_without_a_window_is_refused(experiment, corpus_of):
    with pytest.raises(InputError, match="none of the sources in corpora/fake has the 9 tokens"):
        open_mixture(corpus_of(web=8, books=5), experiment())


def test_what_each_source_will_be_read_is_said(experiment, with_train, corpus_of):
    """By hand: 60 samples, of which web has a half of 12 and a third of 48, 22 of its 100."""
    corpus = corpus_of((1.0, 1.0, 0.0), web=801, books=73, wiki=8)
    mixture = ("books=2@96",)
    config = experiment(files=(), tokenizer="sentencepiece", corpus="x", mixture=mixture)
    config = with_train(config, total_tokens=60 * 8)
    lines = describe_mixture(open_mixture(corpus, config), corpus, BatchSchedule.of(config))
    assert lines == [
        "source  web    50.00%, then 33.33%; 801 tokens, 0.22 epochs",
        "source  books  50.00%, then 66.67%; 73 tokens, 4.22 epochs (more than 4)",
        "source  wiki   left out, 8 tokens",
        "shares  change at 96 tokens",
    ]
    alone = corpus_of(text=801)
    schedule = BatchSchedule.of(config)
    assert describe_mixture(open_mixture(alone, experiment()), alone, schedule) == []
