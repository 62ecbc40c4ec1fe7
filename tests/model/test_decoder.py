"""The decoder against NumPy, by its gradients, and in every mode it has."""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.flops import num_params
from gpt_jax.model.cache import KVCache
from gpt_jax.model.decoder import GPT

DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")
CONFIG = ModelConfig(
    vocab_size=50,
    context_length=16,
    num_layers=4,
    embed_dim=8,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=3,
    embedding_dropout=0.2,
    attention_dropout=0.2,
    residual_dropout=0.2,
)
LENGTH = 12
TOKENS = np.random.default_rng(0).integers(0, 50, (2, LENGTH)).astype("int32")


def key(seed):
    """A key whose random numbers compile in a fraction of the time of the default ones."""
    return jax.random.key(seed, impl="unsafe_rbg")


def zeros(config):
    """Parameters of 0, without the time that the random numbers of `init` take to compile."""
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), TOKENS)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), nn.unbox(shapes)["params"])


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(jnp.asarray, moved(zeros(CONFIG)))


@pytest.fixture(scope="module")
def exact(params):
    """Logits in float64."""
    return NumpyGPT(params, CONFIG.attention_pattern, CONFIG.attention_window, 50).logits(TOKENS)


def test_logits_are_those_of_a_plain_numpy_decoder(params, exact):
    """To float32 rounding; and nothing is dropped, whatever the rate, unless training."""
    logits = jax.jit(GPT(CONFIG).apply)({"params": params}, TOKENS)
    assert logits.shape == (2, LENGTH, 50)
    assert logits.dtype == jnp.float32
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(logits, exact, atol=2e-5)


# Gradients with respect to the positions are those with respect to what each place puts in.


def influence(config, params):
    """(T, T) float: how strongly the logits at t depend on the embedding at s."""
    direction = np.random.default_rng(0).standard_normal(50).astype("float32")

    def outputs(positions):
        logits = GPT(config).apply({"params": params | {"positions": positions}}, TOKENS[:1])
        return logits[0] @ direction

    grads = jax.jit(jax.jacfwd(outputs))(jnp.asarray(params["positions"]))
    return np.abs(np.asarray(grads)).max(-1)[:, :LENGTH]


@pytest.mark.parametrize(
    ("pattern", "reach"),
    [(("dense",), 100), (("dense", "banded"), 100), (("banded",), 4 * (3 - 1))],
    ids=["dense", "dense-banded", "banded"],
)
def test_a_token_depends_on_none_after_it_and_on_all_it_can_reach(params, pattern, reach):
    """By a gradient: exactly 0 after t, and before it through L layers of window w no further
    than L (w - 1) tokens, as far as which nothing is 0.
    """
    config = dataclasses.replace(CONFIG, attention_pattern=pattern)
    if len(pattern) == 1:
        # The same layers, numbered 0 to 3 in one slot.
        slots = params["layers"]["0"], params["layers"]["1"]
        one = jax.tree.map(lambda *pair: np.stack(pair, 1).reshape(4, *pair[0].shape[1:]), *slots)
        params = params | {"layers": {"0": one}}
    t, s = np.mgrid[:LENGTH, :LENGTH]
    assert np.array_equal(influence(config, params) > 0, (s <= t) & (s >= t - reach))


def test_documents_packed_in_a_window_do_not_meet(params):
    """With segments and positions of their own they read as each does alone."""
    first, second = TOKENS[:1, :5], TOKENS[:1, 5:]
    packed = jax.jit(GPT(CONFIG).apply)(
        {"params": params},
        TOKENS[:1],
        positions_BT=np.concatenate([np.arange(5), np.arange(7)])[None],
        segment_ids_BT=np.array([[3] * 5 + [7] * 7]),
    )
    reference = NumpyGPT(params, CONFIG.attention_pattern, CONFIG.attention_window, 50)
    np.testing.assert_allclose(packed[:, :5], reference.logits(first), atol=2e-5)
    np.testing.assert_allclose(packed[:, 5:], reference.logits(second), atol=2e-5)


def test_cached_logits_are_the_uncached_ones(params, exact):
    """A prompt of 7 at once, then a token at a time, through dense and banded layers.

    The second row's prompt is 2 shorter and padded on its left, which it must not see.
    """
    tokens = TOKENS.copy()
    tokens[1, 2:], tokens[1, :2] = TOKENS[1, :-2], 0
    segments = np.ones((2, LENGTH), np.int32)
    segments[1, :2] = 0
    positions = np.maximum(np.cumsum(segments, 1) - 1, 0)
    model = GPT(CONFIG)

    @jax.jit
    def read(tokens, positions, segments, cache):
        x, cache = model.apply(
            {"params": params},
            tokens,
            positions_BT=positions,
            segment_ids_BT=segments,
            cache=cache,
            method="hidden",
        )
        return model.apply({"params": params}, x, method="unembed")[..., :50], cache

    cache, logits = KVCache.empty(CONFIG, 2, LENGTH + 3), []
    for low, high in [(0, 7), *((t, t + 1) for t in range(7, LENGTH))]:
        part = slice(low, high)
        out, cache = read(tokens[:, part], positions[:, part], segments[:, part], cache)
        logits.append(out)
    logits = np.concatenate(logits, 1)
    assert int(cache.length) == LENGTH
    np.testing.assert_allclose(logits[0], exact[0], atol=2e-5)
    np.testing.assert_allclose(logits[1, 2:], exact[1, :-2], atol=2e-5)


