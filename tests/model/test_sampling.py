"""Filters and draws against literal tables, NumPy loops and the softmax itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gpt_jax.config import InputError
from gpt_jax.model import sampling
from gpt_jax.model.sampling import Sampling

# As `decode` runs them. p is data here, so that each p need not be compiled.
penalise, keep_top_p = jax.jit(sampling.penalise), jax.jit(sampling.keep_top_p)
keep_top_k = jax.jit(sampling.keep_top_k, static_argnums=1)
sample = jax.jit(sampling.sample, static_argnums=3)
sample_each = jax.jit(sampling.sample_each)

INF = np.inf
LOGITS = arrays(
    np.float32,
    (3, 7),  # one shape, compiled once
    elements=st.floats(-8, 8, width=16),
)


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def draw(logits: list[float], how: Sampling, count: int = 1, seen: tuple[int, ...] = ()) -> list:
    """`count` draws from the same logits, each with a key of its own."""
    logits_BV = np.tile(np.array(logits, np.float32), (count, 1))
    seen_BV = np.zeros(logits_BV.shape, bool)
    seen_BV[:, list(seen)] = True
    return sample(logits_BV, seen_BV, keys(count), how).tolist()


def test_a_penalty_divides_what_is_positive_and_multiplies_what_is_negative():
    """CTRL's rule, made to lower negative logits too; tokens not seen keep theirs."""
    logits = jnp.array([[4.0, -4.0, 0.0, 3.0], [4.0, -4.0, 0.0, 3.0]])
    seen = jnp.array([[True, True, True, False], [False, False, False, True]])
    assert penalise(logits, seen, 2.0).tolist() == [[2.0, -8.0, 0.0, 3.0], [4.0, -4.0, 0.0, 1.5]]


@settings(deadline=None)
@given(LOGITS, arrays(bool, (3, 7)), st.sampled_from([0.5, 1.0, 1.5, 3.0]))
def test_a_penalty_is_a_loop_over_the_tokens_seen(logits, seen, penalty):
    """A penalty above 1 never raises a logit, one below 1 never lowers one."""
    expected = logits.copy()
    for row, token in zip(*np.nonzero(seen), strict=True):
        up = expected[row, token] > 0
        expected[row, token] *= np.float32(1 / penalty if up else penalty)
    found = np.asarray(penalise(jnp.asarray(logits), jnp.asarray(seen), penalty))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found <= logits).all() if penalty >= 1 else (found >= logits).all()


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [-INF, 5.0, -INF, -INF]),
        (2, [3.0, 5.0, 3.0, -INF]),  # the second place is shared, and both stay
        (3, [3.0, 5.0, 3.0, -INF]),
        (4, [3.0, 5.0, 3.0, 1.0]),
        (9, [3.0, 5.0, 3.0, 1.0]),  # more than there are
    ],
)
def test_top_k_keeps_the_k_largest_and_ties(k, expected):
    """The literal table of one row."""
    assert keep_top_k(jnp.array([[3.0, 5.0, 3.0, 1.0]]), k)[0].tolist() == expected


@settings(deadline=None)
@given(LOGITS, st.integers(1, 9))
def test_top_k_is_a_sort_by_hand(logits, k):
    """Kept: what is at least as large as the k-th largest of its row."""
    expected = [[x if x >= sorted(row)[-min(k, 7)] else -INF for x in row] for row in logits]
    assert np.array_equal(keep_top_k(jnp.asarray(logits), k), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.01, [1]),  # the likeliest stays, though it has more than p by itself
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.79, [1, 3]),
        (0.81, [1, 3, 0]),
        (0.94, [1, 3, 0]),
        (0.96, [1, 3, 0, 2]),
        (1.0, [1, 3, 0, 2]),
    ],
)
def test_top_p_keeps_the_likeliest_until_they_reach_p(p, kept):
    """Probabilities 0.15, 0.5, 0.05 and 0.3: the sums are 0.5, 0.8, 0.95 and 1."""
    logits = jnp.log(jnp.array([[0.15, 0.5, 0.05, 0.3]])) + 7.0
    found = keep_top_p(logits, p)[0]
    assert np.flatnonzero(np.isfinite(found)).tolist() == sorted(kept)
    assert np.array_equal(found[np.array(kept)], logits[0, np.array(kept)])


@settings(deadline=None)
@given(LOGITS, st.floats(0.001, 1.0))
def test_top_p_is_a_loop_over_the_sorted_tokens(logits, p):
    """The smallest set that reaches p: enough, not one more than needed, the likeliest in it."""
    found = np.asarray(keep_top_p(jnp.asarray(logits), p))
    for row, filtered in zip(logits.astype(float), found, strict=True):
        share = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        kept = np.isfinite(filtered)
        assert kept[row.argmax()]
        assert np.array_equal(filtered[kept], row[kept])
        assert kept.all() or row[kept].min() > row[~kept].max()
        assert share[kept].sum() >= p - 1e-5
        strictly_above_the_least = kept & (row > row[kept].min())
        assert share[strictly_above_the_least].sum() < p + 1e-5


