"""Generation with a key-value cache: read the prompts once, then one token at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_jax.config import ModelConfig, require
from gpt_jax.model.cache import KVCache
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling, sample

BUCKET = 32
"""Prompts are padded to a multiple of this, so that few shapes are compiled."""


@flax.struct.dataclass
class Decoding:
    """A batch in the middle of being generated."""

    cache: KVCache
    token_B: Array
    """The last token of each row, not yet in the cache."""
    position_B: Array
    """Its place in the row's own text."""
    seen_BV: Array
    """Which tokens the row's text holds."""
    keys_B: Array


@functools.partial(jax.jit, static_argnames=("config", "how", "vocab_size", "capacity"))
def prefill(
    params: Any,
    tokens_BT: Array,
    real_BT: Array,
    seed: Array,
    *,
    config: ModelConfig,
    how: Sampling,
    vocab_size: int,
    capacity: int,
) -> Decoding:
    """Read prompts, padded on the left, and draw the first token of each.

    `real_BT` is 0 on the padding and 1 on the prompts; a prompt's tokens neither see the padding
    nor count it in their positions, so that a row does not depend on the length of the others.
    """
    batch = tokens_BT.shape[0]
    real_BT = real_BT.astype(jnp.int32)
    positions_BT = jnp.maximum(jnp.cumsum(real_BT, axis=1) - 1, 0)
    rows_B1 = jnp.arange(batch)[:, None]
    seen_BV = jnp.zeros((batch, vocab_size), bool).at[rows_B1, tokens_BT].max(real_BT > 0)
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(batch))
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
    cache: KVCache,
    config: ModelConfig,
) -> tuple[Array, KVCache]:
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
    cache: KVCache,
    position_B: Array,
    seen_BV: Array,
    keys_B: Array,
    how: Sampling,
) -> Decoding:
    """The state after drawing a token, which depends on the row's key and on the place."""
    place_keys_B = jax.vmap(jax.random.fold_in)(keys_B, position_B)
    token_B = sample(logits_BV, seen_BV, place_keys_B, how)
    seen_BV = seen_BV.at[jnp.arange(len(token_B)), token_B].set(True)
    return Decoding(cache, token_B, position_B + 1, seen_BV, keys_B)


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
    require(0 <= seed < 2**32, f"seed must be in [0, 2^32), and it is {seed}.")
    longest = _check_fit(config, prompts, max_new_tokens)
    padded = min(-(-longest // BUCKET) * BUCKET, config.context_length)
    # The cache holds the padding too. Its size takes few values, as each is compiled.
    capacity = -(-(padded + max_new_tokens) // BUCKET) * BUCKET
    tokens_BT = np.zeros((len(prompts), padded), np.int32)
    real_BT = np.zeros((len(prompts), padded), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, padded - len(prompt) :] = prompt
        real_BT[row, padded - len(prompt) :] = 1
    static = {"config": config, "how": how, "vocab_size": vocab_size}
    decoding = prefill(params, tokens_BT, real_BT, np.uint32(seed), **static, capacity=capacity)
    for left in reversed(range(max_new_tokens)):
        token_B = decoding.token_B
        if left:
            # `token_B` would be donated with the rest of the state while it is still to be read.
            token_B = jnp.copy(token_B)
            decoding = decode(params, decoding, **static)
        yield np.asarray(token_B)


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
