"""Parameter and FLOP formulas, and the peak rates that a measured rate is compared with."""

from __future__ import annotations

from gpt_jax.config import ModelConfig

# Dense matrix FLOP/s of one chip, without sparsity, as JAX names the chip: (bfloat16, float32).
# Sources: cloud.google.com/tpu/docs (system architecture) and NVIDIA's data sheets. TPUs multiply
# float32 in bfloat16 passes by default, so both columns are the same; GPUs use TF32.
_PEAK_FLOPS = {
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
    "TPU v6e": (918e12, 918e12),
    "NVIDIA A100": (312e12, 156e12),
    "NVIDIA H100": (989e12, 494e12),
    "NVIDIA H200": (989e12, 494e12),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a chip, or None where the table does not know it (CPUs among others)."""
    names = [name for name in _PEAK_FLOPS if device_kind.startswith(name)]
    if not names:
        return None
    bfloat16, float32 = _PEAK_FLOPS[max(names, key=len)]
    return bfloat16 if dtype == "bfloat16" else float32


def num_params(model: ModelConfig) -> int:
    """Parameters that a tokenizer's vocabulary reaches: the padding rows are not counted.

    V D + T D embeddings, per layer 12 D^2 of matrices and 13 D of biases and norms, 2 D at the end.
    """
    width = model.embed_dim
    embeddings = (model.vocab_size + model.context_length) * width
    return embeddings + num_non_embedding_params(model)


def num_non_embedding_params(model: ModelConfig) -> int:
    """Kaplan's N: everything but the token and position tables."""
    width = model.embed_dim
    return model.num_layers * (12 * width**2 + 13 * width) + 2 * width


def forward_flops_per_token(model: ModelConfig, length: int) -> float:
    """FLOPs of the forward pass per token: two per multiply-add, in matrix products only.

    Per layer 24 D^2 in the matrices and 4 D K for scores and values over K keys; 2 D V in the
    output layer, over the vocabulary without its padding. K is what the layer's definition
    attends over: the whole sequence of `length` in a dense layer (the convention of PaLM,
    appendix B, which does not halve for the causal mask), the window in a banded one.
    """
    width, pattern = model.embed_dim, model.attention_pattern
    keys = [min(length, model.attention_window) if k == "banded" else length for k in pattern]
    attention = 4 * width * sum(keys) / len(keys)
    return model.num_layers * (24 * width**2 + attention) + 2 * width * model.vocab_size


def train_flops_per_token(model: ModelConfig, length: int) -> float:
    """Forward and backward: three times the forward pass. Rematerialisation is not counted."""
    return 3 * forward_flops_per_token(model, length)
