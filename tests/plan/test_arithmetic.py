"""Estimates, against the layout of real parameters and against sums done by hand."""

import dataclasses

import pytest

from gpt_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.flops import executed_flops_per_token
from gpt_jax.plan import arithmetic
from gpt_jax.plan.arithmetic import Candidate, collective_seconds, estimate, step_seconds
from gpt_jax.plan.shard import layout
from gpt_jax.plan.target import find_target
from gpt_jax.presets import gpt3

CONFIG = dataclasses.replace(gpt3("1_3b"), mesh=MeshConfig(2, 8, 1))
TARGET = find_target("v5e-16")


@pytest.mark.parametrize("mesh", [MeshConfig(2, 8, 1), MeshConfig(1, 4, 4)])
def test_parameters_and_moments_are_those_of_the_layout(mesh):
    """To 2 %: what a small mesh cannot split, biases and positions, is little."""
    config = dataclasses.replace(CONFIG, mesh=mesh)
    found, real = estimate(config, TARGET).memory, layout(config, 16)
    assert found["parameters"] == pytest.approx(real.device_bytes, rel=0.02)
    assert found["optimizer"] == pytest.approx(real.optimizer_bytes, rel=0.02)


def test_time_of_the_matrices_is_their_flops_over_the_peak():
    matrices, attention = executed_flops_per_token(CONFIG.model, 2048)
    share = 512 * 2048 / 16
    seconds = estimate(CONFIG, TARGET).seconds
    assert seconds["matrices"] == pytest.approx(matrices * share / (0.92 * 197e12))
    assert seconds["attention"] == pytest.approx(attention * share / (0.5 * 197e12))


def small(**mesh):
    """4 layers of 64 in bfloat16, on a mesh; 8 sequences of 32 tokens, 1 a device at a time."""
    model = ModelConfig(
        vocab_size=128, context_length=32, embed_dim=64, num_heads=4, dtype="bfloat16"
    )
    train = TrainConfig(batch_tokens=256, device_batch_tokens=32)
    return Config(model=model, train=train, mesh=MeshConfig(**{"data": 1} | mesh))


LAYERS = 4 * (12 * 64**2 + 13 * 64) + 2 * 64
TABLES = (128 + 32) * 64


def test_copies_of_a_model_sum_their_gradients():
    """2 bytes each, there and back, each of 2 micro-batches: half of them from each of two."""
    wire = estimate(small(data=2), TARGET).wire
    assert wire == {"data": 4 * 2 * (1 / 2) * 2 * (LAYERS + TABLES)}
    across = estimate(small(slice=2), find_target("v5e-1", 2)).wire
    assert across == {"slice beside": wire["data"]}


def test_split_parameters_are_gathered_twice_and_their_gradients_scattered():
    """4 micro-batches of 2 devices; the tables' two sums go there and back."""
    wire = estimate(small(fsdp=2), TARGET).wire
    gathered, summed = 4 * (1 / 2) * 2 * 2 * (LAYERS + TABLES), 4 * 2 * (LAYERS + 4 * TABLES) / 2
    assert wire == {"fsdp beside": gathered, "fsdp": summed}


def test_a_slow_network_is_waited_for_and_a_fast_one_is_hidden():
    products = {"matrices": 2.0, "attention": 1.0, "elementwise": 0.5}
    assert step_seconds(products | {"fsdp beside": 2.9}) == 3.5
    assert step_seconds(products | {"fsdp beside": 2.9, "slice beside": 0.2}) == pytest.approx(3.6)
    assert step_seconds(products | {"fsdp beside": 2.9, "data+fsdp": 0.2}) == pytest.approx(3.7)


def test_a_rate_is_that_of_the_links_or_of_the_network():
    """v5e: 50 GB/s a link and direction, two along a dimension; 3.125 GB/s between slices."""
    mesh = {"slice": 1, "data": 4, "fsdp": 4, "tensor": 1}
    found = collective_seconds({"fsdp": 1e9, "data+fsdp": 1e9}, mesh, TARGET)
    assert found["fsdp"] == pytest.approx(0.01 / 0.85)
    assert found["data+fsdp"] == pytest.approx(0.005 / 0.85)
    two = find_target("v5e-16", 2)
    found = collective_seconds({"slice beside": 1e9}, mesh | {"slice": 2}, two)
    assert found["slice beside"] == pytest.approx(0.32 / 0.85)


def test_a_candidate_is_the_options_that_reproduce_it():
    """`gpt-jax train` with them has its config."""
    from gpt_jax.experiment import overridden

    candidate = Candidate(MeshConfig(2, 4, 2), "qkv_attention", 4096, True)
    applied = candidate.applied(CONFIG)
    again = overridden(CONFIG, "x.py", candidate.overrides(), "train")
    assert again == applied
    assert applied.mesh.tensor == 2
    assert applied.model.split_residual


def test_every_assumption_is_printed():
    text = " ".join(arithmetic.ASSUMPTIONS)
    for constant in ("92%", "50%", "85%", "14 arrays", "3 of width F"):
        assert constant in text
