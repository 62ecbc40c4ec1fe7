"""Sizes against published numbers, FLOPs against those that JAX has traced."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jaxpr_flops import dot_flops

from gpt_jax.config import ModelConfig, TrainConfig
from gpt_jax.flops import (
    executed_flops_per_token,
    forward_flops_per_token,
    num_non_embedding_params,
    num_params,
    saved_bytes_per_token,
    train_flops_per_token,
)
from gpt_jax.model.decoder import GPT
from gpt_jax.presets import gpt3
from gpt_jax.train import loss

TINY = ModelConfig(vocab_size=128, context_length=32, num_layers=4, embed_dim=24, num_heads=3)
TOKENS = jnp.zeros((1, 16), jnp.int32)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "count"),
    [(12, 768, 12, 124_439_808), (48, 1600, 25, 1_557_611_200)],
    ids=["gpt2", "gpt2-xl"],
)
def test_gpt_2_has_the_parameters_that_its_release_has(layers, width, heads, count):
    model = ModelConfig(
        vocab_size=50257,
        context_length=1024,
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
    )
    assert num_params(model) == count


def test_gpt_3_has_175_billion():
    """By hand: 96 layers of 12 x 12288^2 + 13 x 12288, 52,305 rows of tables, and a last norm."""
    model = gpt3("175b").model
    assert num_non_embedding_params(model) == 96 * (1_811_939_328 + 159_744) + 24_576
    assert num_params(model) == 173_961_535_488 + 642_723_840 == 174_604_259_328


def test_the_count_is_the_model_s_own():
    """Of all arrays by `eval_shape`, but for the rows that pad the vocabulary."""
    model = dataclasses.replace(TINY, vocab_size=100)
    shapes = nn.unbox(jax.eval_shape(GPT(model).init, jax.random.key(0), TOKENS))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == num_params(model) + 28 * 24


def traced(model, length):
    """FLOPs of the matrix products of one forward pass, per token."""
    tokens = jnp.zeros((1, length), jnp.int32)
    shapes = nn.unbox(jax.eval_shape(GPT(model).init, jax.random.key(0), tokens))
    return dot_flops(GPT(model).apply, shapes, tokens) / length


@pytest.mark.parametrize("length", [16, 32])
def test_a_dense_forward_pass_costs_what_is_traced(length):
    """Exactly, where one chunk of queries meets the whole sequence."""
    assert forward_flops_per_token(TINY, length) == traced(TINY, length)


@pytest.mark.parametrize(
    "fields",
    [
        {"mlp_width": 50, "tied_head": False, "head_bias": True, "position_encoding": "sinusoidal"},
        {"embedding_width": 10, "norm_position": "after", "final_norm": False},
        {"residual": "parallel_one_norm", "qkv_bias": False, "out_bias": False},
        {"residual": "parallel", "position_encoding": "rotary_halves", "mlp_bias": False},
    ],
)
def test_other_models_cost_what_is_traced(fields):
    """Rotations, norms and biases are no matrix products; all parameters are counted."""
    model = dataclasses.replace(TINY, **fields)
    assert forward_flops_per_token(model, 16) == traced(model, 16)
    shapes = nn.unbox(jax.eval_shape(GPT(model).init, jax.random.key(0), TOKENS))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == num_params(model)


def test_a_banded_layer_is_counted_by_its_window():
    """By hand: 4 layers of 24 x 24^2 in matrices and 4 x 24 a key, and 2 x 24 x 128 at the end."""
    model = dataclasses.replace(TINY, attention_pattern=("dense", "banded"), attention_window=8)
    keys = 16 + 8 + 16 + 8
    assert forward_flops_per_token(model, 16) == 4 * 13_824 + 96 * keys + 6_144
    # A window wider than the sequence is the sequence.
    wide = dataclasses.replace(model, attention_window=100)
    assert forward_flops_per_token(wide, 16) == forward_flops_per_token(TINY, 16)


def test_the_padding_of_the_vocabulary_is_no_work():
    one_less = dataclasses.replace(TINY, vocab_size=127)
    assert forward_flops_per_token(TINY, 16) - forward_flops_per_token(one_less, 16) == 48


def test_training_costs_three_forward_passes():
    assert train_flops_per_token(TINY, 16) == 3 * forward_flops_per_token(TINY, 16)
    # Kaplan's 6 N, to which attention and the output layer add little in a wide model.
    model = gpt3("175b").model
    ratio = train_flops_per_token(model, 2048) / (6 * num_non_embedding_params(model))
    assert 1.0 < ratio < 1.03


@pytest.mark.parametrize(
    ("remat", "products"),
    [("none", 6), ("dots", 8), ("qkv_attention", 7), ("attention", 7), ("full", 8)],
)
def test_a_training_step_executes_what_is_traced(monkeypatch, remat, products):
    """Every matrix product of loss and gradients, those that rematerialisation makes again too.

    Besides the matrices there is XLA's attention, 2 products forwards and 4 backwards; of what is
    made again, only the scores are needed where the output is kept. The logits are cut in two.
    """
    monkeypatch.setattr(loss, "MAX_LOGITS", 8 * 128)
    model = dataclasses.replace(TINY, remat=remat)
    shapes = nn.unbox(jax.eval_shape(GPT(model).init, jax.random.key(0), TOKENS))["params"]
    batch = {"inputs": TOKENS, "targets": TOKENS, "weights": jnp.ones(1)}

    def objective(params):
        return loss.batch_loss(GPT(model), params, batch, TrainConfig()).objective

    matrices, _ = executed_flops_per_token(model, 16)
    attention = products * 4 * 2 * 24 * 16  # 4 layers, 24 wide, 16 keys, two a multiply-add
    assert dot_flops(jax.grad(objective), shapes) / 16 == matrices + attention


def test_a_kernel_computes_what_the_mask_lets_through():
    """By hand: of 4 tokens those of a dense layer see 1 to 4 keys, of a banded one 1, 2, 2, 2."""
    model = dataclasses.replace(
        TINY, num_layers=2, attention_pattern=("dense", "banded"), attention_window=2
    )
    _, attention = executed_flops_per_token(model, 4)
    assert attention == 7 * 2 * 24 * (10 / 4 + 7 / 4)
    _, again = executed_flops_per_token(dataclasses.replace(model, remat="full"), 4)
    assert again / attention == pytest.approx(9 / 7)


def test_what_a_layer_keeps():
    """By hand, in bfloat16: 2 bytes of 24, then 3 x 24 and 24 with 3 sums of 4 bytes, then more."""
    kept = {
        remat: saved_bytes_per_token(
            dataclasses.replace(TINY, remat=remat, dtype="bfloat16"), 1, False
        )
        for remat in ("full", "attention", "qkv_attention", "dots", "offload")
    }
    assert kept == {
        "full": 48,
        "attention": 48 + 48 + 12,
        "qkv_attention": 48 + 4 * 48 + 12,
        "dots": 48 * (1 + 3 + 2 + 4),
        "offload": 48,
    }
    split = dataclasses.replace(TINY, remat="qkv_attention", dtype="bfloat16")
    assert saved_bytes_per_token(split, 3, True) == kept["qkv_attention"] / 3
