"""What a step needs of a slice, by formulas alone: memory, time, and what crosses the network.

An estimate, and called one. It ranks candidates before any is compiled, and gives the time of those
that are; the constants below are its assumptions, which `gpt-jax plan` prints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from gpt_jax.config import Config, MeshConfig, Remat
from gpt_jax.flops import (
    compute_bytes,
    executed_flops_per_token,
    num_non_embedding_params,
    num_params,
    saved_bytes_per_token,
    train_flops_per_token,
)
from gpt_jax.parallel.mesh import batch_parts
from gpt_jax.plan.target import Target
from gpt_jax.train.step import micro_batches

MATRIX_EFFICIENCY = 0.92
"""Of the peak, in large matrix products: XLA's own cycle counts are 2 to 14 % over the ideal."""
KERNEL_EFFICIENCY = 0.5
"""Of the peak, in the attention kernel: softmax and masks run beside its products."""
LINK_EFFICIENCY = 0.85
"""Of a link's rate, in collectives."""
PASSES_D, PASSES_F = 14, 3
"""Times that elementwise work of a layer's forward pass reads or writes an array of width D, F."""
ELEMENTWISE_CYCLES = 1 / 3
"""Of the compiler's cycles for elementwise work, which are 2.5 to 4 times too many."""
BESIDE = " beside"
"""Ends the name of what crosses the network beside other work; the rest is waited for."""
ASSUMPTIONS = (
    f"matrix products at {MATRIX_EFFICIENCY:.0%} of the peak, the attention kernel at "
    f"{KERNEL_EFFICIENCY:.0%}, links at {LINK_EFFICIENCY:.0%} of their rate",
    f"elementwise work reads or writes {PASSES_D} arrays of width D and {PASSES_F} of width F a "
    "layer forwards, twice as many backwards, at the rate of the HBM, beside nothing",
    "of a program compiled to the end, matrix products by the compiler's cycles, and elementwise "
    "work by a third of them",
    "before it is compiled: parameters are gathered, and slices reached, beside the products, and "
    "all else is waited for; after it, what the program waits for",
    "a mesh axis has two links along as many dimensions of the torus as its share of the devices, "
    "as if each of them were a ring",
    "what is offloaded goes to the host and comes back beside the products",
)
PARAM_BYTES = 4  # the state is float32


@dataclass(frozen=True)
class Candidate:
    """One way to run an experiment on a slice."""

    mesh: MeshConfig
    remat: Remat
    device_batch_tokens: int
    split_residual: bool

    def applied(self, config: Config) -> Config:
        """The experiment, run this way."""
        model = dataclasses.replace(
            config.model, remat=self.remat, split_residual=self.split_residual, scan_unroll=1
        )
        train = dataclasses.replace(config.train, device_batch_tokens=self.device_batch_tokens)
        return dataclasses.replace(config, model=model, train=train, mesh=self.mesh)

    def overrides(self) -> list[str]:
        """The options of `gpt-jax train` that run it this way."""
        axes = dataclasses.asdict(self.mesh)
        words = [word for axis, size in axes.items() for word in (f"--mesh.{axis}", str(size))]
        words += ["--model.remat", self.remat, "--model.scan-unroll", "1"]
        words += ["--model.split-residual" if self.split_residual else "--model.no-split-residual"]
        return [*words, "--train.device-batch-tokens", str(self.device_batch_tokens)]


@dataclass(frozen=True)
class Estimate:
    """What a candidate needs, per device and step."""

    memory: dict[str, float]
    """Bytes: parameters, optimizer, gradients, activations, workspace."""
    wire: dict[str, float]
    """Bytes that it sends along each mesh axis, beside other work or not."""
    seconds: dict[str, float]
    """Matrices, attention, elementwise, and the collectives of each axis, beside these or not."""
    model_flops: float
    """Of the model's definition, over all devices."""

    @property
    def hbm_bytes(self) -> float:
        return sum(self.memory.values())

    @property
    def step_seconds(self) -> float:
        return step_seconds(self.seconds)


def step_seconds(seconds: Mapping[str, float]) -> float:
    """Of a whole step: what crosses beside the products counts where it takes longer than they."""
    beside = sum(value for name, value in seconds.items() if name.endswith(BESIDE))
    work = {"matrices", "attention", "elementwise"}
    waited = sum(v for name, v in seconds.items() if name not in work and BESIDE not in name)
    products = seconds["matrices"] + seconds["attention"]
    return max(products, beside) + seconds["elementwise"] + waited


def estimate(config: Config, target: Target) -> Estimate:
    """What one step of `config` at its full batch needs on each chip of its mesh.

    `config` has the mesh, the micro-batch and the rematerialisation of a candidate.
    """
    model, mesh = config.model, dataclasses.asdict(config.mesh)
    devices = math.prod(mesh.values())
    rows = batch_parts(mesh)
    tokens = config.train.batch_tokens / rows / mesh["sequence"]  # of a device, in a step
    _, micro = micro_batches(config, rows)
    at_once = tokens / micro
    wire = _wire_bytes(config, mesh, micro, tokens)
    flops = train_flops_per_token(model, config.sequence_length) * config.train.batch_tokens
    matrices, attention = executed_flops_per_token(model, config.sequence_length)
    share = config.train.batch_tokens / devices
    peak = target.chip.peak_flops
    seconds = {
        "matrices": matrices * share / (peak * MATRIX_EFFICIENCY),
        "attention": attention * share / (peak * KERNEL_EFFICIENCY),
        "elementwise": _elementwise_bytes(config, mesh, micro, tokens) / target.chip.hbm_bandwidth,
    }
    seconds |= collective_seconds(wire, mesh, target)
    if model.remat == "offload":
        kept = [
            saved_bytes_per_token(dataclasses.replace(model, remat=remat), mesh["tensor"], False)
            for remat in ("qkv_attention", "full")
        ]
        moved = 2 * (kept[0] - kept[1]) * tokens * model.num_layers / mesh["pipeline"]
        seconds["host" + BESIDE] = moved / target.chip.host_link
    return Estimate(_memory(config, mesh, micro, at_once), wire, seconds, flops)


