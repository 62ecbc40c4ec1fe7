"""The gradient noise scale against the gradients of single examples, by NumPy in float64."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import (
    Config,
    DataConfig,
    FeedbackConfig,
    InputError,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.train import noise
from gpt_jax.train.step import Program

VOCAB, LENGTH, ROWS = 20, 6, 4
MODEL = ModelConfig(vocab_size=VOCAB, context_length=LENGTH, num_layers=1, embed_dim=8, num_heads=2)


@functools.cache
def program(micro):
    """`micro` micro-batches of ROWS rows, on one device."""
    train = TrainConfig(
        batch_tokens=ROWS * LENGTH,
        device_batch_tokens=ROWS // micro * LENGTH,
        total_tokens=10**4,
        noise_scale=True,
    )
    optimizer = OptimizerConfig(learning_rate=1e-2)
    return Program(Config(model=MODEL, optimizer=optimizer, train=train), jax.devices()[:1])


def state(made):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made.abstract)
    return jax.device_put(zeros.replace(params=moved(zeros.params)))


def batch(made, order=range(ROWS), weights=(1, 1, 1, 1)):
    """The same four examples in this order, with these weights."""
    tokens = np.random.default_rng(3).integers(0, VOCAB, (2, ROWS, LENGTH)).astype("int32")
    inputs, targets = tokens[:, list(order)]
    found = {"inputs": inputs, "targets": targets, "weights": np.array(weights, "float32")}
    shape = (made.num_micro, made.rows)
    return {name: x.reshape(*shape, *x.shape[1:]) for name, x in found.items()}


def measured(made, *args, **kwargs):
    _, metrics = made.train_step(state(made), batch(made, *args, **kwargs))
    found = jax.device_get(metrics)
    return float(found["noise_signal"]), float(found["noise_trace"]), float(found["noise_scale"])


@pytest.fixture(scope="module")
def by_example():
    """The gradient of each example's mean loss, (ROWS, P) float64, by hand."""
    made, rows = program(4), []
    model = NumpyGPT(jax.device_get(state(made).params), ("dense",), None, VOCAB)
    whole = batch(made)
    for tokens, targets in zip(whole["inputs"], whole["targets"], strict=True):
        logits = model.logits(tokens)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        gradients = model.gradients((p - np.eye(VOCAB)[targets]) / LENGTH)
        rows.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients)]))
    return np.stack(rows)


def by_hand(gradients):
    """|G|^2 and S without bias, of examples' gradients: S is their sample covariance's trace."""
    mean = gradients.mean(0)
    variance = ((gradients - mean) ** 2).sum() / (len(gradients) - 1)
    return (mean**2).sum() - variance / len(gradients), variance


def test_of_micro_batches_of_one_it_is_the_sample_variance(by_example):
    """S in sequences is LENGTH times less than in tokens."""
    signal, trace, scale = measured(program(4))
    expected_signal, expected_trace = by_hand(by_example)
    assert signal == pytest.approx(expected_signal, rel=1e-3)
    assert trace == pytest.approx(LENGTH * expected_trace, rel=1e-3)
    positive = expected_signal > 0
    assert scale == pytest.approx(trace / signal if positive else 0, rel=1e-5)


def test_of_halves_it_is_that_on_average(by_example):
    """Over the three ways in which four examples are two pairs, exactly: it has no bias."""
    orders = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)]
    found = np.mean([measured(program(2), order)[:2] for order in orders], axis=0)
    signal, trace = by_hand(by_example)
    assert found == pytest.approx([signal, LENGTH * trace], rel=1e-3)


def test_rows_that_fill_up_are_no_examples(by_example):
    """Three examples and a row of weight 0, as in a batch that grows."""
    signal, trace, _ = measured(program(4), weights=(1, 1, 1, 0))
    assert (signal, trace / LENGTH) == pytest.approx(by_hand(by_example[:3]), rel=1e-3)


