"""Killed, stopped, damaged, out of space: the same command goes on, bit for bit."""

import logging
import random
import re
import shlex
import shutil
import signal
import time

import numpy as np
import pytest
from tiny_run import (
    STEPS,
    assert_same_run,
    files,
    finish,
    metrics,
    saved,
    saved_steps,
    start,
    wait_for_step,
)

from gpt_jax.cli import main

pytestmark = pytest.mark.slow


def drop_after(run, step):
    """Make it the run that it was when checkpoint `step` was the newest."""
    for later in saved_steps(run):
        if later > step:
            shutil.rmtree(run / "checkpoints" / str(later))
    for name in ("summary.json", "sample.txt"):
        (run / name).unlink()


def test_the_command_in_a_process_of_its_own(finished_alone):
    """Progress and result are on stdout; the end names the run and how to go on."""
    run, out = finished_alone
    assert out.startswith(f"run     {run}\n")
    assert "devices 1 x" in out
    assert f"step 24/{STEPS}" in out
    last = metrics(run)[-1]
    assert (
        f"validation loss {last['val_loss']:.4f}, perplexity {last['val_perplexity']:.2f}, "
        f"{last['val_bits_per_byte']:.4f} bits per byte (gzip -9 on the same text: "
    ) in out
    assert (run / "sample.txt").read_text() in out
    assert out.endswith(f"gpt-jax generate {run} --prompt the\n")


def test_killed_at_random_moments(tiny, tmp_path, finished_alone, capsys):
    """Three SIGKILLs, each at a random time after a random step, often in the middle of a save.

    While the first process is at work a second one, this, is refused and changes nothing; the lock
    dies with the process that held it.
    """
    undisturbed, _ = finished_alone
    run, draw = tmp_path / "run", random.Random(0)
    command = ["train", tiny, "--workdir", run, "--checkpoint.every", "2"]
    died_at = []
    for kill in range(3):
        process = start(*command)
        reached = metrics(run)[-1]["step"] if metrics(run) else 0
        wait_for_step(run, min(reached + draw.choice([2, 4, 6]), STEPS - 2), process)
        if kill == 0:
            assert main([str(word) for word in command]) == 1
            error = capsys.readouterr().err
            assert f"another one is at work in {run}: wait for it" in error
            assert error.count("\n") == 1
            assert process.poll() is None
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        finish(process)
        died_at.append(metrics(run)[-1]["step"])
    assert 0 < died_at[0] < STEPS
    status, out, err = finish(start(*command, "--train.sample-tokens", "0"))
    assert (status, err) == (0, "")
    assert "continuing from step" in out
    assert not (run / "sample.txt").exists()
    assert_same_run(run, undisturbed)


def test_stopped_by_signals(tiny, tmp_path, finished_alone):
    """SIGTERM, then Ctrl-C: each saves the step it is at, says how to go on, and exits with 0."""
    undisturbed, _ = finished_alone
    run = tmp_path / "a run"
    command = ["train", tiny, "--workdir", run, "--checkpoint.every", "7"]
    stopped = []
    for number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 9)):
        process = start(*command)
        wait_for_step(run, step, process)
        process.send_signal(number)
        status, out, err = finish(process)
        assert (status, err) == (0, "")
        said = re.search(rf"{number.name}: saved step (\d+)\. To continue:\n  (.*)\n$", out)
        assert said, out
        stopped.append(int(said[1]))
        assert saved_steps(run)[-1] == stopped[-1] >= step
        assert shlex.split(said[2]) == ["gpt-jax", *map(str, command)]
    assert stopped[0] < stopped[1] < STEPS
    status, out, err = finish(start(*command, "--train.sample-tokens", "0"))
    assert (status, err) == (0, "")
    assert f"continuing from step {stopped[1]}" in out
    assert_same_run(run, undisturbed)


