"""Where each parameter is kept in the Hugging Face format, and in which layout.

`axes` is a rearrangement from their layout to ours, in einops' notation: their matrices are
(out, in), except for those of GPT-1 and GPT-2, and heads are folded into one axis in an order of
each architecture's own.
"""

from __future__ import annotations

import dataclasses

LINEAR = "o i -> i o"


@dataclasses.dataclass(frozen=True)
class Name:
    """One parameter's name in a file."""

    ours: str
    """Path in our tree; under a layer's slot where `theirs` has a {} for the layer's number."""
    theirs: str
    axes: str = ""
    """Empty: the same layout."""
    part: int | None = None
    """Which of queries, keys and values this is, where each is a tensor of its own."""


@dataclasses.dataclass(frozen=True)
class Names:
    """The tensors of one architecture."""

    parameters: tuple[Name, ...]
    prefix: str
    """Part of all names but the output layer's; files of the bare model lack it."""
    head: str = "lm_head"
    buffers: str = r"(?!)"
    """A regular expression of what old files hold besides: constants such as causal masks."""


def _norm(ours: str, theirs: str) -> tuple[Name, ...]:
    return (Name(f"{ours}/scale", f"{theirs}.weight"), Name(f"{ours}/bias", f"{theirs}.bias"))


def _linear(ours: str, theirs: str, axes: str) -> tuple[Name, ...]:
    """A matrix and its bias."""
    return (Name(ours, f"{theirs}.weight", axes), Name(f"{ours}_bias", f"{theirs}.bias"))


def _separate_qkv(*names: str) -> tuple[Name, ...]:
    """Three matrices (out, in) with heads in the order of the axes N H."""
    return tuple(
        name
        for part, theirs in enumerate(names)
        for name in (
            Name("attention/qkv", f"{theirs}.weight", "(n h) d -> d n h", part),
            Name("attention/qkv_bias", f"{theirs}.bias", "(n h) -> n h", part),
        )
    )


_CONV1D_LAYER = (
    *_norm("norm_attention", "h.{}.ln_1"),
    Name("attention/qkv", "h.{}.attn.c_attn.weight", "d (i n h) -> d i n h"),
    Name("attention/qkv_bias", "h.{}.attn.c_attn.bias", "(i n h) -> i n h"),
    *_linear("attention/out", "h.{}.attn.c_proj", "(n h) d -> n h d"),
    *_norm("norm_mlp", "h.{}.ln_2"),
    *_linear("mlp/up", "h.{}.mlp.c_fc", ""),
    *_linear("mlp/down", "h.{}.mlp.c_proj", ""),
)
"""GPT-1's and GPT-2's: matrices are (in, out)."""
_OUT = "d (n h) -> n h d"

NAMES = {
    "openai-gpt": Names(
        (
            Name("embedding", "tokens_embed.weight"),
            Name("positions", "positions_embed.weight"),
            *_CONV1D_LAYER,
        ),
        prefix="transformer.",
        buffers=r"h\.\d+\.attn\.bias|position_ids",
    ),
    "gpt2": Names(
        (
            Name("embedding", "wte.weight"),
            Name("positions", "wpe.weight"),
            *_CONV1D_LAYER,
            *_norm("norm_final", "ln_f"),
        ),
        prefix="transformer.",
        buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
    ),
    "gpt_neo": Names(
        (
            Name("embedding", "wte.weight"),
            Name("positions", "wpe.weight"),
            *_norm("norm_attention", "h.{}.ln_1"),
            *_separate_qkv(*(f"h.{{}}.attn.attention.{x}_proj" for x in "qkv")),
            *_linear("attention/out", "h.{}.attn.attention.out_proj", _OUT),
            *_norm("norm_mlp", "h.{}.ln_2"),
            *_linear("mlp/up", "h.{}.mlp.c_fc", LINEAR),
            *_linear("mlp/down", "h.{}.mlp.c_proj", LINEAR),
            *_norm("norm_final", "ln_f"),
        ),
        prefix="transformer.",
        buffers=r"h\.\d+\.attn\.attention\.(bias|masked_bias)",
    ),
    "gptj": Names(
        (
            Name("embedding", "wte.weight"),
            *_norm("norm_attention", "h.{}.ln_1"),
            *_separate_qkv(*(f"h.{{}}.attn.{x}_proj" for x in "qkv")),
            *_linear("attention/out", "h.{}.attn.out_proj", _OUT),
            *_linear("mlp/up", "h.{}.mlp.fc_in", LINEAR),
            *_linear("mlp/down", "h.{}.mlp.fc_out", LINEAR),
            *_norm("norm_final", "ln_f"),
        ),
        prefix="transformer.",
        buffers=r"h\.\d+\.attn\.(bias|masked_bias|embed_positions)",
    ),
    "gpt_neox": Names(
        (
            Name("embedding", "embed_in.weight"),
            *_norm("norm_attention", "layers.{}.input_layernorm"),
            Name(
                "attention/qkv",
                "layers.{}.attention.query_key_value.weight",
                "(n i h) d -> d i n h",
            ),
            Name(
                "attention/qkv_bias",
                "layers.{}.attention.query_key_value.bias",
                "(n i h) -> i n h",
            ),
            *_linear("attention/out", "layers.{}.attention.dense", _OUT),
            *_norm("norm_mlp", "layers.{}.post_attention_layernorm"),
            *_linear("mlp/up", "layers.{}.mlp.dense_h_to_4h", LINEAR),
            *_linear("mlp/down", "layers.{}.mlp.dense_4h_to_h", LINEAR),
            *_norm("norm_final", "final_layer_norm"),
        ),
        prefix="gpt_neox.",
        head="embed_out",
        buffers=r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    ),
    "opt": Names(
        (
            Name("embedding", "decoder.embed_tokens.weight"),
            Name("positions", "decoder.embed_positions.weight"),
            Name("project_in", "decoder.project_in.weight", LINEAR),
            Name("project_out", "decoder.project_out.weight", LINEAR),
            *_norm("norm_attention", "decoder.layers.{}.self_attn_layer_norm"),
            *_separate_qkv(*(f"decoder.layers.{{}}.self_attn.{x}_proj" for x in "qkv")),
            *_linear("attention/out", "decoder.layers.{}.self_attn.out_proj", _OUT),
            *_norm("norm_mlp", "decoder.layers.{}.final_layer_norm"),
            *_linear("mlp/up", "decoder.layers.{}.fc1", LINEAR),
            *_linear("mlp/down", "decoder.layers.{}.fc2", LINEAR),
            *_norm("norm_final", "decoder.final_layer_norm"),
        ),
        prefix="model.",
    ),
    "ctrl": Names(
        (
            Name("embedding", "w.weight"),
            *_norm("norm_attention", "h.{}.layernorm1"),
            *_separate_qkv(*(f"h.{{}}.multi_head_attention.W{x}" for x in "qkv")),
            *_linear("attention/out", "h.{}.multi_head_attention.dense", _OUT),
            *_norm("norm_mlp", "h.{}.layernorm2"),
            *_linear("mlp/up", "h.{}.ffn.0", LINEAR),
            *_linear("mlp/down", "h.{}.ffn.2", LINEAR),
            *_norm("norm_final", "layernorm"),
        ),
        prefix="transformer.",
        buffers=r"pos_encoding",
    ),
}
"""By model_type, as in `hf_config.ARCHITECTURES`. The output layer of a model, where it has one
of its own, is `head`.weight (V, E) and `head`.bias (V)."""
