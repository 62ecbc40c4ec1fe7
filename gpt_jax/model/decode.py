"""Generation with a key-value cache: read the prompts once, then one token at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax import Array

from gpt_jax.config import ModelConfig, require
from gpt_jax.model.axes import constrain
from gpt_jax.model.cache import CacheApart, KVCache
from gpt_jax.model.decoder import GPT, layers_apart
from gpt_jax.model.sampling import Sampling, sample

BUCKET = 32
"""Prompts are padded to a multiple of this, so that few shapes are compiled."""


@flax.struct.dataclass
class Decoding:
    """A batch in the middle of being generated."""

    cache: KVCache | CacheApart
    token_B: Array
    """The last token of each row, not yet in the cache."""
    position_B: Array
    """Its place in the row's own text."""
    seen_BV: Array
    """Which tokens the row's text holds."""
    keys_B: Array
    log_prob_B: Array
    """Of `token_B`, by the model's own distribution: before any filter or temperature."""


@flax.struct.dataclass
class Continuations:
    """What a batch of prompts is continued with, up to and with a token that ends a row."""

    tokens_BN: Array
    """int32; 0 after the end."""
    log_probs_BN: Array
    """float32, of each token by the model's own distribution over the tokenizer's tokens: natural
    logarithms, before any filter or temperature; 0 after the end."""
    lengths_B: Array
    """int32: tokens of each row, the one that ends it among them."""

    @property
    def real_BN(self) -> Array:
        """Which tokens are a row's own, (B, N) bool."""
        return jnp.arange(self.tokens_BN.shape[1]) < self.lengths_B[:, None]


@functools.partial(jax.jit, static_argnames=("config", "how", "vocab_size", "capacity"))
def prefill(
    params: Any,
    tokens_BT: Array,
    real_BT: Array,
    seed: Array,
    first_row: Array | int = 0,
    *,
    config: ModelConfig,
    how: Sampling,
    vocab_size: int,
    capacity: int,
) -> Decoding:
    """Read prompts, padded on the left, and draw the first token of each.

    `real_BT` is 0 on the padding and 1 on the prompts; a prompt's tokens neither see the padding
    nor count it in their positions, so that a row does not depend on the length of the others.
    `first_row` is the number of the first row: the number of each is its key to what it draws.
    """
    batch = tokens_BT.shape[0]
    tokens_BT = constrain(tokens_BT, "B.")
    real_BT = real_BT.astype(jnp.int32)
    positions_BT = jnp.maximum(jnp.cumsum(real_BT, axis=1) - 1, 0)
    rows_B1 = jnp.arange(batch)[:, None]
    seen_BV = jnp.zeros((batch, vocab_size), bool).at[rows_B1, tokens_BT].max(real_BT > 0)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed), first_row + jnp.arange(batch)
    )
    cache = KVCache.empty(config, batch, capacity)
    logits_BV, cache = _read(params, tokens_BT, positions_BT, real_BT, cache, config)
    logits_BV = logits_BV[:, :vocab_size]
    return _draw(logits_BV, cache, positions_BT[:, -1], seen_BV, keys_B, how)


@functools.partial(
    jax.jit, static_argnames=("config", "how", "vocab_size"), donate_argnames="decoding"
)
def decode(
    params: Any, decoding: Decoding, *, config: ModelConfig, how: Sampling, vocab_size: int
) -> Decoding:
    """Read the last token of each row and draw the next."""
    return _step(params, decoding, config, how, vocab_size)


