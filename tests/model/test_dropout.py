"""Draws of rows: each its own, at the rate asked for, and the same in any part of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.model.dropout import drop, folded, row_keys

KEY = jax.random.key(0)
ONES = np.ones((8, 500), "float32")


def test_so_many_are_dropped_and_the_rest_makes_up_for_them():
    """A quarter of 4,000 to 4 standard deviations; the others are 1 / (1 - 0.25)."""
    out = np.asarray(drop(ONES, 0.25, row_keys(KEY, jnp.arange(8))))
    assert set(np.unique(out)) == {0, np.float32(1 / 0.75)}
    assert (out == 0).mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)


def test_no_two_rows_and_no_two_places_share_a_draw():
    keys = row_keys(KEY, jnp.arange(8))
    rows = [drop(ONES, 0.5, folded(keys, place)) for place in range(3)]
    assert len({row.tobytes() for row in np.concatenate(rows)}) == 3 * 8


@pytest.mark.parametrize("rows", [[0, 2, 4, 6], [5], [7, 1]])
def test_a_part_of_a_batch_drops_what_the_batch_would(rows):
    """Bit for bit: what a row loses depends on its place in the batch, not on who is beside it."""
    whole = drop(ONES, 0.5, folded(row_keys(KEY, jnp.arange(8)), 3))
    part = drop(ONES[rows], 0.5, folded(row_keys(KEY, jnp.array(rows)), 3))
    assert np.array_equal(part, whole[np.array(rows)])


def test_without_keys_or_at_a_rate_of_0_nothing_is_dropped():
    assert folded(None, 1) is None
    assert drop(ONES, 0.5, None) is ONES
    assert drop(ONES, 0.0, row_keys(KEY, jnp.arange(8))) is ONES
