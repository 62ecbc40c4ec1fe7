"""Where every parameter of an experiment would lie, without any device: `gpt-jax shard`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jax.sharding import AbstractMesh

from gpt_jax.config import Config, require
from gpt_jax.model.decoder import GPT
from gpt_jax.parallel.mesh import mesh_shape
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.optimizer import make_optimizer
from gpt_jax.train.state import abstract_state
from gpt_jax.train.tune import split


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter, or the sum of several, on one device."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Mesh axes along each axis of the array, joined by +; empty: whole."""
    bytes: int
    """Of the whole array."""
    device_bytes: int
    """Of the part that one device holds."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The state of an experiment over a mesh."""

    mesh: dict[str, int]
    parameters: tuple[Row, ...]
    gradient_bytes: int
    """Of the gradients on one device, which are of the trained parameters alone."""
    optimizer_bytes: int
    """Of the optimizer's state on one device."""

    @property
    def device_bytes(self) -> int:
        """Of the parameters on one device."""
        return sum(row.device_bytes for row in self.parameters)


def layout(config: Config, devices: int) -> Layout:
    """How `config` would lie on so many devices.

    Raises InputError where the mesh does not fit their number or cannot divide a parameter, or
    where the vocabulary's size is only known to the tokenizer.
    """
    require(
        config.model.vocab_size > 0,
        "the parameters depend on the vocabulary, and model.vocab_size=0 leaves it to the "
        "tokenizer: set it (--model.vocab-size).",
    )
    shape = mesh_shape(config.mesh, devices)
    mesh: Any = AbstractMesh(tuple(shape.values()), tuple(shape))
    model, tx = GPT(config.model), make_optimizer(config.optimizer, config.model)
    state = abstract_state(model, tx, mesh, config.tune)
    rows = tuple(_row(name, leaf) for name, leaf in named_leaves(state.params).items())
    trained, _ = split(state.params, config.tune)
    gradients = [_row(name, leaf) for name, leaf in named_leaves(trained).items()]
    moments = [_row(name, leaf) for name, leaf in named_leaves(state.opt_state).items()]
    sums = (sum(row.device_bytes for row in some) for some in (gradients, moments))
    return Layout(shape, rows, *sums)


def _row(name: str, leaf: Any) -> Row:
    entries = [*leaf.sharding.spec, *[None] * leaf.ndim][: leaf.ndim]
    over = [(entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in entries]
    used = leaf.sharding.mesh.shape
    axes = tuple("+".join(axis for axis in names if used[axis] > 1) for names in over)
    size = leaf.dtype.itemsize
    part = leaf.sharding.shard_shape(leaf.shape)
    return Row(name, leaf.shape, axes, size * math.prod(leaf.shape), size * math.prod(part))


def as_table(found: Layout) -> str:
    """The layout as text: a line for each parameter, then the sums."""
    lines = [("parameter", "shape", "split over", "MB", "MB a device")]
    for row in found.parameters:
        split = " ".join(axis or "-" for axis in row.axes)
        shape = " ".join(map(str, row.shape))
        lines.append((row.name, shape, split, _mb(row.bytes), _mb(row.device_bytes)))
    whole = sum(row.bytes for row in found.parameters)
    lines.append(("parameters", "", "", _mb(whole), _mb(found.device_bytes)))
    lines.append(("gradients", "", "", "", _mb(found.gradient_bytes)))
    lines.append(("optimizer", "", "", "", _mb(found.optimizer_bytes)))
    widths = [max(len(line[n]) for line in lines) for n in range(5)]
    text = [
        "  ".join(
            cell.rjust(width) if n > 2 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    mesh = " x ".join(f"{name} {size}" for name, size in found.mesh.items() if size > 1)
    devices = math.prod(found.mesh.values())
    return "\n".join([f"{devices} devices{': ' * bool(mesh)}{mesh}", *text])


def _mb(count: int) -> str:
    return f"{count / 1e6:,.3f}"
