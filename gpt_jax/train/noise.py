"""The gradient noise scale, from what a step of several micro-batches has in hand anyway.

McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1. The gradient g of B tokens is G, that of
all text, and noise: E|g|^2 = |G|^2 + S / B, where S is the trace of the covariance of a token's
gradient. A batch and its micro-batches are two sizes of B, so their norms give both unknowns,
without a bias. B_simple = S / |G|^2 is the batch at which noise and signal are equal. Each is
averaged over the last steps first: the ratio of two noisy numbers would be biased.

Tokens of one sequence are not drawn apart from each other, so that S is in truth of sequences and
taken as even over their tokens; B_simple then is in tokens, whatever a sequence's length.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

DECAY = 0.98
"""Of the running means: they are over some 50 steps."""
SQUARED = "noise_squared"
"""Among the sums of a step: of the micro-batches' squared norms, each over its share."""


def fresh() -> dict[str, Array]:
    """The running means before the first step, () float32; `weight` is that of a constant 1."""
    return {name: jnp.float32(0) for name in ("signal", "trace", "weight")}


def squared_over_share(gradients: Any, share: Array) -> dict[str, Array]:
    """|g|^2 / p of a micro-batch's part g of the batch's gradient, p being its share of the tokens.

    That is p times the squared norm of the micro-batch's own gradient g / p: with a sum over the
    micro-batches, the mean of these over the batch's tokens. 0 where it has none.
    """
    squared = optax.tree.norm(gradients, squared=True)
    return {SQUARED: jnp.where(share > 0, squared / jnp.where(share > 0, share, 1.0), 0.0)}


def estimates(small: Array, big: Array, parts: Array, tokens: Array) -> tuple[Array, Array]:
    """|G|^2 and S of one step, both without a bias, and so at times below 0.

    Args:
      small: the sum over the micro-batches of `squared_over_share`, E = |G|^2 + S parts / tokens.
      big: the squared norm of the whole batch's gradient, E = |G|^2 + S / tokens.
      parts: how many micro-batches have any tokens, 2 at least.
      tokens: of the batch, each by its weight.
    """
    return (parts * big - small) / (parts - 1), tokens * (small - big) / (parts - 1)


def averaged(
    means: dict[str, Array], small: Array, gradients: Any, shares_A: Array, tokens: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The running means after a step, and its metrics.

    A step that is not finite, or has a single micro-batch (a batch that is still growing may), is
    no part of them. The metrics: noise_signal, |G|^2; noise_trace, S per token; and noise_scale,
    B_simple in tokens, 0 as long as the mean signal is not positive.
    """
    parts, big = (shares_A > 0).sum(), optax.tree.norm(gradients, squared=True)
    known = jnp.isfinite(small) & jnp.isfinite(big) & (parts > 1)
    signal, trace = estimates(small, big, jnp.maximum(parts, 2), tokens)
    now = {"signal": signal, "trace": trace, "weight": jnp.float32(1)}
    means = {
        name: jnp.where(known, DECAY * mean + (1 - DECAY) * now[name], mean)
        for name, mean in means.items()
    }
    weight = jnp.where(means["weight"] > 0, means["weight"], 1.0)
    positive = means["signal"] > 0
    scale = jnp.where(positive, means["trace"] / jnp.where(positive, means["signal"], 1.0), 0.0)
    return means, {
        "noise_signal": means["signal"] / weight,
        "noise_trace": means["trace"] / weight,
        "noise_scale": scale,
    }