def test_of_parts_that_are_not_of_one_size():
    """A pair and one alone, as in a batch that grows: on average still without a bias.

    Every draw of 3 gradients is gone through, each 1 with chance 5/8 and else -1: so G is 1/4, and
    S is 1 - 1/16.
    """
    values, chances = np.array([1.0, -1.0]), np.array([5 / 8, 3 / 8])
    total = np.zeros(2)
    for draw in itertools.product(range(2), repeat=3):
        g = values[list(draw)]
        share = np.array([2 / 3, 1 / 3])
        parts = [g[:2].sum() / 3, g[2:].sum() / 3]
        small = sum(
            float(noise.squared_over_share([part], p)[noise.SQUARED])
            for part, p in zip(parts, share, strict=True)
        )
        found = noise.estimates(small, g.mean() ** 2, 2, 3)
        total += np.prod(chances[list(draw)]) * np.array([float(x) for x in found])
    assert total == pytest.approx([1 / 16, 1 - 1 / 16], rel=1e-5)


def test_means_are_over_steps_and_their_ratio_is_of_means():
    """Two steps by hand: 0.98 of what was and 0.02 of what is, over the same of a constant 1."""
    kept, rows = noise.fresh(), []
    for small, big in ((3.0, 2.0), (5.0, 2.5)):
        gradients = [np.float32(big) ** 0.5]
        shares = np.array([0.5, 0.5], "float32")
        kept, metrics = noise.averaged(kept, np.float32(small), gradients, shares, np.float32(12))
        rows.append({name: float(x) for name, x in metrics.items()})
    # Of two halves: signal 2 big - small, trace 12 (small - big).
    weights = np.array([0.98 * 0.02, 0.02]) / (1 - 0.98**2)
    assert rows[0] == pytest.approx({"noise_signal": 1, "noise_trace": 12, "noise_scale": 12})
    signal, trace = weights @ [1.0, 0.0], weights @ [12.0, 30.0]
    expected = {"noise_signal": signal, "noise_trace": trace, "noise_scale": trace / signal}
    assert rows[1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("small", "shares"),
    [(np.nan, [0.5, 0.5]), (np.inf, [0.5, 0.5]), (2.0, [1.0, 0.0])],
    ids=["NaN", "infinite", "one part"],
)
def test_a_step_that_tells_nothing_changes_nothing(small, shares):
    shares = np.array(shares, "float32")
    kept, metrics = noise.averaged(
        {"signal": 0.5, "trace": 3.0, "weight": 0.1}, small, [np.float32(1)], shares, 12.0
    )
    assert {name: float(x) for name, x in kept.items()} == {
        "signal": 0.5,
        "trace": 3.0,
        "weight": pytest.approx(0.1),
    }
    assert float(metrics["noise_scale"]) == pytest.approx(6)


def test_the_step_is_the_same_step():
    """Parameters are those of the run that does not measure, but for the order of its sums."""
    made = program(2)
    plain = dataclasses.replace(
        made.config, train=dataclasses.replace(made.config.train, noise_scale=False)
    )
    plain = Program(plain, jax.devices()[:1])
    ours, metrics = made.train_step(state(made), batch(made))
    theirs, others = plain.train_step(state(plain), batch(plain))
    assert theirs.rest().keys() == ours.rest().keys() - {"noise"}
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert metrics.keys() - others.keys() == {"noise_signal", "noise_trace", "noise_scale"}


def test_one_micro_batch_is_refused():
    train = TrainConfig(batch_tokens=4 * LENGTH, total_tokens=10**4, noise_scale=True)
    with pytest.raises(InputError, match=r"24 tokens is taken as one.*device-batch-tokens 12, or"):
        Program(Config(model=MODEL, train=train), jax.devices()[:1])
    train = TrainConfig(batch_tokens=LENGTH, total_tokens=10**4, noise_scale=True)
    with pytest.raises(InputError, match=r"set --train.batch-tokens to two sequences for each"):
        Program(Config(model=MODEL, train=train), jax.devices()[:1])


def test_feedback_has_none():
    with pytest.raises(InputError, match=r"not of feedback or classes.*--train.noise-scale"):
        Config(
            model=MODEL,
            data=DataConfig(prompt="{a}", target="{b}", rejected="{c}"),
            feedback=FeedbackConfig(method="dpo"),
            train=TrainConfig(noise_scale=True, batch_tokens=LENGTH),
        )
