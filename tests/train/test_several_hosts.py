"""Several hosts on one machine: real processes that train together over loopback.

The reference is one process, which tests elsewhere compare with NumPy. Losses agree to rtol 1e-5:
float32 sums in another order differ by about 1e-7 each, and Adam lets that grow a little.
"""

import contextlib
import random
import re
import shlex
import shutil
import signal
import socket
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import STEPS, finish, metrics, saved, saved_steps, start, wait_for_step

from gpt_jax.train.checkpoint import _read_record
from gpt_jax.train.digest import tree_digest

pytestmark = pytest.mark.slow

LOST = "another host of this run has died, has ended or cannot be reached"
SLOWLY = """

import time
from gpt_jax.data.batches import TrainBatches

draw = TrainBatches.__next__

def slowly(self):
    time.sleep(1e9 if self.get_state()["next_index"] == {stuck_at} else 0.4)
    return draw(self)

TrainBatches.__next__ = slowly
"""
"""Added to the experiment: steps that leave time for what is done to their processes."""


@pytest.fixture(scope="session")
def slow(tiny) -> Path:
    """The tiny experiment with a pause before each step."""
    path = tiny.with_name("slow.py")
    path.write_text(tiny.read_text() + SLOWLY.format(stuck_at=None))
    return path


@pytest.fixture(scope="session")
def stuck(tiny) -> Path:
    """The tiny experiment, which waits for ever for the batch of its seventh step."""
    path = tiny.with_name("stuck.py")
    path.write_text(tiny.read_text() + SLOWLY.format(stuck_at=6))
    return path


def free_port(above=0):
    """A port of loopback that nothing listens on now."""
    while True:
        place = ("127.0.0.1", above and random.randrange(above, 65536))
        with contextlib.suppress(OSError), socket.create_server(place) as found:
            return found.getsockname()[1]


class Hosts:
    """Hosts that train with the same words; a context manager, at whose end none is left.

    `before(index)` is called before each of them is started.
    """

    def __init__(self, count, *words, devices=1, before=lambda index: None):
        self.words, self.port = ["train", *map(str, words)], free_port()
        self.processes = []
        for index in range(count):
            before(index)
            process = start(*self.words, *self.place(count, index), devices=devices)
            self.processes.append(process)

    def place(self, count, index):
        address = f"127.0.0.1:{self.port}"
        return ["--coordinator", address, "--num-hosts", str(count), "--host-index", str(index)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def end(self):
        """[(exit status, stdout, stderr)] of all of them, without what Gloo says on its own."""
        return [
            (status, re.sub(r"\[Gloo\].*\n", "", out), err)
            for status, out, err in map(finish, self.processes)
        ]


def errors(err):
    """The lines that are ours: jax logs its own around them."""
    return [line for line in err.splitlines() if line.startswith("error: ")]


def assert_same_losses(run, alone):
    """The same lines at the same steps, with the same losses but for rounding."""
    ours, theirs = metrics(run), metrics(alone)
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    for name in ("loss", "learning_rate", "gradient_norm"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5
        )
    for ours_line, theirs_line in zip(ours, theirs, strict=True):
        for name in ("val_loss", "val_bits_per_byte"):
            assert (name in ours_line) == (name in theirs_line)
            if name in ours_line:
                assert ours_line[name] == pytest.approx(theirs_line[name], rel=1e-5)


def listening(port):
    """IPv4 addresses, in the kernel's hexadecimal, at which some process listens on a port.

    A socket of IPv6 may stand for one as ::FFFF:A.B.C.D; the address of all is zeros in either.
    """
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in (Path("/proc/net") / name).read_text().splitlines()[1:]
    ]
    return {
        line[1].split(":")[0][-8:]
        for line in lines
        if line[3] == "0A" and int(line[1].split(":")[1], 16) == port
    }


