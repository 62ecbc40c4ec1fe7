"""One step of training and one of validation: pure functions, and their programs over a mesh."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gpt_jax.config import Config, require
from gpt_jax.model.decoder import GPT
from gpt_jax.model.kernels import choose_attention
from gpt_jax.parallel.mesh import batch_shards, make_mesh
from gpt_jax.parallel.sharding import batch_sharding, local_rows, replicated, rules
from gpt_jax.train import noise
from gpt_jax.train.loss import LossSums, batch_loss
from gpt_jax.train.optimizer import learning_rate, make_optimizer
from gpt_jax.train.state import TrainState, abstract_state, create_state
from gpt_jax.train.tune import ADAPTERS, BESIDE, CLASSIFIER, effective, join, split

Batch = dict[str, Any]
"""Arrays of one batch by name, on the host or on the devices."""


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: GPT,
    tx: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from a batch of A micro-batches, arrays (A, B, T), weights (A, B) or (A, B, T).

    The loss is the mean over the tokens of the whole batch, each by its weight. Rows of weight 0
    fill the batch up while it is still growing, and micro-batches of nothing else, at its end, are
    not computed; all other rows are samples, by which the schedule goes, whatever their tokens
    weigh. Gradients are of the trained parameters alone (`train/tune.py`). An update that is not
    finite leaves parameters and optimizer as they were.

    With classes the mean of their loss over the examples of the batch is minimised, and the tokens'
    times `tune.lm_weight` besides.

    Returns the new state and scalars: loss (nats per token), gradient_norm (before clipping),
    learning_rate, skipped and skipped_in_row; with `train.noise_scale` those of `noise.averaged`.
    """
    weights, length = batch["weights"], batch["inputs"].shape[-1]
    by_token = weights.ndim == 3
    rows = ((weights > 0).any(-1) if by_token else weights > 0).sum()
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    trained, frozen = split(state.params, config.tune)

    def objective(trained: Any, index: Array) -> tuple[Array, dict[str, Array]]:
        micro = jax.tree.map(lambda x: x[index], batch)
        rngs = {"dropout": jax.random.fold_in(key, index)}
        whole = join(trained, frozen)
        classifier = whole.get(CLASSIFIER)
        sums = batch_loss(model, effective(whole, config), micro, config.train, rngs, classifier)
        # Divided by the tokens of the whole batch: the micro-batches' gradients then just add up.
        tokens = (weights.sum() * (1 if by_token else length)).astype(jnp.float32)
        objective = sums.objective / tokens
        if sums.classes is not None:
            asked = (batch["labels"] >= 0) & (weights > 0)
            examples = asked.sum().astype(jnp.float32)
            objective = sums.classes.nats / examples + config.tune.lm_weight * objective
        return objective, {"loss": sums.nats / tokens}

    weights_A = weights.sum(tuple(range(1, weights.ndim)))
    if not config.train.noise_scale:
        means, grads = accumulate(objective, trained, weights_A > 0)
        return updated(state, grads, rows, means, tx=tx, config=config)
    share_A = weights_A / weights_A.sum()
    means, grads = accumulate(
        objective,
        trained,
        weights_A > 0,
        lambda grads, index: noise.squared_over_share(grads, share_A[index]),
    )
    tokens = weights_A.sum() * (1 if by_token else length)
    kept, measured = noise.averaged(state.noise, means.pop(noise.SQUARED), grads, share_A, tokens)
    state = dataclasses.replace(state, noise=kept)
    return updated(state, grads, rows, means | measured, tx=tx, config=config)


def updated(
    state: TrainState,
    grads: Any,
    rows: Array,
    means: dict[str, Array],
    *,
    tx: optax.GradientTransformation,
    config: Config,
    usable: Array | bool = True,
) -> tuple[TrainState, dict[str, Array]]:
    """The state after a batch of `rows` samples with these gradients, and the metrics of the step.

    `means` are the metrics of the batch itself, its loss among them. Where it is not `usable`, or
    loss or gradients are not finite, parameters and optimizer stay as they were.
    """
    trained, frozen = split(state.params, config.tune)
    norm = optax.tree.norm(grads)
    samples = state.samples + rows.astype(jnp.int32)
    rate = learning_rate(config, samples)
    updates, opt_state = tx.update(grads, state.opt_state, trained)
    updated = optax.apply_updates(trained, jax.tree.map(lambda u: rate * u, updates))

    good = jnp.isfinite(means["loss"]) & jnp.isfinite(norm) & usable
    kept = partial(jax.tree.map, lambda new, old: jnp.where(good, new, old))
    skipped = (~good).astype(jnp.int32)
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        samples=samples,
        params=join(kept(updated, trained), frozen),
        opt_state=kept(opt_state, state.opt_state),
        skipped=state.skipped + skipped,
        skipped_in_row=(state.skipped_in_row + 1) * skipped,
    )
    return state, means | {
        "gradient_norm": norm,
        "learning_rate": rate,
        "skipped": state.skipped,
        "skipped_in_row": state.skipped_in_row,
    }


