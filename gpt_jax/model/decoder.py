"""One decoder for the whole GPT family (GPT-3, section 2.1): a page that reads like the paper.

By default pre-norm blocks of causal attention and a GELU MLP over learned positions, with the
embedding table tied to the output; `ModelConfig` says what else there is. Layers are stacked along
a leading axis and run by `nn.scan`, so that a 96-layer model compiles as fast as a 2-layer one.
Each parameter and activation names its axes by letter (see `model/__init__`); outside a mesh the
names do nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from gpt_jax.config import AttentionKind, ModelConfig, Remat, require
from gpt_jax.model.attention import MASKED
from gpt_jax.model.axes import constrain, named, normal, zeros
from gpt_jax.model.cache import CacheApart, KeysAndValues, KVCache, LayerCache
from gpt_jax.model.context_parallel import attend_over_mesh
from gpt_jax.model.dropout import drop, folded, row_keys
from gpt_jax.model.parametrisation import (
    attention_scale,
    embedding_multiplier,
    output_multiplier,
)
from gpt_jax.model.pipeline import Load, Pipe, pipe_of_mesh, run_in_stages
from gpt_jax.model.positions import Rotation, frequencies, rotate, rotation, sinusoids

ACTIVATIONS = {
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Norm(nn.Module):
    """Layer normalisation over D, computed in float32, returned in the compute dtype."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        width = x_BTD.shape[-1:]
        scale_D = self.param("scale", named(nn.initializers.ones, "D"), width)
        bias_D = self.param("bias", zeros("D"), width)
        x_BTD = x_BTD.astype(jnp.float32)
        mean_BT1 = x_BTD.mean(-1, keepdims=True)
        centred_BTD = x_BTD - mean_BT1
        variance_BT1 = jnp.square(centred_BTD).mean(-1, keepdims=True)
        rsqrt_BT1 = jax.lax.rsqrt(variance_BT1 + self.config.norm_epsilon)
        y_BTD = centred_BTD * rsqrt_BT1 * scale_D + bias_D
        return y_BTD.astype(self.config.dtype)


class Attention(nn.Module):
    """Multi-head causal attention, dense or locally banded."""

    config: ModelConfig
    kind: AttentionKind

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        turn: Rotation | None,
        segment_ids_BT: Array | None,
        keys_B: Array | None,
        cache: LayerCache | None,
    ) -> tuple[Array, KeysAndValues | None]:
        c = self.config
        q_BTNH, k_BTNH, v_BTNH = self._queries_keys_values(x_BTD)
        if turn is not None:
            interleaved = c.position_encoding == "rotary_interleaved"
            q_BTNH, k_BTNH = (rotate(x, turn, interleaved) for x in (q_BTNH, k_BTNH))
        q_BTNH, k_BTNH, v_BTNH = (checkpoint_name(x, "qkv") for x in (q_BTNH, k_BTNH, v_BTNH))
        self.sow("intermediates", "queries", q_BTNH)
        self.sow("intermediates", "keys", k_BTNH)
        k_BSNH, v_BSNH, start, segments, kept = k_BTNH, v_BTNH, None, None, None
        if cache is not None:
            start = cache.length
            place = (0, start, 0, 0)
            k_BSNH = jax.lax.dynamic_update_slice(cache.k_BSNH, k_BTNH, place)
            v_BSNH = jax.lax.dynamic_update_slice(cache.v_BSNH, v_BTNH, place)
            kept = (k_BSNH, v_BSNH)
        if segment_ids_BT is not None:
            segments = (segment_ids_BT, segment_ids_BT if cache is None else cache.segment_ids_BS)
        y_BTNH = attend_over_mesh(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            # Parameters do not depend on it, and are drawn with a token or two.
            kernel="xla" if self.is_initializing() else c.attention,
            scale=attention_scale(c),
            window=c.attention_window if self.kind == "banded" else None,
            start=start,
            segment_ids=segments,
            dropout_rate=c.attention_dropout,
            dropout_keys_B=keys_B if c.attention_dropout > 0 else None,
        )
        shape = (c.num_heads, c.head_dim, c.embed_dim)
        out_NHD = self.param("out", normal(c, "out", "NHD"), shape).astype(c.dtype)
        y_BTD = jnp.einsum("BTNH,NHD->BTD", constrain(y_BTNH, "BTNH"), out_NHD)
        if c.out_bias:
            y_BTD += self.param("out_bias", zeros("D"), (c.embed_dim,)).astype(c.dtype)
        return y_BTD, kept

    def _queries_keys_values(self, x_BTD: Array) -> list[Array]:
        c = self.config
        n, h, d = c.num_heads, c.head_dim, c.embed_dim
        qkv_D3NH = self.param("qkv", normal(c, "qkv", "D.NH"), (d, 3, n, h)).astype(c.dtype)
        if x_BTD.shape[1] == 1:
            # A single token costs the reading of the matrix: slices would be copies of it.
            together_BT3NH = jnp.einsum("BTD,DCNH->BTCNH", x_BTD, qkv_D3NH)
            parts = [together_BT3NH[:, :, i] for i in range(3)]
        else:
            parts = [jnp.einsum("BTD,DNH->BTNH", x_BTD, qkv_D3NH[:, i]) for i in range(3)]
        if c.qkv_bias:
            bias_3NH = self.param("qkv_bias", zeros(".NH"), (3, n, h)).astype(c.dtype)
            parts = [part + bias_3NH[i] for i, part in enumerate(parts)]
        return [constrain(part, "BTNH") for part in parts]


