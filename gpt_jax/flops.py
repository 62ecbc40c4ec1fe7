"""Parameter and FLOP formulas."""

from __future__ import annotations

from gpt_jax.config import ModelConfig


def num_params(model: ModelConfig) -> int:
    """Parameters that a tokenizer's vocabulary reaches: the padding rows are not counted.

    A tied embedding counts once, and an output layer of its own is counted with it.
    """
    tables = model.vocab_size * model.token_dim * (1 if model.tied_head else 2)
    if model.position_encoding == "learned":
        tables += (model.context_length + model.position_offset) * model.embed_dim
    if model.head_bias:
        tables += model.vocab_size
    return tables + num_non_embedding_params(model)


def num_non_embedding_params(model: ModelConfig) -> int:
    """Kaplan's N: everything but the tables of tokens and positions and the output layer.

    In GPT-2's layout: per layer 12 D^2 of matrices and 13 D of biases and norms, 2 D at the end.
    """
    width, mlp, token = model.embed_dim, model.mlp_dim, model.token_dim
    norms = 1 if model.residual == "parallel_one_norm" else 2
    biases = 3 * width * model.qkv_bias + width * model.out_bias + (mlp + width) * model.mlp_bias
    layer = _matrices(model) + biases + 2 * width * norms
    projections = 2 * token * width if token != width else 0
    return model.num_layers * layer + 2 * width * model.final_norm + projections


def _matrices(model: ModelConfig) -> int:
    """Elements of one layer's matrices."""
    return 4 * model.embed_dim**2 + 2 * model.embed_dim * model.mlp_dim


def forward_flops_per_token(model: ModelConfig, length: int) -> float:
    """FLOPs of the forward pass per token: two per multiply-add, in matrix products only.

    Per layer two per element of its matrices (24 D^2 where the MLP is 4 D wide) and 4 D K for
    scores and values over K keys; 2 D V in the output layer, over the vocabulary without its
    padding. K is what the layer's definition attends over: the whole sequence of `length` in a
    dense layer (the convention of PaLM, appendix B, which does not halve for the causal mask),
    the window in a banded one.
    """
    width, token, pattern = model.embed_dim, model.token_dim, model.attention_pattern
    keys = [min(length, model.attention_window) if k == "banded" else length for k in pattern]
    attention = 4 * width * sum(keys) / len(keys)
    projections = 4 * token * width if token != width else 0
    layers = model.num_layers * (2 * _matrices(model) + attention)
    return layers + projections + 2 * token * model.vocab_size


def train_flops_per_token(model: ModelConfig, length: int) -> float:
    """Forward and backward: three times the forward pass. Rematerialisation is not counted."""
    return 3 * forward_flops_per_token(model, length)
