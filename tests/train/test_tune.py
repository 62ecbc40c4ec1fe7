"""Adapters and freezing: what is trained, what it amounts to, and that nothing else moves."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import (
    Config,
    InputError,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TuneConfig,
)
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.step import Program
from gpt_jax.train.tune import effective, join, split

VOCAB, LENGTH, ROWS, STEPS = 50, 8, 8, 3
MODEL = ModelConfig(
    vocab_size=VOCAB, context_length=LENGTH, num_layers=2, embed_dim=16, num_heads=2
)
ALONE = MeshConfig(1)
LORA = TuneConfig(lora_rank=2, lora_alpha=6.0)
PAIRS = {
    "layers/0/attention/qkv": "ldr,lrcnh->ldcnh",
    "layers/0/attention/out": "lnhr,lrd->lnhd",
    "layers/0/mlp/up": "ldr,lrf->ldf",
    "layers/0/mlp/down": "lfr,lrd->lfd",
}


def program(tune, mesh=ALONE, optimizer="adamw", devices=1):
    config = Config(
        model=MODEL,
        tune=tune,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=3e-2),
        train=TrainConfig(total_tokens=STEPS * ROWS * LENGTH, batch_tokens=ROWS * LENGTH),
        mesh=mesh,
    )
    return Program(config, jax.devices()[:devices])


def origin(program):
    """Plain parameters far from 0, the same over any mesh, laid out as the program's."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.plain)
    values = jax.tree.map(lambda leaf: 0.5 * leaf, moved(zeros))
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), values, program.plain)


def batch_of(program, seed):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (2, 1, ROWS, LENGTH)).astype("int32")
    weights = np.ones((1, ROWS), "float32")
    return {"inputs": tokens[0], "targets": tokens[1], "weights": weights}


def trained(program):
    """(parameters by name before training, after it; the last state; the losses)."""
    state = program.create_state(origin(program))
    before, losses = named_leaves(jax.device_get(state.params)), []
    for step in range(STEPS):
        state, metrics = program.train_step(state, batch_of(program, step))
        losses.append(float(metrics["loss"]))
    return before, named_leaves(jax.device_get(state.params)), state, losses


@pytest.fixture(scope="module")
def lora():
    made = program(LORA)
    return made, *trained(made)


def test_at_the_start_the_model_is_its_origin(lora):
    """B is zero, so that merging adds zeros: bit for bit the parameters given."""
    made = lora[0]
    given = origin(made)
    merged = made.effective(made.create_state(given).params)
    assert jax.tree.all(jax.tree.map(np.array_equal, jax.device_get(given), jax.device_get(merged)))


def test_a_draws_with_the_variance_of_its_input(lora):
    """1 / in over some thousand elements; the halves of different matrices are not the same."""
    _, before, *_ = lora
    halves = {name: x for name, x in before.items() if name.startswith("adapters/")}
    assert {name.split("/", 1)[1] for name in halves} == {f"{n}_{h}" for n in PAIRS for h in "ab"}
    for name, leaf in halves.items():
        if name.endswith("_b"):
            assert not leaf.any()
            continue
        width = np.prod(leaf.shape[1:-1])
        assert abs(leaf.std() * width**0.5 - 1) < 0.35, name
    first, second = halves["adapters/layers/0/mlp/up_a"]
    assert not np.array_equal(first, second)


def test_the_effective_weights_are_w_and_the_product(lora):
    """W + alpha / r A B in float64, by an einsum written out for each matrix."""
    made, _, after, state, _ = lora
    merged = named_leaves(jax.device_get(made.effective(state.params)))
    assert set(merged) == {name for name in after if not name.startswith("adapters/")}
    for name, leaf in merged.items():
        expected = after[name].astype("float64")
        if name in PAIRS:
            a, b = (after[f"adapters/{name}_{half}"].astype("float64") for half in "ab")
            change = 6.0 / 2 * np.einsum(PAIRS[name], a, b)
            assert np.abs(change).max() > 1e-3
            expected = expected + change
        assert np.abs(leaf - expected).max() < 1e-6, name


def test_only_adapters_move_and_only_they_have_moments(lora):
    """The base is bit for bit what it was; AdamW has two moments for each adapter and no more."""
    _, before, after, state, _ = lora
    for name in before:
        assert np.array_equal(before[name], after[name]) == (not name.startswith("adapters/")), name
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert len(moments) == 2 * 2 * len(PAIRS)
    assert sum(x.size for x in moments) == 2 * sum(
        x.size for name, x in after.items() if name.startswith("adapters/")
    )


