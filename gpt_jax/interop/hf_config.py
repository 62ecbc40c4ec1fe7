"""config.json of the Hugging Face format, as a ModelConfig and back.

Each architecture is a pair of functions that read like its definition. A key that is not read here
and not known to leave the computation alone is refused, never ignored.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_jax.config import InputError, ModelConfig, require
from gpt_jax.interop.fields import Fields

ACTIVATION_NAMES = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"}
GPT1_ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
"""GPT-1's own table calls the tanh form gelu."""


def _width(width: int, standard: int) -> int:
    """An MLP's or embedding's width as ModelConfig has it: 0 where it is the standard one."""
    return 0 if width == standard else width


def _read_gpt1(f: Fields) -> ModelConfig:
    return ModelConfig(
        vocab_size=f.size("vocab_size", 40478),
        context_length=f.size("n_positions", 512),
        num_layers=f.size("n_layer", 12),
        embed_dim=f.size("n_embd", 768),
        num_heads=f.size("n_head", 12),
        activation=f.activation("afn", "gelu", GPT1_ACTIVATIONS),
        norm_position="after",
        norm_epsilon=f.take("layer_norm_epsilon", 1e-5),
        final_norm=False,
        tied_head=f.take("tie_word_embeddings", True),
        embedding_dropout=f.take("embd_pdrop", 0.1),
        attention_dropout=f.take("attn_pdrop", 0.1),
        residual_dropout=f.take("resid_pdrop", 0.1),
    )


def _write_gpt1(m: ModelConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in GPT1_ACTIVATIONS.items() if theirs != "swish"}
    return _write_gpt(m) | {"afn": names.get(m.activation), "tie_word_embeddings": m.tied_head}


def _write_gpt(m: ModelConfig) -> dict[str, Any]:
    """What GPT-1, GPT-2 and GPT-J have in common."""
    return {
        "vocab_size": m.vocab_size,
        "n_positions": m.context_length,
        "n_layer": m.num_layers,
        "n_embd": m.embed_dim,
        "n_head": m.num_heads,
        "layer_norm_epsilon": m.norm_epsilon,
        "embd_pdrop": m.embedding_dropout,
        "attn_pdrop": m.attention_dropout,
        "resid_pdrop": m.residual_dropout,
    }


def _read_gpt2(f: Fields) -> ModelConfig:
    f.only("add_cross_attention", False)
    f.only("scale_attn_by_inverse_layer_idx", False)
    # Scores and softmax are float32 here whatever the model's dtype: both settings are the same.
    f.only("reorder_and_upcast_attn", False, True)
    width = f.size("n_embd", 768)
    return ModelConfig(
        vocab_size=f.size("vocab_size", 50257),
        context_length=f.size("n_positions", 1024),
        num_layers=f.size("n_layer", 12),
        embed_dim=width,
        num_heads=f.size("n_head", 12),
        mlp_width=f.width("n_inner", 4 * width),
        activation=f.activation("activation_function", "gelu_new"),
        norm_epsilon=f.take("layer_norm_epsilon", 1e-5),
        scale_attention=f.take("scale_attn_weights", True),
        tied_head=f.take("tie_word_embeddings", True),
        embedding_dropout=f.take("embd_pdrop", 0.1),
        attention_dropout=f.take("attn_pdrop", 0.1),
        residual_dropout=f.take("resid_pdrop", 0.1),
    )


def _write_gpt2(m: ModelConfig) -> dict[str, Any]:
    return _write_gpt(m) | {
        "n_inner": m.mlp_width or None,
        "activation_function": ACTIVATION_NAMES[m.activation],
        "scale_attn_weights": m.scale_attention,
        "tie_word_embeddings": m.tied_head,
    }


_NEO_KINDS = {"global": "dense", "local": "banded"}


