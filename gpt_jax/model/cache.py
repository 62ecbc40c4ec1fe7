"""Keys and values of the tokens already read, so that the next token costs one position."""

from __future__ import annotations

from dataclasses import replace

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.config import ModelConfig

KeysAndValues = tuple[Array, Array]
"""What a layer returns to be kept: two arrays (B, S, N, H)."""


@flax.struct.dataclass
class LayerCache:
    """One layer's part of a KVCache, or all layers' of one slot with a leading axis."""

    k_BSNH: Array
    v_BSNH: Array
    segment_ids_BS: Array
    length: Array


@flax.struct.dataclass
class KVCache:
    """What the decoder remembers of a batch of sequences; a value, never changed in place.

    With an attention pattern of P kinds, layer l is entry l // P of slot l % P.
    """

    keys: tuple[Array, ...]
    """P arrays (L / P, B, S, N, H) in the compute dtype."""
    values: tuple[Array, ...]
    segment_ids_BS: Array
    """int32; 0 marks padding on the left of a prompt, which no token of the prompt sees."""
    length: Array
    """() int32: places filled, the same for every row."""

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, capacity: int) -> KVCache:
        """A cache with room for `capacity` tokens in each of `batch` rows."""
        period = len(config.attention_pattern)
        shape = (config.num_layers // period, batch, capacity, config.num_heads, config.head_dim)
        zeros = tuple(jnp.zeros(shape, config.dtype) for _ in range(period))
        return cls(zeros, zeros, jnp.zeros((batch, capacity), jnp.int32), jnp.int32(0))

    def marked(self, segment_ids_BT: Array) -> KVCache:
        """The cache with the segments of the T tokens that come next."""
        place = (0, self.length)
        segments_BS = jax.lax.dynamic_update_slice(self.segment_ids_BS, segment_ids_BT, place)
        return replace(self, segment_ids_BS=segments_BS)

    def by_layer(self) -> tuple[LayerCache, ...]:
        """One LayerCache per slot, its arrays stacked over the layers for `nn.scan`."""
        return tuple(
            LayerCache(k, v, *(jnp.stack([x] * len(k)) for x in (self.segment_ids_BS, self.length)))
            for k, v in zip(self.keys, self.values, strict=True)
        )

    def apart(self) -> CacheApart:
        """The same with an array of its own for every layer."""
        slots = zip(self.keys, self.values, strict=True)
        layers = tuple(zip(*(zip(k, v, strict=True) for k, v in slots), strict=True))
        return CacheApart(layers, self.segment_ids_BS, self.length)

    def filled(self, kept: tuple[KeysAndValues | None, ...], count: int) -> KVCache:
        """The cache after `count` more tokens, with what the layers returned."""
        keys, values = zip(*(pair for pair in kept if pair is not None), strict=True)
        return replace(self, keys=keys, values=values, length=self.length + count)


@flax.struct.dataclass
class CacheApart:
    """A KVCache taken apart, for a loop over tokens in which layers are not looped over.

    Such a loop changes it in place; what is stacked over layers is copied for every token.
    """

    layers: tuple[tuple[KeysAndValues, ...], ...]
    """By turn of the attention pattern and slot."""
    segment_ids_BS: Array
    length: Array

    def marked(self, segment_ids_BT: Array) -> CacheApart:
        """The cache with the segments of the T tokens that come next."""
        place = (0, self.length)
        segments_BS = jax.lax.dynamic_update_slice(self.segment_ids_BS, segment_ids_BT, place)
        return replace(self, segment_ids_BS=segments_BS)

    def by_layer(self) -> list[tuple[LayerCache, ...]]:
        """The caches of each turn."""
        of_all = (self.segment_ids_BS, self.length)
        return [tuple(LayerCache(k, v, *of_all) for k, v in turn) for turn in self.layers]

    def filled(self, layers: tuple[tuple[KeysAndValues, ...], ...], count: int) -> CacheApart:
        """The cache after `count` more tokens, with what the layers returned."""
        return replace(self, layers=layers, length=self.length + count)
