"""Where a token stands, told without parameters: rotated queries and keys, and fixed sinusoids.

An angle is a place times a frequency. In float32, as other libraries multiply them, that product
loses digits with the length of the sequence; here cosine and sine of place a R + b are put together
from those of a R and of b, two short tables made in float64.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

Rotation = tuple[Array, Array]
"""Cosines and sines of the angles, each (B or 1, T, R / 2) float32, for R rotated dims."""

_ROW = 256
"""Places that one row of the table is for."""


def rotation(positions_BT: Array, num_places: int, frequencies: np.ndarray) -> Rotation:
    """Cosine and sine of place times frequency, two arrays (B, T, F), exact to float32's rounding.

    Args:
      positions_BT: places below `num_places`, int32.
      frequencies: (F,) float64, in radians per place.
    """
    rows = np.arange(-(-num_places // _ROW))[:, None] * (_ROW * frequencies)
    places = np.arange(_ROW)[:, None] * frequencies
    row, place = positions_BT // _ROW, positions_BT % _ROW
    cos_row, sin_row = (jnp.asarray(part(rows), jnp.float32)[row] for part in (np.cos, np.sin))
    cos, sin = (jnp.asarray(part(places), jnp.float32)[place] for part in (np.cos, np.sin))
    return cos_row * cos - sin_row * sin, sin_row * cos + cos_row * sin


def frequencies(width: int, base: float) -> np.ndarray:
    """base^(-2i / width) for i below width / 2 (RoFormer, Su et al. 2021, eq. 15), float64."""
    return base ** (-np.arange(0, width, 2) / width)


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


def sinusoids(positions_BT: Array, num_places: int, width: int) -> Array:
    """Fixed positions (B, T, D) float32: the sines of all frequencies, then their cosines.

    The angles are those of Vaswani et al. 2017, section 3.5, which interleaves the two; CTRL,
    whose order this is, lays them side by side.
    """
    cos, sin = rotation(positions_BT, num_places, frequencies(width, 10000.0))
    return jnp.concatenate([sin, cos], -1)