def _elementwise_bytes(config: Config, mesh: dict[str, int], micro: int, tokens: float) -> float:
    """Bytes that a device moves outside of its matrix products."""
    model, size = config.model, compute_bytes(config.model)
    width = model.embed_dim / (mesh["tensor"] if model.split_residual else 1)
    layer = PASSES_D * width + PASSES_F * model.mlp_dim / mesh["tensor"]
    turns = 3 if model.remat in ("none", "dots") else 4
    # The update reads and writes parameters and two moments, and reads the gradient; each
    # micro-batch reads and writes the sum of gradients.
    update = PARAM_BYTES * (7 + 2 * micro) * num_params(model) / _parameter_shards(mesh)
    return size * turns * model.num_layers * layer * tokens + update


def _wire_bytes(
    config: Config, mesh: dict[str, int], micro: int, tokens: float
) -> dict[str, float]:
    """Bytes that a device sends along each axis in a step."""
    model, size = config.model, compute_bytes(config.model)
    tensor, width = mesh["tensor"], model.embed_dim
    layers, tables = num_non_embedding_params(model), _tables(config)
    turns = {axis: (devices - 1) / devices for axis, devices in mesh.items()}
    held = size * layers / tensor  # one copy of all layers, as one device computes with it
    stages = mesh["pipeline"]
    wire = dict.fromkeys(mesh, 0.0)
    # Each micro-batch gathers the layers forwards and backwards, and scatters their gradients; the
    # tables are gathered for each of their two uses, and the sums of both are whole.
    wire["fsdp" + BESIDE] = micro * turns["fsdp"] * 2 * (held / stages + size * tables / tensor)
    wire["fsdp"] = micro * turns["fsdp"] * (held / stages + 4 * size * tables / tensor)
    own = size * (layers / stages + tables) / tensor / mesh["fsdp"]
    for axis in ("data", "sequence"):
        wire[axis] = 2 * micro * turns[axis] * own
    wire["slice" + BESIDE] = 2 * micro * turns["slice"] * own
    passes = 8 if model.remat in ("none", "dots") else 10
    activations = size * tokens * width * model.num_layers
    wire["tensor"] = passes * turns["tensor"] * activations / stages
    # Keys and values of the others, forwards and again backwards; their gradients back.
    others = mesh["sequence"] - 1
    wire["sequence"] += 3 * 2 * others * activations / tensor / stages
    if stages > 1:
        wire["pipeline" + BESIDE] = 2 * size * tokens * width
    return {name: sent for name, sent in wire.items() if sent}


def collective_seconds(
    wire: Mapping[str, float], mesh: Mapping[str, int], target: Target
) -> dict[str, float]:
    """Seconds that bytes on the wire take, by axis or by axes joined with +, beside or not.

    Along `slice` they cross the network between slices, at a chip's share of it; along the others
    the links of the torus.
    """
    seconds = {}
    for name, sent in wire.items():
        axes = name.removesuffix(BESIDE).split("+")
        if "slice" in axes and mesh["slice"] > 1:
            rate = target.chip.dcn
        else:
            size = math.prod(mesh[axis] for axis in axes)
            spanned = math.log(max(size, 2)) / math.log(max(target.chips, 2))
            dimensions = max(1, round(target.chip.dimensions * spanned))
            rate = 2 * dimensions * target.chip.ici_link
        seconds[name] = sent / (rate * LINK_EFFICIENCY)
    return seconds


def _memory(config: Config, mesh: dict[str, int], micro: int, tokens: float) -> dict[str, float]:
    """Bytes of a device's memory, at the time of their sum's peak."""
    model, size, tensor = config.model, compute_bytes(config.model), mesh["tensor"]
    params = PARAM_BYTES * num_params(model) / _parameter_shards(mesh)
    kept = saved_bytes_per_token(model, tensor, model.split_residual)
    layer = num_non_embedding_params(model) / model.num_layers / tensor
    # The layer under way: its parameters gathered (and the next one's), its activations and their
    # gradients; besides, the tables gathered, with the gradient of one of them whole.
    under_way = (10 * model.embed_dim + 3 * model.mlp_dim / tensor) * size * tokens
    tables = _tables(config) / tensor
    return {
        "parameters": params,
        "optimizer": 2 * params,
        "gradients": params * (2 if micro > 1 else 1),
        "activations": kept * tokens * model.num_layers / mesh["pipeline"],
        "workspace": 2 * size * layer + under_way + (2 * size + PARAM_BYTES) * tables,
    }


def _tables(config: Config) -> int:
    """Parameters outside the layers."""
    return num_params(config.model) - num_non_embedding_params(config.model)


def _parameter_shards(mesh: Mapping[str, int]) -> int:
    return mesh["fsdp"] * mesh["tensor"] * mesh["pipeline"]
