"""Which tensors of a file make up which part of which of our arrays, and in what layout."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import ModelConfig
from gpt_jax.interop.names import NAMES, Name
from gpt_jax.model.decoder import GPT
from gpt_jax.train.digest import named_leaves

IN_VOCABULARY = ("embedding", "head", "head_bias")
"""Parameters with a row for each token, padded in ours and not in theirs."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One tensor of a file, and the part of one of our arrays that it is."""

    theirs: str
    """Name without the architecture's prefix."""
    ours: str
    """Path of the array: layers/0/mlp/up."""
    start: tuple[int, ...]
    """Where the part begins in the array."""
    shape: tuple[int, ...]
    """Of the part as an array of the same rank: 1 along the axes that other tensors fill, and the
    padding of the vocabulary included."""
    axes: str
    """einops: their layout to that of the part, without those axes."""
    sizes: tuple[tuple[str, int], ...]
    """Of the axes by letter."""

    @property
    def their_shape(self) -> tuple[int, ...]:
        sizes = dict(self.sizes)
        left = self.axes.split(" -> ")[0]
        groups = re.findall(r"\(([^)]+)\)|(\w+)", left)
        return tuple(math.prod(sizes[x] for x in (a or b).split()) for a, b in groups)

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """A view of their values in our layout, of `shape` but for the vocabulary's padding."""
        view = self._rearranged(values, self.axes)
        return view if view.ndim == len(self.shape) else view.reshape(self.shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Their tensor, from the whole of our array."""
        theirs, ours = self.axes.split(" -> ")
        inner = [dict(self.sizes)[axis] for axis in ours.split()]
        part = array[tuple(slice(b, b + n) for b, n in zip(self.start, self.shape, strict=True))]
        if part.ndim == len(inner):  # only the vocabulary's padding can be more than there is
            part = part[: inner[0]]
        return np.ascontiguousarray(self._rearranged(part.reshape(inner), f"{ours} -> {theirs}"))

    def _rearranged(self, values: np.ndarray, axes: str) -> np.ndarray:
        inside = set(re.findall(r"\w+", axes))
        return einops.rearrange(values, axes, **{k: n for k, n in self.sizes if k in inside})


def boxed_params(model: ModelConfig) -> Any:
    """Shapes of a model's parameters, boxed with their logical axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT(model).init, jax.random.key(0), tokens)["params"]


def places(kind: str, model: ModelConfig) -> list[Place]:
    """Every tensor of an architecture's file for `model`, layer by layer."""
    shapes = {
        path: leaf.shape for path, leaf in named_leaves(nn.unbox(boxed_params(model))).items()
    }
    names = NAMES[kind]
    head = (Name("head", f"{names.head}.weight"), Name("head_bias", f"{names.head}.bias"))
    found = []
    for name in (*names.parameters, *head):
        for path, layer in _paths(name, model):
            if path in shapes:
                found.append(_place(name, path, layer, shapes[path], model))
    filled = {place.ours for place in found}
    assert filled == set(shapes), f"no name in {kind} for {set(shapes) - filled}"
    return found


def _paths(name: Name, model: ModelConfig) -> Iterator[tuple[str, int | None]]:
    """Paths of our arrays that the tensors of a name go to, with the layer's number."""
    if "{}" not in name.theirs:
        yield name.ours, None
        return
    for layer in range(model.num_layers):
        yield f"layers/{layer % len(model.attention_pattern)}/{name.ours}", layer


def _place(
    name: Name, path: str, layer: int | None, shape: tuple[int, ...], model: ModelConfig
) -> Place:
    inner, start, outer = list(shape), [0] * len(shape), list(shape)
    taken = []
    if layer is not None:
        start[0], outer[0] = layer // len(model.attention_pattern), 1
        taken.append(0)
    if name.part is not None:
        axis = len(shape) - 3  # of 3NH and of D3NH
        start[axis], outer[axis] = name.part, 1
        taken.append(axis)
    if path in IN_VOCABULARY:
        inner[0] = model.vocab_size
    inner = [size for axis, size in enumerate(inner) if axis not in taken]
    axes = name.axes or " -> ".join([" ".join("abcd"[: len(inner)])] * 2)
    letters = axes.split(" -> ")[1].split()
    return Place(
        theirs=name.theirs.format(layer),
        ours=path,
        start=tuple(start),
        shape=tuple(outer),
        axes=axes,
        sizes=tuple(zip(letters, inner, strict=True)),
    )
