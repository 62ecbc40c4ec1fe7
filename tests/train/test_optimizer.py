"""Schedule at points computed by hand, one update against NumPy, Muon by its singular values."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_gpt import moved

from gpt_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.presets import gpt3
from gpt_jax.train.optimizer import decay_mask, learning_rate, make_optimizer

MODEL = ModelConfig(vocab_size=128, context_length=4, num_layers=2, embed_dim=8, num_heads=2)


@pytest.fixture(scope="module")
def boxed():
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(GPT(MODEL).init, jax.random.key(0), tokens)["params"]


@pytest.fixture(scope="module")
def params(boxed):
    return moved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, "float32"), nn.unbox(boxed)))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (0, 0.0),
        (187.5e6, 3.0e-5),  # half of the warm-up
        (375e6, 6.0e-5),
        # A quarter and a half from 375 M to 260 B: 0.1 + 0.9 (1 + cos 45 deg) / 2, and 0.1 + 0.45.
        (65.28125e9, 0.868198 * 6.0e-5),
        (130.1875e9, 0.55 * 6.0e-5),
        (260e9, 6.0e-6),
        (300e9, 6.0e-6),  # 146 M windows, and 3 x 10^11 is far beyond 32 bits
    ],
)
def test_the_learning_rate_of_gpt_3(tokens, expected):
    """Appendix B, 175B: peak 0.6e-4, warm-up over 375 M tokens, cosine to 10 % at 260 B."""
    rate = learning_rate(gpt3("175b"), jnp.int32(tokens / 2048))
    assert rate.dtype == jnp.float32
    assert float(rate) == pytest.approx(expected, rel=2e-5, abs=1e-12)


def test_without_warm_up_the_first_step_is_near_the_peak():
    """And the cosine ends with the run where decay_tokens is not given."""
    config = Config(
        model=dataclasses.replace(MODEL, context_length=10),
        train=TrainConfig(total_tokens=1000, batch_tokens=10),
        optimizer=OptimizerConfig(learning_rate=2.0, final_learning_rate_fraction=0.0),
    )
    rates = [float(learning_rate(config, jnp.int32(samples))) for samples in (0, 50, 100, 200)]
    assert rates == pytest.approx([2, 1, 0, 0], abs=1e-6)


def test_only_matrices_decay(boxed):
    """By name: no bias, norm or position is pulled to 0; boxed with their axes or not."""
    for tree in (boxed, nn.unbox(boxed)):
        mask = decay_mask(tree)
        leaves = jax.tree_util.tree_leaves_with_path(mask)
        decayed = {jax.tree_util.keystr(p, simple=True, separator="/") for p, on in leaves if on}
        assert {name.removesuffix("/value") for name in decayed} == {
            "embedding",
            "layers/0/attention/qkv",
            "layers/0/attention/out",
            "layers/0/mlp/up",
            "layers/0/mlp/down",
        }
        assert len(leaves) == 16


def test_two_steps_of_adamw_are_numpy_s(params):
    """Gradients cut to norm 1, moments with their bias corrected, decay on matrices alone.

    The update is at a learning rate of 1: the step multiplies its own in.
    """
    config = OptimizerConfig(b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3, clip_norm=1.0)
    tx = make_optimizer(config, MODEL)
    gradients = [moved(jax.tree.map(np.zeros_like, params), seed=seed) for seed in (1, 2)]
    # The second is small enough to stay as it is.
    gradients[1] = jax.tree.map(lambda g: 1e-3 * g, gradients[1])
    state, update = tx.init(params), jax.jit(tx.update)
    norms, first, second = [], 0.0, 0.0
    decays = jax.tree.map(lambda p, on: np.full(p.size, on), params, decay_mask(params))
    decay = np.concatenate(jax.tree.leaves(decays))

    def flat(tree):
        return np.concatenate([np.ravel(x).astype(float) for x in jax.tree.leaves(tree)])

    for t, gradient in enumerate(gradients, 1):
        updates, state = update(gradient, state, params)
        g = flat(gradient)
        norms.append(np.sqrt((g**2).sum()))
        g /= max(1, norms[-1])
        first, second = 0.8 * first + 0.2 * g, 0.9 * second + 0.1 * g**2
        adam = first / (1 - 0.8**t) / (np.sqrt(second / (1 - 0.9**t)) + 1e-3)
        np.testing.assert_allclose(flat(updates), -(adam + 0.3 * decay * flat(params)), atol=1e-5)
    assert norms[0] > 1 > norms[1]


# ------------------------------------------------------------------------------------- Muon


def spectrum(rng, shape):
    """A matrix of random directions whose singular values lie between 0.3 and 1."""
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return u * rng.uniform(0.3, 1, u.shape[1]) @ vt, u @ vt


def matrices(name, array):
    """The matrices (fan in, fan out) that a stacked array holds."""
    if name == "qkv":
        return [array[layer, :, i].reshape(8, 8) for layer in range(2) for i in range(3)]
    if name == "out":
        return [array[layer].reshape(8, 8) for layer in range(2)]
    return list(array)


@pytest.fixture(scope="module")
def muon(params):
    """(gradients, updates, polar factors by name) of a first step of Muon."""
    rng, polar = np.random.default_rng(0), {}
    gradients = moved(jax.tree.map(np.zeros_like, params), seed=1)
    layer = gradients["layers"]["0"]
    for room, name in [("attention", "qkv"), ("attention", "out"), ("mlp", "up"), ("mlp", "down")]:
        shapes = [m.shape for m in matrices(name, layer[room][name])]
        made, polar[name] = zip(*(spectrum(rng, shape) for shape in shapes), strict=True)
        if name == "qkv":
            stacked = np.stack(made).reshape(2, 3, 8, 2, 4).swapaxes(1, 2)
        else:
            stacked = np.stack(made).reshape(layer[room][name].shape)
        layer[room][name] = stacked.astype("float32")
    tx = make_optimizer(OptimizerConfig(name="muon", weight_decay=0.1), MODEL)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    return gradients, updates, polar


@pytest.mark.parametrize(
    ("room", "name", "fan"),
    [("attention", "qkv", 8), ("attention", "out", 8), ("mlp", "up", 32), ("mlp", "down", 32)],
)
def test_muon_makes_each_layer_s_matrix_orthogonal(params, muon, room, name, fan):
    """Each of q, k, v, output, up and down, by layer: all singular values near 0.2 sqrt(max fan)
    (Moonlight's scale), along the gradient's own directions; and each matrix decays.
    """
    _, updates, polar = muon
    update = (
        np.asarray(updates["layers"]["0"][room][name]) + 0.1 * params["layers"]["0"][room][name]
    )
    scale = 0.2 * np.sqrt(fan)
    for matrix, expected in zip(matrices(name, update), polar[name], strict=True):
        values = np.linalg.svd(matrix / scale, compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.3
        # -U V^T, as far as singular values of 0.7 to 1.2 let it be.
        assert -(matrix / scale * expected).sum() / len(values) > 0.7
        np.testing.assert_allclose(matrix / scale, -expected, atol=0.4)


def test_muon_leaves_all_else_to_adam_without_decay(muon):
    """A first step of Adam is the gradient's sign, whatever the parameter. Optax gives Adam the
    Nesterov momentum of Muon, which looks one step ahead: 1 + b1 / (1 + b1) of it.
    """
    gradients, updates, polar = muon
    seen = 0
    for (path, update), gradient in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(gradients), strict=True
    ):
        if path[-1].key not in polar:
            seen += 1
            np.testing.assert_allclose(update / (1 + 0.9 / 1.9), -np.sign(gradient), atol=1e-2)
    assert seen == 12


# --------------------------------------------------------------------------------------- muP


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_width_multiplies_updates_and_not_the_decay(params, name):
    """At four widths of the base: the update without decay times the table's rate of its name
    (1/4 of hidden matrices by Adam, 1/2 by Muon, 1 of all else), and the decay as it is.
    """
    mup = dataclasses.replace(MODEL, parametrisation="mup", base_width=2)
    gradients = moved(jax.tree.map(np.zeros_like, params), seed=1)

    def updates(model, weight_decay):
        tx = make_optimizer(OptimizerConfig(name=name, weight_decay=weight_decay), model)
        found, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
        leaves = jax.tree_util.tree_leaves_with_path(found)
        return {
            jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in leaves
        }

    found, plain, decayed = updates(mup, 0.3), updates(MODEL, 0.0), updates(MODEL, 0.3)
    hidden = {"qkv", "out", "up", "down"}
    for path, update in found.items():
        by = {"adamw": 1 / 4, "muon": 1 / 2}[name] if path.split("/")[-1] in hidden else 1
        decay = decayed[path] - plain[path]
        np.testing.assert_allclose(update, by * plain[path] + decay, rtol=1e-4, atol=1e-6)
    assert len(found) == 16
