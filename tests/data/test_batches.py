"""Windows and batches against loops, literal tables and counting."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data.batches import (
    Windows,
    _permute,
    num_targets,
    train_batches,
    validation_batches,
)
from gpt_jax.data.mixture import Mixture, Stage
from gpt_jax.data.schedule import BatchSchedule


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_permutation_takes_each_place_once(size, key):
    index = np.arange(size, dtype=np.uint64)
    out = _permute(index, size, np.full(size, key, np.uint64))
    assert np.array_equal(np.sort(out), index)


def test_a_permutation_of_a_huge_range_stays_in_it():
    index = np.arange(10**12, 10**12 + 1000, dtype=np.uint64)
    out = _permute(index, 10**13 + 7, np.full(1000, 5, np.uint64))
    assert len(set(out.tolist())) == 1000
    assert out.max() < 10**13 + 7


def test_a_permutation_looks_random():
    size, keys = 1009, 200
    out = np.array(
        [
            _permute(np.arange(size, dtype=np.uint64), size, np.full(size, key, np.uint64))
            for key in range(keys)
        ]
    ).astype(float)
    # Neighbours are unrelated: |a - b| of two uniform draws is a third of the range on average.
    assert abs(np.abs(np.diff(out, axis=1)).mean() / size - 1 / 3) < 0.005
    # So are keys, and a mean place is off by size / sqrt(12 keys), its standard error.
    assert np.abs(out.mean(axis=0) / size - 0.5).max() < 5 / np.sqrt(12 * keys)
    assert np.abs(np.corrcoef(out)[~np.eye(keys, dtype=bool)]).max() < 0.17


@pytest.mark.parametrize("lengths", [(100,), (33, 9, 8, 64), (17,)])
def test_every_epoch_reads_each_window_once(fake_shards, lengths):
    length, shards = 8, fake_shards(*lengths)
    windows = Windows(shards, length, seed=3, isolate_documents=False)
    used = [tokens.astype(np.int64) for tokens in shards.tokens if len(tokens) > length]
    assert windows.num_samples == sum(len(tokens) // length for tokens in used)
    rings = [np.concatenate([tokens, tokens, tokens]) for tokens in used]
    orders, grids = set(), []
    for epoch in range(20):
        batch = windows.at(
            np.arange(epoch * windows.num_samples, (epoch + 1) * windows.num_samples)
        )
        rows = np.concatenate([batch["inputs"], batch["targets"][:, -1:]], axis=1)
        assert np.array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
        shift = int(rows[:, 0].min() - used[0][0])
        expected = [
            ring[start : start + length + 1]
            for ring, tokens in zip(rings, used, strict=True)
            for start in range(shift, shift + len(tokens) // length * length, length)
        ]
        # With a shift the window that wraps may begin at the ring's start; compare as sets.
        assert sorted(map(tuple, rows.tolist())) == sorted(tuple(row.tolist()) for row in expected)
        orders.add(tuple(rows[:, 0]))
        grids.append(shift)
    assert grids[0] == 0
    assert set(grids) == set(range(length))
    assert len(orders) > 10


def test_windows_are_a_function_of_seed_and_sample(fake_shards):
    shards = fake_shards(1000, 500)
    windows = Windows(shards, 4, seed=1, isolate_documents=False)
    samples = np.arange(5000).reshape(5, 10, 100)
    together = windows.at(samples)["inputs"]
    assert together.shape == (5, 10, 100, 4)
    assert together.dtype == np.int32
    for place in [(0, 0, 0), (2, 3, 4), (4, 9, 99)]:
        alone = windows.at(samples[place].reshape(1))["inputs"][0]
        assert alone.tolist() == together[place].tolist()
    other = Windows(shards, 4, seed=2, isolate_documents=False).at(samples)["inputs"]
    assert (together != other).any(axis=-1).mean() > 0.9
    Windows(shards, 4, seed=2**70, isolate_documents=False).at(samples)


def test_a_corpus_shorter_than_a_window_is_refused(fake_shards):
    with pytest.raises(InputError, match="has 16 tokens where a window of 8"):
        Windows(fake_shards(8, 8), 8, seed=0, isolate_documents=False)


def test_segments_by_a_table(fake_shards):
    shards = fake_shards(17, separators=(0, 3, 4, 10))
    batch = Windows(shards, 8, seed=0, isolate_documents=True).at(np.arange(2))
    by_start = np.argsort(batch["inputs"][:, 1])
    assert batch["inputs"][by_start].tolist() == [
        [0, 2, 3, 0, 0, 6, 7, 8],
        [9, 10, 0, 12, 13, 14, 15, 16],
    ]
    assert batch["segment_ids"][by_start].tolist() == [
        [1, 1, 1, 2, 3, 3, 3, 3],
        [0, 0, 1, 1, 1, 1, 1, 1],
    ]
    assert batch["positions"][by_start].tolist() == [
        [0, 1, 2, 0, 0, 1, 2, 3],
        [0, 1, 0, 1, 2, 3, 4, 5],
    ]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def ramped(experiment, with_train):
    """Batches of 2, 4, ... and then 8 samples of 8 tokens, for 40 samples in all."""
    config = experiment(isolate_documents=True)
    return with_train(
        config, batch_tokens=64, ramp_start_tokens=16, ramp_tokens=128, total_tokens=320
    )


def test_rows_are_the_samples_of_the_schedule(experiment, with_train, fake_shards, monkeypatch):
    config, shards = ramped(experiment, with_train), fake_shards(300, 200, separators=(5, 90))
    schedule = BatchSchedule.of(config)
    windows = Windows(shards, 8, seed=0, isolate_documents=True)
    assert schedule.size(0) == 2
    for tokens_per_element in (1, 200, 1 << 20):
        monkeypatch.setattr("gpt_jax.data.batches.READ_TOKENS", tokens_per_element)
        batches = list(
            train_batches(Windows.of(shards, config), schedule, micro_batch=4, num_micro=3)
        )
        assert len(batches) == schedule.num_steps
        for step, batch in enumerate(batches):
            assert batch["inputs"].shape == (3, 4, 8)
            assert batch["weights"].shape == (3, 4)
            assert batch["weights"].dtype == np.float32
            for row in range(12):
                place = (row // 4, row % 4)
                expected = windows.at(np.array([schedule.start(step) + row]))
                for name in ("inputs", "targets", "segment_ids", "positions"):
                    assert batch[name][place].tolist() == expected[name][0].tolist()
                assert batch["weights"][place] == (row < schedule.size(step))


class Halves:
    """Samples that are their own index, of whose targets every second one is learned, by half."""

    sequence_length, num_samples = 8, 100

    def at(self, samples):
        tokens = np.broadcast_to(samples[..., None], (*samples.shape, 8)).astype(np.int32)
        weights = np.broadcast_to(np.float32([0, 0.5] * 4), tokens.shape)
        return {"inputs": tokens, "targets": tokens, "weights": weights}


def test_weights_of_samples_end_with_the_ramp(experiment, with_train):
    """By a table: as the samples have them in the rows of the batch, 0 in those past it."""
    schedule = BatchSchedule.of(ramped(experiment, with_train))
    first, *_, last = train_batches(Halves(), schedule, micro_batch=4, num_micro=2)
    assert first["inputs"][..., 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert first["weights"].dtype == np.float32
    row = [0, 0.5] * 4
    assert first["weights"].tolist() == [[row, row, [0] * 8, [0] * 8], [[0] * 8] * 4]
    assert last["weights"].tolist() == [[row] * 4] * 2


def windows(config, fake_shards):
    return Windows.of(fake_shards(300, 200), config)


def mixed(config, fake_shards):
    """Two sources, of which the second has the most at first, and little from sample 11 on."""
    sources = {"a": Windows.of(fake_shards(300), config), "b": Windows.of(fake_shards(90), config)}
    return Mixture(sources, [Stage(0, (1, 2)), Stage(11, (5, 1))], config.train.seed)


@pytest.mark.parametrize("samples", [windows, mixed])
@pytest.mark.parametrize("processes", [2, 4])
def test_the_slices_of_hosts_are_the_batch(experiment, with_train, fake_shards, processes, samples):
    config = ramped(experiment, with_train)
    schedule = BatchSchedule.of(config)
    whole = train_batches(samples(config, fake_shards), schedule, 4, 2)
    local = np.arange(4).reshape(processes, -1)
    parts = [train_batches(samples(config, fake_shards), schedule, 4, 2, rows) for rows in local]
    for batch, *slices in zip(whole, *parts, strict=True):
        for name, array in batch.items():
            together = np.concatenate([part[name] for part in slices], axis=1)
            assert np.array_equal(together, array)


@pytest.mark.parametrize("samples", [windows, mixed])
def test_the_state_resumes_exactly(experiment, with_train, fake_shards, monkeypatch, samples):
    monkeypatch.setattr("gpt_jax.data.batches.READ_TOKENS", 200)
    config = ramped(experiment, with_train)
    schedule = BatchSchedule.of(config)

    def batches(start_step=0):
        drawn = samples(config, fake_shards)
        return train_batches(drawn, schedule, 4, 2, start_step=start_step)

    inputs = [batch["inputs"].tolist() for batch in batches()]
    used = batches()
    for step in range(len(inputs) + 1):
        state = json.loads(json.dumps(used.get_state()))
        assert state == {"next_index": step}
        rest = batches()
        rest.set_state(state)
        assert [batch["inputs"].tolist() for batch in rest] == inputs[step:]
        assert [batch["inputs"].tolist() for batch in batches(step)] == inputs[step:]
        next(used, None)
    for ahead in range(1, 4):
        back = batches()
        for _ in range(ahead):
            next(back)
        back.set_state({"next_index": 0})
        assert [batch["inputs"].tolist() for batch in back] == inputs


def test_batches_that_do_not_fit_are_refused(experiment, fake_shards):
    config, shards = experiment(), fake_shards(300)
    schedule = BatchSchedule.of(config)
    with pytest.raises(InputError, match="1 of 3 samples do not hold 4"):
        train_batches(Windows.of(shards, config), schedule, micro_batch=3, num_micro=1)


@pytest.mark.parametrize("lengths", [(2,), (9,), (50,), (64,), (65,), (30, 3, 40), (97,)])
@pytest.mark.parametrize("eval_tokens", [0, 1, 33, 10_000])
def test_validation_predicts_each_token_once(experiment, fake_shards, lengths, eval_tokens):
    seen = []
    shards = fake_shards(*lengths)
    (targets,) = num_targets({"text": shards}, eval_tokens).values()
    for batch in validation_batches(shards, targets, experiment(), batch_rows=4):
        assert {array.shape for array in batch.values()} == {(4, 8)}
        assert batch["weights"].dtype == np.float32
        assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
        assert batch["weights"].any()
        real = batch["weights"] == 1
        assert (batch["targets"][real] == batch["inputs"][real] + 1).all()
        seen += batch["targets"][real].tolist()
    count = sum(lengths) - 1
    assert seen == list(range(2, 2 + min(count, eval_tokens or count)))


def test_validation_isolates_documents(experiment, fake_shards):
    shards = fake_shards(20, separators=(3,))
    (batch,) = validation_batches(shards, 19, experiment(isolate_documents=True), batch_rows=3)
    assert batch["segment_ids"][0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert batch["positions"][0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert batch["positions"][1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_validation_is_shared_out_over_sources(fake_shards):
    """By a table: of sources with 90, 9 and 0 targets; a limit is met by parts, rounded down."""
    splits = {"a": fake_shards(91), "b": fake_shards(4, 6), "c": fake_shards(1)}
    assert num_targets(splits, 0) == {"a": 90, "b": 9}
    assert num_targets(splits, 1000) == {"a": 90, "b": 9}
    assert num_targets(splits, 22) == {"a": 20, "b": 2}
    assert num_targets(splits, 5) == {"a": 4, "b": 1}
    with pytest.raises(InputError, match="two tokens"):
        num_targets({"c": splits["c"]}, 0)