def _read_gpt_neo(f: Fields) -> ModelConfig:
    layers, width = f.size("num_layers", 24), f.size("hidden_size", 2048)
    kinds = f.kinds("attention_types", [[["global", "local"], 12]])
    unknown = sorted(set(kinds) - set(_NEO_KINDS))
    require(
        not unknown,
        "attention_types in config.json must be global and local, and there is "
        f"{', '.join(map(repr, unknown))}: this kind of attention is not done here.",
    )
    f.only("attention_layers", kinds)
    require(
        len(kinds) == layers,
        f"attention_types in config.json must name a kind for each of its {layers} layers, and it "
        f"names {len(kinds)}.",
    )
    return ModelConfig(
        vocab_size=f.size("vocab_size", 50257),
        context_length=f.size("max_position_embeddings", 2048),
        num_layers=layers,
        embed_dim=width,
        num_heads=f.size("num_heads", 16),
        mlp_width=f.width("intermediate_size", 4 * width),
        attention_pattern=_shortest_pattern([_NEO_KINDS[kind] for kind in kinds]),
        attention_window=f.size("window_size", 256),
        scale_attention=False,
        activation=f.activation("activation_function", "gelu_new"),
        norm_epsilon=f.take("layer_norm_epsilon", 1e-5),
        qkv_bias=False,
        tied_head=f.take("tie_word_embeddings", True),
        embedding_dropout=f.take("embed_dropout", 0.0),
        attention_dropout=f.take("attention_dropout", 0.0),
        residual_dropout=f.take("resid_dropout", 0.0),
    )


