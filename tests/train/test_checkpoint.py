"""Saving and restoring when nothing goes wrong: values, shardings, retention, refusals."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.config import InputError
from gpt_jax.train import checkpoint
from gpt_jax.train.checkpoint import Checkpointer, best_step, load_params


class Moments(NamedTuple):
    mu: Any
    nu: Any


@struct.dataclass
class Rest:
    step: jax.Array
    params: Any
    opt_state: Any


def state(step, devices=1):
    """(params, rest) that tell steps apart; matrices are split over `devices`."""
    mesh = Mesh(np.array(jax.devices()[:devices]), "x")

    def put(value):
        spec = PartitionSpec("x") if value.ndim else PartitionSpec()
        return jax.device_put(value, NamedSharding(mesh, spec))

    keys = jax.random.split(jax.random.key(step), 4)
    params = {
        "wte": put(jax.random.normal(keys[0], (16, 8))),
        "layers": {
            "w": put(jax.random.normal(keys[1], (8, 4, 4))),
            "half": put(jax.random.normal(keys[2], (8, 2), jnp.bfloat16)),
        },
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    return params, Rest(put(jnp.int32(step)), None, (Moments(params, zeros), ()))


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save_all(folder, steps, keep_last=9, keep_best=0, losses=()):
    losses = dict(zip(steps, losses, strict=False))
    with Checkpointer(folder, keep_last, keep_best) as checkpointer:
        for step in steps:
            checkpointer.save(step, *state(step), {"seen": 10 * step}, losses.get(step))
    assert checkpointer.last_committed == steps[-1]


def steps_in(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def assert_same(a, b):
    """Equal in structure, dtype, sharding and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.sharding == y.sharding
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_nothing_saved_is_none(tmp_path):
    with Checkpointer(tmp_path / "new", 1, 0) as checkpointer:
        assert checkpointer.restore({}, {}) is None
        assert checkpointer.last_committed is None
    with pytest.raises(InputError, match="there is no checkpoint in"):
        load_params(tmp_path / "new")


def test_round_trip(tmp_path):
    params, rest = state(7)
    meta = {"config": {"name": "ü", "lr": 0.1}, "data": {"next_index": 2**60}}
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        checkpointer.save(7, params, rest, meta, 1.5)
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        restored = checkpointer.restore(abstract(params), abstract(rest))
    assert restored is not None
    assert restored[0] == 7
    assert_same(restored[1:3], (params, rest))
    assert restored[3] == meta


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 4), (8, 1), (4, 8), (1, 8)])
def test_other_device_counts_are_exact(tmp_path, saved_on, restored_on):
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        checkpointer.save(3, *state(3, saved_on), {})
    wanted = state(3, restored_on)
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        restored = checkpointer.restore(*abstract(wanted))
    assert restored is not None
    assert_same(restored[1:3], wanted)
    assert len(restored[1]["wte"].sharding.device_set) == restored_on


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    params = {f"w{i}": jax.random.normal(jax.random.key(i), (256, 256)) for i in range(8)}
    before = jax.tree.map(np.array, params)
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        checkpointer.save(1, params, {"step": jnp.int32(1)}, {})
        jax.block_until_ready(overwrite(params))
    _, after, _ = load_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_load_params_reads_only_and_needs_no_abstract_tree(tmp_path):
    save_all(tmp_path, [1, 2, 3])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    step, params, meta = load_params(tmp_path)
    assert (step, meta) == (3, {"seen": 30})
    jax.tree.map(np.testing.assert_array_equal, params, state(3)[0])
    assert load_params(tmp_path, abstract(state(2, 8)[0]), step=2)[0] == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(InputError, match=r"no checkpoint of step 5 .* there are 1, 2, 3\."):
        load_params(tmp_path, step=5)


