"""One step on one device and on eight, whole and in parts, with and without rows to spare."""

import dataclasses
import functools
import os
import sys
import tempfile

import jax
import numpy as np
import optax
import pytest
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import (
    Config,
    DataConfig,
    InputError,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.train import loss
from gpt_jax.train.step import Program, compiler_options

VOCAB, LENGTH, ROWS, STEPS = 60, 8, 8, 6
LEARNING_RATE = 3e-2
DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")
MODEL = ModelConfig(
    vocab_size=VOCAB,
    context_length=LENGTH,
    num_layers=4,
    embed_dim=16,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=3,
)
MESHES = {
    "one": MeshConfig(1, 1, 1),
    "data": MeshConfig(8, 1, 1),
    "fsdp": MeshConfig(1, 8, 1),
    "all": MeshConfig(2, 2, 2),
    "sequence": MeshConfig(1, 1, 1, sequence=8),
    "slice": MeshConfig(1, 2, 1, slice=4),
    "five": MeshConfig(1, 2, 1, sequence=2, slice=2),
    "pipeline": MeshConfig(4, 1, 1, pipeline=2),
    "pipeline and fsdp": MeshConfig(1, 4, 1, pipeline=2),
    "pipeline, tensor and sequence": MeshConfig(1, 1, 2, sequence=2, pipeline=2),
    "pipeline and slice": MeshConfig(1, 2, 1, slice=2, pipeline=2),
    "split residual": MeshConfig(2, 1, 2, sequence=2),
}


def program(mesh="one", micro=1, dropout=0.0):
    """Compiled once for all tests of this file; `micro` micro-batches on one device."""
    return _program(mesh, micro, dropout)


@functools.cache
def _program(mesh, micro, dropout):
    # Dropout is drawn by the layer, so two layers are enough of a model for it.
    small = dataclasses.replace(
        MODEL, **dict.fromkeys(DROPOUTS, dropout), num_layers=2, attention_pattern=("dense",)
    )
    model = dataclasses.replace(MODEL, split_residual=mesh == "split residual")
    config = Config(
        model=small if dropout else model,
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE, warmup_tokens=2 * ROWS * LENGTH),
        train=TrainConfig(
            total_tokens=STEPS * ROWS * LENGTH,
            batch_tokens=ROWS * LENGTH,
            device_batch_tokens=ROWS // micro * LENGTH,
        ),
        mesh=MESHES[mesh],
    )
    made = Program(config, jax.devices()[: 1 if mesh == "one" else 8])
    assert made.num_micro == micro
    return made


def parameters(program):
    """On the host, far from 0, the same over any mesh."""
    params = program.abstract.params
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    return jax.tree.map(lambda leaf: 0.5 * leaf, moved(zeros))


def fresh(program, params=None, step=0):
    """A state at step 0, laid out as the program's: without an init to compile."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), program.abstract)
    state = zeros.replace(params=params or parameters(program), step=np.int32(step))
    return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), state, program.abstract)


def batch_of(program, seed=0, rows=ROWS):
    """(A, B, T) random tokens, the last of them rows of weight 0 where `rows` is less than ROWS."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (2, ROWS, LENGTH)).astype("int32")
    weights = (np.arange(ROWS) < rows).astype("float32")
    batch = {"inputs": tokens[0], "targets": tokens[1], "weights": weights}
    shape = (program.num_micro, program.rows)
    return {name: x.reshape(*shape, *x.shape[1:]) for name, x in batch.items()}


def run(program, steps=STEPS):
    """Host copies of the last state and of all metrics, the same two batches in turn."""
    state, rows = fresh(program), []
    for step in range(steps):
        state, metrics = program.train_step(state, batch_of(program, step % 2))
        rows.append({name: float(x) for name, x in jax.device_get(metrics).items()})
    return jax.device_get(state), rows


def column(rows, name):
    return [row[name] for row in rows]


def same(left, right):
    """Bit for bit."""
    return all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)
    )


@pytest.fixture(scope="module")
def alone():
    """One device, the whole batch at once."""
    return run(program())


