"""Layers in stages over eight devices, against the same layers one after the other on one."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from jaxpr_flops import dot_flops
from numpy_gpt import moved

from gpt_jax.config import InputError, MeshConfig, ModelConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.model.pipeline import (
    bubble,
    check_stages,
    num_waiting,
    pipe_of_mesh,
    run_in_stages,
)
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import batch_sharding, rules, shardings

LAYERS, WIDTH = 8, 3


# ------------------------------------------------------------------------------ the schedule


def matrices(params, load):
    """x w + (what comes with the row), layer after layer: no two orders give the same."""
    x = load["x"]
    for w in params["w"]:
        x = x @ w + load["shift"][..., None]
    return load | {"x": x}


def whole_numbers(rows):
    """Small enough that float32 does all of it exactly."""
    rng = np.random.default_rng(rows)
    params = {"w": rng.integers(-1, 2, (LAYERS, WIDTH, WIDTH)).astype("float32")}
    load = {"x": rng.integers(-3, 4, (rows, 2, WIDTH)), "shift": rng.integers(-3, 4, (rows, 2))}
    return params, {name: x.astype("float32") for name, x in load.items()}


def numpy_layers(params, load):
    x = load["x"].astype("int64")
    for w in params["w"].astype("int64"):
        x = x @ w + load["shift"].astype("int64")[..., None]
    return x


MESHES = {
    "as many stages as layers": (MeshConfig(1, 1, 1, pipeline=8), 8),
    "four waiting parts a stage": (MeshConfig(1, 1, 1, pipeline=8), 32),
    "three, of the rows of two slices": (MeshConfig(1, 2, 1, slice=2, pipeline=2), 24),
    "one, of five rows on two devices": (MeshConfig(2, 1, 1, pipeline=4), 40),
}


@pytest.mark.parametrize("case", MESHES)
def test_every_row_goes_through_every_layer_in_order(case):
    """Bit for bit, with what travels beside it; and each row ends on the device it began on."""
    config, rows = MESHES[case]
    mesh, (params, load) = make_mesh(config), whole_numbers(rows)

    @jax.jit
    def run(params, load):
        return run_in_stages(matrices, params, load, pipe_of_mesh())

    with jax.set_mesh(mesh), rules():
        done = run(params, jax.device_put(load, batch_sharding(mesh, stacked=False)))
    assert np.array_equal(done["x"], numpy_layers(params, load))
    assert np.array_equal(done["shift"], load["shift"])
    assert done["x"].sharding.is_equivalent_to(batch_sharding(mesh, stacked=False), 3)


@pytest.mark.parametrize("case", MESHES)
def test_gradients_come_back_through_the_stages(case):
    """Of parameters and of what came in, bit for bit those of the layers one after the other."""
    config, rows = MESHES[case]
    mesh, (params, load) = make_mesh(config), whole_numbers(rows)
    weight = np.random.default_rng(0).integers(-1, 2, load["x"].shape).astype("float32")

    def objective(params, load):
        pipe = pipe_of_mesh()
        done = run_in_stages(matrices, params, load, pipe) if pipe else matrices(params, load)
        return (done["x"] * weight).sum()

    expected = jax.jit(jax.grad(objective, (0, 1)))(params, load)
    with jax.set_mesh(mesh), rules():
        grads = jax.jit(jax.grad(objective, (0, 1)))(params, load)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) < 2**24
    assert jax.tree.all(jax.tree.map(np.array_equal, grads, expected))


@pytest.mark.parametrize(
    ("rows", "waiting"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (14, 2), (12, 4)]
)
def test_parts_are_as_many_as_divide_the_rows_of_a_device_up_to_four_a_stage(rows, waiting):
    assert num_waiting(rows) == waiting


def test_the_bubble_is_what_gpipe_says():
    """(K - 1) / (M + K - 1) of the time, section 2.3, and none without stages."""
    assert bubble(1, 4) == 0
    assert bubble(4, 4) == 3 / 7
    assert bubble(4, 16) == 3 / 19


@pytest.mark.parametrize(
    ("layers", "pattern", "stages"), [(6, ("dense",), 4), (6, ("dense", "banded"), 2)]
)
def test_layers_that_do_not_divide_into_stages_are_refused(layers, pattern, stages):
    config = ModelConfig(num_layers=layers, attention_pattern=pattern)
    message = (
        rf"{layers} layers, in turns of {len(pattern)}, do not divide over pipeline = {stages}"
    )
    with pytest.raises(InputError, match=message):
        check_stages(config, stages)
    check_stages(config, 3)


def test_rows_that_do_not_divide_over_stages_and_devices_are_refused():
    params, load = whole_numbers(12)
    message = r"12 rows do not divide over pipeline = 4 stages x 2 devices"
    mesh = make_mesh(MeshConfig(2, 1, 1, pipeline=4))
    with jax.set_mesh(mesh), rules(), pytest.raises(InputError, match=message):
        run_in_stages(matrices, params, load, pipe_of_mesh())


@pytest.mark.parametrize("config", [MeshConfig(8, 1, 1), MeshConfig(1, 2, 2, sequence=2)])
def test_there_is_no_pipeline_where_none_is_asked_for(config):
    assert pipe_of_mesh() is None
    with jax.set_mesh(make_mesh(config)), rules():
        assert pipe_of_mesh() is None
    with jax.set_mesh(make_mesh(MeshConfig(4, 1, 1, pipeline=2))):
        assert pipe_of_mesh() is None  # without the rules the names mean nothing


# ------------------------------------------------------------------------------- the decoder

DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")
MODEL = ModelConfig(
    vocab_size=50,
    context_length=8,
    num_layers=8,
    embed_dim=8,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=3,
)
TOKENS = np.random.default_rng(0).integers(0, 50, (16, 8)).astype("int32")
PACKED = {
    "positions_BT": np.stack([[*range(n), *range(8 - n)] for n in [3, 4, 5, 6] * 4]),
    "segment_ids_BT": np.stack([[1] * n + [2] * (8 - n) for n in [3, 4, 5, 6] * 4]),
}


def parameters(config):
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), TOKENS[:1])["params"]
    return moved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, "float32"), nn.unbox(shapes)))


def hidden_and_gradients(config, mesh, packed, tokens=TOKENS):
    """What the layers leave and the gradients of a function of it, over `mesh` or on one device."""
    model = GPT(config, train=True)
    params = parameters(config)
    weight = np.random.default_rng(1).standard_normal((*tokens.shape, 8)).astype("float32")
    inputs, rngs = PACKED if packed else {}, {"dropout": jax.random.key(2)}

    @jax.jit
    def run(params, tokens):
        def objective(params):
            x, _ = model.apply({"params": params}, tokens, **inputs, rngs=rngs, method="hidden")
            return (x * weight).sum(), x

        return jax.value_and_grad(objective, has_aux=True)(params)

    if mesh is None:
        (_, x), grads = run(params, tokens)
        return jax.device_get((x, grads))
    mesh = make_mesh(mesh)
    boxed = jax.eval_shape(GPT(config).init, jax.random.key(0), TOKENS[:1])["params"]
    params = jax.device_put(params, shardings(boxed, mesh))
    with jax.set_mesh(mesh), rules():
        (_, x), grads = run(params, jax.device_put(tokens, batch_sharding(mesh, stacked=False)))
    return jax.device_get((x, grads))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "change", "packed"),
    [
        (MeshConfig(2, 1, 1, pipeline=4), dict.fromkeys(DROPOUTS, 0.2) | {"remat": "full"}, False),
        (MeshConfig(1, 2, 1, sequence=2, pipeline=2), {"position_encoding": "rotary_halves"}, True),
        (
            MeshConfig(1, 1, 2, slice=2, pipeline=2),
            {"scan_unroll": 2, "remat": "dots", "split_residual": True},
            False,
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_decoder_in_stages_is_the_decoder(mesh, change, packed):
    """What the layers leave to 1e-5, gradients to 1e-5 of the largest entry of each array."""
    config = dataclasses.replace(MODEL, **change)
    x, grads = hidden_and_gradients(config, mesh, packed)
    expected_x, expected = hidden_and_gradients(config, None, packed)
    np.testing.assert_allclose(x, expected_x, atol=1e-5 * np.abs(expected_x).max())
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_the_kernel_of_tpus_works_in_stages():
    """Splash attention, interpreted, over parts of a sequence as well: as XLA on one device."""
    config = dataclasses.replace(MODEL, context_length=256, num_layers=2)
    config = dataclasses.replace(config, attention_pattern=("dense",), attention="splash")
    tokens = np.random.default_rng(0).integers(0, 50, (2, 256)).astype("int32")
    mesh = MeshConfig(1, 1, 2, sequence=2, pipeline=2)
    x, grads = hidden_and_gradients(config, mesh, False, tokens)
    plain = dataclasses.replace(config, attention="xla")
    expected_x, expected = hidden_and_gradients(plain, None, False, tokens)
    np.testing.assert_allclose(x, expected_x, atol=1e-5 * np.abs(expected_x).max())
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("remat", ["none", "dots", "qkv_attention", "full"])
def test_stages_compute_what_layers_do_and_the_bubble(remat):
    """The products of a gradient by JAX's own account, whatever is kept: 4 parts in 5 turns are
    5/4 of the work, of which a fifth is the bubble.
    """
    model = GPT(dataclasses.replace(MODEL, remat=remat))
    params = parameters(MODEL)

    def gradient(params):
        return jax.grad(
            lambda params: model.apply({"params": params}, TOKENS, method="hidden")[0].sum()
        )(params)

    alone = dot_flops(gradient, params)
    with jax.set_mesh(make_mesh(MeshConfig(4, 1, 1, pipeline=2))), rules():
        assert 4 * dot_flops(gradient, params) == 5 * alone
    assert bubble(2, 4) == 1 / 5


@pytest.mark.slow
def test_what_each_layer_leaves_is_kept_without_stages():
    """Asked for what is sown, the same model on the same mesh runs layer by layer; in bfloat16,
    where stages differ from it by no more than it does from float32.
    """
    half = GPT(dataclasses.replace(MODEL, dtype="bfloat16"))
    variables = {"params": parameters(MODEL)}
    exact = jax.jit(GPT(MODEL).apply)(variables, TOKENS)
    with jax.set_mesh(make_mesh(MeshConfig(4, 1, 1, pipeline=2))), rules():
        run = jax.jit(lambda x: half.apply(x, TOKENS, mutable="intermediates"))
        logits, kept = run(variables)
        staged = jax.jit(lambda x: half.apply(x, TOKENS))(variables)
    (left,) = kept["intermediates"]["layers"]["1"]["output"]
    assert left.shape == (4, 16, 8, 8)
    rounding = np.abs(logits - exact).mean()
    assert 0 < rounding < 0.03 * np.abs(exact).mean()
    assert np.abs(staged - exact).mean() == pytest.approx(rounding, rel=0.1)
