"""The train state, born sharded: no array of it ever exists whole on one host."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from gpt_jax.config import ModelConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.model.pipeline import check_stages
from gpt_jax.parallel.mesh import batch_shards
from gpt_jax.parallel.sharding import rules, shardings


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; with the config, all that a run is."""

    step: Array
    """Steps taken, () int32."""
    samples: Array
    """Windows of text drawn, () int32: the position in the data, and in tokens the schedule's."""
    params: Any
    opt_state: Any
    skipped: Array
    """Steps that changed nothing because they were not finite, () int32."""
    skipped_in_row: Array
    """How many of them were the last steps, () int32."""


def boxed_params(model: ModelConfig) -> Any:
    """Shapes of a model's parameters, boxed with their logical axes."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT(model).init, jax.random.key(0), tokens)["params"]


def init_state(
    key: Array, model: GPT, tx: optax.GradientTransformation, shape: tuple[int, int] = (1, 1)
) -> TrainState:
    """A fresh state, its parameters boxed with their axes; `shape`: of tokens to trace with."""
    params = model.init(key, jnp.zeros(shape, jnp.int32))["params"]
    zero = jnp.int32(0)
    return TrainState(zero, zero, params, tx.init(params), zero, zero)


def abstract_state(model: GPT, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing any of it.

    Raises InputError naming a parameter that the mesh cannot divide, or layers that do not divide
    into the stages of its pipeline.
    """
    check_stages(model.config, mesh.shape.get("pipeline", 1))
    boxed = jax.eval_shape(partial(init_state, model=model, tx=tx), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(boxed),
        shardings(boxed, mesh),
    )


def create_state(
    seed: int,
    model: GPT,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    params: Any = None,
) -> TrainState:
    """The state at step 0: each device computes its own part of it.

    Its parameters are drawn from `seed`, or are `params` in float32 where these are given.
    """
    out = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, tx, mesh))

    def draw(key: Array) -> TrainState:
        # The mesh must divide the tokens, of which nothing but their shape is used.
        shape = (batch_shards(mesh), mesh.shape["sequence"] * mesh.shape["tensor"])
        return nn.unbox(init_state(key, model, tx, shape))

    def take(params: Any) -> TrainState:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        zero = jnp.int32(0)
        return TrainState(zero, zero, params, tx.init(params), zero, zero)

    with jax.set_mesh(mesh), rules():
        if params is None:
            return jax.jit(draw, out_shardings=out)(jax.random.key(seed))
        return jax.jit(take, out_shardings=out)(params)
