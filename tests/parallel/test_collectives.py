"""What crosses the network in a step, read from the compiled program's text."""

import dataclasses
import math
import re

import jax
import pytest

from gpt_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.model.pipeline import num_waiting
from gpt_jax.parallel.mesh import batch_shards
from gpt_jax.plan import hlo
from gpt_jax.train.step import Program

LAYERS, LENGTH, ROWS = 4, 16, 8
MODEL = ModelConfig(
    vocab_size=128, context_length=LENGTH, num_layers=LAYERS, embed_dim=32, num_heads=4
)
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
    "pipeline": MeshConfig(2, 1, 1, pipeline=4),
    "pipeline and fsdp": MeshConfig(1, 4, 1, pipeline=2),
    "pipeline, tensor and sequence": MeshConfig(1, 1, 2, sequence=2, pipeline=2),
    "pipeline, slice and fsdp": MeshConfig(1, 2, 1, slice=2, pipeline=2),
    "split residual": MeshConfig(1, 2, 4),
}


def compiled(program):
    """The training step."""
    return program.lower_train_step().compile()


def collectives(program, text):
    """(operation, mesh axes, shapes of the results) of each collective of a training step."""
    return [
        (one.operation, frozenset(one.axes), [shape for shape in one.shapes if shape])
        for one in hlo.collectives(text, program.mesh.shape)
    ]


def shapes_in(text):
    """Of the arrays in a compiled program's text that are no scalars, such as f32[4,32,128]."""
    return [
        tuple(map(int, dims.split(","))) for dims in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
    ]


def axes_of(program):
    """Mesh axes of more than one device."""
    return {axis for axis, size in program.mesh.shape.items() if size > 1}


@pytest.fixture(scope="module", params=MESHES)
def step(request):
    config = Config(
        model=dataclasses.replace(MODEL, split_residual=request.param == "split residual"),
        train=TrainConfig(total_tokens=ROWS * LENGTH, batch_tokens=ROWS * LENGTH),
        mesh=MESHES[request.param],
    )
    program = Program(config, jax.devices())
    step = compiled(program)
    return program, collectives(program, step.as_text()), step


@pytest.mark.slow
def test_nothing_crosses_where_nothing_is_split(step):
    """Each collective runs along axes of more than one device, and every such axis is used."""
    program, found, _ = step
    used = set().union(*(axes for _, axes, _ in found))
    assert used == axes_of(program)


@pytest.mark.slow
def test_only_sums_cross_from_slice_to_slice_and_copy_to_copy(step):
    """Gradients and the loss are reduced over slice and data; no parameter is gathered there."""
    for operation, axes, _ in step[1]:
        if axes & {"slice", "data"}:
            assert operation == "all-reduce", (operation, axes)


@pytest.mark.slow
def test_no_stack_of_layers_is_gathered(step):
    """A layer's parameters are put together within its turn of the loop, and none before."""
    program, found, _ = step
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


@pytest.mark.slow
def test_what_is_split_is_never_whole(step):
    """A device is given its part of the state and of the batch, moments included, and the program
    has no array of the shape of a stack of layers that the mesh splits.
    """
    program, _, compiled = step
    given = sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(program.abstract)
    )
    tokens = 2 * 4 * ROWS * LENGTH // batch_shards(program.mesh)
    # The weights of the rows, and what is rounded up.
    assert 0 <= compiled.memory_analysis().argument_size_in_bytes - given - tokens < 1000
    split = {
        leaf.shape
        for leaf in jax.tree.leaves(program.abstract.params["layers"])
        if not leaf.sharding.is_fully_replicated and leaf.ndim > 2
    }
    assert split or not {"fsdp", "tensor", "pipeline"} & axes_of(program)
    assert not split & set(shapes_in(compiled.as_text()))


@pytest.mark.slow
def test_only_activations_move_from_stage_to_stage(step):
    """By permutes of what one stage works on; what else crosses are sums of the gradients of
    parameters outside the layers and of single numbers, and no parameter is gathered.
    """
    program, found, _ = step
    if "pipeline" not in axes_of(program):
        assert not any(operation == "collective-permute" for operation, _, _ in found)
        return
    mesh = program.mesh.shape
    rows = ROWS // batch_shards(program.mesh)
    work = (1, rows // num_waiting(rows), LENGTH // mesh["sequence"], MODEL.embed_dim)
    moves = 0
    for operation, axes, shapes in found:
        if "pipeline" not in axes:
            continue
        if operation == "collective-permute":
            moves += 1
            assert axes == {"pipeline"}
            assert set(shapes) == {work}
        else:
            # Tables and norms, all of width D; what belongs to a layer would have a 1 before it.
            assert operation == "all-reduce", (operation, axes, shapes)
            assert all(shape[-1] == MODEL.embed_dim and shape[0] != 1 for shape in shapes), shapes
    # At least one each way for what was worked on and for what waits.
    assert moves >= 4