class MLP(nn.Module):
    """W2 f(W1 x + b1) + b2, with d_ff = 4 d_model and GELU unless the config says otherwise."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        c, d, f = self.config, self.config.embed_dim, self.config.mlp_dim
        up_DF = self.param("up", normal(c, "up", "DF"), (d, f)).astype(c.dtype)
        h_BTF = jnp.einsum("BTD,DF->BTF", x_BTD, up_DF)
        if c.mlp_bias:
            h_BTF += self.param("up_bias", zeros("F"), (f,)).astype(c.dtype)
        h_BTF = ACTIVATIONS[c.activation](constrain(h_BTF, "BTF"))
        down_FD = self.param("down", normal(c, "down", "FD"), (f, d)).astype(c.dtype)
        y_BTD = jnp.einsum("BTF,FD->BTD", h_BTF, down_FD)
        if c.mlp_bias:
            y_BTD += self.param("down_bias", zeros("D"), (d,)).astype(c.dtype)
        return y_BTD


def _between(config: ModelConfig) -> str:
    """The axes of what one layer hands to the next."""
    return "BRD" if config.split_residual else "BTD"


class Block(nn.Module):
    """A layer: attention and MLP, each added to the residual stream.

    x + attention(norm(x)), then x + mlp(norm(x)) is GPT-2's order; norm(x + attention(x)), then
    norm(x + mlp(x)) GPT-1's; x + attention(norm(x)) + mlp(norm(x)) that of GPT-J and GPT-NeoX.
    """

    config: ModelConfig
    kind: AttentionKind

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        turn: Rotation | None,
        segment_ids_BT: Array | None,
        keys_B: Array | None,
        cache: LayerCache | None,
    ) -> tuple[Array, KeysAndValues | None]:
        c = self.config
        of_attention_B, *of_sums_B = (folded(keys_B, place) for place in range(3))
        dropped = [partial(drop, rate=c.residual_dropout, keys_B=keys_B) for keys_B in of_sums_B]
        attention, mlp = Attention(c, self.kind, name="attention"), MLP(c, name="mlp")
        norm_attention = norm_mlp = Norm(c, name="norm_attention")
        between = _between(c)
        if c.residual != "parallel_one_norm":
            norm_mlp = Norm(c, name="norm_mlp")
        if c.norm_position == "after":
            h_BTD, kept = attention(x_BTD, turn, segment_ids_BT, of_attention_B, cache)
            x_BTD = constrain(norm_attention(x_BTD + dropped[0](h_BTD)), between)
            x_BTD = norm_mlp(x_BTD + dropped[1](mlp(x_BTD)))
        else:
            y_BTD = norm_attention(x_BTD)
            h_BTD, kept = attention(y_BTD, turn, segment_ids_BT, of_attention_B, cache)
            sum_BTD = constrain(x_BTD + dropped[0](h_BTD), between)
            h_BTD = mlp(norm_mlp(sum_BTD if c.residual == "sequential" else x_BTD))
            x_BTD = sum_BTD + dropped[1](h_BTD)
        # What each layer leaves; kept only where "intermediates" is asked for, and free elsewhere.
        self.sow("intermediates", "output", x_BTD)
        return constrain(x_BTD, between), kept


class Period(nn.Module):
    """One turn of the attention pattern: the body of the loop over the depth."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        turn: Rotation | None,
        segment_ids_BT: Array | None,
        keys_B: Array | None,
        caches: tuple[LayerCache, ...] | None,
    ) -> tuple[Array, tuple[KeysAndValues | None, ...]]:
        kept = []
        for slot, kind in enumerate(self.config.attention_pattern):
            block = _rematerialised(self.config)(self.config, kind, name=f"{slot}")
            cache = None if caches is None else caches[slot]
            x_BTD, k_and_v = block(x_BTD, turn, segment_ids_BT, folded(keys_B, slot), cache)
            kept.append(k_and_v)
        return x_BTD, tuple(kept)