def test_top_p_keeps_all_ties_with_the_least():
    """Four equal tokens of a quarter each: none can be left out before another."""
    assert np.isfinite(keep_top_p(jnp.zeros((1, 4)), 0.3)).all()


def test_temperature_zero_takes_the_likeliest_whatever_the_key():
    """Greedy; of two equal ones, the first."""
    assert draw([0.0, 2.0, 2.0, -1.0], Sampling(temperature=0), 20) == [1] * 20


def test_the_penalty_comes_before_greedy():
    """5 / 2 is less than 3, so that the token not yet seen is taken."""
    how = Sampling(temperature=0, repetition_penalty=2.0)
    assert draw([5.0, 3.0], how, seen=(0,)) == [1]
    assert draw([5.0, 3.0], how, seen=(0, 1)) == [0]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.2e-38, 0.5), (1.2e-38, 1.0), (1e-300, 0.5)])
def test_a_very_low_temperature_is_greedy(temperature, top_p):
    """The limit, where the logits over the temperature are more than a float32 holds."""
    how = Sampling(temperature=temperature, top_p=top_p)
    assert draw([10.0, 12.0, 13.0, -9.0], how, 20) == [2] * 20


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        (Sampling(), [0, 1, 2, 3, 4, 5]),
        (Sampling(temperature=2.0), [0, 1, 2, 3, 4, 5]),
        (Sampling(temperature=0.5, top_k=3), [0, 2, 5]),
        (Sampling(temperature=2.0, top_k=4, top_p=0.6), [0, 2]),
    ],
)
def test_frequencies_follow_the_softmax(how, kept):
    """20,000 draws: chi-square within five standard deviations of its mean, nothing else drawn."""
    logits, count = np.array([1.5, -0.5, 2.0, 0.0, 0.5, 1.0]), 20_000
    weights = np.exp(logits[kept] / how.temperature)
    expected = count * weights / weights.sum()
    drawn = np.bincount(draw(list(logits), how, count), minlength=6)
    assert drawn[kept].sum() == count
    freedom = len(kept) - 1
    chi_square = ((drawn[kept] - expected) ** 2 / expected).sum()
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_rows_draw_with_their_own_keys_only():
    """A row's draw is the same whatever the rest of the batch holds."""
    logits_BV = jax.random.normal(jax.random.key(1), (64, 9))
    seen_BV, keys_B, how = jnp.zeros((64, 9), bool), keys(64), Sampling(top_p=0.9)
    together = sample(logits_BV, seen_BV, keys_B, how)
    for row in (0, 17, 63):
        others_BV = jnp.where(jnp.arange(64)[:, None] == row, logits_BV, -logits_BV)
        assert sample(others_BV, seen_BV, keys_B, how)[row] == together[row]
    assert len(set(together.tolist())) > 1


@pytest.mark.parametrize(("k", "p"), [(1, 0.7), (4, 0.7)])
def test_what_is_drawn_was_kept(k, p):
    """Both filters at once, k first: p is a share of what k leaves."""
    logits_BV = 3 * jax.random.normal(jax.random.key(2), (200, 7))
    kept = np.isfinite(keep_top_p(keep_top_k(logits_BV, k), p))
    seen_BV = jnp.zeros(logits_BV.shape, bool)
    drawn = sample(logits_BV, seen_BV, keys(200), Sampling(top_k=k, top_p=p))
    assert kept[np.arange(200), drawn].all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", INF),
        ("temperature", np.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", np.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -2.0),
        ("repetition_penalty", INF),
        ("repetition_penalty", np.nan),
    ],
)
def test_a_parameter_out_of_range_is_refused(field, value):
    """The message names the parameter and the value."""
    with pytest.raises(InputError, match=rf"^{field} must .*{value}"):
        Sampling(**{field: value})


def test_the_limits_themselves_are_in_range():
    """Zero temperature and a p of one are asked for every day."""
    assert Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=0.5)


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 0.5, 1.0, 1e6])
@pytest.mark.parametrize("top_p", [1e-9, 0.4, 1.0])
def test_rows_with_settings_of_their_own_are_drawn_as_by_themselves(temperature, top_p):
    """Among rows of other settings, against `sample` with the row's own."""
    random = np.random.default_rng(5)
    logits = jnp.asarray(random.normal(0, 3, (3, 50)), jnp.float32)
    keys = jax.random.split(jax.random.key(3), 3)
    temperatures = jnp.array([0.7, temperature, 0.0])
    top_ps = jnp.array([1.0, top_p, 0.3])
    found = sample_each(logits, keys, temperatures, top_ps, jnp.array(True))
    how = Sampling(temperature=temperature, top_p=top_p)
    expected = sample(logits, jnp.zeros((3, 50), bool), keys, how)
    assert found[1] == expected[1]
    unfiltered = sample_each(logits, keys, temperatures, jnp.ones(3), jnp.array(False))
    assert unfiltered[0] == sample(logits, jnp.zeros((3, 50), bool), keys, Sampling(1, 0.7))[0]
