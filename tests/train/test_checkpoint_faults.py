"""Real faults: damaged files, killed processes, full disks. A restore is exact or is refused."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpt_jax
from gpt_jax.config import InputError
from gpt_jax.train import storage
from gpt_jax.train.checkpoint import Checkpointer, CheckpointError, load_params

RNG = random.Random(0)


def state(step):
    keys = jax.random.split(jax.random.key(step), 2)
    params = {"w": jax.random.normal(keys[0], (64, 64)), "b": jnp.full(8, step, jnp.float32)}
    return params, {"mu": jax.random.normal(keys[1], (64, 64)), "step": jnp.int32(step)}


SHARDING = jax.sharding.SingleDeviceSharding(jax.devices()[0])
ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SHARDING), state(0)
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 1 and 2; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpointer(folder, 9, 0) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, *state(step), {"step": step})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def restore(folder):
    """The step restored, after a check that everything in it is exact."""
    with Checkpointer(folder, 9, 0) as checkpointer:
        restored = checkpointer.restore(*ABSTRACT)
    assert restored is not None
    step, params, rest, meta = restored
    jax.tree.map(np.testing.assert_array_equal, (params, rest), state(step))
    assert meta == {"step": step}
    assert checkpointer.last_committed == step
    return step


def snapshot(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def edit(path, change):
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip_bit(data):
    """In the middle half: the ends of a data file hold bytes that Orbax need not read."""
    bit = RNG.randrange(2 * len(data), 6 * len(data))
    data[bit // 8] ^= 1 << bit % 8


def zero_block(data):
    start = RNG.randrange(len(data) // 4, max(3 * len(data) // 4, 1))
    data[start : start + 512] = bytes(len(data[start : start + 512]))


def truncate(data):
    del data[RNG.randrange(len(data)) :]


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)


@pytest.mark.parametrize("item", ["params", "rest"])
@pytest.mark.parametrize("fault", [flip_bit, zero_block, truncate, None])
def test_damaged_arrays_are_named_passed_over_and_moved_aside(folder, item, fault, caplog, capfd):
    path = largest_file(folder / "2" / item)
    path.unlink() if fault is None else edit(path, fault)
    assert restore(folder) == 1
    message = caplog.messages[0]
    assert f"{folder / '2'} is damaged and passed over" in message
    assert item in message
    assert "\n" not in message
    assert len(caplog.messages) == 1
    assert capfd.readouterr().err == ""
    assert (folder / "damaged" / "2" / item).is_dir()
    assert not (folder / "2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [flip_bit, zero_block, truncate, None])
def test_no_fault_of_any_file_gives_wrong_values(saved, tmp_path, fault):
    """Every file of a step in turn: the step comes back exact, or the one before it does."""
    names = [path.relative_to(saved) for path in (saved / "2").rglob("*") if path.is_file()]
    found = {1: 0, 2: 0}
    for number, name in enumerate(names):
        folder = shutil.copytree(saved, tmp_path / str(number))
        (folder / name).unlink() if fault is None else edit(folder / name, fault)
        found[restore(folder)] += 1
    assert found[1] > len(names) // 4  # the others hold what Orbax does not need to read


@pytest.mark.slow
def test_forty_bit_flips_in_array_data_are_all_seen(saved, tmp_path):
    for number in range(40):
        folder = shutil.copytree(saved, tmp_path / str(number))
        edit(largest_file(folder / "2" / RNG.choice(["params", "rest"])), flip_bit)
        assert restore(folder) == 1


def test_the_array_is_named(folder, caplog):
    """The arrays of another step, in themselves intact, are not those of this step."""
    shutil.rmtree(folder / "2" / "rest")
    shutil.copytree(folder / "1" / "rest", folder / "2" / "rest")
    assert restore(folder) == 1
    assert "the values of rest/mu, rest/step are not those that were saved" in caplog.text


def test_parameters_alone_may_be_good(folder):
    """What is not read cannot fail, and what is read is not moved."""
    edit(largest_file(folder / "2" / "rest"), flip_bit)
    assert load_params(folder)[0] == 2
    edit(largest_file(folder / "2" / "params"), flip_bit)
    before = snapshot(folder)
    step, params, _ = load_params(folder)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, params, state(1)[0])
    with pytest.raises(InputError, match=r"all are damaged: 2\."):
        load_params(folder, step=2)
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("everything", "record cannot be read"),
        ("record", "record cannot be read"),
        ("commit_success.txt", "it is a copy of step 2"),
        (None, "it is a copy of step 2"),
    ],
)
def test_a_folder_that_only_looks_like_a_step(folder, missing, reason, caplog):
    if missing == "everything":
        (folder / "99").mkdir()
    else:
        shutil.copytree(folder / "2", folder / "99")
    if missing == "record":
        shutil.rmtree(folder / "99" / "record")
    elif missing == "commit_success.txt":
        (folder / "99" / missing).unlink()
        (folder / "99" / "_CHECKPOINT_METADATA").unlink()
    assert restore(folder) == 2
    assert reason in caplog.text
    assert [path.name for path in (folder / "damaged").iterdir()] == ["99"]


def test_a_changed_record_is_no_record(folder, caplog):
    path = folder / "2" / "record" / "metadata"
    path.write_text(path.read_text().replace(r"\"step\": 2", r"\"step\": 3"))
    path.parent.parent.rename(folder / "3")
    assert restore(folder) == 1
    assert "its record is not what was saved" in caplog.text


def test_the_run_can_save_a_damaged_step_again(folder):
    for name in ("2", "2-1"):
        edit(largest_file(folder / "2" / "params"), flip_bit)
        with Checkpointer(folder, 9, 0) as checkpointer:
            assert checkpointer.restore(*ABSTRACT) is not None
            checkpointer.save(2, *state(2), {"step": 2})
        assert (folder / "damaged" / name).is_dir()
        assert restore(folder) == 2


def test_all_damaged_is_an_error_and_changes_nothing(folder):
    for step in ("1", "2"):
        edit(largest_file(folder / step / "params"), flip_bit)
    before = snapshot(folder)
    for _ in range(2):
        with (
            Checkpointer(folder, 9, 0) as checkpointer,
            pytest.raises(InputError, match=r"all are damaged: 1, 2\. Nothing was changed"),
        ):
            checkpointer.restore(*ABSTRACT)
    assert snapshot(folder) == before


def test_killed_while_a_step_is_deleted(folder, monkeypatch):
    def die_half_way(path, **_):
        largest_file(path).unlink()
        raise KeyboardInterrupt

    with Checkpointer(folder, 1, 0) as checkpointer:
        checkpointer.save(3, *state(3), {"step": 3})
        monkeypatch.setattr(storage.shutil, "rmtree", die_half_way)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.close()
        monkeypatch.undo()
    left = {path.name for path in folder.iterdir()}
    assert len(left & {"1.deleted", "2.deleted"}) == 1
    assert not {"1", "2"} <= left
    assert load_params(folder)[0] == 3
    assert restore(folder) == 3
    assert not list(folder.glob("*.deleted"))


def test_leftovers_of_a_killed_save_are_no_step_and_go(folder):
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
    assert load_params(folder)[0] == 1
    assert (folder / "2.orbax-checkpoint-tmp").exists()
    assert restore(folder) == 1
    assert [path.name for path in folder.iterdir()] == ["1"]


def save_and_poll(checkpointer, step):
    checkpointer.save(step, *state(step), {"step": step})
    while checkpointer.last_committed != step:
        checkpointer.poll()


def test_a_folder_that_is_lost_fails_the_save(folder):
    threads = set(threading.enumerate())
    with Checkpointer(folder, 9, 0) as checkpointer:
        checkpointer.restore(*ABSTRACT)
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("a file now")
        with pytest.raises(CheckpointError, match=r"could not save step 3 .*Not a directory"):
            save_and_poll(checkpointer, 3)
        folder.unlink()
        folder.with_name("elsewhere").rename(folder)
        checkpointer.save(3, *state(3), {"step": 3})
    assert restore(folder) == 3
    # Idle pools end with the process; any other thread would keep it from ending.
    left = [x for x in set(threading.enumerate()) - threads if "metadata_store" not in x.name]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() and not thread.daemon for thread in left)


def child(script, *arguments, wrapper=(), **options):
    """A Python process of its own that runs `script` with this checkout on its path."""
    root = str(Path(gpt_jax.__file__).parents[1])
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


SAVE_FOR_EVER = """
import itertools, pathlib, sys
import jax, jax.numpy as jnp
from gpt_jax.train.checkpoint import Checkpointer
noise = jax.random.normal(jax.random.key(0), (64, 64))
with Checkpointer(pathlib.Path(sys.argv[1]), 1, 0) as checkpointer:
    for step in itertools.count(1):
        params = {"w": noise * step, "b": jnp.full(8, step, jnp.float32)}
        checkpointer.save(step, params, {"mu": noise + step, "step": jnp.int32(step)}, {})
        print(checkpointer.last_committed, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.07, 0.19, 0.41, 0.83])
