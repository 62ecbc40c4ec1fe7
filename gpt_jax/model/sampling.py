"""From logits to a token: the usual filters, as pure functions of (B, V) float32 logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.config import require


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn; the filters apply in the order of the fields."""

    repetition_penalty: float = 1.0
    """CTRL's (Keskar et al. 2019, section 4.1): logits of tokens already in the text are divided by
    it where positive, multiplied where negative. 1: none."""
    temperature: float = 1.0
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens. 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens whose probabilities just reach p (Holtzman et al. 2019). 1: all."""

    def __post_init__(self) -> None:
        require(
            0 <= self.temperature < math.inf,
            f"temperature must be finite and not negative: {self.temperature}.",
        )
        require(self.top_k >= 0, f"top_k must not be negative: {self.top_k}.")
        require(0 < self.top_p <= 1, f"top_p must be above 0 and at most 1: {self.top_p}.")
        require(
            0 < self.repetition_penalty < math.inf,
            f"repetition_penalty must be finite and positive: {self.repetition_penalty}.",
        )


def penalise(logits_BV: Array, seen_BV: Array, penalty: float) -> Array:
    """Logits of the tokens seen, made less likely by `penalty`."""
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def keep_top_k(logits_BV: Array, k: int) -> Array:
    """-inf for all but the k largest logits of each row; ties with the k-th are kept."""
    least_B1 = jax.lax.top_k(logits_BV, min(k, logits_BV.shape[-1]))[0][:, -1:]
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)


def keep_top_p(logits_BV: Array, p: float | Array) -> Array:
    """-inf for all but the smallest set of likeliest tokens with probability p or more.

    Ties with the least of them are kept; so is the likeliest token, whatever p. A (B, 1) array is a
    p for each row.
    """
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probabilities_BV = jax.nn.softmax(sorted_BV, axis=-1)
    # A token is kept while those before it have not reached p; so the first always is.
    before_BV = jnp.cumsum(probabilities_BV, axis=-1) - probabilities_BV
    least_B1 = jnp.where(before_BV < p, sorted_BV, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)


def sample(logits_BV: Array, seen_BV: Array, keys_B: Array, how: Sampling) -> Array:
    """The next token of each row, (B,) int32, each row with its own key."""
    if how.repetition_penalty != 1:
        logits_BV = penalise(logits_BV, seen_BV, how.repetition_penalty)
    if how.temperature < jnp.finfo(jnp.float32).tiny:
        return logits_BV.argmax(-1).astype(jnp.int32)
    # From the top down: a low temperature then makes -inf of the others, never inf of several.
    logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / how.temperature
    if how.top_k:
        logits_BV = keep_top_k(logits_BV, how.top_k)
    if how.top_p < 1:
        logits_BV = keep_top_p(logits_BV, how.top_p)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def sample_each(
    logits_BV: Array, keys_B: Array, temperature_B: Array, top_p_B: Array, filtered: Array
) -> Array:
    """What `sample` draws, (B,) int32, with a temperature and a top_p of each row's own.

    `filtered`, () bool: whether any top_p is below 1; the vocabulary is sorted only then.
    """
    greedy_B = temperature_B < jnp.finfo(jnp.float32).tiny
    top_p_B1 = top_p_B[:, None]
    divisor_B1 = jnp.where(greedy_B, 1, temperature_B)[:, None]
    scaled_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / divisor_B1
    scaled_BV = jax.lax.cond(
        filtered,
        lambda: jnp.where(top_p_B1 < 1, keep_top_p(scaled_BV, top_p_B1), scaled_BV),
        lambda: scaled_BV,
    )
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, scaled_BV)
    return jnp.where(greedy_B, logits_BV.argmax(-1), drawn_B).astype(jnp.int32)
