"""Causal attention, dense and locally banded, as pure functions.

Queries are taken in chunks, and each chunk meets only the keys it can see: a dense layer computes
the causal triangle (to within a chunk) and a banded layer computes its band, and the scores of all
T x T pairs never exist at once. A chunk's scores are made again in the backward pass.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

QUERY_CHUNK = 256
MASKED = -1e30
"""A score that softmax turns into exactly 0, and that no arithmetic on it turns into NaN."""


def visible(query_T: Array, key_S: Array, window: int | None = None) -> Array:
    """Which keys each query sees, (T, S) bool: none after itself, and the last `window` of them.

    `query_T` and `key_S` are places in one sequence. A banded query sees itself and the
    `window - 1` keys before it, as in GPT-3's locally banded layers (section 2.1, after the Sparse
    Transformer); the paper does not give the width.
    """
    distance_TS = query_T[:, None] - key_S[None, :]
    seen_TS = distance_TS >= 0
    return seen_TS if window is None else seen_TS & (distance_TS < window)


def attend(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    *,
    window: int | None = None,
    start: Array | None = None,
    segment_ids: tuple[Array, Array] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """softmax(q k^T / sqrt(H)) v over the visible keys, (B, T, N, H) in the dtype of `q`.

    Args:
      q_BTNH, k_BSNH, v_BSNH: queries, keys and values; the softmax itself is float32.
      window: keys a query sees, itself included; None: all before it.
      start: place of the first query among the keys, as when decoding with a cache. None: queries
        and keys are the same T positions.
      segment_ids: (B, T) and (B, S) int32; a query sees only keys of its own segment.
      dropout_rate, dropout_key: dropout on the attention probabilities where a key is given.
    """
    length, num_keys = q_BTNH.shape[1], k_BSNH.shape[1]
    outs = []
    for low in range(0, length, QUERY_CHUNK):
        high = min(low + QUERY_CHUNK, length)
        if start is None:
            first, last = (0 if window is None else max(0, low - window + 1)), high
            query_T = jnp.arange(low, high)
        else:
            first, last = 0, num_keys
            query_T = start + jnp.arange(low, high)
        seen_BTS = visible(query_T, jnp.arange(first, last), window)[None]
        if segment_ids is not None:
            of_query_BT, of_key_BS = segment_ids
            same = of_query_BT[:, low:high, None] == of_key_BS[:, None, first:last]
            seen_BTS = seen_BTS & same
        chunk = partial(_attend_chunk, dropout_rate=dropout_rate)
        if length > QUERY_CHUNK:
            chunk = jax.checkpoint(chunk)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, low)
        outs.append(
            chunk(q_BTNH[:, low:high], k_BSNH[:, first:last], v_BSNH[:, first:last], seen_BTS, key)
        )
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)


def _attend_chunk(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    seen_BTS: Array,
    dropout_key: Array | None,
    dropout_rate: float,
) -> Array:
    scale = q_BTNH.shape[-1] ** -0.5
    scores_BNTS = jnp.einsum(
        "BTNH,BSNH->BNTS", q_BTNH * scale, k_BSNH, preferred_element_type=jnp.float32
    )
    scores_BNTS = jnp.where(seen_BTS[:, None], scores_BNTS, MASKED)
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1)
    if dropout_key is not None:
        keep_BNTS = jax.random.bernoulli(dropout_key, 1 - dropout_rate, weights_BNTS.shape)
        weights_BNTS = jnp.where(keep_BNTS, weights_BNTS / (1 - dropout_rate), 0.0)
    return jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS.astype(q_BTNH.dtype), v_BSNH)