def test_killed_at_any_moment_of_saving_and_deleting(tmp_path, delay, caplog):
    process = child(SAVE_FOR_EVER, tmp_path)
    assert process.stdout is not None
    with process.stdout as out:
        first = [out.readline() for _ in range(3)]
        assert [line.strip() for line in first] == ["None", "1", "2"]
        time.sleep(delay + RNG.random() / 20)
        process.send_signal(signal.SIGKILL)
        promised = max(int(line) for line in [*first[1:], *out.read().splitlines()])
    assert process.wait() == -signal.SIGKILL
    noise = jax.random.normal(jax.random.key(0), (64, 64))
    with Checkpointer(tmp_path, 1, 0) as checkpointer:
        restored = checkpointer.restore(*ABSTRACT)
    assert restored is not None
    step, params, rest, _ = restored
    assert step >= promised
    np.testing.assert_array_equal(params["w"], noise * step)
    np.testing.assert_array_equal(rest["mu"], noise + step)
    assert caplog.messages == []
    assert {path.name for path in tmp_path.iterdir()} <= {str(step), str(step - 1)}


RUN_OUT_OF_SPACE = """
import json, pathlib, resource, sys, time
import jax, jax.numpy as jnp
from gpt_jax.train.checkpoint import Checkpointer, CheckpointError, load_params
folder, fault = pathlib.Path(sys.argv[1]), sys.argv[2]

def state(step):
    return {"w": jax.random.normal(jax.random.key(step), (256, 512))}, {"step": jnp.int32(step)}

def break_disk():
    if fault == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        return
    with open(folder / "filler", "wb", buffering=0) as file:
        room = {"full": 0, "nearly full": 200_000}[fault]
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            file.truncate(file.tell() - room)

def mend_disk():
    if fault == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    else:
        (folder / "filler").unlink()

errors = []
with Checkpointer(folder, 1, 0) as checkpointer:
    checkpointer.save(1, *state(1), {})
    while checkpointer.last_committed is None:
        checkpointer.poll()
    break_disk()
    for ask in (checkpointer.poll, lambda: checkpointer.save(3, *state(3), {})):
        try:
            checkpointer.save(2, *state(2), {})
            time.sleep(0.5)
            ask()
        except CheckpointError as error:
            errors.append(str(error))
    names = sorted(path.name for path in folder.iterdir() if path.name != "filler")
    params = load_params(folder)[1]
    good = bool((params["w"] == state(1)[0]["w"]).all())
    mend_disk()
    checkpointer.save(2, *state(2), {})
after = load_params(folder)[0]
break_disk()
try:
    with Checkpointer(folder, 1, 0) as checkpointer:
        checkpointer.save(3, *state(3), {})
except CheckpointError as error:
    errors.append(str(error))
print(json.dumps([errors, names, good, after, load_params(folder)[0]]))
"""

