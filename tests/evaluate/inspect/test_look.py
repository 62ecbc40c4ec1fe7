"""What is seen inside a model, against attention as its formula and the model's own logits."""

import jax
import numpy as np
import pytest
from attention_loops import loops
from random_model import random_params

from gpt_jax.config import ModelConfig, TrainConfig
from gpt_jax.evaluate.inspect.look import lens, look, losses, probabilities
from gpt_jax.model.decoder import GPT
from gpt_jax.train.loss import batch_loss

SIZES = {"vocab_size": 61, "context_length": 16, "embed_dim": 24, "num_heads": 3}
KINDS = {
    "GPT-3": ModelConfig(
        **SIZES, num_layers=4, attention_pattern=("dense", "banded"), attention_window=4
    ),
    "GPT-1": ModelConfig(**SIZES, num_layers=2, norm_position="after", final_norm=False),
    "GPT-J": ModelConfig(
        **SIZES,
        num_layers=2,
        position_encoding="rotary_interleaved",
        rotary_dim=4,
        residual="parallel_one_norm",
        tied_head=False,
        head_bias=True,
        remat="full",
    ),
}
TOKENS = np.random.default_rng(0).integers(61, size=(2, 11)).astype(np.int32)


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    """A kind of model, its parameters, and what is seen of it."""
    config = KINDS[request.param]
    params = random_params(config)
    return config, params, look(config, params, TOKENS)


def test_the_lens_at_the_last_layer_is_the_model(model):
    """And at no other."""
    config, params, seen = model
    logits = jax.jit(GPT(config).apply)({"params": params}, TOKENS)
    assert seen.streams_KBTD.shape == (config.num_layers + 1, 2, 11, 24)
    found = [lens(config, params, stream) for stream in seen.streams_KBTD]
    np.testing.assert_allclose(found[-1], logits, atol=2e-4)
    assert all(np.abs(one - logits).max() > 0.1 for one in found[:-1])


def test_losses_add_up_to_the_models(model):
    """The validation loss of the same tokens, as training counts it."""
    config, params, seen = model
    nats = losses(lens(config, params, seen.streams_KBTD[-1]), TOKENS)
    assert nats.shape == (2, 10)
    batch = {"inputs": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "weights": np.ones((2, 10))}
    sums = jax.jit(lambda p: batch_loss(GPT(config), p, batch, TrainConfig()))(params)
    np.testing.assert_allclose(nats.sum(), sums.nats, rtol=1e-5)


def test_attention_is_causal_and_adds_up_to_one(model):
    """And a banded layer sees its window alone."""
    config, _, seen = model
    attention_LBNTS = np.asarray(seen.attention_LBNTS)
    assert attention_LBNTS.shape == (config.num_layers, 2, 3, 11, 11)
    np.testing.assert_allclose(attention_LBNTS.sum(-1), 1, atol=1e-5)
    place_T = np.arange(11)
    distance_TS = place_T[:, None] - place_T
    assert (attention_LBNTS[..., distance_TS < 0] == 0).all()
    if "banded" in config.attention_pattern:
        assert (attention_LBNTS[1::2][..., distance_TS >= 4] == 0).all()
        assert (attention_LBNTS[::2][..., distance_TS >= 4] > 0).any()


@pytest.mark.parametrize(("slot", "window"), [(0, None), (1, 4)])
def test_probabilities_are_those_of_the_formula(slot, window):
    """They weigh values as loops over queries and heads do, in float64."""
    q, k, v = np.random.default_rng(1).normal(size=(3, 2, 11, 3, 8)).astype(np.float32)
    found_BNTS = np.asarray(probabilities(KINDS["GPT-3"], slot, q, k))
    y_BTNH = np.einsum("bnts,bsnh->btnh", found_BNTS, v)
    np.testing.assert_allclose(y_BTNH, loops(q, k, v, window)[0], atol=1e-5)


def test_the_maps_are_what_the_model_itself_does():
    """A layer put together from its own map: x + (map v) W is what the MLP then reads."""
    config = KINDS["GPT-3"]
    params = random_params(config)
    seen = look(config, params, TOKENS)
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), params["layers"]["0"])
    x = np.asarray(seen.streams_KBTD[0], np.float64)

    def norm(y, of):
        y = y - y.mean(-1, keepdims=True)
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-5) * of["scale"] + of["bias"]

    a, m = first["attention"], first["mlp"]
    v = np.einsum("btd,dnh->btnh", norm(x, first["norm_attention"]), a["qkv"][:, 2])
    y = np.einsum("bnts,bsnh->btnh", np.asarray(seen.attention_LBNTS[0]), v + a["qkv_bias"][2])
    x = x + np.einsum("btnh,nhd->btd", y, a["out"]) + a["out_bias"]
    h = norm(x, first["norm_mlp"]) @ m["up"] + m["up_bias"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    np.testing.assert_allclose(seen.streams_KBTD[1], x + h @ m["down"] + m["down_bias"], atol=1e-3)
