"""The batch of every step against a loop that keeps count, and GPT-3's own ramp."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import Config, ModelConfig, TrainConfig
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.presets import gpt3


def experiment(length=8, **train):
    return Config(model=ModelConfig(context_length=length), train=TrainConfig(**train))


def counted(length, full, start, ramp_tokens, total_tokens):
    """Sizes of all batches of a run, in whole numbers alone: batch tokens grow linearly from
    `start` to `full` sequences over `ramp_tokens`, rounded down to a multiple of `start`.
    """
    sizes, drawn = [], 0
    while drawn * length < total_tokens:
        size = full
        if start and drawn * length < ramp_tokens:
            tokens = drawn * length
            grown = (start * ramp_tokens + (full - start) * tokens) // (start * ramp_tokens)
            size = grown * start
        sizes.append(size)
        drawn += size
    return sizes


@given(
    length=st.integers(1, 9),
    full=st.integers(1, 40),
    start=st.integers(0, 40),
    ramp_tokens=st.integers(1, 2000),
    total_tokens=st.integers(1, 4000),
)
def test_the_schedule_is_that_of_a_loop(length, full, start, ramp_tokens, total_tokens):
    """Sizes, their running sum and the count of steps, for any ramp and none."""
    start = min(start, full)
    config = experiment(
        length,
        batch_tokens=full * length,
        ramp_start_tokens=start * length,
        ramp_tokens=ramp_tokens if start else 0,
        total_tokens=total_tokens,
    )
    schedule = BatchSchedule.of(config)
    sizes = counted(length, full, start, ramp_tokens, total_tokens)
    assert schedule.num_steps == len(sizes)
    assert [schedule.size(step) for step in range(len(sizes))] == sizes
    assert [schedule.start(step) for step in range(len(sizes) + 1)] == [
        sum(sizes[:step]) for step in range(len(sizes) + 1)
    ]


def test_a_ramp_by_hand():
    """From 2 to 8 sequences of 8 tokens over 160 tokens: 2 + 6 drawn / 20, down to an even number.

    Drawn before each step: 0 2 4 6 8 12 16 22, which makes 2 2.6 3.2 3.8 4.4 5.6 6.8 and over.
    """
    config = experiment(batch_tokens=64, ramp_start_tokens=16, ramp_tokens=160, total_tokens=400)
    schedule = BatchSchedule.of(config)
    assert [schedule.size(step) for step in range(9)] == [2, 2, 2, 2, 4, 4, 6, 8, 8]
    assert [schedule.start(step) for step in range(9)] == [0, 2, 4, 6, 8, 12, 16, 22, 30]
    # 400 tokens are 50 sequences: 22 in the ramp, and 4 batches of 8 for the other 28.
    assert schedule.num_steps == 7 + 4


def test_without_a_ramp_all_batches_are_full():
    schedule = BatchSchedule.of(experiment(batch_tokens=64, total_tokens=1000))
    assert [schedule.size(step) for step in (0, 1, 10**9)] == [8, 8, 8]
    # 125 sequences end in the 16th batch, which is drawn whole.
    assert schedule.num_steps == 16
    assert schedule.start(16) == 128


@pytest.fixture(scope="module")
def gpt3_175b():
    return BatchSchedule.of(gpt3("175b"))


def test_gpt_3_grows_from_16_to_1536_sequences_over_12_billion_tokens(gpt3_175b):
    """Section 2.3: from 32 k tokens to 3.2 M; here in whole multiples of 16 sequences of 2,048."""
    schedule, steps = gpt3_175b, len(gpt3_175b.ramp_starts) - 1
    sizes = [schedule.size(step) for step in range(steps + 2)]
    assert sizes[0] == 16
    assert sizes[-2:] == [1536, 1536]
    assert all(size % 16 == 0 for size in sizes)
    assert sizes == sorted(sizes)
    assert set(sizes) == set(range(16, 1537, 16))
    assert schedule.start(steps - 1) * 2048 < 12e9 <= schedule.start(steps) * 2048
    # Half of the ramp's tokens: half of the way, (16 + 1536) / 2 = 776, less than 16 of rounding.
    middle = next(step for step in range(steps) if schedule.start(step) * 2048 >= 6e9)
    assert 760 < sizes[middle] <= 792


def test_gpt_3_trains_on_300_billion_tokens(gpt3_175b):
    """The last step begins before them, and ends at or after them."""
    schedule, last = gpt3_175b, gpt3_175b.num_steps - 1
    assert schedule.start(last) * 2048 < 300e9 <= schedule.start(last + 1) * 2048


def test_the_schedule_does_not_depend_on_devices():
    config = gpt3("125m")
    halved = dataclasses.replace(config.train, device_batch_tokens=2048)
    assert BatchSchedule.of(dataclasses.replace(config, train=halved)) == BatchSchedule.of(config)
