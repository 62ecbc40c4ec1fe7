"""Next-token cross-entropy in float32, without the logits of the whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from gpt_jax.config import ModelConfig, TrainConfig
from gpt_jax.model.decoder import GPT, head_of, unembed
from gpt_jax.parallel.sharding import RULES
from gpt_jax.train.classify import ClassSums, class_sums

MAX_LOGITS = 2**24
"""Logits that may exist at once on a device; beyond it, sequences are taken in parts."""


@flax.struct.dataclass
class LossSums:
    """Sums over tokens, so that micro-batches, devices and hosts add up to the whole batch."""

    objective: Array
    """What is minimised: nats, with label smoothing and z-loss."""
    nats: Array
    """Cross-entropy of the true tokens alone."""
    weight: Array
    """Tokens counted."""
    classes: ClassSums | None = None
    """Where examples have classes; no part of the objective above."""


def token_losses(
    logits_BTV: Array, targets_BT: Array, vocab_size: int, z_loss: float, label_smoothing: float
) -> tuple[Array, Array]:
    """Objective and cross-entropy of each token, two (B, T) float32, in nats.

    With Z the softmax's normaliser and s the label smoothing:
    objective = (1 - s) (log Z - logit_target) + s (log Z - mean logit) + z_loss log^2 Z.
    """
    log_z_BT, target_logit_BT = normaliser_and_target(logits_BTV, targets_BT)
    nats_BT = log_z_BT - target_logit_BT
    objective_BT = nats_BT
    if label_smoothing > 0:
        exists_V = jnp.arange(logits_BTV.shape[-1]) < vocab_size
        mean_logit_BT = jnp.where(exists_V, logits_BTV, 0.0).sum(-1) / vocab_size
        smoothed_BT = log_z_BT - mean_logit_BT
        objective_BT = (1 - label_smoothing) * nats_BT + label_smoothing * smoothed_BT
    if z_loss > 0:
        objective_BT = objective_BT + z_loss * jnp.square(log_z_BT)
    return objective_BT, nats_BT


@jax.custom_vjp
def normaliser_and_target(logits_BTV: Array, targets_BT: Array) -> tuple[Array, Array]:
    """log Z and the logit of the target, two (B, T).

    Its derivative is written out because it is then one pass over the logits, the largest array
    of all: softmax from log Z, and the target by comparison, where autodiff makes several passes.
    """
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return log_z_BT, jnp.where(_is_target(logits_BTV, targets_BT), logits_BTV, 0.0).sum(-1)


def _is_target(logits_BTV: Array, targets_BT: Array) -> Array:
    # A comparison and not a gather: it fuses, and works on a part of a split vocabulary.
    return jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]


def _forward(logits_BTV: Array, targets_BT: Array) -> tuple[tuple[Array, Array], tuple]:
    outputs = normaliser_and_target(logits_BTV, targets_BT)
    return outputs, (logits_BTV, targets_BT, outputs[0])


def _backward(saved: tuple, gradients: tuple[Array, Array]) -> tuple[Array, None]:
    logits_BTV, targets_BT, log_z_BT = saved
    of_log_z_BT, of_target_BT = gradients
    softmax_BTV = jnp.exp(logits_BTV - log_z_BT[..., None])
    picked_BTV = jnp.where(_is_target(logits_BTV, targets_BT), of_target_BT[..., None], 0.0)
    return softmax_BTV * of_log_z_BT[..., None] + picked_BTV, None


normaliser_and_target.defvjp(_forward, _backward)


def num_loss_chunks(length: int, padded_vocab_size: int, rows: int = 1) -> int:
    """Equal parts in which the logits of `rows` sequences are made, each of MAX_LOGITS at most."""
    return next(
        n
        for n in range(1, length + 1)
        if length % n == 0
        and (rows * (length // n) * padded_vocab_size <= MAX_LOGITS or n == length)
    )


def batch_loss(
    model: GPT,
    params: Any,
    batch: dict[str, Array],
    config: TrainConfig,
    rngs: Any = None,
    classifier: Any = None,
) -> LossSums:
    """Loss sums of a micro-batch.

    `batch` holds inputs and targets (B, T) int32, weights (B,) or (B, T) float32 and, where
    documents are kept apart, positions and segment_ids (B, T) int32; for a `classifier` labels too,
    as `class_sums` takes them.
    """
    x_BTD = _hidden(model, params, batch, rngs)
    targets_BT, weights = batch["targets"], batch["weights"]
    weights_BT = jnp.broadcast_to(
        weights if weights.ndim == 2 else weights[:, None], targets_BT.shape
    )
    own = partial(_head_loss, model=model.config, config=config)
    head, tokens = head_of(model.config, params), (x_BTD, targets_BT, weights_BT)
    axes = _split_axes()
    if not axes:
        sums = own(head, *tokens)
    else:
        of_devices = partial(_as_parts, own)
        parts = _over_mesh(of_devices, head, tokens, axes, PartitionSpec(axes), model.config)
        sums = jax.tree.map(lambda x: x.sum(), parts)
    if classifier is None:
        return sums
    # Rows that fill up a batch have no class.
    labels_BT = jnp.where(weights_BT > 0, batch["labels"], -1)
    classes = class_sums(classifier, x_BTD, labels_BT)
    return LossSums(sums.objective, sums.nats, sums.weight, classes)


def _as_parts(own: Callable[..., Any], *args: Any) -> Any:
    """What `own` gives, with an axis for the devices that it is of."""
    return jax.tree.map(lambda x: x[None], own(*args))


def token_nats(
    model: GPT,
    params: Any,
    batch: dict[str, Array],
    vocab_size: int,
    temperature: float = 1.0,
    rngs: Any = None,
) -> Array:
    """-log p of each target of a micro-batch, (B, T) float32, in nats; can be differentiated.

    p is of the first `vocab_size` tokens alone, and of the logits over `temperature`: as
    `model/decode.py` draws. `batch` is that of `batch_loss`, of whose weights nothing is read.
    """
    x_BTD = _hidden(model, params, batch, rngs)
    own = partial(_head_nats, model=model.config, vocab_size=vocab_size, temperature=temperature)
    head, tokens, axes = head_of(model.config, params), (x_BTD, batch["targets"]), _split_axes()
    if not axes:
        return own(head, *tokens)
    return _over_mesh(own, head, tokens, axes, _spec_of_tokens(axes), model.config)


def _hidden(model: GPT, params: Any, batch: dict[str, Array], rngs: Any) -> Array:
    """What the output layer reads, (B, T, D)."""
    x_BTD, _ = model.apply(
        {"params": params},
        batch["inputs"],
        positions_BT=batch.get("positions"),
        segment_ids_BT=batch.get("segment_ids"),
        rngs=rngs,
        method="hidden",
    )
    return x_BTD


def _head_loss(
    head: Any,
    x_BTD: Array,
    targets_BT: Array,
    weights_BT: Array,
    *,
    model: ModelConfig,
    config: TrainConfig,
) -> LossSums:
    """Sums over the tokens of one device, in parts whose logits are made again backwards."""

    def chunk_sums(x_BTD: Array, targets_BT: Array, weights_BT: Array) -> LossSums:
        logits_BTV = unembed(model, head, x_BTD)
        objective_BT, nats_BT = token_losses(
            logits_BTV, targets_BT, model.vocab_size, config.z_loss, config.label_smoothing
        )
        return LossSums(
            (objective_BT * weights_BT).sum(), (nats_BT * weights_BT).sum(), weights_BT.sum()
        )

    rows, length = targets_BT.shape
    num_chunks = num_loss_chunks(length, model.padded_vocab_size, rows)
    if num_chunks == 1:
        return chunk_sums(x_BTD, targets_BT, weights_BT)

    def step(sums: LossSums, chunk: Array) -> tuple[LossSums, None]:
        split = (x_BTD, targets_BT, weights_BT)
        split = (x.reshape(rows, num_chunks, -1, *x.shape[2:]) for x in split)
        parts = (jax.lax.dynamic_index_in_dim(x, chunk, axis=1, keepdims=False) for x in split)
        return jax.tree.map(jnp.add, sums, jax.checkpoint(chunk_sums)(*parts)), None

    zero = jnp.float32(0)
    sums, _ = jax.lax.scan(step, LossSums(zero, zero, zero), jnp.arange(num_chunks))
    return sums


def _head_nats(
    head: Any,
    x_BTD: Array,
    targets_BT: Array,
    *,
    model: ModelConfig,
    vocab_size: int,
    temperature: float,
) -> Array:
    """`token_nats` of the tokens of one device, in parts as `_head_loss` takes them."""

    def chunk_nats(x_BTD: Array, targets_BT: Array) -> Array:
        logits_BTV = unembed(model, head, x_BTD) / temperature
        drawn_V = jnp.arange(logits_BTV.shape[-1]) < vocab_size
        logits_BTV = jnp.where(drawn_V, logits_BTV, -jnp.inf)
        log_z_BT, target_logit_BT = normaliser_and_target(logits_BTV, targets_BT)
        return log_z_BT - target_logit_BT

    rows, length = targets_BT.shape
    num_chunks = num_loss_chunks(length, model.padded_vocab_size, rows)
    if num_chunks == 1:
        return chunk_nats(x_BTD, targets_BT)

    def part(chunk: Array) -> Array:
        split = (x.reshape(rows, num_chunks, -1, *x.shape[2:]) for x in (x_BTD, targets_BT))
        parts = (jax.lax.dynamic_index_in_dim(x, chunk, axis=1, keepdims=False) for x in split)
        return jax.checkpoint(chunk_nats)(*parts)

    return jax.lax.map(part, jnp.arange(num_chunks)).swapaxes(0, 1).reshape(rows, length)


def _axes_of_tokens() -> tuple[str, ...]:
    """Mesh axes that split B and T."""
    over = dict(RULES)
    return (*(over["B"] or ()), *(over["T"] or ()))


def _split_axes() -> tuple[str, ...]:
    """Those of them that the mesh of the context splits."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in _axes_of_tokens() if not mesh.empty and mesh.shape[axis] > 1)