TWO_LAYERS = dataclasses.replace(CONFIG, num_layers=2, attention_pattern=("banded",))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"remat": "dots"},
        {"remat": "qkv_attention"},
        {"remat": "attention"},
        {"remat": "full", "scan_unroll": 2},
    ],
    ids=str,
)
def test_how_layers_are_run_changes_nothing_but_rounding(change):
    """Every gradient is NumPy's, to 1e-5 of its largest entry; padding rows have none at all."""
    config = dataclasses.replace(TWO_LAYERS, **change)
    params = moved(zeros(config))
    reference = NumpyGPT(params, config.attention_pattern, config.attention_window, 50)
    expected = reference.gradients(2 * reference.logits(TOKENS))

    def squares(params):
        return jnp.square(GPT(config).apply({"params": params}, TOKENS)).sum()

    grads = jax.jit(jax.grad(squares))(params)
    assert not np.asarray(grads["embedding"])[50:].any()
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_the_padding_of_the_vocabulary_is_never_likely(params):
    """Inside the model there are 128 logits, of which softmax makes 78 exact zeros."""
    x = np.ones((1, 2, 8), "float32")
    logits = GPT(CONFIG).apply({"params": params}, x, method="unembed")
    assert logits.shape == (1, 2, 128)
    assert not np.asarray(jax.nn.softmax(logits))[..., 50:].any()


def test_parameters_start_as_gpt_2_has_them():
    """0.02, what is added to the residual stream 0.02 / sqrt(2 L), positions 0.01, biases 0."""
    config = ModelConfig(vocab_size=500, context_length=300, num_layers=2, embed_dim=64)
    params = nn.unbox(jax.jit(GPT(config).init)(key(0), TOKENS[:1, :1])["params"])
    layer = params["layers"]["0"]
    for array, std in [
        (params["embedding"], 0.02),
        (params["positions"], 0.01),
        (layer["attention"]["qkv"], 0.02),
        (layer["attention"]["out"], 0.01),  # 0.02 / sqrt(2 x 2)
        (layer["mlp"]["up"], 0.02),
        (layer["mlp"]["down"], 0.01),
    ]:
        # The standard error of a standard deviation of n values is std / sqrt(2 n).
        assert array.std() == pytest.approx(std, rel=4 / math.sqrt(2 * array.size))
        assert abs(array.mean()) < 4 * std / math.sqrt(array.size)
    biases = [layer["attention"]["qkv_bias"], layer["attention"]["out_bias"]]
    biases += [layer["mlp"]["up_bias"], layer["mlp"]["down_bias"]]
    norms = [params["norm_final"], layer["norm_attention"], layer["norm_mlp"]]
    assert not any(np.any(bias) for bias in [*biases, *(norm["bias"] for norm in norms)])
    assert all(np.all(norm["scale"] == 1) for norm in norms)
    # No two layers start alike.
    assert len(np.unique(layer["mlp"]["up"])) > 0.99 * layer["mlp"]["up"].size


def test_the_count_of_parameters_is_the_formula_s_and_the_padding_s(params):
    """By hand: 50 x 8 + 16 x 8 in tables, 4 layers of 12 x 64 + 13 x 8, and 2 x 8 at the end."""
    assert num_params(CONFIG) == 400 + 128 + 4 * (768 + 104) + 16
    assert sum(x.size for x in jax.tree.leaves(params)) == num_params(CONFIG) + 78 * 8


def test_a_sequence_longer_than_the_positions_is_refused(params):
    tokens = np.zeros((1, 17), "int32")
    with pytest.raises(InputError, match="17 tokens are more than context_length=16"):
        GPT(CONFIG).apply({"params": params}, tokens)


def test_bfloat16_is_for_products_only(params, exact):
    """Parameters and logits stay float32; the products are rounded to 8 bits, and no coarser."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), TOKENS)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    apply = partial(GPT(config).apply, {"params": params})
    x, _ = jax.eval_shape(partial(apply, method="hidden"), TOKENS)
    assert x.dtype == jnp.bfloat16
    logits = jax.jit(apply)(TOKENS)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact).mean() / np.abs(exact).mean()
    assert 1e-4 < error < 0.03


def test_dropout_keeps_the_mean_and_follows_its_key():
    """Half is dropped and the rest doubled, by another draw at each place.

    Layers of 0 with output biases of +-1 add five draws of 0 or +-2, one of them the embedding's:
    on average +-5, with a variance of 5. A norm made linear lets this through, less its mean over
    the width of 8.
    """
    config = dataclasses.replace(TWO_LAYERS, **dict.fromkeys(DROPOUTS, 0.5), norm_epsilon=1e12)
    params = zeros(config)
    sign = np.array([1, -1] * 4, "float32")
    layer = params["layers"]["0"]
    for array in (params["embedding"], layer["attention"]["out_bias"], layer["mlp"]["down_bias"]):
        array[...] = sign
    params["norm_final"]["scale"][...] = 1e6
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    apply = partial(GPT(config, train=True).apply, variables, jnp.zeros((32, 16), jnp.int32))
    drop = jax.jit(lambda key: apply(rngs={"dropout": key}, method="hidden")[0])
    x = np.asarray(drop(key(0))) * sign
    variance = 5 * (1 - 1 / 8)
    assert x.mean() == pytest.approx(5, abs=4 * math.sqrt(5 / x.size))
    assert (x - x.mean()).var() == pytest.approx(variance, rel=0.1)
    assert np.array_equal(x, drop(key(0)) * sign)
    other = np.asarray(drop(key(1))) * sign
    assert abs(np.corrcoef(x.ravel(), other.ravel())[0, 1]) < 4 / math.sqrt(x.size)
