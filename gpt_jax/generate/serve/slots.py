"""The compiled programs of the server: rows of one cache that are read and continued on their own.

A slot is a row of a KVCache in which every row has its own length. A prompt is read into its slot
in chunks of a few sizes, the last one padded on the right: what the padding leaves behind lies
after the row's length, where no query sees it, and is overwritten by the tokens that come. Settings
are arrays, so that one program serves all of them.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.config import ModelConfig
from gpt_jax.model.cache import KVCache
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import sample_each

TOP = 20
"""Likeliest tokens that are told of a place, where any are: as many as the API lets one ask for."""


@flax.struct.dataclass
class Settings:
    """How the next token of each row is drawn; NumPy's arrays outside of the programs."""

    temperature_B: Any
    top_p_B: Any
    seed_B: Any
    """uint32."""
    choice_B: Any
    """int32; which of the texts of one seed this is."""
    filtered: Any
    """() bool: whether a top_p is below 1."""
    told: Any
    """() bool: whether log-probabilities are wanted."""


@flax.struct.dataclass
class Told:
    """Log-probabilities at places of a text, by the model's own softmax; zeros where unwanted."""

    logprob_B: Array
    """Of the token that came."""
    top_ids_BK: Array
    top_logprobs_BK: Array
    """Of the TOP likeliest, or of all where there are fewer, from the likeliest down."""


def _axes(config: ModelConfig) -> tuple[KVCache, KVCache]:
    """For each array of a cache which of its axes is the row, and which the place; -1: none."""

    def shapes(batch: int, capacity: int) -> KVCache:
        return jax.eval_shape(functools.partial(KVCache.empty, config, batch, capacity))

    def differing(a: Any, b: Any) -> int:
        pairs = zip(a.shape, b.shape, strict=True)
        return next((axis for axis, (one, other) in enumerate(pairs) if one != other), -1)

    some = shapes(2, 8)
    return jax.tree.map(differing, some, shapes(3, 8)), jax.tree.map(differing, some, shapes(2, 9))


def _cut(cache: KVCache, config: ModelConfig, rows: int, reach: int) -> KVCache:
    """The first `rows` rows up to place `reach`."""

    def some(leaf: Array, row: int, place: int) -> Array:
        sizes = {row: rows, place: reach}
        return leaf[tuple(slice(sizes.get(axis)) for axis in range(leaf.ndim))]

    return jax.tree.map(some, cache, *_axes(config))


def _put(cache: KVCache, part: KVCache, config: ModelConfig, first: Array | int) -> KVCache:
    """The cache with `part` in place of its own rows from `first` on."""

    def into(leaf: Array, new: Array, row: int) -> Array:
        starts = [first if axis == row else 0 for axis in range(leaf.ndim)]
        return jax.lax.dynamic_update_slice(leaf, new, starts)

    return jax.tree.map(into, cache, replace(part, length=cache.length), _axes(config)[0])


def _hidden(
    params: Any, tokens_BT: Array, positions_BT: Array, cache: KVCache, config: ModelConfig
) -> tuple[Array, KVCache]:
    hidden: Any = GPT(config).apply(
        {"params": params},
        tokens_BT,
        positions_BT=jnp.minimum(positions_BT, config.context_length - 1),
        segment_ids_BT=jnp.ones_like(tokens_BT),
        cache=cache,
        method="hidden",
    )
    return hidden


def _logits(params: Any, x_BD: Array, config: ModelConfig) -> Array:
    logits_B1V: Any = GPT(config).apply({"params": params}, x_BD[:, None], method="unembed")
    return logits_B1V[:, 0, : config.vocab_size]


def _tell(logits_BV: Array, token_B: Array, vocab_size: int) -> Told:
    logprobs_BV = jax.nn.log_softmax(logits_BV)
    chosen_B = jnp.take_along_axis(logprobs_BV, token_B[:, None], 1)[:, 0]
    top_BK, ids_BK = jax.lax.top_k(logprobs_BV[:, :vocab_size], min(TOP, vocab_size))
    return Told(chosen_B, ids_BK, top_BK)


def _untold(count: int, vocab_size: int) -> Told:
    zeros_BK = jnp.zeros((count, min(TOP, vocab_size)), jnp.float32)
    return Told(jnp.zeros(count, jnp.float32), zeros_BK.astype(jnp.int32), zeros_BK)