def _is_matrix_product(primitive: Any, *_: Any, **params: Any) -> bool:
    """With a matrix of parameters, that is; in stages these have an axis in common with the batch.
    Scores and what they weigh, which have rows and heads in common, are not kept.
    """
    return primitive.name == "dot_general" and len(params["dimension_numbers"][1][0]) < 2


def _policies() -> dict[Remat, Any]:
    """What a rematerialised layer keeps, besides its input."""
    keep = jax.checkpoint_policies
    named = ["qkv", "attention"]
    return {
        "dots": _is_matrix_product,
        "qkv_attention": keep.save_only_these_names(*named),
        "offload": keep.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=named,
            offload_src="device",
            offload_dst="pinned_host",
        ),
        "attention": keep.save_only_these_names("attention"),
        "full": None,
    }


def _rematerialised(config: ModelConfig) -> type[Block]:
    """A block that keeps for the backward pass what `remat` says."""
    if config.remat == "none":
        return Block
    policy = _policies()[config.remat]
    # Inside a scan nothing can be merged across the boundary, so XLA need not be held back.
    return nn.remat(Block, policy=policy, prevent_cse=config.scan_unroll > 1)


class GPT(nn.Module):
    """A causal language model: `GPT(config.model).apply({"params": params}, tokens_BT)`.

    Parameters are float32 and come boxed with their axes out of `init`: `flax.linen.unbox`, or
    `train.state`, takes them out. With `train=True` and dropout, `apply` needs
    `rngs={"dropout": key}`.
    """

    config: ModelConfig
    train: bool = False

    def setup(self) -> None:
        c = self.config
        periods = c.num_layers // len(c.attention_pattern)
        vocab, token, width = c.padded_vocab_size, c.token_dim, c.embed_dim

        def matrix(name: str, letters: str, *shape: int) -> Array:
            return self.param(name, normal(c, name, letters), shape)

        self.embedding_VE = matrix("embedding", "VE", vocab, token)
        if c.position_encoding == "learned":
            places = c.position_offset + c.context_length
            self.positions_TD = matrix("positions", ".D", places, width)
        if token != width:
            self.project_in_ED = matrix("project_in", ".D", token, width)
            self.project_out_DE = matrix("project_out", "D.", width, token)
        self.layers = nn.scan(
            Period,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0, 0),  # pyright: ignore[reportArgumentType] (int)
            length=periods,
            unroll=min(c.scan_unroll, periods),
            metadata_params={nn.PARTITION_NAME: "L"},
        )(c)
        if c.final_norm:
            self.norm_final = Norm(c)
        if not c.tied_head:
            self.head_VE = matrix("head", "VE", vocab, token)
        if c.head_bias:
            self.head_bias_V = self.param("head_bias", zeros("V"), (vocab,))
        self.dropout = nn.Dropout(c.embedding_dropout, deterministic=not self.train)

    def __call__(self, tokens_BT: Array, **inputs: Any) -> Array:
        """Logits (B, T, V) in float32 over the `vocab_size` tokens that exist.

        Takes `hidden`'s arguments; raises what it raises.
        """
        x_BTD, _ = self.hidden(tokens_BT, **inputs)
        return self.unembed(x_BTD)[..., : self.config.vocab_size]

    def hidden(
        self,
        tokens_BT: Array,
        *,
        positions_BT: Array | None = None,
        segment_ids_BT: Array | None = None,
        cache: KVCache | CacheApart | None = None,
    ) -> tuple[Array, KVCache | CacheApart | None]:
        """What the output layer reads, (B, T, D) in the compute dtype; and the cache, filled.

        Args:
          tokens_BT: int32 token ids.
          positions_BT: place of each token in its document; None: 0 to T - 1.
          segment_ids_BT: tokens see only their own segment; None: one segment. With a cache it is
            needed: 1 for the tokens of a prompt, 0 for the padding on its left.
          cache: the tokens before these, or None. One that is taken apart goes with parameters
            that are (`layers_apart`).

        Raises InputError where T exceeds the model's positions.
        """
        c, length = self.config, tokens_BT.shape[1]
        require(
            length <= c.context_length,
            f"a sequence must fit the model's positions, and {length} tokens are more than "
            f"context_length={c.context_length}.",
        )
        x_BTD = constrain(self.dropout(self._embed(tokens_BT, positions_BT)), "BTD")
        self.sow("intermediates", "embedded", x_BTD)
        turn = None
        if c.rotated_dim:
            places_BT = jnp.arange(length)[None] if positions_BT is None else positions_BT
            turn = rotation(places_BT, c.context_length, frequencies(c.rotated_dim, c.rotary_base))
        keys_L, pipe = self._layer_keys(), pipe_of_mesh()
        # A pipeline has no place for what each layer makes: parameters, caches, what is sown.
        by_layer = self.is_initializing() or self.is_mutable_collection("intermediates")
        if cache is None and pipe is not None and not by_layer:
            x_BTD = self._in_stages(pipe, x_BTD, turn, segment_ids_BT, keys_L)
        elif cache is None:
            rows_B = jnp.arange(len(tokens_BT))
            keys_LB = None if keys_L is None else jax.vmap(row_keys, (0, None))(keys_L, rows_B)
            x_BTD, _ = self.layers(x_BTD, turn, segment_ids_BT, keys_LB, None)
        else:
            assert segment_ids_BT is not None, "a cache needs segment_ids_BT"
            cache = cache.marked(segment_ids_BT)
            if isinstance(cache, CacheApart):
                x_BTD, by_turn = self._one_by_one(x_BTD, turn, segment_ids_BT, cache)
                cache = cache.filled(by_turn, length)
            else:
                x_BTD, kept = self.layers(x_BTD, turn, segment_ids_BT, None, cache.by_layer())
                cache = cache.filled(kept, length)
        return self.norm_final(x_BTD) if c.final_norm else x_BTD, cache

    def _layer_keys(self) -> Array | None:
        """A key for the dropout of each turn of the loop over the depth; None where there is none.

        The embedding's is drawn elsewhere, for the whole batch.
        """
        c = self.config
        if not self.train or c.attention_dropout == c.residual_dropout == 0:
            return None
        periods = c.num_layers // len(c.attention_pattern)
        return jax.random.split(self.make_rng("dropout"), periods)

    def _one_by_one(
        self, x_BTD: Array, turn: Rotation | None, segment_ids_BT: Array, cache: CacheApart
    ) -> tuple[Array, tuple]:
        """What the layers make of `x_BTD`, and what is kept of each, without a loop over them."""
        period, kept = Period(self.config, parent=None), []
        for n, caches in enumerate(cache.by_layer()):
            variables = {"params": self.get_variable("params", f"layers_{n}")}
            x_BTD, k_and_v = period.apply(variables, x_BTD, turn, segment_ids_BT, None, caches)
            kept.append(k_and_v)
        return x_BTD, tuple(kept)

    def _in_stages(
        self,
        pipe: Pipe,
        x_BTD: Array,
        turn: Rotation | None,
        segment_ids_BT: Array | None,
        keys_L: Array | None,
    ) -> Array:
        """What the layers make of `x_BTD`, with a part of them on each stage of the pipeline."""
        period = Period(self.config, parent=None)
        load: Load = {"x": x_BTD}
        if keys_L is not None:
            load["rows"] = jnp.arange(len(x_BTD))
        if segment_ids_BT is not None:
            load["segment_ids"] = segment_ids_BT
        # Places that differ by row go with their rows; those of all rows are the same everywhere.
        if turn is not None and len(turn[0]) > 1:
            load["cos"], load["sin"] = turn

        def stage(layers: Any, load: Load) -> Load:
            places = (load["cos"], load["sin"]) if "cos" in load else turn

            def some_layers(x_BTD: Array, layer: Any) -> tuple[Array, None]:
                params, key = layer
                keys_B = None if key is None else row_keys(key, load["rows"])
                segment_ids_BT = load.get("segment_ids")
                variables = {"params": params}
                return period.apply(variables, x_BTD, places, segment_ids_BT, keys_B, None)[0], None

            unroll = min(self.config.scan_unroll, len(jax.tree.leaves(layers)[0]))
            x_BTD, _ = jax.lax.scan(some_layers, load["x"], layers, unroll=unroll)
            return load | {"x": x_BTD}

        layers = (self.layers.variables["params"], keys_L)
        return run_in_stages(stage, layers, load, pipe, _between(self.config)[:2])["x"]

    def _embed(self, tokens_BT: Array, positions_BT: Array | None) -> Array:
        """Token embeddings (B, T, D), with their places where these are added."""
        c, length = self.config, tokens_BT.shape[1]
        # Gathering from a table whose width is split would make XLA replicate the result: the
        # table is put together first, once for both of its uses.
        x_BTD = x_BTE = constrain(self.embedding_VE.astype(c.dtype), "V.")[tokens_BT]
        if c.token_dim != c.embed_dim:
            x_BTD = jnp.einsum("BTE,ED->BTD", x_BTE, self.project_in_ED.astype(c.dtype))
        if c.scale_embedding:
            x_BTD = x_BTD * embedding_multiplier(c)
        if c.rotated_dim:
            return x_BTD
        if c.position_encoding == "sinusoidal":
            places_BT = jnp.arange(length)[None] if positions_BT is None else positions_BT
            return x_BTD + sinusoids(places_BT, c.context_length, c.embed_dim).astype(c.dtype)
        positions_TD = constrain(self.positions_TD[c.position_offset :].astype(c.dtype), "..")
        return x_BTD + (
            positions_TD[:length] if positions_BT is None else positions_TD[positions_BT]
        )

    def unembed(self, x_BTD: Array) -> Array:
        """Logits (B, T, V) in float32 over the padded vocabulary; the padding's are MASKED."""
        c = self.config
        head = {"embedding": self.embedding_VE} if c.tied_head else {"head": self.head_VE}
        if c.token_dim != c.embed_dim:
            head["project_out"] = self.project_out_DE
        if c.head_bias:
            head["head_bias"] = self.head_bias_V
        return unembed(c, head, x_BTD)


