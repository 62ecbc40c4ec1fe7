"""Layers split over the mesh along their depth, in stages that work side by side.

GPipe's schedule (Huang et al. 2019) as one program over all devices (GSPMD, Xu et al. 2021, section
3.3). The batch is taken in parts. What all stages work on in a turn is one array with a leading
axis of stages, split over the mesh; after each turn it moves on by one stage, which XLA makes a
permute between neighbours. The first stage takes in part after part, and while the pipeline fills
and drains some stages compute what nobody reads: the bubble, (S - 1) / (P + S - 1) of the time with
S stages and P parts.

Outside the layers there is nothing to split in stages, and the devices of a pipeline split the
batch instead. Parts go into the pipeline from where they are, stage by stage: each turn the waiting
ones move one stage down as the finished one comes in at the top, so that no device ever holds more
than its share, and each row ends where it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax import Array

from gpt_jax.config import ModelConfig, require

MOST_WAITING = 4
"""Parts for each stage at most: GPipe finds the bubble negligible from there on (section 3)."""

Load = dict[str, Array]
"""Arrays (B, ...) that go through the layers together: what they change, and what they read."""


@dataclasses.dataclass(frozen=True)
class Pipe:
    """The pipeline of a mesh, and how the batch is split outside of it."""

    axis: str
    stages: int
    before: int
    """Parts of the batch over the mesh axes that come before the pipeline's in the rule of B."""
    after: int

    @property
    def shards(self) -> int:
        """Parts that the rows of one stage are split in."""
        return self.before * self.after

    def spread(self, x: Array) -> Array:
        """(B, ...), split over the pipeline too, as (stage, waiting, B', ...), in place."""
        waiting = num_waiting(x.shape[0] // (self.stages * self.shards))
        # Every so-manieth row of a device goes into one part: each part has some on all of them.
        x = x.reshape(self.before, self.stages, -1, waiting, *x.shape[1:])
        x = jnp.moveaxis(x, (1, 3), (0, 1))
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    def gather(self, x: Array) -> Array:
        """The inverse of `spread`."""
        x = x.reshape(*x.shape[:2], self.before, -1, *x.shape[3:])
        x = jnp.moveaxis(x, (0, 1), (1, 3))
        return x.reshape(-1, *x.shape[4:])

    def constrain(self, x: Array, letters: str) -> Array:
        """Lay `x` out by the rules within a stage; axes after `letters` are whole."""
        letters = letters[: x.ndim].ljust(x.ndim, ".")
        return spmd.with_logical_constraint(x, tuple(None if s == "." else s for s in letters))

    def within(self) -> AbstractContextManager[None]:
        """The rules within a stage: the pipeline's axis is spent on L."""
        rules = nn.get_logical_axis_rules()
        return nn.logical_axis_rules(
            [
                (name, axes if name == "L" else tuple(a for a in axes if a != self.axis) or None)
                for name, axes in ((name, _names(axes)) for name, axes in rules)
            ]
        )


def _names(axes: Any) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def pipe_of_mesh() -> Pipe | None:
    """The pipeline of the mesh of the context, if there is one and it has more than one stage."""
    mesh, rules = jax.sharding.get_abstract_mesh(), nn.get_logical_axis_rules()
    if mesh.empty or not rules:
        return None
    over = {name: _names(axes) for name, axes in rules}
    if not over["L"] or mesh.shape[over["L"][0]] == 1:
        return None
    (axis,), rows = over["L"], over["B"]
    place = rows.index(axis)
    before, after = (
        math.prod(mesh.shape[a] for a in part) for part in (rows[:place], rows[place + 1 :])
    )
    return Pipe(axis, mesh.shape[axis], before, after)


def num_waiting(rows: int) -> int:
    """Parts that each stage brings in, where a device has so many rows: as many as divide them."""
    return next(n for n in range(MOST_WAITING, 0, -1) if rows % n == 0)


def bubble(stages: int, parts: int) -> float:
    """Share of the stages' time in which they compute what nobody reads."""
    return (stages - 1) / (parts + stages - 1)


def check_stages(config: ModelConfig, stages: int) -> None:
    """Raises InputError where the layers do not divide into so many stages."""
    period = len(config.attention_pattern)
    require(
        config.num_layers % (stages * period) == 0,
        "each stage of a pipeline must have as many layers as the others, and whole turns of the "
        f"attention pattern: {config.num_layers} layers, in turns of {period}, do not divide over "
        f"pipeline = {stages} stages: change --mesh.pipeline, or --model.num-layers.",
    )


def run_in_stages(
    stage: Callable[[Any, Load], Load], params: Any, load: Load, pipe: Pipe, letters: str = "BT"
) -> Load:
    """What `stage(params, load)` gives of all layers, from stages over the mesh.

    Args:
      stage: layers in order, of any count, over rows of any count: params and load to a load.
      params: leaves (L, ...), split over the pipeline along L.
      load: arrays (B, ...) or (B, T, ...). B must divide over the pipeline and over the mesh axes
        of the batch together: InputError.
      pipe: `pipe_of_mesh()`.
      letters: the first axes of the arrays of `load`, as they are laid out between layers.
    """
    rows = next(iter(load.values())).shape[0]
    require(
        rows % (pipe.stages * pipe.shards) == 0,
        f"a batch must bring at least a row for each stage and device, and {rows} rows do not "
        f"divide over {pipe.axis} = {pipe.stages} stages x {pipe.shards} devices: change the "
        f"batch, or --mesh.{pipe.axis}.",
    )
    with pipe.within():
        by_stage = jax.tree.map(lambda x: x.reshape(pipe.stages, -1, *x.shape[1:]), params)
        waiting = jax.tree.map(pipe.spread, load)
        done = _schedule(stage, by_stage, waiting, pipe, letters)
    return jax.tree.map(pipe.gather, done)


def _schedule(stage: Callable, params: Any, waiting: Load, pipe: Pipe, letters: str) -> Load:
    """All turns: `params` (S, L/S, ...), `waiting` (S, W, B', ...), both along the pipeline."""
    stages, (_, slots, *_) = pipe.stages, next(iter(waiting.values())).shape
    all_stages = jax.vmap(stage, spmd_axis_name=pipe.axis)
    each = jax.tree.map

    def laid_out(load: Load, before: str) -> Load:
        return each(lambda x: pipe.constrain(x, before + letters), load)

    def turn(carry: tuple[Load, Load], index: Array) -> tuple[tuple[Load, Load], None]:
        arrived, waiting = carry
        slot = index % slots
        first = each(lambda x: jax.lax.dynamic_index_in_dim(x, slot, 1, keepdims=False), waiting)
        done = all_stages(params, laid_out(each(partial(_at_stage, 0), first, arrived), "L"))
        done = laid_out(done, "L")
        # The slot that was taken from moves one stage down, and what is finished comes in above.
        moved = each(lambda x, y: _at_stage(-1, x, jnp.roll(y, -1, axis=0)), done, first)
        put = partial(jax.lax.dynamic_update_index_in_dim, index=slot, axis=1)
        waiting = laid_out(each(put, waiting, moved), "L.")
        return (each(lambda x: jnp.roll(x, 1, axis=0), done), waiting), None

    waiting = laid_out(waiting, "L.")
    nothing = each(lambda x: jnp.zeros_like(x[:, 0]), waiting)
    turns = jnp.arange(stages * slots + stages - 1)
    (_, waiting), _ = jax.lax.scan(turn, (nothing, waiting), turns)
    # The part that came in from slot w left in the turn S - 1 later, into the slot of that turn.
    return each(lambda x: jnp.roll(x, 1 - stages, axis=1), waiting)


def _at_stage(stage: int, x: Array, others: Array) -> Array:
    """`x` at one stage, `others` at all others; -1 is the last."""
    here = jnp.arange(len(x)) == stage % len(x)
    return jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), x, others)