@pytest.fixture(scope="module")
def on_meshes():
    """{mesh: (state, metrics)} and what XLA wrote to stderr while it compiled them."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+") as log:
        os.dup2(log.fileno(), 2)
        try:
            runs = {mesh: run(program(mesh)) for mesh in MESHES if mesh != "one"}
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        return runs, log.read()


# --------------------------------------------------------------- the same on any devices


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "one"])
def test_eight_devices_draw_the_curve_of_one(alone, on_meshes, mesh):
    """Losses and gradient norms to 1e-5 over 6 steps, dense and banded layers."""
    _, expected = alone
    _, rows = on_meshes[0][mesh]
    losses = column(expected, "loss")
    # Steps 0 and 4 take the same batch.
    assert losses[4] < losses[0] - 0.1
    np.testing.assert_allclose(column(rows, "loss"), losses, rtol=1e-5)
    norms = column(expected, "gradient_norm")
    np.testing.assert_allclose(column(rows, "gradient_norm"), norms, rtol=1e-4)
    assert column(rows, "learning_rate") == column(expected, "learning_rate")


@pytest.mark.slow
def test_no_mesh_makes_xla_replicate_what_is_split(on_meshes):
    """XLA says "involuntary full rematerialization" where it gathers an array for want of a way."""
    assert "rematerialization" not in on_meshes[1].lower()


@pytest.mark.slow
def test_the_same_program_twice_is_the_same_bits(alone, on_meshes):
    assert same(run(program()), alone)
    assert same(run(program("all")), on_meshes[0]["all"])


@pytest.mark.slow
def test_a_step_compiles_once(alone, on_meshes):
    """A second call, on what the first gave back, finds the program of the first."""
    for mesh in MESHES:
        assert program(mesh)._train._cache_size() == 1


@pytest.mark.slow
def test_dropout_is_drawn_alike_on_one_device_and_on_eight():
    """And by step: the same batch and parameters cost another loss at another step."""
    _, one = run(program(dropout=0.3), steps=2)
    for mesh in ("all", "pipeline"):
        _, eight = run(program(mesh, dropout=0.3), steps=2)
        np.testing.assert_allclose(column(eight, "loss"), column(one, "loss"), rtol=1e-5)
    later = fresh(program(dropout=0.3), step=1)
    _, metrics = program(dropout=0.3).train_step(later, batch_of(program()))
    assert abs(float(metrics["loss"]) - one[0]["loss"]) > 1e-3


@pytest.mark.slow
def test_the_state_is_born_split_over_fsdp():
    """An eighth of each array that has a width is on each device, moments included; of the rest,
    biases without a width and counters, there is little.
    """
    state = program("fsdp").create_state()
    for part in (state.params, *(optax.tree.get(state.opt_state, name) for name in ("mu", "nu"))):
        leaves = jax.tree_util.tree_leaves_with_path(part)
        for path, leaf in leaves:
            shards = 1 if path[-1].key in ("qkv_bias", "up_bias") else 8
            assert {shard.data.size for shard in leaf.addressable_shards} == {leaf.size // shards}
        held = sum(leaf.addressable_shards[0].data.size for _, leaf in leaves)
        assert held < 1.25 / 8 * sum(leaf.size for _, leaf in leaves)
    assert not any(np.any(moment) for moment in jax.tree.leaves(state.opt_state))
    # What is drawn does not depend on how it is split: the embedding of one device, by its spread.
    assert np.asarray(state.params["embedding"]).std() == pytest.approx(0.02, rel=0.1)


# ------------------------------------------------------------- batches in parts and growing


def first_moment(state):
    """After one step, a tenth of the clipped gradient."""
    return jax.tree.leaves(jax.device_get(optax.tree.get(state.opt_state, "mu")))


def test_accumulation_is_the_big_batch(alone):
    """Four micro-batches of two rows: losses to 1e-5 over 6 steps, gradients to 1e-5 of the
    largest entry of each array.
    """
    _, expected = alone
    state, rows = run(program(micro=4))
    np.testing.assert_allclose(column(rows, "loss"), column(expected, "loss"), rtol=1e-5)
    assert int(state.samples) == STEPS * ROWS
    moments = [
        first_moment(some.train_step(fresh(some), batch_of(some))[0])
        for some in (program(), program(micro=4))
    ]
    for whole, parts in zip(*moments, strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-5 * max(np.abs(whole).max(), 1e-4))


def numpy_step(batch, rows):
    """Loss per token and gradient norm of the first rows alone, in float64."""
    inputs, targets = (batch[k].reshape(ROWS, LENGTH)[:rows] for k in ("inputs", "targets"))
    model = NumpyGPT(parameters(program()), MODEL.attention_pattern, MODEL.attention_window, VOCAB)
    logits = model.logits(inputs)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    label = np.eye(VOCAB)[targets]
    grads = model.gradients((p - label) / (rows * LENGTH))
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    return -np.log((p * label).sum(-1)).mean(), norm


@pytest.mark.parametrize("micro", [1, 4])
@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_rows_of_weight_0_are_as_if_not_there(micro, rows):
    """Loss, gradient, samples and learning rate are those of the real rows, and one program serves
    every size of a growing batch, with empty micro-batches and half empty ones.
    """
    some = program(micro=micro)
    state, metrics = some.train_step(fresh(some), batch_of(some, rows=rows))
    loss, norm = numpy_step(batch_of(some), rows)
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)
    assert int(state.samples) == rows
    # Warm-up is over 16 rows.
    assert float(metrics["learning_rate"]) == pytest.approx(LEARNING_RATE * rows / 16)
    assert some._train._cache_size() == 1


def test_what_fills_a_batch_up_does_not_matter():
    """Bit for bit, whatever tokens stand in the rows of weight 0."""
    for some in (program(), program(micro=4)):
        batch, states = batch_of(some, rows=3), []
        for filling in (0, 7):
            flat = {k: batch[k].reshape(ROWS, LENGTH).copy() for k in ("inputs", "targets")}
            for tokens in flat.values():
                tokens[3:] = filling
            filled = batch | {k: x.reshape(batch[k].shape) for k, x in flat.items()}
            states.append(jax.device_get(some.train_step(fresh(some), filled)))
        assert same(*states)


# -------------------------------------------------------------- updates that are not finite


def broken(batch):
    """The batch with one row of infinite weight, whose loss is no number."""
    weights = batch["weights"].copy()
    weights[0, 0] = np.inf
    return batch | {"weights": weights}


@pytest.mark.parametrize("micro", [1, 4])
def test_an_update_that_is_not_finite_changes_nothing(micro):
    """Parameters and moments keep their bits; step and samples go on; skips are counted, and those
    in a row until a good one.
    """
    some = program(micro=micro)
    state, _ = some.train_step(fresh(some), batch_of(some))
    before = jax.device_get(state)
    for count in (1, 2):
        state, metrics = some.train_step(state, broken(batch_of(some, count)))
        after = jax.device_get(state)
        assert not np.isfinite(metrics["loss"])
        assert same(after.params, before.params)
        assert same(after.opt_state, before.opt_state)
        assert (after.step, after.samples) == (1 + count, (1 + count) * ROWS)
        assert (after.skipped, after.skipped_in_row) == (count, count)
        assert (metrics["skipped"], metrics["skipped_in_row"]) == (count, count)
    state, metrics = some.train_step(state, batch_of(some, 3))
    assert np.isfinite(metrics["loss"])
    assert (int(state.skipped), int(state.skipped_in_row)) == (2, 0)
    assert not same(jax.device_get(state.params), before.params)
    assert int(optax.tree.get(state.opt_state, "count")) == 2


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is_finite():
    """An embedding of 0 makes all logits 0 whatever they are made from: numbers of 10^30, whose
    squares make the gradient's norm infinite.
    """
    some, params = program(), parameters(program())
    params["embedding"] = np.zeros_like(params["embedding"])
    params["norm_final"]["scale"] = np.full_like(params["norm_final"]["scale"], 1e30)
    state, metrics = some.train_step(fresh(some, params), batch_of(some))
    assert float(metrics["loss"]) == pytest.approx(np.log(VOCAB))
    assert np.isinf(metrics["gradient_norm"])
    assert int(state.skipped) == 1
    assert same(jax.device_get(state.params), params)


# ---------------------------------------------------------------------------- validation


@pytest.mark.slow
def test_validation_sums_the_nats_of_the_tokens_that_count():
    """Over eight devices, with weights by token."""
    batch = {name: x[0] for name, x in batch_of(program("all")).items()}
    weights = np.ones((ROWS, LENGTH), "float32")
    weights[-3:], weights[0, :4] = 0, 0
    some = program("all")
    sums = some.eval_step(fresh(some).params, batch | {"weights": weights})
    model = NumpyGPT(parameters(program()), MODEL.attention_pattern, MODEL.attention_window, VOCAB)
    logits = model.logits(batch["inputs"])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    assert float(sums.weight) == weights.sum() == 36
    assert float(sums.nats) == pytest.approx((nats * weights).sum(), rel=1e-5)


# ----------------------------------------------------------------------- layers in stages


@pytest.mark.slow
def test_a_state_is_born_in_stages():
    """The initial values are those of any other mesh, and each stage draws its own layers alone."""
    alone, split = program().create_state(), program("pipeline").create_state()
    assert same(jax.device_get(alone.params), jax.device_get(split.params))
    for leaf in jax.tree.leaves(split.params["layers"]):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {1}


def test_what_stages_cannot_do_is_said():
    config = program().config
    for mesh, change, message in [
        (MeshConfig(1, 1, 1, pipeline=4), {}, "4 layers, in turns of 2, do not .* pipeline = 4"),
        (MeshConfig(4, 1, 1, pipeline=2), {"num_layers": 6}, "6 layers, in turns of 2"),
    ]:
        model = dataclasses.replace(config.model, **change)
        devices = jax.devices()[: mesh.data * mesh.pipeline]
        with pytest.raises(InputError, match=message):
            Program(dataclasses.replace(config, model=model, mesh=mesh), devices)
    short = dataclasses.replace(config.train, batch_tokens=4 * LENGTH, device_batch_tokens=0)
    with pytest.raises(InputError, match=r"4 sequences .* slice x pipeline x data x fsdp = 8"):
        Program(dataclasses.replace(config, train=short, mesh=MESHES["pipeline"]), jax.devices())


# --------------------------------------------------------------- sequences split along their length


def long_config(mesh, **model):
    """Four layers over 16 tokens, documents apart, logits in four parts."""
    config = Config(
        model=dataclasses.replace(MODEL, context_length=16, **model),
        data=DataConfig(isolate_documents=True),
        train=TrainConfig(total_tokens=256, batch_tokens=128),
        mesh=mesh,
    )
    return Program(config, jax.devices()[: 1 if mesh == MESHES["one"] else 8])


@pytest.mark.slow
def test_parts_of_a_sequence_see_what_the_whole_does(monkeypatch):
    """Segments, rotated queries, and a loss in chunks: over 4 parts as on one device."""
    monkeypatch.setattr(loss, "MAX_LOGITS", 4 * 8 * 128)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (2, 1, 8, 16)).astype("int32")
    batch = {
        "inputs": tokens[0],
        "targets": tokens[1],
        "weights": np.ones((1, 8), "float32"),
        "segment_ids": np.repeat([[1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3]], 8, 0)[None],
        "positions": np.repeat([[*range(5), *range(9), 0, 1]], 8, 0)[None],
    }
    batch = {k: x.astype("float32" if k == "weights" else "int32") for k, x in batch.items()}
    results = []
    for mesh in (MESHES["one"], MeshConfig(1, 2, 1, sequence=4)):
        made = long_config(mesh, position_encoding="rotary_halves")
        _, metrics = made.train_step(fresh(made), batch)
        results.append((float(metrics["loss"]), float(metrics["gradient_norm"])))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


@pytest.mark.slow
def test_a_state_is_born_over_parts_of_sequences():
    """The initial values are those of any other mesh."""
    alone, split = (
        long_config(mesh).create_state()
        for mesh in (MESHES["one"], MeshConfig(1, 2, 1, sequence=4))
    )
    assert same(jax.device_get(alone.params), jax.device_get(split.params))


def test_what_parts_of_a_sequence_cannot_do_is_said():
    with pytest.raises(InputError, match="16 tokens do not divide over sequence = 3"):
        Program(
            dataclasses.replace(long_config(MESHES["one"]).config, mesh=MeshConfig(1, 1, 1, 3)),
            jax.devices()[:3],
        )
    made = long_config(MeshConfig(1, 1, 1, sequence=8), attention_dropout=0.1)
    batch = {"inputs": np.zeros((1, 8, 16), "int32"), "targets": np.zeros((1, 8, 16), "int32")}
    with pytest.raises(InputError, match="not drawn alike on parts of a sequence"):
        made.train_step(made.abstract, batch | {"weights": np.ones((1, 8), "float32")})


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("tpu", {"xla_tpu_x": True, "xla_jf_y": "7", "xla_z": False}),
        ("cuda", {"xla_gpu_w": "a=b", "xla_z": False}),
        ("cpu", {"xla_z": False}),
    ],
)
def test_a_platform_gets_its_own_compiler_options(platform, expected):
    """XLA refuses what it does not know, so that another platform's are left out."""
    options = ("xla_tpu_x=true", "xla_jf_y=7", "xla_gpu_w=a=b", "xla_z=False")
    assert compiler_options(Config(compiler_options=options), platform) == expected
    with pytest.raises(InputError, match=r"xla_NAME=VALUE.* there is '--xla_z=1'"):
        Config(compiler_options=("--xla_z=1",))


@pytest.mark.slow
def test_the_compiler_is_given_the_options():
    """An option that XLA does not have is refused by its name when the step is compiled."""
    config = dataclasses.replace(program().config, compiler_options=("xla_no_such_thing=1",))
    with pytest.raises(Exception, match="xla_no_such_thing"):
        Program(config, jax.devices()[:1]).lower_train_step().compile()
