"""Induction scores of patterns whose score is known, and of a head made by hand."""

import numpy as np
import pytest
from random_model import random_params

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.evaluate.inspect.induction import Induction, induction, prefix_matching, repeated


def pattern(period: int, target) -> np.ndarray:
    """One head that looks from each place t at place target(t) alone, (1, 1, 1, T, T)."""
    attention = np.zeros((1, 1, 1, 2 * period, 2 * period), np.float32)
    for t in range(2 * period):
        attention[..., t, target(t)] = 1
    return attention


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (lambda t: max(t - 7 + 1, 0), 1.0),  # the token after the first time
        (lambda t: max(t - 7, 0), 0.0),  # the first time itself
        (lambda t: max(t - 1, 0), 0.0),  # the token before
        (lambda t: t - 6 if t % 2 and t > 6 else 0, 4 / 7),  # at places 7, 9, 11 and 13
    ],
)
def test_patterns_have_the_score_they_must(target, score):
    """Tokens said again from place 7 on."""
    assert float(prefix_matching(pattern(7, target), 7)[0, 0]) == pytest.approx(score)


def test_even_attention_has_the_score_of_chance():
    """A head that looks everywhere alike: 1 / (t + 1) at place t."""
    even = np.tril(np.ones((14, 14))) / np.arange(1, 15)[:, None]
    found = prefix_matching(even[None, None, None], 7)
    assert float(found[0, 0]) == pytest.approx(np.mean([1 / (t + 1) for t in range(7, 14)]))


def test_tokens_are_random_and_said_twice():
    """Another seed gives others; only the tokenizer's are among them."""
    tokens = repeated(40, 50, seed=1)
    assert tokens.shape == (4, 100)
    assert (tokens[:, :50] == tokens[:, 50:]).all()
    assert set(tokens.ravel()) == set(range(40))
    assert (tokens != repeated(40, 50, seed=2)).any()


def by_hand(config: ModelConfig, period: int):
    """Parameters with which the only head of the only layer looks at place t - period + 1.

    Positions are one-hot and tokens nothing; a query is the position it looks for.
    """
    params = random_params(config)
    width = config.embed_dim
    zero = {name: np.zeros_like(leaf) for name, leaf in params["layers"]["0"]["attention"].items()}
    size = 2 * period
    scale = 1e3
    for t in range(size):
        zero["qkv"][0, t, 0, 0, max(t - period + 1, 0)] = scale
        zero["qkv"][0, t, 1, 0, t] = 1
    params["layers"]["0"]["attention"] = zero
    params["layers"]["0"]["norm_attention"] = {
        "scale": np.ones((1, width), np.float32),
        "bias": np.zeros((1, width), np.float32),
    }
    params["embedding"] = 0 * params["embedding"]
    params["positions"] = np.eye(config.context_length, width, dtype=np.float32)
    return params


def test_a_head_made_by_hand_is_found():
    """It has a score of 1, and is the best."""
    config = ModelConfig(vocab_size=30, context_length=16, num_layers=1, embed_dim=16, num_heads=1)
    found = induction(config, by_hand(config, 8), 30)
    assert found.best == (pytest.approx(1.0, abs=1e-4), 0, 0)


def test_a_model_of_weights_drawn_at_random_has_none():
    """Its score is far from 1, and saying tokens twice is of no use to it."""
    config = ModelConfig(vocab_size=30, context_length=33, num_layers=2, embed_dim=8, num_heads=2)
    found = induction(config, random_params(config), 30)
    assert found.score_LN.shape == (2, 2)
    assert found.best[0] < 0.5
    assert abs(found.first - found.again) < 1


def test_the_best_head_is_told_by_layer_and_head():
    """Of three layers with two heads."""
    score = np.array([[0.1, 0.2], [0.3, 0.9], [0.4, 0.0]])
    assert Induction(score, 0, 0).best == (0.9, 1, 1)


def test_a_context_without_room_is_refused():
    """With the number."""
    config = ModelConfig(vocab_size=9, context_length=3, num_layers=1, embed_dim=8, num_heads=1)
    with pytest.raises(InputError, match=r"context_length=3 .* at least 4"):
        induction(config, None, 9)
