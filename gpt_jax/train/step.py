"""One step of training and one of validation, as pure functions of state and batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from gpt_jax.config import Config
from gpt_jax.model.decoder import GPT
from gpt_jax.parallel.sharding import batch_sharding, replicated, rules
from gpt_jax.train.loss import LossSums, batch_loss
from gpt_jax.train.optimizer import learning_rate
from gpt_jax.train.state import TrainState

Batch = dict[str, Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: GPT,
    tx: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from a batch of A micro-batches, arrays (A, B, T) and weights (A, B).

    Rows of weight 0 fill the batch up while it is still growing; micro-batches of nothing else
    are not computed. An update that is not finite leaves parameters and optimizer as they were.
    Returns the new state and scalars: loss (nats per token), gradient_norm (before clipping),
    learning_rate, skipped and skipped_in_row.
    """
    length = batch["inputs"].shape[-1]
    rows = (batch["weights"] > 0).sum()
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)

    def objective(params: Any, index: Array) -> tuple[Array, Array]:
        micro = jax.tree.map(lambda x: x[index], batch)
        rngs = {"dropout": jax.random.fold_in(key, index)}
        sums = batch_loss(model, params, micro, config.train, rngs)
        # Divided by the tokens of the whole batch: the micro-batches' gradients then just add up.
        tokens = (batch["weights"].sum() * length).astype(jnp.float32)
        return sums.objective / tokens, sums.nats / tokens

    loss, grads = _accumulate(objective, state.params, batch["weights"].sum(1) > 0)
    norm = optax.global_norm(grads)
    samples = state.samples + rows.astype(jnp.int32)
    rate = learning_rate(config, samples)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: rate * u, updates))

    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = partial(jax.tree.map, lambda new, old: jnp.where(finite, new, old))
    skipped = (~finite).astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        samples=samples,
        params=kept(params, state.params),
        opt_state=kept(opt_state, state.opt_state),
        skipped=state.skipped + skipped,
        skipped_in_row=(state.skipped_in_row + 1) * skipped,
    )
    return state, {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": rate,
        "skipped": state.skipped,
        "skipped_in_row": state.skipped_in_row,
    }


def _accumulate(objective: Callable, params: Any, filled_A: Array) -> tuple[Array, Any]:
    """Sum of nats and of gradients over the micro-batches that hold anything, in order."""
    gradient = jax.value_and_grad(objective, has_aux=True)
    if filled_A.shape[0] == 1:
        (_, loss), grads = gradient(params, 0)
        return loss, grads

    def add(index: Array, sums: tuple[Array, Any]) -> tuple[Array, Any]:
        (_, loss), grads = gradient(params, index)
        return jax.tree.map(jnp.add, sums, (loss, grads))

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    # The count is data, not shape: one compiled program serves a batch that grows.
    return jax.lax.fori_loop(0, filled_A.sum(), add, zero)


def eval_step(params: Any, batch: Batch, *, model: GPT, config: Config) -> LossSums:
    """Loss sums of a validation batch: arrays (B, T), weights (B, T)."""
    return batch_loss(model, params, batch, config.train)


def compile_train_step(
    abstract: TrainState, model: GPT, tx: optax.GradientTransformation, config: Config, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """`train_step` jitted over the mesh; the state is donated, and keeps its shardings."""
    out = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step = jax.jit(
        partial(train_step, model=model.clone(train=True), tx=tx, config=config),
        donate_argnums=0,
        in_shardings=(out, batch_sharding(mesh, stacked=True)),
        out_shardings=(out, replicated(mesh)),
    )
    return _in_mesh(step, mesh)


def compile_eval_step(
    model: GPT, config: Config, mesh: Mesh
) -> Callable[[Any, Batch], LossSums]:
    """`eval_step` jitted over the mesh."""
    step = partial(eval_step, model=model, config=config)
    return _in_mesh(jax.jit(step, out_shardings=replicated(mesh)), mesh)


def _in_mesh(function: Callable, mesh: Mesh) -> Callable:
    def call(*args: Any) -> Any:
        with jax.set_mesh(mesh), rules():
            return function(*args)

    return call