def accumulate(
    objective: Callable[[Any, Array], tuple[Array, Any]],
    params: Any,
    filled_A: Array,
    measure: Callable[[Any, Array], dict[str, Array]] | None = None,
) -> tuple[Any, Any]:
    """Sums of what `objective` gives besides its value, and of its gradients.

    Over the micro-batches up to the last that is `filled`; the objective is called with `params`
    and the number of one. `measure`, where there is one, is called with its gradients and the
    number: what it gives is summed beside the rest.
    """
    gradient = jax.value_and_grad(objective, has_aux=True)
    if filled_A.shape[0] == 1:
        (_, aside), grads = gradient(params, 0)
        return aside, grads

    def add(index: Array, sums: tuple[Any, Any]) -> tuple[Any, Any]:
        (_, aside), grads = gradient(params, index)
        if measure:
            aside = aside | measure(grads, index)
        return jax.tree.map(jnp.add, sums, (aside, grads))

    aside = jax.eval_shape(objective, params, jnp.int32(0))[1]
    if measure:
        aside = aside | jax.eval_shape(measure, params, jnp.int32(0))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (aside, params))
    # The count is data, not shape: one compiled program serves a batch that grows.
    count = jnp.where(filled_A, jnp.arange(1, filled_A.shape[0] + 1), 0).max()
    return jax.lax.fori_loop(0, count, add, zero)


def eval_step(params: Any, batch: Batch, *, model: GPT, config: Config) -> LossSums:
    """Loss sums of a validation batch: arrays (B, T), weights (B, T); adapters are merged."""
    classifier = params.get(CLASSIFIER)
    return batch_loss(model, effective(params, config), batch, config.train, classifier=classifier)


