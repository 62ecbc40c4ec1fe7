"""A step on packed examples is the step on each of them alone, in NumPy's float64."""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.data.shards import ShardIndex, TokenShards
from gpt_jax.data.supervised import Packed
from gpt_jax.model.decoder import GPT
from gpt_jax.train.loss import batch_loss
from gpt_jax.train.step import Program

VOCAB, LENGTH, ROWS = 60, 12, 8
MODEL = ModelConfig(
    vocab_size=VOCAB,
    context_length=LENGTH,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=3,
)
SIZES = [(3, 2), (1, 1), (0, 3), (4, 1), (2, 4), (5, 7), (1, 2), (2, 2)]
"""Tokens of the prompts and the targets; packed they take four rows."""


def packed(sizes=SIZES):
    rng = np.random.default_rng(0)
    parts = [[*rng.integers(1, VOCAB, size), 0] for pair in sizes for size in pair]
    tokens = np.concatenate(parts).astype(np.uint16)
    index = ShardIndex(1, len(parts), len(tokens), 0, "uint16", 0, VOCAB, "", "", 0.0, ())
    return Packed(TokenShards(Path("fake"), index, (tokens,)), LENGTH, 0, "drop")


@functools.cache
def program(mesh=None, micro=1):
    """Compiled once; `micro` micro-batches of a batch of 8 sequences."""
    devices = 1 if mesh is None else 8
    shards = 1 if mesh is None else mesh.data * mesh.fsdp
    config = Config(
        model=MODEL,
        data=DataConfig(prompt="{a}", target="{b}"),
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup_tokens=2 * ROWS * LENGTH),
        train=TrainConfig(
            total_tokens=6 * ROWS * LENGTH,
            batch_tokens=ROWS * LENGTH,
            device_batch_tokens=ROWS // micro // shards * LENGTH,
        ),
        mesh=mesh or MeshConfig(1, 1, 1),
    )
    made = Program(config, jax.devices()[:devices])
    assert made.num_micro == micro
    return made


def parameters(program):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract.params)
    return jax.tree.map(lambda leaf: 0.5 * leaf, moved(zeros))


def fresh(program):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract)
    state = zeros.replace(params=parameters(program))
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, program.abstract)


def filled(batch, program, order=None):
    """A batch of few rows as (A, B, T), with rows of weight 0 behind, or in `order`."""
    whole = {}
    for name, x in batch.items():
        rows = np.zeros((ROWS, LENGTH), x.dtype)
        rows[: len(x)] = x
        rows = rows if order is None else rows[order]
        whole[name] = rows.reshape(program.num_micro, program.rows, LENGTH)
    return whole


def one_by_one(batch):
    """The examples of a packed batch, each in a row of its own that nothing else is in."""
    rows = {name: [] for name in batch}
    for row in range(len(batch["inputs"])):
        for segment in np.unique(batch["segment_ids"][row]):
            mine = batch["segment_ids"][row] == segment
            if batch["weights"][row][mine].any():
                for name, x in batch.items():
                    alone = np.zeros(LENGTH, x.dtype)
                    alone[: mine.sum()] = x[row][mine]
                    rows[name].append(alone)
    return {name: np.array(x) for name, x in rows.items()}


@functools.cache
def reference():
    """Loss per learned token and gradient norm, from each example by itself, in float64."""
    rows = one_by_one(packed().at(np.arange(packed().num_samples)))
    total = rows["weights"].sum()
    model = NumpyGPT(parameters(program()), MODEL.attention_pattern, MODEL.attention_window, VOCAB)
    nats, sums = 0.0, None
    for inputs, targets, weights in zip(
        rows["inputs"], rows["targets"], rows["weights"], strict=True
    ):
        read = np.flatnonzero(weights)[-1] + 1
        logits = model.logits(inputs[None, :read])
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        label, learned = np.eye(VOCAB)[targets[None, :read]], weights[None, :read]
        nats -= (np.log((p * label).sum(-1)) * learned).sum()
        grads = model.gradients((p - label) * learned[..., None] / total)
        sums = grads if sums is None else jax.tree.map(np.add, sums, grads)
    return nats / total, np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(sums)))


def check(metrics):
    loss, norm = reference()
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("micro", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_packed_examples_are_learned_as_each_alone(micro):
    """Packed in four rows, and unpacked in eight; in one micro-batch and in four."""
    some, batch = program(micro=micro), packed().at(np.arange(packed().num_samples))
    for rows, number in ((batch, 4), (one_by_one(batch), 8)):
        assert len(rows["inputs"]) == number
        state, metrics = some.train_step(fresh(some), filled(rows, some))
        check(metrics)
        assert int(state.samples) == number
    assert some._train._cache_size() == 1


def test_a_micro_batch_without_a_weight_may_stand_anywhere():
    """Here the second and the third of four."""
    some, batch = program(micro=4), packed().at(np.arange(packed().num_samples))
    order = [0, 1, 4, 5, 6, 7, 2, 3]
    state, metrics = some.train_step(fresh(some), filled(batch, some, order))
    check(metrics)
    assert int(state.samples) == 4


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(2, 1, 1, sequence=4)])
def test_eight_devices_learn_examples_as_one_does(mesh):
    """The first step is NumPy's, and over 4 steps losses agree to 1e-5 and norms to 1e-4, in two
    micro-batches.
    """
    batch = packed().at(np.arange(packed().num_samples))
    curves = []
    for some in (program(), program(mesh, micro=2)):
        state, curve = fresh(some), []
        for _ in range(4):
            state, metrics = some.train_step(state, filled(one_by_one(batch), some))
            curve.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
        curves.append(np.array(curve).T)
        check(dict(zip(("loss", "gradient_norm"), curve[0], strict=True)))
    (loss, norm), (mesh_loss, mesh_norm) = curves
    assert loss[-1] < loss[0] - 0.1
    np.testing.assert_allclose(mesh_loss, loss, rtol=1e-5)
    np.testing.assert_allclose(mesh_norm, norm, rtol=1e-4)


def test_no_example_sees_another():
    """By the gradient: the loss of one example moves the vectors of its own tokens, and of no other
    example's in its row, before or after it.
    """
    batch = packed([(2, 2), (1, 3), (2, 1)]).at(np.arange(1))
    assert batch["segment_ids"][0].tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3]
    model = GPT(dataclasses.replace(MODEL, tied_head=False))
    tokens = np.arange(1, LENGTH + 1, dtype=np.int32)[None]  # each place has a token of its own
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens))["params"]
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params = jax.tree.map(jnp.asarray, moved(zeros))

    @jax.jit
    def gradient(table, batch):
        def nats(table):
            return batch_loss(model, params | {"embedding": table}, batch, TrainConfig()).nats

        return jax.grad(nats)(table)

    for segment in range(3):
        mine = (batch["segment_ids"] == segment)[0]
        alone = batch | {"inputs": tokens, "weights": batch["weights"] * mine}

        touched = np.abs(gradient(params["embedding"], alone)).max(axis=1)[1 : LENGTH + 1]
        last = np.flatnonzero(alone["weights"][0])[-1]
        read = mine & (np.arange(LENGTH) <= last)
        assert (touched[read] > 0).all()
        assert (touched[~read] == 0).all()


def test_a_plan_compiles_the_step_that_runs():
    """The arrays that `lower_train_step` speaks of are those of a real batch."""
    some = program(micro=4)
    real = filled(packed().at(np.arange(4)), some)
    _, batch = some.lower_train_step().args_info[0]
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in real.items()
    }
