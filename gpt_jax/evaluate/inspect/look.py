"""What a model does with a text: pure functions of its parameters, for the page and for notebooks.

config, params, tokenizer = gpt_jax.load(run)
seen = look(config.model, params, tokens_BT)
seen.attention_LBNTS[3, 0, 5]                 # layer 3, first row, head 5
lens(config.model, params, seen.streams_KBTD[3])
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.config import ModelConfig
from gpt_jax.model.attention import MASKED, visible
from gpt_jax.model.decoder import GPT
from gpt_jax.model.parametrisation import attention_scale


@flax.struct.dataclass
class Seen:
    """The inside of a model that has read B rows of T tokens."""

    streams_KBTD: Array
    """What the first layer reads, and what each leaves: K = L + 1, in the compute dtype."""
    attention_LBNTS: Array
    """Probabilities, float32: how much head n of layer l looks from place t at place s."""


def plain(config: ModelConfig) -> ModelConfig:
    """The same model, run in the way that shows its inside."""
    return dataclasses.replace(config, attention="xla", remat="none", scan_unroll=1)


@partial(jax.jit, static_argnums=0)
def look(config: ModelConfig, params: Any, tokens_BT: Array) -> Seen:
    """Streams and attention of every layer over int32 tokens that fit the model's positions.

    Holds all of L B N T T probabilities. Raises InputError where T exceeds the positions.
    """
    variables = {"params": params}
    kept: Any = GPT(plain(config)).apply(
        variables, tokens_BT, method="hidden", mutable="intermediates"
    )[1]
    kept = kept["intermediates"]
    slots, streams, maps = len(config.attention_pattern), [kept["embedded"][0]], []
    for layer in range(config.num_layers):
        turn, slot = divmod(layer, slots)
        block = kept["layers"][str(slot)]
        streams.append(block["output"][0][turn])
        q_BTNH, k_BTNH = (block["attention"][name][0][turn] for name in ("queries", "keys"))
        maps.append(probabilities(config, slot, q_BTNH, k_BTNH))
    return Seen(jnp.stack(streams), jnp.stack(maps))


def probabilities(config: ModelConfig, slot: int, q_BTNH: Array, k_BTNH: Array) -> Array:
    """What a layer of that slot of the pattern weighs values with, (B, N, T, S) float32."""
    banded = config.attention_pattern[slot] == "banded"
    place_T = jnp.arange(q_BTNH.shape[1])
    seen_TS = visible(place_T, place_T, config.attention_window if banded else None)
    scale = attention_scale(config)
    scores_BNTS = jnp.einsum(
        "BTNH,BSNH->BNTS", q_BTNH * scale, k_BTNH, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(jnp.where(seen_TS, scores_BNTS, MASKED), axis=-1)


@partial(jax.jit, static_argnums=0)
def lens(config: ModelConfig, params: Any, stream_BTD: Array) -> Array:
    """The logit lens (nostalgebraist 2020): logits (B, T, V), float32, of what a layer leaves.

    That is the final norm, where the model has one, and the output layer: of the last layer's
    stream, the model's own logits.
    """

    def unembedded(model: GPT, x_BTD: Array) -> Array:
        x_BTD = model.norm_final(x_BTD) if config.final_norm else x_BTD
        return model.unembed(x_BTD)[..., : config.vocab_size]

    logits: Any = GPT(config).apply({"params": params}, stream_BTD, method=unembedded)
    return logits


def losses(logits_BTV: Array, tokens_BT: Array) -> Array:
    """Nats that each token but the first was unexpected by, (B, T - 1) float32."""
    log_probs_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    return -jnp.take_along_axis(log_probs_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
