"""Dropout whose draws belong to a row and a place in the model, however the batch is divided.

A draw over the whole batch would differ from the draws over its parts. With a key for each row, the
parts that go through a pipeline drop what the whole batch would.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def row_keys(key: Array, rows_B: Array) -> Array:
    """(B,) keys, one for each row of a batch by its place in it, (B,) int32."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, rows_B)


def folded(keys_B: Array | None, place: int | Array) -> Array | None:
    """Keys of their own for a place in the model; None, for no dropout, stays None."""
    if keys_B is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(keys_B, place)


def drop(x: Array, rate: float, keys_B: Array | None) -> Array:
    """`x` (B, ...) with each number 0 at this rate, and else divided by 1 - rate.

    Without keys, or at a rate of 0, it is `x`.
    """
    if keys_B is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1 - rate), 0)