def test_two_train_as_one_does(tiny, tmp_path, finished_alone):
    """Losses of one process; the first speaks and writes what one process does, once.

    Meanwhile the coordinator listens at 127.0.0.1 (0100007F), and not at every address.
    """
    alone, _ = finished_alone
    run = tmp_path / "run"
    with Hosts(2, tiny, "--workdir", run) as hosts:
        wait_for_step(run, 2, hosts.processes[0])
        assert listening(hosts.port) == {"0100007F"}
        (status, out, _), other = hosts.end()
    assert status == 0
    assert other == (0, "", "")
    assert_same_losses(run, alone)
    assert "devices 2 x cpu on 2 hosts" in out
    assert f"step 24/{STEPS}" in out
    assert out.endswith(f"gpt-jax generate {run} --prompt the\n")
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert len([*(run / "tensorboard").iterdir()]) == 1


def stop(run, hosts, index, step, number=signal.SIGTERM):
    """A signal to one host after `step`; the step that all saved, and what the first said."""
    wait_for_step(run, step, hosts.processes[0])
    hosts.processes[index].send_signal(number)
    (status, out, _), *others = hosts.end()
    assert status == 0
    assert {(status, out) for status, out, _ in others} <= {(0, "")}
    said = re.search(rf"{number.name}: saved step (\d+)\. To continue:\n  (.*)\n$", out)
    assert said, out
    assert saved_steps(run)[-1] == int(said[1])
    return int(said[1]), out, shlex.split(said[2])


def test_four_then_one_then_two_then_four(slow, tmp_path, finished_alone):
    """Stopped by a signal to one host each time, and gone on with on other hosts, as if never.

    The mesh changes with them: parameters split over all four; whole on one; sequences split
    between two hosts, which then load the same rows, and heads within each. What is on disk after
    each stop, read here by Orbax alone, has the digests that the hosts computed together.
    """
    alone, _ = finished_alone
    run, last = tmp_path / "run", 0
    words = [slow, "--workdir", run, "--checkpoint.keep-last", "9"]
    split = ["--mesh.data", "1", "--mesh.fsdp", "4"]
    meshes = {
        (4, 0): (1, split),
        (1, 0): (1, []),
        (2, 1): (2, ["--mesh.data", "1", "--mesh.sequence", "2", "--mesh.tensor", "2"]),
    }
    for (count, index), (devices, mesh) in meshes.items():
        with Hosts(count, *words, *mesh, devices=devices) as hosts:
            step, out, again = stop(run, hosts, index, last + 2)
            assert again == ["gpt-jax", *hosts.words, *hosts.place(count, 0)]
        assert f"devices {count * devices} x cpu" in out
        assert ("continuing from" in out) == (last > 0)
        assert f"continuing from step {last}" in out or not last
        digests = _read_record(run / "checkpoints" / str(step))["digests"]
        found = tree_digest(jax.tree.map(jnp.asarray, saved(run, step)))
        assert sorted(digests.values()) == sorted(found.values())
        assert last < step < STEPS
        last = step
    with Hosts(4, *words, *split) as hosts:
        (status, out, _), *others = hosts.end()
    assert (status, [status for status, _, _ in others]) == (0, [0, 0, 0])
    assert f"continuing from step {last}" in out
    assert_same_losses(run, alone)
    state = saved(run, STEPS)
    assert (int(state["rest['step']"]), int(state["rest['samples']"])) == (24, 192)


def test_disagreements_are_named_by_every_host(tiny, root, tmp_path):
    """Another field, another program: both are named on both hosts, and nothing is written."""
    program = tmp_path / "program"
    shutil.copytree(root / "gpt_jax", program / "gpt_jax")
    with (program / "gpt_jax" / "flops.py").open("a") as file:
        file.write("# another program\n")
    other = tiny.with_name("other.py")
    other.write_text(tiny.read_text().replace("num_layers=2", "num_layers=3"))
    run = tmp_path / "run"
    with Hosts(0) as hosts:
        for index, (path, folder) in enumerate([(tiny, None), (other, program)]):
            words = ["train", path, "--workdir", run, *hosts.place(2, index)]
            hosts.processes.append(start(*words, folder=folder))
        found = hosts.end()
    for status, _, err in found:
        assert status == 1
        (error,) = errors(err)
        assert "model.num_layers: 2 on host 0, 3 on host 1" in error
        assert "the code of gpt_jax (digest): " in error
        assert error.count(" on host 1") == 2
    assert not run.exists()