def layers_apart(params: Any) -> Any:
    """Parameters with those of each turn of the loop over the depth as "layers_0", "layers_1", ...

    For `GPT.hidden` with a cache that is taken apart.
    """
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    turns = len(jax.tree.leaves(params["layers"])[0])
    of_turns = {
        f"layers_{n}": jax.tree.map(lambda x, n=n: x[n], params["layers"]) for n in range(turns)
    }
    return rest | of_turns


def head_of(config: ModelConfig, params: Any) -> dict[str, Array]:
    """The parameters, by name, that `unembed` reads."""
    names = ["embedding" if config.tied_head else "head"]
    names += ["project_out"] if config.token_dim != config.embed_dim else []
    names += ["head_bias"] if config.head_bias else []
    return {name: params[name] for name in names}


def unembed(config: ModelConfig, head: dict[str, Array], x_BTD: Array) -> Array:
    """`GPT.unembed` as a function of its parameters."""
    c, x_BTE = config, x_BTD
    if "project_out" in head:
        x_BTE = jnp.einsum("BTD,DE->BTE", x_BTD, head["project_out"].astype(c.dtype))
    table_VE = constrain(head["embedding" if c.tied_head else "head"].astype(c.dtype), "V.")
    logits_BTV = jnp.einsum("BTE,VE->BTV", x_BTE, table_VE, preferred_element_type=jnp.float32)
    if (multiplier := output_multiplier(c)) != 1:
        logits_BTV *= multiplier
    if "head_bias" in head:
        logits_BTV += head["head_bias"].astype(jnp.float32)
    if c.vocab_size < c.padded_vocab_size:
        exists_V = jnp.arange(c.padded_vocab_size) < c.vocab_size
        logits_BTV = jnp.where(exists_V, logits_BTV, MASKED)
    return constrain(logits_BTV, "BTV")
