"""A hash of 64-bit numbers, vectorised: what orders, phases and n-grams are drawn by."""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples spread evenly over 64 bits."""


def mix64(value: np.ndarray) -> np.ndarray:
    """A hash of each uint64: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