def test_checkpoints_of_old_are_ranked_by_their_loss(tmp_path, monkeypatch):
    """They were written before any metric could rank, and name their validation loss."""
    save_all(tmp_path, [10, 20, 30], losses=[1.0, 2.0, 3.0])
    assert best_step(tmp_path) == 10
    losses = {"10": 3.0, "20": None, "30": 2.0}
    old = lambda path: {"val_loss": losses[path.name]}  # noqa: E731
    monkeypatch.setattr(checkpoint, "_read_record", old)
    assert best_step(tmp_path) == 30
    assert best_step(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("losses", "keep_last", "keep_best", "kept"),
    [
        ((), 2, 0, [40, 50]),
        ((), 1, 3, [50]),
        ((3.0, 1.0, 2.0, 4.0, 5.0), 1, 2, [20, 30, 50]),
        ((3.0, 1.0, 2.0, 0.5, 0.1), 2, 2, [40, 50]),
        ((2.0, float("nan"), float("-inf"), None, 9.0), 1, 1, [10, 50]),
        ((5.0, 4.0, 3.0, 2.0, 1.0), 9, 0, [10, 20, 30, 40, 50]),
    ],
)
def test_retention(tmp_path, losses, keep_last, keep_best, kept):
    save_all(tmp_path, [10, 20, 30, 40, 50], keep_last, keep_best, losses)
    assert steps_in(tmp_path) == kept
    assert {path.name for path in tmp_path.iterdir()} == set(map(str, kept))


def test_the_best_step_is_remembered_when_the_run_is_continued(tmp_path):
    save_all(tmp_path, [1, 2], 1, 1, [1.0, 2.0])
    save_all(tmp_path, [3, 4], 1, 1, [3.0, 4.0])
    assert steps_in(tmp_path) == [1, 4]
    save_all(tmp_path, [5], 1, 1, [0.5])
    assert steps_in(tmp_path) == [5]


def test_a_saved_step_is_not_saved_again(tmp_path):
    with Checkpointer(tmp_path, 2, 0) as checkpointer:
        checkpointer.save(1, *state(1), {"first": True})
        checkpointer.save(1, *state(1), {"first": False})
    assert load_params(tmp_path)[2] == {"first": True}


def test_poll_learns_of_the_commit_without_another_save(tmp_path):
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        checkpointer.save(1, *state(1), {})
        while checkpointer.last_committed is None:
            checkpointer.poll()
        assert steps_in(tmp_path) == [1]


def recast(tree):
    return tree | {"wte": jax.ShapeDtypeStruct((16, 8), "bfloat16", sharding=tree["wte"].sharding)}


def reshaped(tree):
    return tree | {"wte": jax.ShapeDtypeStruct((16, 4), "float32", sharding=tree["wte"].sharding)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (recast, r"params/wte is float32\[16, 8\] in the checkpoint and bfloat16\[16, 8\] here"),
        (reshaped, r"params/wte is float32\[16, 8\] in the checkpoint and float32\[16, 4\] here"),
        (lambda tree: {"wte": tree["wte"]}, r"params/layers/half is .* and missing here"),
        (lambda tree: tree | {"new": tree["wte"]}, r"params/new is missing in the checkpoint"),
    ],
)
def test_another_model_is_refused_and_nothing_is_moved(tmp_path, change, message):
    save_all(tmp_path, [1, 2])
    params, rest = abstract(state(2))
    with Checkpointer(tmp_path, 9, 0) as checkpointer, pytest.raises(InputError, match=message):
        checkpointer.restore(change(params), rest)
    with pytest.raises(InputError, match=message):
        load_params(tmp_path, change(params))
    assert steps_in(tmp_path) == [1, 2]
    assert not (tmp_path / "damaged").exists()


def test_an_optimizer_of_another_kind_is_refused(tmp_path):
    save_all(tmp_path, [1])
    params, rest = abstract(state(1))
    moments = rest.opt_state[0]._asdict()
    with Checkpointer(tmp_path, 9, 0) as checkpointer, pytest.raises(InputError, match="rest/opt_"):
        checkpointer.restore(params, rest.replace(opt_state=({"mu": moments["mu"]}, ())))


def test_good_saves_say_nothing(tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        save_all(tmp_path, [1, 2])
        load_params(Path(tmp_path))
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
