"""The coordinate check of Tensor Programs V (Yang et al. 2022, section D.1, figure 5).

A few steps of training at several widths. In a correct muP no activation's size, nor how far a
step moves it, depends on the width; in the standard parametrisation with Adam what the hidden
matrices and the output layer make moves further the wider the model is, until it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_jax.config import Config, Parametrisation, require
from gpt_jax.model.decoder import GPT, MLP, Attention
from gpt_jax.scaling.widths import widened
from gpt_jax.train.step import Batch, Program

KINDS = ("embedded", "queries", "attention", "mlp", "residual", "logits")
"""What is measured: token and position embeddings; queries, what attention and MLP add and what a
layer leaves, on average over the layers; and the logits."""


@dataclass(frozen=True)
class Coordinate:
    """Sizes of one kind of activation of one model, means over all its coordinates."""

    parametrisation: Parametrisation
    width: int
    step: int
    """Updates taken."""
    kind: str
    """One of KINDS."""
    size: float
    """Mean |x|."""
    change: float
    """Mean |x - x at step 0|, of the same tokens."""


def coordinate_check(
    config: Config,
    widths: Sequence[int],
    steps: int,
    parametrisations: Sequence[Parametrisation] = ("standard", "mup"),
) -> list[Coordinate]:
    """Activations of `config.model` at each width after 0 to `steps` updates.

    All models see one batch of random tokens, of the config's own size, again and again, as the
    check of the paper's package does. Raises InputError where a width is none of the model's
    family, or vocab_size is 0.
    """
    batch, found = _batch(config), []
    for parametrisation in parametrisations:
        for width in widths:
            model = widened(config.model, width, parametrisation)
            first: dict[str, Array] = {}
            for step, now in enumerate(_trained(replace(config, model=model), batch, steps)):
                first = first or now
                for kind, x in now.items():
                    size, change = float(jnp.abs(x).mean()), float(jnp.abs(x - first[kind]).mean())
                    found.append(Coordinate(parametrisation, width, step, kind, size, change))
    return found


def _batch(config: Config) -> Batch:
    """One micro-batch, (1, B, T)."""
    require(
        config.model.vocab_size > 0,
        "a coordinate check draws tokens, and vocab_size=0 leaves it to a tokenizer how many there "
        "are: set model.vocab_size.",
    )
    rows, length = config.train.batch_tokens // config.sequence_length, config.sequence_length
    tokens = np.random.default_rng(config.train.seed).integers(
        0, config.model.vocab_size, (1, rows, length + 1), np.int32
    )
    weights = np.ones((1, rows), np.float32)
    return {"inputs": tokens[..., :-1], "targets": tokens[..., 1:], "weights": weights}


def _trained(config: Config, batch: Batch, steps: int) -> Iterable[dict[str, Array]]:
    """The activations by kind after 0 to `steps` updates, float32."""
    config = replace(config, train=replace(config.train, device_batch_tokens=0))
    program = Program(config, jax.devices()[:1])
    state, apply = program.create_state(), jax.jit(activations, static_argnums=0)
    for step in range(steps + 1):
        if step:
            state, _ = program.train_step(state, batch)
        yield apply(program.model, state.params, batch["inputs"][0])


def activations(model: GPT, params: Any, tokens_BT: Array) -> dict[str, Array]:
    """Activations by kind, float32; those of layers with the layers' axis first."""

    def is_part(module: nn.Module, name: str) -> bool:
        return isinstance(module, Attention | MLP) and name == "__call__"

    logits_BTV, kept = model.apply(
        {"params": params}, tokens_BT, capture_intermediates=is_part, mutable=["intermediates"]
    )
    sown: Any = kept["intermediates"]
    layers = sown["layers"].values()
    by_layer = {
        "queries": [layer["attention"]["queries"][0] for layer in layers],
        "attention": [layer["attention"]["__call__"][0][0] for layer in layers],
        "mlp": [layer["mlp"]["__call__"][0] for layer in layers],
        "residual": [layer["output"][0] for layer in layers],
    }
    of_layers = {kind: jnp.concatenate(parts) for kind, parts in by_layer.items()}
    found = {"embedded": sown["embedded"][0], **of_layers, "logits": logits_BTV}
    return {kind: found[kind].astype(jnp.float32) for kind in KINDS}


def slopes(
    coordinates: Iterable[Coordinate], what: str = "change"
) -> dict[tuple[Parametrisation, int, str], float]:
    """How `what` ("size" or "change") goes with the width: the power of it, by least squares.

    By parametrisation, step and kind; nothing of what is 0 at a width, as all changes are at step
    0. 0: it does not depend on the width.
    """
    points: dict[tuple[Parametrisation, int, str], list[tuple[float, float]]] = {}
    for c in coordinates:
        value = getattr(c, what)
        log = math.log(value) if value > 0 and math.isfinite(value) else math.nan
        key = (c.parametrisation, c.step, c.kind)
        points.setdefault(key, []).append((math.log(c.width), log))
    fitted = {}
    for key, of_key in points.items():
        x, y = zip(*of_key, strict=True)
        fitted[key] = float(np.polyfit(x, y, 1)[0])
    return {key: slope for key, slope in fitted.items() if math.isfinite(slope)}