@functools.partial(jax.jit, static_argnames=("config", "how", "vocab_size", "room"))
def continuations(
    params: Any,
    tokens_BT: Array,
    real_BT: Array,
    seed: Array,
    first_row: Array,
    ends_V: Array,
    budget: Array,
    *,
    config: ModelConfig,
    how: Sampling,
    vocab_size: int,
    room: int,
) -> Continuations:
    """Read prompts and draw tokens until every row has met one of `ends_V`, in one program.

    `room` is the number of places, N, of which `budget` are used at most: the one is compiled and
    the other is not. The rest is as for `prefill`.
    """
    batch, length = tokens_BT.shape
    static = {"config": config, "how": how, "vocab_size": vocab_size}
    rows = (params, tokens_BT, real_BT, seed, first_row)
    first = prefill(*rows, **static, capacity=_up(length + room))
    # One layer after the other is read where it lies: a loop over stacked layers would copy every
    # matrix and the whole cache for each token.
    first, params = replace(first, cache=first.cache.apart()), layers_apart(params)

    def going_on(state: tuple) -> Array:
        n, _, _, _, lengths_B = state
        return (n < budget) & (lengths_B == 0).any()

    def keep(n: Array, d: Decoding, tokens_NB: Array, log_probs_NB: Array, lengths_B: Array):
        """What is kept, with the last token of each row that has not ended at place `n`."""
        on_B = lengths_B == 0
        tokens_NB = tokens_NB.at[n].set(jnp.where(on_B, d.token_B, 0))
        log_probs_NB = log_probs_NB.at[n].set(jnp.where(on_B, d.log_prob_B, 0))
        return tokens_NB, log_probs_NB, jnp.where(on_B & ends_V[d.token_B], n + 1, lengths_B)

    def turn(state: tuple) -> tuple:
        n, d, *kept = state
        d = _step(params, d, config, how, vocab_size)
        return n + 1, d, *keep(n, d, *kept)

    zeros_NB = jnp.zeros((room, batch))
    nothing = zeros_NB.astype(jnp.int32), zeros_NB, jnp.zeros(batch, jnp.int32)
    start = (jnp.int32(1), first, *keep(jnp.int32(0), first, *nothing))
    n, _, tokens_NB, log_probs_NB, lengths_B = jax.lax.while_loop(going_on, turn, start)
    return Continuations(tokens_NB.T, log_probs_NB.T, jnp.where(lengths_B > 0, lengths_B, n))


def _step(
    params: Any, decoding: Decoding, config: ModelConfig, how: Sampling, vocab_size: int
) -> Decoding:
    d = decoding
    ones_B1 = jnp.ones((len(d.token_B), 1), jnp.int32)
    logits_BV, cache = _read(
        params, d.token_B[:, None], d.position_B[:, None], ones_B1, d.cache, config
    )
    logits_BV = logits_BV[:, :vocab_size]
    return _draw(logits_BV, cache, d.position_B, d.seen_BV, d.keys_B, how)


def _read(
    params: Any,
    tokens_BT: Array,
    positions_BT: Array,
    segment_ids_BT: Array,
    cache: KVCache | CacheApart,
    config: ModelConfig,
) -> tuple[Array, KVCache | CacheApart]:
    """Logits (B, V) after the last of the tokens."""
    model, variables = GPT(config), {"params": params}
    hidden: Any = model.apply(
        variables,
        tokens_BT,
        positions_BT=positions_BT,
        segment_ids_BT=segment_ids_BT,
        cache=cache,
        method="hidden",
    )
    x_BTD, filled = hidden
    logits_BTV: Any = model.apply(variables, x_BTD[:, -1:], method="unembed")
    return logits_BTV[:, 0], filled


def _draw(
    logits_BV: Array,
    cache: KVCache | CacheApart,
    position_B: Array,
    seen_BV: Array,
    keys_B: Array,
    how: Sampling,
) -> Decoding:
    """The state after drawing a token, which depends on the row's key and on the place."""
    place_keys_B = jax.vmap(jax.random.fold_in)(keys_B, position_B)
    token_B = sample(logits_BV, seen_BV, place_keys_B, how)
    rows_B = jnp.arange(len(token_B))
    seen_BV = seen_BV.at[rows_B, token_B].set(True)
    log_prob_B = logits_BV[rows_B, token_B] - jax.nn.logsumexp(logits_BV, axis=-1)
    return Decoding(cache, token_B, position_B + 1, seen_BV, keys_B, log_prob_B)