class Program:
    """The compiled functions of an experiment over a mesh, and the shape of its state.

    A way of training is a subclass with a `step` of its own.

    Raises InputError where the mesh does not fit the devices or cannot divide a parameter, the
    batch does not divide over the mesh, or the kernel that is asked for cannot do what is asked.
    """

    must_be_finite = "loss and gradients"
    """Or a step changes nothing ..."""
    remedy = (
        "lower --optimizer.learning-rate, lengthen --optimizer.warmup-tokens, or look at the text"
    )
    """... and this is what can be done about it."""
    looks_away: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    """Within it a step waits for what has no usual length, and is not stuck."""

    def __init__(self, config: Config, devices: Sequence[Any] | None = None) -> None:
        self.config = config
        self.mesh = make_mesh(config.mesh, devices)
        axes = ("sequence", "tensor") if config.model.split_residual else ("sequence",)
        parts = math.prod(self.mesh.shape[axis] for axis in axes)
        require(
            config.sequence_length % parts == 0,
            f"a sequence must divide over the mesh, and {config.sequence_length} tokens do not "
            f"divide over {' x '.join(axes)} = {parts} devices: change --mesh.sequence, or "
            "--data.sequence-length.",
        )
        shards = batch_shards(self.mesh)
        self.rows, self.num_micro = micro_batches(config, shards)
        most = self.rows // shards // 2 * config.sequence_length
        require(
            self.num_micro > 1 or not config.train.noise_scale,
            "the gradient noise scale is measured between micro-batches, and the batch of "
            f"{config.train.batch_tokens} tokens is taken as one: set "
            + (f"--train.device-batch-tokens {most}, or less" if most else "--train.batch-tokens")
            + f"{'' if most else ' to two sequences for each device, or more'}.",
        )
        self.local_rows = local_rows(self.mesh, self.rows)
        """The rows of a micro-batch that this host loads."""
        self.train_rows = self.local_rows
        """Those that it loads for training."""
        self.attention = choose_attention(
            config.model,
            self.mesh.devices.flat[0],
            length=config.sequence_length,
            parts=self.mesh.shape["sequence"],
            segmented=config.data.segmented,
        )
        self.model = GPT(dataclasses.replace(config.model, attention=self.attention.kernel))
        self.tx = make_optimizer(config.optimizer, config.model)
        self.abstract = abstract_state(
            self.model,
            self.tx,
            self.mesh,
            config.tune,
            bool(config.feedback.method),
            config.train.noise_scale,
        )
        state = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        with_dropout = self.model.clone(train=True)
        train = partial(self.step(), model=with_dropout, tx=self.tx, config=config)
        # Pinned on both sides, or the second call, on what the first gave back, compiles again.
        self._train = jax.jit(
            train,
            donate_argnums=0,
            in_shardings=(state, batch_sharding(self.mesh, stacked=True)),
            out_shardings=(state, replicated(self.mesh)),
            compiler_options=compiler_options(config, self.mesh.devices.flat[0].platform),
        )
        evaluate = partial(eval_step, model=self.model, config=config)
        self._evaluate = jax.jit(evaluate, out_shardings=replicated(self.mesh))
        self.plain = {name: x for name, x in self.abstract.params.items() if name not in BESIDE}
        """Of `abstract`, the parameters of the model alone."""
        shardings = {name: x for name, x in state.params.items() if name not in BESIDE}
        self._effective = jax.jit(partial(effective, config=config), out_shardings=shardings)

    def step(self) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
        """The pure function of a training step."""
        return train_step

    def close(self) -> None:
        """End what it has started besides programs on the devices."""

    def create_state(self, params: Any = None) -> TrainState:
        """The state at step 0, of plain `params` where they are given, of fresh ones where not."""
        c = self.config
        return create_state(
            c.train.seed,
            self.model,
            self.tx,
            self.mesh,
            params,
            c.tune,
            bool(c.feedback.method),
            c.train.noise_scale,
        )

    def effective(self, params: Any) -> Any:
        """The plain tree of a state's parameters: themselves, where there are no adapters."""
        if ADAPTERS in params:
            return self._effective(params)
        return effective(params, self.config)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """`train_step` over the mesh, dispatched and not waited for; `state` is donated.

        `batch` holds the rows `local_rows` of each micro-batch.
        """
        with jax.set_mesh(self.mesh), rules():
            return self._train(state, self._placed(batch, stacked=True))

    def eval_step(self, params: Any, batch: Batch) -> LossSums:
        """`eval_step` over the mesh; `batch`: the rows `local_rows`."""
        with jax.set_mesh(self.mesh), rules():
            return self._evaluate(params, self._placed(batch, stacked=False))

    def lower_train_step(self) -> jax.stages.Lowered:
        """The training step for a full batch, traced and not compiled: no device is touched."""
        sharding = batch_sharding(self.mesh, stacked=True)
        rows = (self.num_micro, self.rows)
        tokens = jax.ShapeDtypeStruct((*rows, self.config.sequence_length), jnp.int32)
        batch = {"inputs": tokens, "targets": tokens}
        by_token = self.config.data.supervised
        batch["weights"] = jax.ShapeDtypeStruct(tokens.shape if by_token else rows, jnp.float32)
        if self.config.data.segmented:
            batch |= {"positions": tokens, "segment_ids": tokens}
        if self.config.tune.classes:
            batch["labels"] = tokens
        batch = {name: x.update(sharding=sharding) for name, x in batch.items()}
        with jax.set_mesh(self.mesh), rules():
            return self._train.lower(self.abstract, batch)

    def _placed(self, batch: Batch, stacked: bool) -> Batch:
        """The global arrays of which `batch` holds this host's rows."""
        sharding, axis = batch_sharding(self.mesh, stacked), int(stacked)

        def place(x: Any) -> Array:
            def part(index: Any) -> Any:
                start, stop, _ = index[axis].indices(self.rows)
                first = int(np.searchsorted(self.local_rows, start))
                return x[(*index[:axis], slice(first, first + stop - start))]

            shape = (*x.shape[:axis], self.rows, *x.shape[axis + 1 :])
            return jax.make_array_from_callback(shape, sharding, part)

        return {name: place(x) for name, x in batch.items()}


def compiler_options(config: Config, platform: str) -> dict[str, Any]:
    """The experiment's options for XLA that a platform ("tpu", "cuda", "cpu", ...) has."""
    of_others = tuple(
        prefix
        for prefix, home in (
            ("xla_tpu_", ("tpu",)),
            ("xla_jf_", ("tpu",)),
            ("xla_gpu_", ("gpu", "cuda", "rocm")),
            ("xla_cpu_", ("cpu",)),
        )
        if platform not in home
    )
    options = {}
    for option in config.compiler_options:
        name, _, value = option.partition("=")
        if not name.startswith(of_others):
            options[name] = {"true": True, "false": False}.get(value.lower(), value)
    return options


def micro_batches(config: Config, shards: int) -> tuple[int, int]:
    """(rows of a micro-batch over all devices, micro-batches of a full batch).

    The fewest micro-batches of which a device's part is at most `device_batch_tokens`. `shards` is
    the number of parts the batch is split in. Raises InputError where they do not divide it.
    """
    length = config.sequence_length
    rows = config.train.batch_tokens // length
    require(
        rows % shards == 0,
        f"the batch must divide over the mesh, and {rows} sequences of {length} tokens do not "
        f"divide over slice x pipeline x data x fsdp = {shards} devices: set --train.batch-tokens "
        f"to a multiple of {shards * length}, or another mesh.",
    )
    per_device = rows // shards
    limit = config.train.device_batch_tokens // length or per_device
    num_micro = next(
        n for n in range(1, per_device + 1) if per_device % n == 0 and per_device // n <= limit
    )
    return rows // num_micro, num_micro