def test_another_text_is_a_disagreement(tiny, tmp_path):
    """The same config finds other files on one host, and so other characters.

    SLURM tells these two of each other: nothing on the command line does.
    """
    for name, text in (("a", "one text. " * 99), ("b", "another. " * 99)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(text)
    run, job = tmp_path / "run", free_port(above=61440) - 61440
    words = ["--data.files", "~/*.txt", "--data.tokenizer", "characters"]
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    with Hosts(0) as hosts:
        for index, name in enumerate("ab"):
            place = {"SLURM_PROCID": str(index), "SLURM_LOCALID": "0"}
            home = {"HOME": str(tmp_path / name)}
            more = slurm | place | home
            hosts.processes.append(start("train", tiny, "--workdir", run, *words, **more))
        found = hosts.end()
    for status, _, err in found:
        assert status == 1
        (error,) = errors(err)
        assert "differ in the tokenizer (digest): " in error
        assert "; the text and its split (digest): " in error
    assert not run.exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_host_ends_the_other_and_the_next_start_continues(slow, tmp_path, victim):
    """The one that is left says what happened, and that the same command continues.

    It does, on both: from the checkpoint before the newest, in which a bit has been flipped.
    """
    run = tmp_path / "run"
    words = [slow, "--workdir", run, "--checkpoint.every", "2", "--train.heartbeat-seconds", "10"]
    with Hosts(2, *words) as hosts:
        wait_for_step(run, 6, hosts.processes[0])
        hosts.processes[victim].kill()
        killed = time.monotonic()
        status, _, err = hosts.end()[1 - victim]
        assert time.monotonic() - killed < 15
    assert status == 1
    (error,) = errors(err)
    assert LOST in error
    assert "the same command on every host continues from the last checkpoint" in error
    if victim == 0:
        return
    before, newest = metrics(run), saved_steps(run)[-1]
    damage(run / "checkpoints" / str(newest) / "params")
    with Hosts(2, *words) as hosts:
        step, out, _ = stop(run, hosts, 1, 8)
    assert f"continuing from step {newest - 2}\n" in out
    assert step > newest
    assert (run / "checkpoints" / "damaged" / str(newest)).is_dir()
    assert metrics(run)[: len(before)] == before


def damage(folder):
    """Flip a bit in the middle of the largest file, which holds a part of an array."""
    victim = max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def test_a_host_that_is_frozen_is_taken_for_dead(slow, tmp_path):
    """It sends no heartbeats, and no connection closes: the time-out ends the other."""
    run = tmp_path / "run"
    with Hosts(2, slow, "--workdir", run, "--train.heartbeat-seconds", "10") as hosts:
        wait_for_step(run, 2, hosts.processes[0])
        hosts.processes[1].send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        status, _, err = finish(hosts.processes[0])
        assert 5 < time.monotonic() - frozen < 15
    assert status == 1
    (error,) = errors(err)
    assert LOST in error


def test_a_host_that_is_stuck_is_caught_by_the_watchdog(tiny, slow, stuck, tmp_path):
    """Alive, with heartbeats, and waiting for ever: each ends with 75 and its stacks."""
    run, words = tmp_path / "run", ["--train.watchdog-seconds", "3", "--train.log-every", "1"]
    with Hosts(0) as hosts:
        for index, path in enumerate((slow, stuck)):
            place = hosts.place(2, index)
            hosts.processes.append(start("train", path, "--workdir", run, *words, *place))
        found = hosts.end()
    statuses = [status for status, _, _ in found]
    assert 75 in statuses
    assert set(statuses) <= {75, 1}  # the one that is first may end the other
    for status, _, err in found:
        if status == 75:
            assert errors(err)[0].startswith("error: no step has ended for ")
            assert "the same command continues from the last checkpoint" in errors(err)[0]
            assert "most recent call first" in err
            assert "loop.py" in err
    assert "slowly" in found[1][2] or statuses[1] == 1