def test_eight_devices_then_four_then_one(tiny, tmp_path, finished):
    """The same samples in the same order: losses agree to 1e-5 with the run that stayed on eight.

    On four it goes on in two stages of a pipeline. Float32 sums in another order differ by about
    1e-7 each; 16 steps of Adam let that grow.
    """
    run = shutil.copytree(finished, tmp_path / "run")
    drop_after(run, 8)
    command = ["train", tiny, "--workdir", run, "--checkpoint.every", "1", "--mesh.pipeline", "2"]
    process = start(*command, devices=4)
    deadline = time.monotonic() + 300
    while max(saved_steps(run)) < 12 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, out, _ = finish(process)
    assert "devices 4 x cpu, mesh pipeline 2 x data 2\n" in out
    assert "stages  2 x 1 layers, a micro-batch in 4 parts: 20% of the time is bubble\n" in out
    assert "continuing from step 8" in out
    status, out, err = finish(start("train", tiny, "--workdir", run, devices=1))
    assert (status, err) == (0, "")
    assert "devices 1 x" in out
    continued = re.search(r"continuing from step (\d+)", out)
    assert continued is not None
    assert int(continued[1]) >= 11
    ours, theirs = metrics(run), metrics(finished)
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    assert ours[:4] == theirs[:4]
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5
        )
    assert ours[-1]["val_loss"] == pytest.approx(theirs[-1]["val_loss"], rel=1e-5)
    one, eight = saved(run, STEPS), saved(finished, STEPS)
    for name in ("step", "samples"):
        assert one[f"rest['{name}']"] == eight[f"rest['{name}']"]


def test_a_damaged_checkpoint_is_named_and_passed_over(
    tiny, tmp_path, finished, capsys, monkeypatch
):
    """One byte of the newest is flipped: the run goes on from the one before, to the same end."""
    run = shutil.copytree(finished, tmp_path / "run")
    drop_after(run, 20)
    params = run / "checkpoints" / "20" / "params"
    victim = params / max((len(content), name) for name, content in files(params).items())[1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's would keep ours from stderr
    assert main(["train", str(tiny), "--workdir", str(run), "--checkpoint.keep-last", "9"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(f"WARNING: checkpoint {run / 'checkpoints' / '20'} is damaged and passed")
    assert err.count("\n") == 1
    assert "continuing from step 16" in out
    assert_same_run(run, finished)
    assert (run / "checkpoints" / "damaged" / "20").is_dir()


def test_a_full_disk_during_a_save(tiny, tmp_path, finished_alone):
    """No file may grow past 20 kB: the save of step 12 fails, says so, and 8 is still there."""
    undisturbed, _ = finished_alone
    run = shutil.copytree(undisturbed, tmp_path / "run")
    drop_after(run, 8)
    good = files(run / "checkpoints" / "8")
    command = ["train", tiny, "--workdir", run, "--checkpoint.keep-last", "9"]
    status, _, err = finish(start(*command, file_limit=20_000))
    assert status == 1
    assert err.startswith(f"error: could not save step 12 in {run / 'checkpoints'}: File too large")
    assert "the last good checkpoint is step 8. Make room" in err
    assert err.count("\n") == 1
    assert saved_steps(run) == [4, 8]
    assert files(run / "checkpoints" / "8") == good
    assert finish(start(*command, "--train.sample-tokens", "0"))[0] == 0
    assert_same_run(run, undisturbed)


def test_a_full_disk_between_saves(tiny, tmp_path, finished_alone):
    """Not a checkpoint but a line of metrics.jsonl finds no room: one paragraph, no traceback."""
    run = tmp_path / "run"
    command = [
        "train",
        tiny,
        "--workdir",
        run,
        "--checkpoint.every",
        "99",
        "--train.log-every",
        "1",
    ]
    status, _, err = finish(start(*command, file_limit=3000))
    assert status == 1
    assert err.startswith("error: there must be room on the disk, and there is none ([Errno 27]")
    assert err.count("\n") == 1
    undisturbed, _ = finished_alone
    kept = {line["step"]: line for line in metrics(run)}
    assert 3 < len(kept) < STEPS
    assert all(kept[line["step"]] == line for line in metrics(undisturbed) if line["step"] in kept)