def generate_tokens(
    config: ModelConfig,
    params: Any,
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    how: Sampling,
    *,
    vocab_size: int,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """The tokens that continue the prompts, (B,) int32 at a time, `max_new_tokens` times.

    Only the first `vocab_size` tokens are drawn: those that the tokenizer knows. The next step is
    dispatched before the last one's tokens are handed out. Raises InputError where a prompt is
    empty, has tokens that the model does not know, or does not fit the model's positions together
    with what is to follow it.
    """
    static = {"config": config, "how": how, "vocab_size": vocab_size}
    tokens_BT, real_BT, capacity = _padded(config, prompts, max_new_tokens, seed)
    decoding = prefill(params, tokens_BT, real_BT, np.uint32(seed), **static, capacity=capacity)
    for left in reversed(range(max_new_tokens)):
        token_B = decoding.token_B
        if left:
            # `token_B` would be donated with the rest of the state while it is still to be read.
            token_B = jnp.copy(token_B)
            decoding = decode(params, decoding, **static)
        yield np.asarray(token_B)


def decode_all(
    config: ModelConfig,
    params: Any,
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    how: Sampling,
    *,
    vocab_size: int,
    ends: Sequence[int] = (),
    seed: int = 0,
    first_row: int = 0,
) -> Continuations:
    """All tokens that continue the prompts, N = `max_new_tokens`: those of `generate_tokens`.

    They are drawn by one program without a word from the host, which ends when every row has met
    one of the tokens `ends`. What a row draws depends on the seed and on its number, counted from
    `first_row`: rows drawn in parts are those drawn at once. On a mesh (`jax.set_mesh(mesh),
    parallel.sharding.rules()`) rows and parameters may be split, and the rows that are missing for
    that are filled up. Raises InputError as `generate_tokens` does.
    """
    static = {"config": config, "how": how, "vocab_size": vocab_size}
    count = len(prompts)
    prompts = [*prompts, *[prompts[0]] * (-count % _row_parts())] if count else prompts
    tokens_BT, real_BT, _ = _padded(config, prompts, max_new_tokens, seed)
    ends_V = np.zeros(vocab_size, bool)
    ends_V[list(ends)] = True
    room = _up(max_new_tokens)
    rows = (params, tokens_BT, real_BT, np.uint32(seed), np.int32(first_row))
    found = continuations(*rows, ends_V, np.int32(max_new_tokens), **static, room=room)
    return Continuations(
        found.tokens_BN[:count, :max_new_tokens],
        found.log_probs_BN[:count, :max_new_tokens],
        found.lengths_B[:count],
    )


def _row_parts() -> int:
    """Parts that rows are split in over the mesh of the context; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return 1
    axes = (spmd.logical_to_mesh_axes(("B",)) or [None])[0] or ()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def _up(count: int) -> int:
    return -(-count // BUCKET) * BUCKET


def _padded(
    config: ModelConfig, prompts: Sequence[np.ndarray], max_new_tokens: int, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Prompts (B, T) with padding on the left, what of it is real, and the places of the cache."""
    require(0 <= seed < 2**32, f"seed must be in [0, 2^32), and it is {seed}.")
    longest = _check_fit(config, prompts, max_new_tokens)
    padded = min(_up(longest), config.context_length)
    tokens_BT = np.zeros((len(prompts), padded), np.int32)
    real_BT = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, padded - len(prompt) :] = prompt
        real_BT[row, padded - len(prompt) :] = 1
    # The cache holds the padding too. Its size takes few values, as each is compiled.
    return tokens_BT, real_BT, _up(padded + max_new_tokens)


def _check_fit(config: ModelConfig, prompts: Sequence[np.ndarray], max_new_tokens: int) -> int:
    """The length of the longest prompt, once the model is known to be able to continue it."""
    lengths = [len(prompt) for prompt in prompts]
    require(bool(lengths), "there must be at least one prompt, and there are 0.")
    require(min(lengths) > 0, f"every prompt needs a token, and the prompts have {lengths} tokens.")
    tokens = np.concatenate(prompts)
    unknown = tokens[(tokens < 0) | (tokens >= config.vocab_size)]
    require(
        len(unknown) == 0,
        f"a prompt must be made of tokens that the model knows, and {unknown[:1]} is not one of "
        f"its {config.vocab_size}: take the tokenizer that the model was trained with.",
    )
    longest, context = max(lengths), config.context_length
    require(
        longest <= context,
        f"a prompt must fit the model's context, and {longest} tokens are more than {context}: "
        "shorten the prompt.",
    )
    require(max_new_tokens > 0, f"max_new_tokens must be positive, and it is {max_new_tokens}.")
    require(
        longest + max_new_tokens <= context,
        f"prompt and new tokens must fit the model's context of {context} tokens, and {longest} + "
        f"{max_new_tokens} do not: ask for at most {context - longest} new tokens, or shorten the "
        "prompt.",
    )
    return longest
