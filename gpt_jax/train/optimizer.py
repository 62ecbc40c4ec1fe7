"""The optimizer of the paper as an Optax chain, and its learning rate as a function of tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import MuonDimensionNumbers

from gpt_jax.config import Config, ModelConfig, OptimizerConfig
from gpt_jax.model.parametrisation import rate_multiplier

DECAYED = ("embedding", "head", "project_in", "project_out", "qkv", "out", "up", "down", "weights")
"""Parameters under weight decay, by name: the matrices. Biases, norms and positions are not. Of
adapters it is their own halves that decay, which draws a matrix to what it was at the start."""
ADAPTERS = tuple(f"{name}_{half}" for name in ("qkv", "out", "up", "down") for half in "ab")

# The matrices inside the stacked arrays of the layers (L, ...): what Muon orthogonalises.
# Queries, keys and values are a matrix (D, N H) each: axis 2 of qkv (L, D, 3, N, H) is a batch.
MUON_DIMENSIONS = {
    "qkv": MuonDimensionNumbers(reduction_axis=1, output_axis=(3, 4)),
    "out": MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=3),
    "up": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
    "down": MuonDimensionNumbers(reduction_axis=1, output_axis=2),
}
# The halves of adapters: (L, D, r) and (L, r, 3, N, H), (L, N, H, r) and (L, r, D), and so on.
MUON_DIMENSIONS |= dict.fromkeys(ADAPTERS, MuonDimensionNumbers(reduction_axis=1, output_axis=2))
MUON_DIMENSIONS |= {"qkv_b": MUON_DIMENSIONS["qkv"], "out_a": MUON_DIMENSIONS["out"]}
MUON_RMS = 0.2
"""RMS of a Muon update, that of a typical AdamW one, so that both share a learning rate (Moonlight,
Liu et al. 2025, section 2.2)."""


def learning_rate(config: Config, samples: Array) -> Array:
    """The rate after `samples` windows, float32 (): linear warm-up, cosine, then a floor.

    lr(t) = peak * t / warmup                                  for t < warmup,
            floor + (peak - floor) (1 + cos(pi progress)) / 2  with progress from warmup to decay,
    in tokens (GPT-3, appendix B: 375 M, then a cosine to 10 % at 260 B). The update of a step uses
    the tokens that the step ends with, so that the first one is not lost to a rate of zero.
    """
    o = config.optimizer
    tokens = samples.astype(jnp.float32) * config.sequence_length
    warmup, decay = float(o.warmup_tokens), float(config.decay_tokens)
    progress = jnp.clip((tokens - warmup) / max(decay - warmup, 1.0), 0.0, 1.0)
    floor = o.final_learning_rate_fraction
    cosine = floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    rising = jnp.minimum(tokens / max(warmup, 1.0), 1.0)
    return o.learning_rate * jnp.where(tokens < warmup, rising, cosine)


def make_optimizer(config: OptimizerConfig, model: ModelConfig) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW or Muon, at a learning rate of 1: the step multiplies it in.

    With Muon, what is no matrix of a layer goes through Adam, with Nesterov's momentum (Optax
    gives both halves the same) and without weight decay.

    With `model.parametrisation` mup the learning rate of each matrix follows from the width
    (`model/parametrisation.py`). Decay does not: a step takes the same share, learning rate x
    weight decay, of every decayed matrix at every width, as the paper's own package has it
    (github.com/microsoft/mup, MuAdam); multiplied with the rest it would fade as the width grows.
    """
    o, by_width = config, model.width_multiplier != 1
    decay = 0.0 if by_width else o.weight_decay
    if o.name == "muon":
        update = optax.contrib.muon(
            learning_rate=1.0,
            weight_decay=decay,
            adam_b1=o.b1,
            adam_b2=o.b2,
            eps=o.eps,
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=MUON_RMS,
        )
    else:
        update = optax.adamw(1.0, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=decay, mask=decay_mask)
    steps = [optax.clip_by_global_norm(o.clip_norm), update]
    if by_width:
        mask = _muon_mask if o.name == "muon" else decay_mask
        multipliers = partial(rate_multiplier, model, o.name)
        steps += [_multiplied(multipliers), optax.add_decayed_weights(-o.weight_decay, mask)]
    return optax.chain(*steps)


def _multiplied(of_name: Callable[[str], float]) -> optax.GradientTransformation:
    """Updates times what each parameter's name says."""

    def update(updates: Any, _: Any = None) -> Any:
        return jax.tree.map(lambda u, by: u * by, updates, _by_name(updates, of_name))

    return optax.stateless(update)


def decay_mask(params: Any) -> Any:
    """A tree of bools like `params`: True where weight decay applies."""
    return _by_name(params, lambda name: name in DECAYED + ADAPTERS)


def _muon_mask(params: Any) -> Any:
    return _by_name(params, lambda name: name in MUON_DIMENSIONS)


def _muon_dimensions(params: Any) -> Any:
    return _by_name(params, MUON_DIMENSIONS.get)


def _by_name(params: Any, of_name: Any) -> Any:
    """A tree like `params` whose leaves depend on the parameters' own names, boxed or not."""

    def leaf(path: Any, _: Any) -> Any:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return of_name(names[-1])

    return jax.tree_util.tree_map_with_path(leaf, params)