def _spec_of_tokens(axes: tuple[str, ...]) -> PartitionSpec:
    """How an array (B, T, ...) is split over these axes."""
    rows, length = (tuple(a for a in dict(RULES)[letter] or () if a in axes) for letter in "BT")
    return PartitionSpec(rows or None, length or None)


def _over_mesh(
    function: Callable[..., Any],
    head: Any,
    tokens: tuple[Array, ...],
    axes: tuple[str, ...],
    out: PartitionSpec,
    model: ModelConfig,
) -> Any:
    """`function(head, *tokens)` on each device's own tokens; V may be split over the other axes.

    Left to itself, XLA sums the gradient of the output layer over the devices in every part of
    every sequence. Here each device keeps its own sum, in float32, and the devices' are added once.
    """

    def own(head: Any, *tokens: Array) -> Any:
        with nn.logical_axis_rules(_of_auto_axes(RULES, axes)):
            # The sum of gradients is of this type; the products cast it back.
            return function(jax.tree.map(lambda x: x.astype(jnp.float32), head), *tokens)

    # Gathered, and its gradient added up, in the type that is multiplied in.
    head = jax.tree.map(lambda x: x.astype(model.dtype), head)
    return jax.shard_map(
        own,
        in_specs=(PartitionSpec(), *[_spec_of_tokens(axes)] * len(tokens)),
        out_specs=out,
        axis_names=set(axes),
        check_vma=False,
    )(head, *tokens)


def _of_auto_axes(rules: Any, manual: tuple[str, ...]) -> Any:
    """Rules without the axes that `shard_map` has taken."""
    return [
        (letter, tuple(axis for axis in over or () if axis not in manual) or None)
        for letter, over in rules
    ]
