"""Where a token stands, told without parameters: rotated queries and keys, and fixed sinusoids.

Angles are computed in float64 when a program is traced, and rounded once: place times frequency
in float32, as other libraries have it, loses digits with the length of the sequence.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

Rotation = tuple[Array, Array]
"""Cosines and sines of the angles, each (B or 1, T, R / 2) float32, for R rotated dims."""


def rotation(
    length: int, rotary_dim: int, base: float, positions_BT: Array | None, num_places: int
) -> Rotation:
    """Angles of RoFormer (Su et al. 2021, eq. 15): place m turns pair i by m base^(-2i / R).

    `positions_BT` are places of each token below `num_places`; None: 0 to `length` - 1.
    """
    frequencies = base ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    angles = np.arange(num_places)[:, None] * frequencies
    tables = (jnp.asarray(part(angles), jnp.float32) for part in (np.cos, np.sin))
    if positions_BT is None:
        cos, sin = (table[None, :length] for table in tables)
    else:
        cos, sin = (table[positions_BT] for table in tables)
    return cos, sin


def rotate(x_BTNH: Array, turn: Rotation, interleaved: bool) -> Array:
    """`x` with the first R dims of each head turned, in the dtype of `x`.

    A pair is two neighbours where `interleaved` (GPT-J), else dim i and dim i + R / 2 (GPT-NeoX).
    """
    cos, sin = (table[:, :, None, :] for table in turn)
    size = 2 * cos.shape[-1]
    turned, rest = x_BTNH[..., :size].astype(jnp.float32), x_BTNH[..., size:]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned[..., : size // 2], turned[..., size // 2 :]
    pair = (first * cos - second * sin, second * cos + first * sin)
    turned = jnp.stack(pair, -1).reshape(turned.shape) if interleaved else jnp.concatenate(pair, -1)
    return jnp.concatenate([turned.astype(x_BTNH.dtype), rest], -1)


def sinusoids(num_places: int, width: int) -> Array:
    """Fixed positions (T, D) float32: the sines of all frequencies, then their cosines.

    The angles are those of Vaswani et al. 2017, section 3.5, which interleaves the two; CTRL,
    whose order this is, lays them side by side.
    """
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(num_places)[:, None] * frequencies
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], -1), jnp.float32)
