"""Axes by their letters (see `model/__init__`): of parameters where they are made, of activations.

Outside a mesh the names do nothing.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from flax.linen import spmd
from jax import Array

from gpt_jax.config import ModelConfig
from gpt_jax.model.parametrisation import init_std


def axes(letters: str) -> tuple[str | None, ...]:
    """One logical axis per letter, a dot where there is none: D.NH is ("D", None, "N", "H")."""
    return tuple(None if letter == "." else letter for letter in letters)


def constrain(x: Array, letters: str) -> Array:
    """Lay `x` out over the mesh as its axes say; does nothing where there is no mesh."""
    return spmd.with_logical_constraint(x, axes(letters))


def named(init: Any, letters: str) -> Any:
    """The initialiser, with the axes of what it makes attached for `parallel/sharding.py`."""
    return nn.with_logical_partitioning(init, axes(letters))


def normal(config: ModelConfig, name: str, letters: str) -> Any:
    """Initial values for the matrices of this name."""
    return named(nn.initializers.normal(init_std(config, name)), letters)


def zeros(letters: str) -> Any:
    """Initial values for biases."""
    return named(nn.initializers.zeros, letters)
