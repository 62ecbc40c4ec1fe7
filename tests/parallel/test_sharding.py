"""Where each parameter and activation lies, against a table written by hand."""

import flax.linen as nn
import jax
import pytest
from jax.sharding import PartitionSpec as P

from gpt_jax import model
from gpt_jax.config import InputError, MeshConfig, ModelConfig, OptimizerConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import RULES, batch_sharding, replicated, rules, shardings
from gpt_jax.train.optimizer import make_optimizer
from gpt_jax.train.state import abstract_state

MODEL = ModelConfig(vocab_size=100, context_length=8, num_layers=2, embed_dim=16, num_heads=2)


def abstract(mesh, config=MODEL, optimizer="adamw"):
    tx = make_optimizer(OptimizerConfig(name=optimizer), MODEL)
    return abstract_state(GPT(config), tx, make_mesh(MeshConfig(*mesh)))


def by_name(tree):
    """{"layers/0/mlp/up": leaf, ...}"""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


EXPECTED = {
    "embedding": P("tensor", "fsdp"),
    "positions": P(None, "fsdp"),
    "norm_final/scale": P("fsdp"),
    "norm_final/bias": P("fsdp"),
    "layers/0/norm_attention/scale": P("pipeline", "fsdp"),
    "layers/0/norm_attention/bias": P("pipeline", "fsdp"),
    "layers/0/norm_mlp/scale": P("pipeline", "fsdp"),
    "layers/0/norm_mlp/bias": P("pipeline", "fsdp"),
    "layers/0/attention/qkv": P("pipeline", "fsdp", None, "tensor"),
    "layers/0/attention/qkv_bias": P("pipeline", None, "tensor"),
    "layers/0/attention/out": P("pipeline", "tensor", None, "fsdp"),
    "layers/0/attention/out_bias": P("pipeline", "fsdp"),
    "layers/0/mlp/up": P("pipeline", "fsdp", "tensor"),
    "layers/0/mlp/up_bias": P("pipeline", "tensor"),
    "layers/0/mlp/down": P("pipeline", "tensor", "fsdp"),
    "layers/0/mlp/down_bias": P("pipeline", "fsdp"),
}


@pytest.mark.parametrize("mesh", [(2, 2, 2), (1, 2, 2, 1, 1, 2)], ids=["whole", "in stages"])
def test_each_parameter_is_split_as_the_table_says(mesh):
    params = by_name(abstract(mesh).params)
    assert params.keys() == EXPECTED.keys()
    for name, leaf in params.items():
        expected = jax.sharding.NamedSharding(leaf.sharding.mesh, EXPECTED[name])
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (name, leaf.sharding.spec)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_lie_where_their_parameters_do(optimizer):
    """No parameter-sized array of the state is larger on a device than its parameter's part."""
    state = abstract((1, 8, 1), optimizer=optimizer)
    params = by_name(state.params)
    moments, leaves = 0, by_name(state.opt_state)
    for path, leaf in leaves.items():
        name = next((name for name in params if path.endswith("/" + name)), None)
        if name is None:
            assert leaf.size < 20, path
        elif leaf.shape == params[name].shape:
            moments += 1
            assert leaf.sharding.is_equivalent_to(params[name].sharding, leaf.ndim), path
    # Two moments of each array for Adam; one for each of Muon's four.
    assert moments == {"adamw": 32, "muon": 28}[optimizer]


def test_counters_are_everywhere():
    state = abstract((2, 2, 2))
    for leaf in (state.step, state.samples, state.skipped, state.skipped_in_row):
        assert leaf.sharding.is_fully_replicated


def test_a_mesh_axis_is_used_once_per_array():
    """An activation is split over fsdp along its batch, and so not along its width."""
    rows = ("slice", "pipeline", "data", "fsdp")
    assert nn.logical_to_mesh_axes(("B", "T", "D"), RULES) == P(rows, "sequence", None)
    assert nn.logical_to_mesh_axes(("B", "T", "F"), RULES) == P(rows, "sequence", "tensor")
    heads = nn.logical_to_mesh_axes(("B", "T", "N", "H"), RULES)
    assert heads == P(rows, "sequence", "tensor", None)


def test_every_letter_of_the_shape_names_is_in_the_table():
    letters = {
        word for word in (model.__doc__ or "").replace("\n", " ").split() if len(word) == 1
    } & set("BTSDENHFVLR")
    assert letters == {letter for letter, _ in RULES} == set("BTSDENHFVLR")


@pytest.mark.parametrize(
    ("mesh", "change", "message"),
    [
        ((1, 1, 8), {}, r"params/layers/0/attention/\w+ .* axis of 2 .* tensor = 8"),
        ((1, 8, 1), {"embed_dim": 12}, r"params/.* axis of 12 .* fsdp = 8"),
    ],
)
def test_a_parameter_that_does_not_divide_is_named(mesh, change, message):
    """With the axis, the devices, and what to change."""
    config = ModelConfig(**{"vocab_size": 100, "embed_dim": 16, "num_heads": 2} | change)
    with pytest.raises(InputError, match=message + r" devices: change the mesh \(--mesh\.\w+\)"):
        abstract(mesh, config)


def test_two_claims_to_one_mesh_axis_name_the_parameter():
    """A matrix from D to E would be split over fsdp twice."""
    leaf = jax.ShapeDtypeStruct((16, 16), "float32")
    boxed = {"layers": {"bridge": nn.LogicallyPartitioned(leaf, names=("D", "E"))}}
    with pytest.raises(InputError, match="D and E of layers/bridge both claim fsdp"):
        shardings(boxed, make_mesh(MeshConfig(1, 8, 1)))


def test_a_mesh_of_other_axes_is_refused():
    other = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(
        InputError, match=r"must have the axes slice, pipeline, data, .* has x: make"
    ):
        abstract_state(GPT(MODEL), make_optimizer(OptimizerConfig(), MODEL), other)


def test_the_rows_of_a_batch_are_split_and_its_micro_batches_are_not():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert batch_sharding(mesh, stacked=False).shard_shape((8, 5)) == (2, 5)
    assert batch_sharding(mesh, stacked=True).shard_shape((3, 8, 5)) == (3, 2, 5)
    assert replicated(mesh).shard_shape((8, 5)) == (8, 5)


def test_names_mean_something_only_within_the_rules():
    """Outside them the model runs on one device as if it had none."""
    with rules():
        assert tuple(nn.get_logical_axis_rules()) == RULES
    assert tuple(nn.get_logical_axis_rules()) == ()
