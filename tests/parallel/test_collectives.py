"""What crosses the network in a step, read from the compiled program's text."""

import math
import re

import jax
import numpy as np
import pytest

from gpt_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.parallel.mesh import AXES
from gpt_jax.parallel.sharding import batch_sharding, rules
from gpt_jax.train.step import Program

LAYERS, LENGTH, ROWS = 4, 16, 8
MODEL = ModelConfig(
    vocab_size=128, context_length=LENGTH, num_layers=LAYERS, embed_dim=32, num_heads=4
)
OPERATIONS = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
MESHES = {
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "tensor": MeshConfig(2, 1, 4),
    "sequence": MeshConfig(1, 1, 1, sequence=8),
    "slice": MeshConfig(1, 1, 1, slice=8),
    "fsdp and tensor": MeshConfig(1, 4, 2),
    "slice and fsdp": MeshConfig(1, 4, 1, slice=2),
    "fsdp and sequence": MeshConfig(1, 4, 1, sequence=2),
    "slice, fsdp and sequence": MeshConfig(1, 2, 1, sequence=2, slice=2),
}


def groups(line):
    """The groups of devices of a collective, by their places in the mesh: XLA has four ways."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return [[int(n) for n in pair] for pair in re.findall(r"(\d+),(\d+)", pairs[1])]
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        return [numbers(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
    mesh = r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[(.*?)\]T\((.*?)\)\))? \{(.*?)\}"
    if named := re.search(mesh, line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = re.findall(r"'(\w+)'", named[4])
        assert named[4] == ",".join(f"'{name}'" for name in along), line
        devices = turned(named[2] or "8", named[3]).reshape(list(sizes.values()))
        last = [list(sizes).index(name) for name in along]
        first = [axis for axis in range(len(sizes)) if axis not in last]
        size = math.prod(sizes[name] for name in along)
        return devices.transpose(first + last).reshape(-1, size).tolist()
    shape, order, turn = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
    ).groups()
    return turned(order, turn).reshape(numbers(shape)).tolist()


def numbers(text):
    return [int(n) for n in text.split(",")]


def turned(shape, axes):
    """The 8 devices in an order that XLA states as a shape and its transposition."""
    devices = np.arange(8).reshape(numbers(shape))
    return devices.transpose(numbers(axes)) if axes else devices


def crossed(group, mesh):
    """The mesh axes along which the devices of a group differ."""
    places = np.array(np.unravel_index(group, [mesh.shape[axis] for axis in AXES]))
    return {axis for axis, place in zip(AXES, places, strict=True) if len(set(place)) > 1}


def collectives(program):
    """(operation, mesh axes, shapes of the results) of each collective of a training step."""
    batch = {
        "inputs": jax.ShapeDtypeStruct((1, ROWS, LENGTH), "int32"),
        "targets": jax.ShapeDtypeStruct((1, ROWS, LENGTH), "int32"),
        "weights": jax.ShapeDtypeStruct((1, ROWS), "float32"),
    }
    sharding = batch_sharding(program.mesh, stacked=True)
    batch = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for k, x in batch.items()}
    with jax.set_mesh(program.mesh), rules():
        text = program._train.lower(program.abstract, batch).compile().as_text()
    found = []
    for line in text.splitlines():
        if match := re.search(rf"= (.*?) ({OPERATIONS})(?:-start)?\(", line):
            axes = set().union(*(crossed(group, program.mesh) for group in groups(line)))
            shapes = [
                tuple(int(n) for n in dims.split(","))
                for dims in re.findall(r"\w+\[([\d,]+)\]", match[1])
            ]
            found.append((match[2], frozenset(axes), shapes))
    return found


@pytest.fixture(scope="module", params=MESHES)
def step(request):
    config = Config(
        model=MODEL,
        train=TrainConfig(total_tokens=ROWS * LENGTH, batch_tokens=ROWS * LENGTH),
        mesh=MESHES[request.param],
    )
    program = Program(config, jax.devices())
    return program, collectives(program)


@pytest.mark.slow
def test_nothing_crosses_where_nothing_is_split(step):
    """Each collective runs along axes of more than one device, and every such axis is used."""
    program, found = step
    used = set().union(*(axes for _, axes, _ in found))
    assert used == {axis for axis, size in program.mesh.shape.items() if size > 1}


@pytest.mark.slow
def test_only_sums_cross_from_slice_to_slice_and_copy_to_copy(step):
    """Gradients and the loss are reduced over slice and data; no parameter is gathered there."""
    for operation, axes, _ in step[1]:
        if axes & {"slice", "data"}:
            assert operation == "all-reduce", (operation, axes)


@pytest.mark.slow
def test_no_stack_of_layers_is_gathered(step):
    """A layer's parameters are put together within its turn of the loop, and none before."""
    program, found = step
    stacks = {leaf.shape for leaf in jax.tree.leaves(program.abstract.params["layers"])}
    gathered = [
        shape for operation, _, shapes in found if operation == "all-gather" for shape in shapes
    ]
    assert not stacks & set(gathered)
    # The largest thing that is gathered: the embedding table, or a layer's largest matrix.
    most = max(128 * 32, 32 * 128)
    assert all(math.prod(shape) <= most for shape in gathered)
    if program.mesh.shape["fsdp"] > 1:
        assert gathered