def _shortest_pattern(kinds: list[Any]) -> tuple[Any, ...]:
    """The shortest beginning of `kinds` that gives all of it when repeated."""
    count = len(kinds)
    periods = (n for n in range(1, count + 1) if count % n == 0)
    return next(tuple(kinds[:n]) for n in periods if kinds[:n] * (count // n) == kinds)


def _write_gpt_neo(m: ModelConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in _NEO_KINDS.items()}
    pattern = [names[kind] for kind in m.attention_pattern]
    times = m.num_layers // len(pattern)
    return {
        "vocab_size": m.vocab_size,
        "max_position_embeddings": m.context_length,
        "num_layers": m.num_layers,
        "hidden_size": m.embed_dim,
        "num_heads": m.num_heads,
        "intermediate_size": m.mlp_width or None,
        "attention_types": [[pattern, times]],
        "attention_layers": pattern * times,
        "window_size": m.attention_window,
        "activation_function": ACTIVATION_NAMES[m.activation],
        "layer_norm_epsilon": m.norm_epsilon,
        "embed_dropout": m.embedding_dropout,
        "attention_dropout": m.attention_dropout,
        "resid_dropout": m.residual_dropout,
        "tie_word_embeddings": m.tied_head,
    }


def _read_gptj(f: Fields) -> ModelConfig:
    # Two keys of the published file that its code never reads.
    f.only("rotary", True)
    f.only("scale_attn_weights", True)
    width = f.size("n_embd", 4096)
    tied = f.take("tie_word_embeddings", False)
    return ModelConfig(
        vocab_size=f.size("vocab_size", 50400),
        context_length=f.size("n_positions", 2048),
        num_layers=f.size("n_layer", 28),
        embed_dim=width,
        num_heads=f.size("n_head", 16),
        mlp_width=f.width("n_inner", 4 * width),
        position_encoding="rotary_interleaved",
        rotary_dim=_rotary_dim(f.take("rotary_dim", 64), "rotary_dim"),
        residual="parallel_one_norm",
        activation=f.activation("activation_function", "gelu_new"),
        norm_epsilon=f.take("layer_norm_epsilon", 1e-5),
        qkv_bias=False,
        out_bias=False,
        tied_head=tied,
        head_bias=True,
        embedding_dropout=f.take("embd_pdrop", 0.0),
        attention_dropout=f.take("attn_pdrop", 0.0),
        residual_dropout=f.take("resid_pdrop", 0.0),
    )


def _rotary_dim(dim: int, key: str) -> int:
    require(
        dim > 0 and dim % 2 == 0,
        f"{key} in config.json must leave an even number of dims to rotate, and it leaves {dim}.",
    )
    return dim


def _write_gptj(m: ModelConfig) -> dict[str, Any]:
    return _write_gpt(m) | {
        "n_inner": m.mlp_width or None,
        "rotary_dim": m.rotated_dim,
        "activation_function": ACTIVATION_NAMES[m.activation],
        "tie_word_embeddings": m.tied_head,
    }


def _read_gpt_neox(f: Fields) -> ModelConfig:
    fraction, base = _rope(f)
    width, heads = f.size("hidden_size", 6144), f.size("num_attention_heads", 64)
    bias, dropout = f.take("attention_bias", True), f.take("hidden_dropout", 0.0)
    return ModelConfig(
        vocab_size=f.size("vocab_size", 50432),
        context_length=f.size("max_position_embeddings", 2048),
        num_layers=f.size("num_hidden_layers", 44),
        embed_dim=width,
        num_heads=heads,
        mlp_width=_width(f.size("intermediate_size", 24576), 4 * width),
        position_encoding="rotary_halves",
        rotary_dim=_rotary_dim(int(width // heads * fraction), "rotary_pct"),
        rotary_base=base,
        residual="parallel" if f.take("use_parallel_residual", True) else "sequential",
        activation=f.activation("hidden_act", "gelu"),
        norm_epsilon=f.take("layer_norm_eps", 1e-5),
        qkv_bias=bias,
        out_bias=bias,
        tied_head=f.take("tie_word_embeddings", False),
        embedding_dropout=dropout,
        attention_dropout=f.take("attention_dropout", 0.0),
        residual_dropout=dropout,
    )


def _rope(f: Fields) -> tuple[float, float]:
    """Share of each head that is rotated, and the base: transformers has three spellings."""
    fraction, base = f.take("rotary_pct", 0.25), f.take("rotary_emb_base", 10000.0)
    # Written besides by some versions, and read by none.
    f.only("partial_rotary_factor", fraction)
    f.only("rope_theta", base)
    f.only("rope_scaling", None)
    given = f.nested("rope_parameters")
    given.only("rope_type", "default")
    given.only("type", "default")
    fraction = given.take("partial_rotary_factor", fraction)
    base = given.take("rope_theta", base)
    given.finish()
    require(base > 0, f"the base of rotations in config.json must be positive, and it is {base}.")
    return fraction, base


def _write_gpt_neox(m: ModelConfig) -> dict[str, Any]:
    fraction = m.rotated_dim / m.head_dim
    if int(m.head_dim * fraction) < m.rotated_dim:  # the reader rounds down
        fraction = math.nextafter(fraction, math.inf)
    return {
        "vocab_size": m.vocab_size,
        "max_position_embeddings": m.context_length,
        "num_hidden_layers": m.num_layers,
        "hidden_size": m.embed_dim,
        "num_attention_heads": m.num_heads,
        "intermediate_size": m.mlp_dim,
        "rotary_pct": fraction,
        "rotary_emb_base": m.rotary_base,
        "use_parallel_residual": m.residual == "parallel",
        "hidden_act": ACTIVATION_NAMES[m.activation],
        "layer_norm_eps": m.norm_epsilon,
        "attention_bias": m.qkv_bias,
        "hidden_dropout": m.residual_dropout,
        "attention_dropout": m.attention_dropout,
        "tie_word_embeddings": m.tied_head,
    }


def _read_opt(f: Fields) -> ModelConfig:
    f.only("layer_norm_elementwise_affine", True)
    f.only("layerdrop", 0.0)
    f.only("activation_dropout", 0.0)
    width = f.size("hidden_size", 768)
    before, bias = f.take("do_layer_norm_before", True), f.take("enable_bias", True)
    no_final_norm = f.take("_remove_final_layer_norm", False)
    return ModelConfig(
        vocab_size=f.size("vocab_size", 50272),
        context_length=f.size("max_position_embeddings", 2048),
        num_layers=f.size("num_hidden_layers", 12),
        embed_dim=width,
        num_heads=f.size("num_attention_heads", 12),
        mlp_width=_width(f.size("ffn_dim", 3072), 4 * width),
        embedding_width=f.width("word_embed_proj_dim", width),
        position_offset=2,
        norm_position="before" if before else "after",
        final_norm=before and not no_final_norm,
        activation=f.activation("activation_function", "relu"),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        tied_head=f.take("tie_word_embeddings", True),
        attention_dropout=f.take("attention_dropout", 0.0),
        residual_dropout=f.take("dropout", 0.1),
    )


def _write_opt(m: ModelConfig) -> dict[str, Any]:
    before = m.norm_position == "before"
    return {
        "vocab_size": m.vocab_size,
        "max_position_embeddings": m.context_length,
        "num_hidden_layers": m.num_layers,
        "hidden_size": m.embed_dim,
        "num_attention_heads": m.num_heads,
        "ffn_dim": m.mlp_dim,
        "word_embed_proj_dim": m.token_dim,
        "do_layer_norm_before": before,
        "_remove_final_layer_norm": before and not m.final_norm,
        "activation_function": ACTIVATION_NAMES[m.activation],
        "enable_bias": m.qkv_bias,
        "attention_dropout": m.attention_dropout,
        "dropout": m.residual_dropout,
        "tie_word_embeddings": m.tied_head,
    }


def _read_ctrl(f: Fields) -> ModelConfig:
    width = f.size("n_embd", 1280)
    # Its layers' norms have 1e-6 written into the code; the setting is of the last one alone.
    f.only("layer_norm_epsilon", 1e-6)
    # Its files have a rate for attention, which its code has no dropout for.
    f.take("attn_pdrop", 0.0)
    return ModelConfig(
        vocab_size=f.size("vocab_size", 246534),
        context_length=f.size("n_positions", 256),
        num_layers=f.size("n_layer", 48),
        embed_dim=width,
        num_heads=f.size("n_head", 16),
        mlp_width=_width(f.size("dff", 8192), 4 * width),
        position_encoding="sinusoidal",
        scale_embedding=True,
        activation="relu",
        norm_epsilon=1e-6,
        tied_head=f.take("tie_word_embeddings", True),
        head_bias=True,
        embedding_dropout=f.take("embd_pdrop", 0.1),
        residual_dropout=f.take("resid_pdrop", 0.1),
    )


def _write_ctrl(m: ModelConfig) -> dict[str, Any]:
    hf = _write_gpt(m) | {"dff": m.mlp_dim, "tie_word_embeddings": m.tied_head}
    del hf["attn_pdrop"]
    return hf


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One model class of transformers, in both directions."""

    class_name: str
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]


ARCHITECTURES = {
    "gpt2": Architecture("GPT2LMHeadModel", _read_gpt2, _write_gpt2),
    "openai-gpt": Architecture("OpenAIGPTLMHeadModel", _read_gpt1, _write_gpt1),
    "gpt_neo": Architecture("GPTNeoForCausalLM", _read_gpt_neo, _write_gpt_neo),
    "gptj": Architecture("GPTJForCausalLM", _read_gptj, _write_gptj),
    "gpt_neox": Architecture("GPTNeoXForCausalLM", _read_gpt_neox, _write_gpt_neox),
    "opt": Architecture("OPTForCausalLM", _read_opt, _write_opt),
    "ctrl": Architecture("CTRLLMHeadModel", _read_ctrl, _write_ctrl),
}
"""By model_type, and in the order in which `to_config_json` tries them. Cerebras-GPT and
GPT2-Chinese are gpt2; Pythia is gpt_neox."""


def read_config_json(folder: Path) -> tuple[str, ModelConfig]:
    """The model_type of a Hugging Face folder, and what the model does.

    Raises InputError where config.json is missing or broken, of another architecture, or has a
    setting that is not done here.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"a folder in the Hugging Face format has a config.json, and {path} cannot be read "
            f"({error}): give the folder that holds it."
        ) from error
    require(isinstance(values, dict), f"{path} must hold a JSON object.")
    kind = values.get("model_type")
    require(
        kind is not None or "checkpoint" not in values,
        f"{folder} is a run already: gpt-jax generate, train and export take it as it is.",
    )
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise InputError(
            f"model_type in {path} must be one of {', '.join(ARCHITECTURES)}, and it is {kind!r}."
        )
    fields = Fields(values)
    try:
        model = ARCHITECTURES[kind].read(fields)
        fields.finish()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return kind, model


def to_config_json(model: ModelConfig) -> dict[str, Any]:
    """config.json of the first architecture that computes exactly what `model` does.

    That is, of the one whose file reads back as the same model. Raises InputError where there is
    none, naming what the nearest one would change.
    """
    pattern = _shortest_pattern(list(model.attention_pattern))
    plain = dataclasses.replace(model.architecture, attention_pattern=pattern)
    nearest: list[str] | None = None
    for kind, architecture in ARCHITECTURES.items():
        values = architecture.write(plain)
        try:
            read = architecture.read(Fields(values))
        except InputError:
            continue
        changes = [
            f"{item.name}={getattr(plain, item.name)!r}"
            for item in dataclasses.fields(plain)
            if getattr(plain, item.name) != getattr(read, item.name)
        ]
        if not changes:
            return {"model_type": kind, "architectures": [architecture.class_name], **values}
        if nearest is None or len(changes) < len(nearest):
            nearest = changes
    raise InputError(
        "an exported model must be one that the Hugging Face format can state, and no architecture "
        f"there has all of this one's {', '.join(nearest or ['settings'])}."
    )