def _draw(
    logits_BV: Array, position_B: Array, how: Settings, vocab_size: int
) -> tuple[Array, Told]:
    """The next token of each row, which depends on its seed, its choice and its place alone.

    The keys are those of `generate_tokens`, for which a choice is a row.
    """

    def key(seed: Array, choice: Array, position: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), choice), position)

    keys_B = jax.vmap(key)(how.seed_B, how.choice_B, position_B)
    known_BV = logits_BV[:, :vocab_size]
    token_B = sample_each(known_BV, keys_B, how.temperature_B, how.top_p_B, how.filtered)
    told = jax.lax.cond(
        how.told,
        lambda: _tell(logits_BV, token_B, vocab_size),
        lambda: _untold(len(token_B), vocab_size),
    )
    return token_B, told


@functools.partial(
    jax.jit,
    static_argnames=("config", "vocab_size", "reach"),
    donate_argnames=("cache", "token_S"),
)
def step(
    params: Any,
    cache: KVCache,
    token_S: Array,
    length_B: Array,
    how: Settings,
    *,
    config: ModelConfig,
    vocab_size: int,
    reach: int,
) -> tuple[KVCache, Array, Array, Told]:
    """Read the last token of the first B slots, and draw the next.

    Returns the cache, all last tokens, those of the B slots, and what is told of them.
    `length_B` is where each row's last token goes; `reach` is above all of them. The new tokens
    come by themselves too because the others are donated to the next call.
    """
    rows = len(length_B)
    of_rows = replace(_axes(config)[0], length=0)

    def one(token: Array, length: Array, row: KVCache) -> tuple[Array, KVCache]:
        as_batch = jax.tree.map(jnp.expand_dims, replace(row, length=length[None]), of_rows)
        as_batch = replace(as_batch, length=length)
        x_11D, filled = _hidden(params, token[None, None], length[None, None], as_batch, config)
        filled = replace(filled, length=filled.length[None])
        return x_11D[0, 0], jax.tree.map(jnp.squeeze, filled, of_rows)

    part = replace(_cut(cache, config, rows, reach), length=length_B)
    x_BD, filled = jax.vmap(one, in_axes=(0, 0, of_rows), out_axes=(0, of_rows))(
        token_S[:rows], length_B, part
    )
    cache = _put(cache, filled, config, 0)
    token_B, told = _draw(_logits(params, x_BD, config), length_B, how, vocab_size)
    return cache, token_S.at[:rows].set(token_B), token_B, told


@functools.partial(
    jax.jit, static_argnames=("config", "vocab_size"), donate_argnames=("cache", "token_S")
)
def read(
    params: Any,
    cache: KVCache,
    token_S: Array,
    tokens_T: Array,
    next_T: Array,
    slot: Array,
    start: Array,
    last: Array,
    scored: Array,
    how: Settings,
    *,
    config: ModelConfig,
    vocab_size: int,
) -> tuple[KVCache, Array, Array, Told, Told]:
    """Read a chunk of a prompt, and draw what follows it: as `step` does, and what was scored.

    `start` is the chunk's place in the prompt, `last` that of its last token in the chunk; where
    `scored`, the second Told is of the tokens `next_T`, each after those before it.
    """
    at_row, _ = _axes(config)

    def row(leaf: Array, axis: int) -> Array:
        return leaf if axis < 0 else jax.lax.dynamic_slice_in_dim(leaf, slot, 1, axis)

    part = replace(jax.tree.map(row, cache, at_row), length=start)
    positions_T = start + jnp.arange(len(tokens_T))
    x_1TD, filled = _hidden(params, tokens_T[None], positions_T[None], part, config)
    cache = _put(cache, filled, config, slot)
    x_1D = jax.lax.dynamic_index_in_dim(x_1TD, last, 1, keepdims=False)
    token_1, told = _draw(_logits(params, x_1D, config), (start + last)[None], how, vocab_size)
    of_prompt = jax.lax.cond(
        scored,
        lambda: _tell(_logits(params, x_1TD[0], config), next_T, vocab_size),
        lambda: _untold(len(next_T), vocab_size),
    )
    return cache, token_S.at[slot].set(token_1[0]), token_1, told, of_prompt
