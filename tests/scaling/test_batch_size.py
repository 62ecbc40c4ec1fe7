"""The batch law recovers what was planted, Kaplan's by his own numbers, and a ramp by hand."""

import numpy as np
import pytest

from gpt_jax.config import Config, InputError, ModelConfig, TrainConfig
from gpt_jax.scaling.batch_size import (
    KAPLAN,
    BatchLaw,
    Measured,
    batches,
    fit,
    measured,
    ramp,
    steps_and_tokens,
)

LAW = BatchLaw(scale=3e5, alpha=0.25, deviation=0.0)


def points(noise=0.0):
    """A loss that falls from 4 to 2 over 100,000 tokens, and the law's batch at each."""
    draw, tokens = np.random.default_rng(0), np.linspace(1000, 100_000, 100)
    losses = 4 * (tokens / 1000) ** (-np.log(2) / np.log(100))
    found = LAW.at(losses) * np.exp(noise * draw.standard_normal(100))
    return [Measured(*values) for values in zip(tokens, losses, found, strict=True)]


def test_the_fit_is_what_was_planted():
    """Without noise to all digits; with 10 % within a few standard errors, and the 10 % are told.

    The slope's standard error is 0.1 / (10 x 0.11, the spread of log L): 0.09 of 4.
    """
    law = fit(points())
    assert (law.scale, law.alpha) == pytest.approx((3e5, 0.25))
    assert law.deviation == pytest.approx(0, abs=1e-9)
    noisy = fit(points(0.1))
    assert -1 / noisy.alpha == pytest.approx(-4, abs=0.3)
    assert noisy.deviation == pytest.approx(0.1, rel=0.2)
    assert LAW.at(2.0) == pytest.approx(3e5 / 2**4)


def test_kaplans_batch_at_a_loss():
    """Section 5.1: about 1 to 2 million tokens at convergence of the largest; at a loss of 2.6,
    2e8 x 2.6^-4.76 = 2.1 M.
    """
    assert KAPLAN.at(2.6) == pytest.approx(2.1e6, rel=0.02)


def test_a_noise_scale_that_falls_is_no_law():
    with pytest.raises(InputError, match=r"to the power of 2\.00: measure for longer"):
        fit([Measured(1, loss, loss**2) for loss in (1.0, 2.0, 3.0)])


def test_what_is_measured_goes_with_a_loss_of_the_same_steps():
    """Lines of every 50 steps: means of the losses with 0.98^50 of what was before."""
    records = [
        {"step": 50, "tokens": 500, "loss": 4.0, "noise_scale": 10.0},
        {"step": 100, "tokens": 1000, "loss": 3.0, "noise_scale": 0.0},
        {"step": 100, "tokens": 1000, "val_loss": 3.0},
        {"step": 150, "tokens": 1500, "loss": 2.0, "noise_scale": 30.0},
    ]
    kept = 0.98**50
    weights = np.array([kept**2, kept, 1]) * (1 - kept)
    more = [{"step": n, "tokens": 10 * n, "loss": 2.0, "noise_scale": 40.0} for n in (200, 250)]
    found = measured(records + more)
    assert [p.tokens for p in found] == [1500, 2000, 2500]
    assert found[0] == pytest.approx((1500, weights @ [4, 3, 2] / weights.sum(), 30.0))
    with pytest.raises(InputError, match=r"after step 100, and there are 1.*--train.noise-scale"):
        measured(records)


def test_a_ramp_follows_the_law():
    """At losses of 4 and 2 the law says 1,172 and 18,750 tokens: 128 and 2,048 sequences of 8.

    So the ramp is from 1,024 to 16,384 tokens, and it is whole and the schedule's own.
    """
    config = Config(
        model=ModelConfig(context_length=8),
        train=TrainConfig(batch_tokens=4096, total_tokens=100_000, device_batch_tokens=2048),
    )
    found = ramp(LAW, points(), config)
    assert (found.ramp_start_tokens, found.batch_tokens) == (1024, 16_384)
    assert 50_000 < found.ramp_tokens <= 100_000
    assert found.ramp_tokens % 8 == 0
    assert found.device_batch_tokens == 1024
    ramped = Config(model=config.model, train=found)
    tokens, sizes = batches(ramped)
    assert (tokens[0], sizes[0], max(sizes)) == (0, 1024, 16_384)
    assert sizes == sorted(sizes)
    # Where it is neither start nor end, it is the law's within a factor of 2.
    for at, size in zip(tokens, sizes, strict=True):
        if 20_000 < at < 90_000:
            loss = np.interp(at, *np.transpose(points())[:2])
            assert 1 / 2 < size / LAW.at(loss) < 2


def test_a_batch_that_need_not_grow_has_no_ramp():
    config = Config(model=ModelConfig(context_length=8), train=TrainConfig(batch_tokens=4096))
    flat = [Measured(tokens, 2.0, 1000.0) for tokens in (1e3, 2e3)]
    found = ramp(BatchLaw(16_000.0, 0.25, 0.0), flat, config)
    assert (found.batch_tokens, found.ramp_start_tokens, found.ramp_tokens) == (1024, 0, 0)


def test_at_the_noise_scale_both_costs_are_doubled():
    """McCandlish et al., equation 2.7; at a third of it 4 times the steps, 4/3 of the tokens."""
    noise = LAW.at(2.5)
    assert steps_and_tokens(LAW, 2.5, noise) == pytest.approx((2, 2))
    assert steps_and_tokens(LAW, 2.5, noise / 3) == pytest.approx((4, 4 / 3))
