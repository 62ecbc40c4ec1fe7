"""Which tensors of a file make up which part of which of our arrays, and in what layout."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import einops
import flax.linen as nn
import numpy as np

from gpt_jax.config import ModelConfig
from gpt_jax.interop.names import NAMES, Name
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.state import boxed_params

IN_VOCABULARY = ("embedding", "head", "head_bias")
"""Parameters with a row for each token, padded in ours and not in theirs."""


@dataclasses.dataclass(frozen=True)
class Place:
    """One tensor of a file, or rows of one, and the part of one of our arrays that it is."""

    theirs: str
    """Name without the architecture's prefix."""
    prefix: str
    """That prefix, which the output layer has not."""
    ours: str
    """Path of the array: layers/0/mlp/up."""
    start: tuple[int, ...]
    """Where the part begins in the array."""
    shape: tuple[int, ...]
    """Of the part as an array of the same rank: 1 along the axes that other tensors fill."""
    axes: str
    """einops: their layout to that of the part, without those axes."""
    sizes: tuple[tuple[str, int], ...]
    """Of the axes of the part by letter, in our order."""
    filled: tuple[int, ...]
    """Which axes of the array those are; along the others the part is one of several."""

    @property
    def name_in_file(self) -> str:
        return self.theirs if self.ours in ("head", "head_bias") else self.prefix + self.theirs

    @property
    def their_shape(self) -> tuple[int, ...]:
        return tuple(math.prod(self._size(x) for x in group) for group in self._groups())

    def to_ours(self, values: np.ndarray) -> np.ndarray:
        """A view of their values in our layout, of `shape`."""
        return self._rearranged(values, self.axes).reshape(self.shape)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Their tensor, from the whole of our array."""
        part = array[tuple(slice(b, b + n) for b, n in zip(self.start, self.shape, strict=True))]
        theirs, ours = self.axes.split(" -> ")
        inner = [self._size(axis) for axis in ours.split()]
        return np.ascontiguousarray(self._rearranged(part.reshape(inner), f"{ours} -> {theirs}"))

    def blocks(self, parts: tuple[int, ...], limit: int) -> Iterator[tuple[slice, Place]]:
        """The tensor in rows of at most about `limit` elements: which rows, and their place.

        A block is a whole number of `parts` along each of our axes, as far as there are so many.
        """
        first, *rest = self._groups()[0]
        unit = math.prod(self._size(x) for x in rest)  # rows of theirs that are one step of ours
        axis = self._axis(first)
        row = math.prod(self.their_shape[1:])
        step = max(limit // (unit * row) // parts[axis], 1) * parts[axis]
        for begin in range(0, self._size(first), step):
            count = min(step, self._size(first) - begin)
            yield (
                slice(begin * unit, (begin + count) * unit),
                dataclasses.replace(
                    self,
                    start=_changed(self.start, axis, self.start[axis] + begin),
                    shape=_changed(self.shape, axis, count),
                    sizes=tuple((x, count if x == first else n) for x, n in self.sizes),
                ),
            )

    def _groups(self) -> list[list[str]]:
        """Letters of each of their axes."""
        left = self.axes.split(" -> ")[0]
        return [(a or b).split() for a, b in re.findall(r"\(([^)]+)\)|(\w+)", left)]

    def _size(self, letter: str) -> int:
        return dict(self.sizes)[letter]

    def _axis(self, letter: str) -> int:
        """Which axis of our array a letter is."""
        return self.filled[[x for x, _ in self.sizes].index(letter)]

    def _rearranged(self, values: np.ndarray, axes: str) -> np.ndarray:
        inside = set(re.findall(r"\w+", axes))
        return einops.rearrange(values, axes, **{k: n for k, n in self.sizes if k in inside})


def _changed(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


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
                found.append(_place(kind, name, path, layer, shapes[path], model))
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
    kind: str, name: Name, path: str, layer: int | None, shape: tuple[int, ...], model: ModelConfig
) -> Place:
    start, part = [0] * len(shape), list(shape)
    alone = []
    if layer is not None:
        start[0] = layer // len(model.attention_pattern)
        alone.append(0)
    if name.part is not None:
        axis = len(shape) - 3  # of 3NH and of D3NH
        start[axis] = name.part
        alone.append(axis)
    if path in IN_VOCABULARY:
        part[0] = model.vocab_size
    for axis in alone:
        part[axis] = 1
    filled = tuple(axis for axis in range(len(shape)) if axis not in alone)
    axes = name.axes or " -> ".join([" ".join("abcd"[: len(filled)])] * 2)
    letters = axes.split(" -> ")[1].split()
    return Place(
        theirs=name.theirs.format(layer),
        prefix=NAMES[kind].prefix,
        ours=path,
        start=tuple(start),
        shape=tuple(part),
        axes=axes,
        sizes=tuple((x, part[axis]) for x, axis in zip(letters, filled, strict=True)),
        filled=filled,
    )
