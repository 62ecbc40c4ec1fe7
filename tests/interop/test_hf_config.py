"""config.json as it is published, by example, and every architecture there and back."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.interop.fields import Fields
from gpt_jax.interop.hf_config import ARCHITECTURES, read_config_json, to_config_json
from gpt_jax.presets import family

SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
TASK = {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}
SIZES_GPT2 = {
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "vocab_size": 50257,
}
RATES = {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}
NEOX = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
}
OPT = {
    "model_type": "opt",
    "_name_or_path": "facebook/opt",
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "dropout": 0.1,
    "eos_token_id": 2,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 50272,
}
# The published files, as they are or were on the Hugging Face hub.
FILES = {
    ("GPT-1", "117m"): {
        "model_type": "openai-gpt",
        "afn": "gelu",
        "architectures": ["OpenAIGPTLMHeadModel"],
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 512,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 512,
        "n_special": 0,
        "predict_special_tokens": True,
        "vocab_size": 40478,
        **RATES,
        **SUMMARY,
        **TASK,
    },
    ("GPT-2", "124m"): {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        **SIZES_GPT2,
        **RATES,
        **SUMMARY,
        **TASK,
    },
    ("GPT-2", "1558m"): {
        "model_type": "gpt2",
        "layer_norm_epsilon": 1e-05,
        **SIZES_GPT2,
        "n_embd": 1600,
        "n_head": 25,
        "n_layer": 48,
        "output_past": True,
        **RATES,
    },
    ("GPT-Neo", "2.7b"): {
        "model_type": "gpt_neo",
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * 16,
        "attention_types": [[["global", "local"], 16]],
        "embed_dropout": 0,
        "gradient_checkpointing": False,
        "hidden_size": 2560,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "num_heads": 20,
        "num_layers": 32,
        "resid_dropout": 0,
        "task_specific_params": {"text-generation": {"temperature": 0.9}},
        "tokenizer_class": "GPT2Tokenizer",
        "vocab_size": 50257,
        "window_size": 256,
        **SUMMARY,
    },
    ("GPT-J", "6b"): {
        "model_type": "gptj",
        "activation_function": "gelu_new",
        "architectures": ["GPTJForCausalLM"],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "gradient_checkpointing": False,
        "layer_norm_epsilon": 1e-05,
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary": True,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "transformers_version": "4.18.0.dev0",
        "use_cache": True,
        "vocab_size": 50400,
        **SUMMARY,
    },
    ("GPT-NeoX", "20b"): {
        **NEOX,
        "attention_probs_dropout_prob": 0,
        "hidden_act": "gelu_fast",
        "hidden_dropout_prob": 0,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_attention_heads": 64,
        "num_hidden_layers": 44,
        "vocab_size": 50432,
    },
    ("Pythia", "14m"): {
        **NEOX,
        "classifier_dropout": 0.1,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "vocab_size": 50304,
    },
    ("Pythia", "2.8b"): {  # as transformers 4.45 and later write it
        **NEOX,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "partial_rotary_factor": 0.25,
        "rope_scaling": None,
        "rope_theta": 10000,
        "vocab_size": 50304,
    },
    ("OPT", "125m"): {
        **OPT,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "ffn_dim": 3072,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "word_embed_proj_dim": 768,
    },
    ("OPT", "350m"): {
        **OPT,
        "do_layer_norm_before": False,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "word_embed_proj_dim": 512,
    },
    ("OPT", "13b"): {
        **OPT,
        "do_layer_norm_before": True,
        "ffn_dim": 20480,
        "hidden_size": 5120,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "output_projection": True,
        "word_embed_proj_dim": 5120,
    },
    ("Cerebras-GPT", "2.7b"): {
        "model_type": "gpt2",
        "activation_function": "gelu",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "layer_norm_epsilon": 1e-05,
        "n_embd": 2560,
        "n_head": 32,
        "n_inner": 10240,
        "n_layer": 32,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "vocab_size": 50257,
    },
    ("GPT2-Chinese", "base"): {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "gradient_checkpointing": False,
        "n_inner": None,
        "output_past": True,
        "tokenizer_class": "BertTokenizer",
        **SIZES_GPT2,
        "vocab_size": 21128,
        **RATES,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 320}},
    },
    ("CTRL", "1.6b"): {
        "model_type": "ctrl",
        "attn_pdrop": 0.1,
        "dff": 8192,
        "embd_pdrop": 0.1,
        "from_tf": False,
        "layer_norm_epsilon": 1e-06,
        "n_ctx": 512,
        "n_embd": 1280,
        "n_head": 16,
        "n_layer": 48,
        "n_positions": 50000,
        "resid_pdrop": 0.1,
        "torchscript": False,
        "vocab_size": 246534,
        **SUMMARY,
    },
}


def read(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps(values))
    return read_config_json(tmp_path)


@pytest.mark.parametrize("model", FILES, ids=" ".join)
def test_a_published_file_is_its_preset(model, tmp_path):
    """Two ways to the same model: the file, and the table of `presets.py`."""
    name, size = model
    _, read_model = read(tmp_path, FILES[model])
    assert read_model == family()[name][size].architecture


def test_every_preset_can_be_stated_and_read_back(tmp_path):
    """All sizes of all models, but GPT-3's, whose attention no file of the format has."""
    for name, sizes in family().items():
        if name == "GPT-3":
            continue
        for model in sizes.values():
            _, back = read(tmp_path, to_config_json(model))
            assert back == model.architecture


@given(
    st.builds(
        ModelConfig,
        vocab_size=st.just(99),
        num_layers=st.sampled_from([4, 8]),
        embed_dim=st.sampled_from([48, 72]),
        num_heads=st.sampled_from([1, 3, 4]),
        mlp_width=st.sampled_from([0, 7]),
        embedding_width=st.sampled_from([0, 5]),
        attention_pattern=st.sampled_from([("dense",), ("dense", "banded"), ("banded",) * 4]),
        scale_attention=st.booleans(),
        position_encoding=st.sampled_from(["learned", "rotary_halves", "sinusoidal"]),
        norm_position=st.sampled_from(["before", "after"]),
        final_norm=st.booleans(),
        activation=st.sampled_from(["gelu_tanh", "gelu", "relu", "silu"]),
        qkv_bias=st.booleans(),
        out_bias=st.booleans(),
        tied_head=st.booleans(),
        head_bias=st.booleans(),
        residual_dropout=st.sampled_from([0.0, 0.1]),
    )
)
def test_what_is_stated_is_what_it_is(model):
    """Any model at all: its file reads back as the same model, or it is refused."""
    try:
        values = to_config_json(model)
    except InputError:
        return
    kind = values["model_type"]
    fields = Fields(json.loads(json.dumps(values)))
    back = ARCHITECTURES[kind].read(fields)
    fields.finish()
    pattern = model.attention_pattern
    if len(set(pattern)) == 1:  # one kind of attention is one kind, however often it is said
        pattern = pattern[:1]
    assert back == dataclasses.replace(model.architecture, attention_pattern=pattern)
