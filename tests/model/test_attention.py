"""Masks against tables written by hand, attention against loops, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_loops import loops
from jaxpr_flops import dot_flops

from gpt_jax.model import attention
from gpt_jax.model.attention import attend, visible
from gpt_jax.model.dropout import row_keys

HEADS, HEAD_DIM = 2, 4


def test_a_dense_query_sees_itself_and_all_before_it():
    place = jnp.arange(4)
    assert visible(place, place).astype(int).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]


def test_a_banded_query_sees_itself_and_two_before_it_for_a_window_of_three():
    place = jnp.arange(6)
    assert visible(place, place, 3).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]


def test_places_and_not_indices_decide_what_is_seen():
    assert visible(jnp.array([4, 5]), jnp.arange(2, 8), 2).astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
    ]


def test_a_window_of_one_sees_only_itself():
    place = jnp.arange(3)
    assert visible(place, place, 1).astype(int).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def random_qkv(length, num_keys, batch=2):
    rng = np.random.default_rng(length)
    sizes = (length, num_keys, num_keys)
    return [rng.standard_normal((batch, s, HEADS, HEAD_DIM)).astype("float32") for s in sizes]


# Chunks of 4: lengths below, at, a multiple of, and not a multiple of the chunk.
# length, keys, window, start, segments of two rows
SEGMENTS = ([0] * 3 + [1] * 3 + [2], [5] * 7)
CASES = {
    "dense-3": (3, 3, None, None, None),
    "dense-9": (9, 9, None, None, None),
    "banded-8": (8, 8, 6, None, None),
    "segments-7": (7, 7, None, None, SEGMENTS),
    "banded-segments-7": (7, 7, 3, None, SEGMENTS),
    "one-after-a-cache": (1, 9, None, 6, None),
    "banded-six-after-a-cache": (6, 12, 4, 3, None),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_and_its_gradients_are_those_of_a_loop(monkeypatch, case):
    """However the queries are chunked, the answer is the formula's, to float32 rounding."""
    monkeypatch.setattr(attention, "QUERY_CHUNK", 4)
    length, num_keys, window, start, segments = CASES[case]
    if segments is not None:
        segments = (np.array(segments), np.array(segments))
    q, k, v = random_qkv(length, num_keys)
    direction = np.random.default_rng(1).standard_normal(q.shape).astype("float32")

    @jax.jit
    def both(q, k, v, start):
        how = {"window": window, "start": start, "segment_ids": segments}
        out, backward = jax.vjp(lambda *qkv: attend(*qkv, **how), q, k, v)
        return out, backward(direction)

    out, grads = both(q, k, v, None if start is None else jnp.int32(start))
    expected, expected_grads = loops(q, k, v, window, start, segments, direction)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_scores_and_softmax_are_float32_whatever_is_multiplied():
    """Of bfloat16 inputs only the inputs and the weights are rounded: 8 bits, 1/256 at most."""
    q, k, v = random_qkv(8, 8)
    exact, _ = loops(q, k, v)
    out = attend(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, atol=0.05)
    # Scores of about 300 apart by 0.5: a bfloat16 score could not tell them apart.
    ones = jnp.ones((1, 2, 1, 1), jnp.bfloat16)
    keys = jnp.array([300.0, 302.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    values = jnp.array([0.0, 1.0], jnp.bfloat16).reshape(1, 2, 1, 1)
    quarter = ones * 0.25
    last = float(attend(quarter, keys, values)[0, 1, 0, 0])
    assert last == pytest.approx(1 / (1 + np.exp(-0.5)), abs=4e-3)


def test_dropout_on_the_weights_keeps_their_mean_and_follows_its_key():
    """With equal values a query's answer is the sum of its kept weights: 1 on average."""
    q, k, _ = random_qkv(32, 32, batch=16)
    v = np.ones_like(k)

    @jax.jit
    def dropped(key):
        keys = row_keys(key, jnp.arange(16))
        return attend(q, k, v, dropout_rate=0.25, dropout_keys_B=keys)

    out = np.asarray(dropped(jax.random.key(0)))
    assert out[:, 8:].mean() == pytest.approx(1, abs=0.02)
    assert out.std() > 0.05
    # A first query has one key: it is dropped, or scaled up by 1 / (1 - 0.25).
    assert set(np.round(np.unique(out[:, 0]), 5)) == {0, np.float32(1.33333)}
    assert np.array_equal(out, dropped(jax.random.key(0)))
    assert not np.array_equal(out, dropped(jax.random.key(1)))


def test_every_chunk_drops_other_weights(monkeypatch):
    """A key is not used twice: else all chunks would share one pattern."""
    monkeypatch.setattr(attention, "QUERY_CHUNK", 16)
    equal = np.ones((1, 64, 1, 1), "float32")
    # A window of one: a token's answer is 0 or 2, its own weight's fate.
    keys = jax.random.split(jax.random.key(0), 1)
    out = attend(equal, equal, equal, window=1, dropout_rate=0.5, dropout_keys_B=keys)
    fates = np.asarray(out).reshape(4, 16)
    assert len({tuple(row) for row in fates}) == 4


def abstract_qkv(length, heads=4):
    return [jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)] * 3


@pytest.mark.parametrize("window", [None, 64])
def test_the_scores_of_all_pairs_never_exist_at_once(monkeypatch, window):
    """Forward and backward of 4 heads over 2,048 tokens, whose scores would take 64 MiB each way.

    A chunk's scores are 4 MiB; the program that holds them all takes 256 MiB of temporaries, and
    one that cuts them into chunks but computes these side by side takes 120.
    """
    monkeypatch.setattr(attention, "QUERY_CHUNK", 128)

    def total(q, k, v):
        return jnp.square(attend(q, k, v, window=window)).sum()

    program = jax.jit(jax.grad(total, (0, 1, 2))).lower(*abstract_qkv(2048)).compile()
    assert program.memory_analysis().temp_size_in_bytes < 2**25


def flops(length, window=None):
    """Of the matrix products in one forward pass."""
    return dot_flops(lambda q, k, v: attend(q, k, v, window=window), *abstract_qkv(length))


def test_a_banded_layer_costs_its_band_and_not_the_square(monkeypatch):
    """Twice the length is twice the band, whose chunk of 32 queries meets 32 + 31 keys or one more
    chunk, where the square has 1,024.
    """
    monkeypatch.setattr(attention, "QUERY_CHUNK", 32)
    assert flops(1024, 32) / flops(512, 32) == pytest.approx(2, rel=0.05)
    square = 2 * 2 * 4 * 8 * 1024**2
    assert 0.9 * 32 / 1024 < flops(1024, 32) / square < 96 / 1024


def test_a_dense_layer_skips_most_of_what_it_cannot_see(monkeypatch):
    """The triangle is half of the square; chunks may add to it, a third of the square at most."""
    monkeypatch.setattr(attention, "QUERY_CHUNK", 64)
    square = 2 * 2 * 4 * 8 * 1024**2
    assert 0.5 < flops(1024) / square < 0.84