# A mount that no other process sees, and that is gone with the child.
TMPFS = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"'


def unshare():
    for flags in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *flags, "sh", "-c", TMPFS]
        if shutil.which("unshare") and not subprocess.run([*command, "/mnt", "true"]).returncode:
            return command
    return None


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["limit", "full", "nearly full"])
def test_out_of_space(tmp_path, fault):
    wrapper: list[str] = []
    if fault != "limit":
        command = unshare()
        if command is None:
            pytest.skip("this user may not mount a small file system")
        wrapper = [*command, str(tmp_path)]
    process = child(RUN_OUT_OF_SPACE, tmp_path, fault, wrapper=wrapper, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    errors, names, good, after_mending, at_the_end = json.loads(out)
    reason = "File too large" if fault == "limit" else "No space left on device"
    assert len(errors) == 3
    for error, step, last in zip(errors, (2, 2, 3), (1, 1, None), strict=True):
        last = f"the last good checkpoint is step {last}" if last else "there is no good"
        assert error.startswith(f"could not save step {step} in {tmp_path}: {reason}; {last}")
    assert names == ["1"]
    assert good
    assert (after_mending, at_the_end) == (2, 2)


def test_a_failing_save_does_not_hide_what_ended_the_run(tmp_path, caplog):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def run():
        with Checkpointer(tmp_path, 1, 0) as checkpointer:
            save_and_poll(checkpointer, 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))
            checkpointer.save(2, *state(1), {})
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "could not save step 2" in caplog.text
    assert "the last good checkpoint is step 1" in caplog.text
