"""The train state, born sharded: no array of it ever exists whole on one host."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from gpt_jax.config import ModelConfig, TuneConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.model.pipeline import check_stages
from gpt_jax.parallel.mesh import batch_shards
from gpt_jax.parallel.sharding import rules, shardings
from gpt_jax.train.classify import with_classifier
from gpt_jax.train.noise import fresh
from gpt_jax.train.tune import split, with_adapters


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes; with the config, all that a run is."""

    step: Array
    """Steps taken, () int32."""
    samples: Array
    """Windows of text drawn, () int32: the position in the data, and in tokens the schedule's."""
    params: Any
    """All of them, trained or not, with what lies beside them (`train/tune.py`)."""
    opt_state: Any
    """Of the trained ones alone."""
    skipped: Array
    """Steps that changed nothing because they were not finite, () int32."""
    skipped_in_row: Array
    """How many of them were the last steps, () int32."""
    feedback: Any = dataclasses.field(default_factory=dict)
    """Where a run learns from feedback (`train/dpo.py`, `train/reinforce.py`): the trained
    parameters as they were at its start, and what the rewards of its batches were, float32, by
    names."""
    noise: Any = dataclasses.field(default_factory=dict)
    """Where the gradient noise scale is measured, its running means (`train/noise.py`)."""

    def rest(self) -> dict[str, Any]:
        """What is saved beside the parameters, by names.

        Of the last two only what there is: checkpoints of other runs are what they were before.
        """
        optional = ("feedback", "noise")
        fields = {name: x for name, x in vars(self).items() if name not in optional or x}
        return fields | {"params": {}}


ALL = TuneConfig()
"""Everything is trained."""


def boxed_params(model: ModelConfig, tune: TuneConfig = ALL) -> Any:
    """Shapes of a model's parameters and what lies beside them, boxed with their logical axes."""
    return jax.eval_shape(partial(init_params, model=GPT(model), tune=tune), jax.random.key(0))


def init_params(key: Array, model: GPT, tune: TuneConfig, shape: tuple[int, int] = (1, 1)) -> Any:
    """Fresh parameters, boxed with their axes; `shape`: of tokens to trace with."""
    params = model.init(key, jnp.zeros(shape, jnp.int32))["params"]
    return _with_more(params, key, tune, model.config)


def _with_more(params: Any, key: Array, tune: TuneConfig, model: ModelConfig) -> Any:
    """Plain parameters with the adapters and the classifier that `tune` asks for."""
    return with_classifier(with_adapters(params, key, tune), key, tune, model)


def init_state(
    params: Any,
    tx: optax.GradientTransformation,
    tune: TuneConfig,
    feedback: bool = False,
    noise: bool = False,
) -> TrainState:
    """The state at step 0 of parameters, boxed or not.

    `feedback`: of a run that learns from it; `noise`: of one that measures its gradients'.
    """
    zero, trained = jnp.int32(0), split(params, tune)[0]
    kept = {}
    if feedback:
        # Copied, or the two would be one array that a step frees.
        start = jax.tree.map(jnp.copy, trained)
        kept = {"start": start, "reward": jnp.float32(0), "batches": jnp.float32(0)}
    means = fresh() if noise else {}
    return TrainState(zero, zero, params, tx.init(trained), zero, zero, kept, means)


def abstract_state(
    model: GPT,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    tune: TuneConfig = ALL,
    feedback: bool = False,
    noise: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without computing any of it.

    Raises InputError naming a parameter that the mesh cannot divide, or layers that do not divide
    into the stages of its pipeline; or where `tune` freezes what there is not, or everything.
    """
    check_stages(model.config, mesh.shape.get("pipeline", 1))
    params = boxed_params(model.config, tune)
    init = partial(init_state, tx=tx, tune=tune, feedback=feedback, noise=noise)
    return laid_out(jax.eval_shape(init, params), mesh)


def laid_out(boxed: Any, mesh: Mesh) -> Any:
    """The shapes and dtypes of a boxed tree, with their shardings over the mesh."""
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
    tune: TuneConfig = ALL,
    feedback: bool = False,
    noise: bool = False,
) -> TrainState:
    """The state at step 0: each device computes its own part of it.

    Its parameters are drawn from `seed`, or are `params`, a plain tree, in float32 where these are
    given; adapters and classifier are drawn in either case.
    """
    abstract = abstract_state(model, tx, mesh, tune, feedback, noise)
    out = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    init = partial(init_state, tx=tx, tune=tune, feedback=feedback, noise=noise)

    def draw(key: Array) -> TrainState:
        # The mesh must divide the tokens, of which nothing but their shape is used.
        shape = (batch_shards(mesh), mesh.shape["sequence"] * mesh.shape["tensor"])
        return nn.unbox(init(init_params(key, model, tune, shape)))

    def take(key: Array, params: Any) -> TrainState:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return init(_with_more(params, key, tune, model.config))

    key = jax.random.key(seed)
    with jax.set_mesh(mesh), rules():
        if params is None:
            return jax.jit(draw, out_shardings=out)(key)
        return jax.jit(take, out_shardings=out)(key, params)
