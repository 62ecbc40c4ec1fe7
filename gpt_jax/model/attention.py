"""Causal attention, dense and locally banded, as pure functions.

Long sequences are taken in chunks of queries, one after the other, and each chunk meets only the
keys it may see: a dense layer computes not much more than the causal triangle, a banded layer its
band, and the scores of all T x T pairs never exist at once. A chunk's scores are made again in the
backward pass. The chunks run in `lax.scan` because XLA would compute unrolled ones side by side,
with the memory of all of them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.model.dropout import drop, folded

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
    scale: float | None = None,
    window: int | None = None,
    start: Array | None = None,
    segment_ids: tuple[Array, Array] | None = None,
    dropout_rate: float = 0.0,
    dropout_keys_B: Array | None = None,
) -> Array:
    """softmax(scale q k^T) v over the visible keys, (B, T, N, H) in the dtype of `q`.

    Args:
      q_BTNH, k_BSNH, v_BSNH: queries, keys and values; the softmax itself is float32.
      scale: of the scores; None: 1 / sqrt(H).
      window: keys a query sees, itself included; None: all before it.
      start: place of the first query among the keys, as when decoding with a cache. None: queries
        and keys are the same T positions.
      segment_ids: (B, T) and (B, S) int32; a query sees only keys of its own segment.
      dropout_rate, dropout_keys_B: dropout on the attention probabilities where there are keys,
        one for each row.
    """
    length, num_keys = q_BTNH.shape[1], k_BSNH.shape[1]
    q_BTNH = q_BTNH * (q_BTNH.shape[-1] ** -0.5 if scale is None else scale)
    size = min(length, QUERY_CHUNK)
    num_chunks = -(-length // size)
    offset = 0 if start is None else start
    q_BTNH = _pad_queries(q_BTNH, num_chunks * size)
    if segment_ids is not None:
        segment_ids = _pad_queries(segment_ids[0], num_chunks * size), segment_ids[1]

    def chunk(low: Array, width: int) -> Array:
        """The `size` queries from place `low` of T on, over the `width` keys they may see."""
        query_T = offset + low + jnp.arange(size)
        first = 0 if window is None else jnp.clip(query_T[0] - window + 1, 0, num_keys - width)
        seen_BTS = visible(query_T, first + jnp.arange(width), window)[None]
        some_queries = partial(
            jax.lax.dynamic_slice_in_dim, start_index=low, slice_size=size, axis=1
        )
        some_keys = partial(
            jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=width, axis=1
        )
        if segment_ids is not None:
            of_query_BT, of_key_BS = some_queries(segment_ids[0]), some_keys(segment_ids[1])
            seen_BTS = seen_BTS & (of_query_BT[:, :, None] == of_key_BS[:, None, :])
        q, k, v = some_queries(q_BTNH), some_keys(k_BSNH), some_keys(v_BSNH)
        return _attend_chunk(q, k, v, seen_BTS, folded(dropout_keys_B, low), dropout_rate)

    groups = _groups(num_chunks, size, num_keys, window, start is None)
    if num_chunks == 1:
        return chunk(jnp.int32(0), groups[0][2])
    outs = []
    for begin, end, width in groups:
        remade = jax.checkpoint(partial(chunk, width=width))
        lows = size * jnp.arange(begin, end)
        outs.append(jax.lax.scan(lambda _, low, f=remade: (None, f(low)), None, lows)[1])
    y_CBTNH = jnp.concatenate(outs)
    y_BTNH = jnp.moveaxis(y_CBTNH, 0, 1).reshape(q_BTNH.shape)
    return y_BTNH[:, :length]


def _pad_queries(x: Array, length: int) -> Array:
    """`x` with zeros after its T places; what they attend to is cut off again."""
    if x.shape[1] == length:
        return x
    return jnp.pad(x, [(0, length - x.shape[1] if axis == 1 else 0) for axis in range(x.ndim)])


def _groups(
    num_chunks: int, size: int, num_keys: int, window: int | None, aligned: bool
) -> list[tuple[int, int, int]]:
    """Chunks [begin, end) that meet the same number of keys, as (begin, end, keys).

    A chunk of a banded layer meets its band. Those of a dense layer meet all keys up to the last
    chunk of their group, and groups double, so that there are few: [0, 1), [1, 2), [2, 4), ...
    With queries further along than the keys' beginning (not `aligned`) there is one, over all keys.
    """
    if window is not None:
        return [(0, num_chunks, min(size + window - 1, num_keys))]
    if not aligned:
        return [(0, num_chunks, num_keys)]
    ends = [min(2**n, num_chunks) for n in range((num_chunks - 1).bit_length() + 1)]
    begins = [0, *ends[:-1]]
    return [(b, e, min(e * size, num_keys)) for b, e in zip(begins, ends, strict=True)]


def _attend_chunk(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    seen_BTS: Array,
    dropout_keys_B: Array | None,
    dropout_rate: float,
) -> Array:
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32)
    scores_BNTS = jnp.where(seen_BTS[:, None], scores_BNTS, MASKED)
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1)
    weights_BNTS = drop(weights_BNTS, dropout_rate, dropout_keys_B)
    return jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS.astype(q_BTNH.dtype), v_BSNH)