def test_the_first_gradient_is_by_the_chain_rule(lora):
    """dL/dB = alpha / r A^T dL/dW, dL/dA = 0 at the start, dL/dW by NumPy's model; its norm."""
    made, before, *_ = lora
    batch = batch_of(made, 0)
    plain = jax.tree.map(lambda x: np.asarray(x, "float64"), jax.device_get(origin(made)))
    reference = NumpyGPT(plain, ("dense",), 0, VOCAB)
    logits = reference.logits(batch["inputs"][0])
    softmax = np.exp(logits - logits.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    grads = named_leaves(
        reference.gradients((softmax - np.eye(VOCAB)[batch["targets"][0]]) / ROWS / LENGTH)
    )
    squares = 0.0
    for name, letters in PAIRS.items():
        inputs, output = letters.split("->")
        a, b = inputs.split(",")
        a_values = before[f"adapters/{name}_a"].astype("float64")
        gradient = 3.0 * np.einsum(f"{a},{output}->{b}", a_values, grads[name])
        squares += np.square(gradient).sum()
    _, metrics = made.train_step(made.create_state(origin(made)), batch)
    assert float(metrics["gradient_norm"]) == pytest.approx(squares**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        (("*/mlp/*",), {f"layers/0/mlp/{n}" for n in ("up", "up_bias", "down", "down_bias")}),
        pytest.param(
            ("embedding", "norm_final/scale"),
            {"embedding", "norm_final/scale"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_frozen_stays_bit_for_bit(freeze, still):
    """All else moves, and has moments."""
    before, after, state, _ = trained(program(TuneConfig(freeze=freeze)))
    assert {name for name in before if np.array_equal(before[name], after[name])} == still
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * sum(x.size for name, x in after.items() if name not in still)


@pytest.mark.slow
def test_frozen_adapters_are_no_adapters(lora):
    """Both at once: a pattern may name adapters, and then the others alone are trained."""
    tune = dataclasses.replace(LORA, lora_matrices=("qkv", "down"), freeze=("adapters/*/mlp/*",))
    made = program(tune)
    before, after, *_ = trained(made)
    moved_names = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved_names == {f"adapters/layers/0/attention/qkv_{half}" for half in "ab"}


@pytest.mark.parametrize(
    ("freeze", "said"),
    [
        (("embeding",), "matches none: did you mean 'embedding'"),
        (("embedding", "layers/1/*"), "'layers/1/\\*' matches none"),
        (("*",), "something must be trained"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(freeze, said):
    with pytest.raises(InputError, match=said):
        program(TuneConfig(freeze=freeze))


def test_all_is_one_tree_and_split_loses_nothing():
    """Where everything is trained the very tree goes through, and nothing is compiled anew."""
    tree = {"a": {"b": 1, "c": 2}, "embedding": 3}
    assert split(tree, TuneConfig())[0] is tree
    assert join(tree, {}) is tree
    parts = split(tree, TuneConfig(freeze=("a/b",)))
    assert parts == ({"a": {"c": 2}, "embedding": 3}, {"a": {"b": 1}})
    assert join(*parts) == tree
    assert effective(tree, Config()) is tree


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 2, 2, pipeline=2)], ids=["all", "stages"]
)
def test_eight_devices_train_as_one(lora, mesh):
    """The same losses and adapters, which lie as the axes that they have of their matrix do."""
    _, _, expected, _, losses = lora
    _, after, state, found = trained(program(LORA, mesh, devices=8))
    assert np.allclose(found, losses, rtol=0, atol=2e-5)
    for name, leaf in after.items():
        assert np.abs(leaf - expected[name]).max() < 2e-3, name
    specs = {name: x.sharding.spec for name, x in named_leaves(state.params).items()}
    up, down = ("adapters/layers/0/mlp/up", "adapters/layers/0/mlp/down")
    assert specs[f"{up}_a"] == P("pipeline", "fsdp", None)
    assert specs[f"{up}_b"] == P("pipeline", None, "tensor")
    assert specs[f"{down}_a"] == P("pipeline", "tensor", None)
    assert specs[f"{down}_b"] == P("pipeline", None, "fsdp")
    assert specs["adapters/layers/0/attention/out_a"] == P("pipeline", "tensor", None, None)


@pytest.mark.slow
def test_muon_takes_the_halves_as_matrices():
    """The first update of B is orthogonalised: both of its singular values are about the same."""
    made = program(TuneConfig(lora_rank=2, lora_matrices=("out",)), optimizer="muon")
    state, _ = made.train_step(made.create_state(origin(made)), batch_of(made, 0))
    for layer in np.asarray(state.params["adapters"]["layers"]["0"]["attention"]["out_b"]):
        large, small = np.linalg.svd(layer, compute_uv=False)
        assert 0 < large < 1.8 * small
