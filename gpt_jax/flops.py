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


ATTENTION_PRODUCTS = {"forward": 2, "backward": 5}
"""Products of size T S H that a flash kernel makes: scores and values; then the scores again, and
the gradients of weights, values, queries and keys (Dao 2023, section 3.1)."""


def executed_flops_per_token(model: ModelConfig, length: int) -> tuple[float, float]:
    """FLOPs that a training step executes per token, rematerialisation included.

    Returns those of the matrices, and those of attention by a flash kernel, which computes the
    pairs that the mask lets through: half of the square in a dense layer, the band in a banded one.
    The output layer is computed in parts whose logits are made again for the backward pass.
    """
    width, token, pattern = model.embed_dim, model.token_dim, model.attention_pattern
    # Of a layer's 2 per element: queries, keys and values; the heads' output; the MLP's halves.
    qkv, out, half = 6 * width**2, 2 * width**2, 2 * width * model.mlp_dim
    # The last product of a sequence of them is needed by nothing in the backward pass.
    again = {
        "none": 0,
        "dots": 0,
        "qkv_attention": out + half,
        "offload": out + half,
        "attention": qkv + out + half,
        "full": qkv + out + half,
    }[model.remat]
    layers = model.num_layers * (3 * (qkv + out + 2 * half) + again)
    projections = 3 * 4 * token * width if token != width else 0
    head = 4 * 2 * token * model.vocab_size
    pairs = [_pairs_per_token(length, model.attention_window, kind) for kind in pattern]
    saved = model.remat in ("none", "qkv_attention", "offload", "attention")
    products = ATTENTION_PRODUCTS["forward"] * (1 if saved else 2) + ATTENTION_PRODUCTS["backward"]
    attention = model.num_layers * products * 2 * width * sum(pairs) / len(pairs)
    return layers + projections + head, attention


def _pairs_per_token(length: int, window: int, kind: str) -> float:
    """Keys that a token sees, on average over a sequence."""
    seen = min(window, length) if kind == "banded" else length
    return seen - (seen - 1) * seen / (2 * length)


def compute_bytes(model: ModelConfig) -> int:
    """Of a number in the compute dtype."""
    return 2 if model.dtype == "bfloat16" else 4


def saved_bytes_per_token(model: ModelConfig, tensor: int, split_residual: bool) -> float:
    """Activations that one layer leaves in a device's memory for the backward pass, per token.

    In the compute dtype, over `tensor` devices that split heads and MLP; `split_residual` splits
    what layers hand on as well. "none" keeps some 12 arrays of width D and 3 of width F (after
    Korthikanti et al. 2022, equation 1, without the attention matrix, which no kernel keeps).
    """
    size = compute_bytes(model)
    width, mlp = model.embed_dim, model.mlp_dim
    residual = width / tensor if split_residual else width
    attention = width / tensor + model.num_heads / tensor * 4 / size
    kept = {
        "full": 0,
        "offload": 0,
        "attention": attention,
        "qkv_attention": 3 * width / tensor + attention,
        "dots": 3 * width / tensor + 2 * residual + mlp / tensor,
        "none": 6 * width / tensor + 6 * residual + 3 * mlp / tensor + attention,
    }[model.remat]
    return size * (residual + kept)
