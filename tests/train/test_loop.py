"""The loop: the order in which it works, what it draws, and when it gives up."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_run import metrics, saved, saved_steps

import gpt_jax
from gpt_jax.cli import load_experiment, main
from gpt_jax.config import InputError
from gpt_jax.train import loop
from gpt_jax.train.step import Program

pytestmark = pytest.mark.slow


@pytest.fixture
def spied(monkeypatch):
    """Events of the loop in order, ("dispatch" | "read" | "validate" | "save", step); and metrics.

    The second value has each step's metrics as they lie on the device.
    """
    events, given = [], {}
    inner = {"step": Program.train_step, "get": jax.device_get}
    inner |= {"evaluate": loop.evaluate, "save": loop._save}

    def train_step(self, state, batch):
        state, found = inner["step"](self, state, batch)
        step = len(given) + 1
        given[step] = found
        events.append(("dispatch", step))
        return state, found

    def device_get(tree):
        for step, found in given.items():
            if tree is found:
                events.append(("read", step))
        return inner["get"](tree)

    def evaluate(*arguments):
        events.append(("validate", len(given)))
        return inner["evaluate"](*arguments)

    def save(*arguments):
        events.append(("save", arguments[2]))
        return inner["save"](*arguments)

    monkeypatch.setattr(Program, "train_step", train_step)
    monkeypatch.setattr(jax, "device_get", device_get)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(loop, "_save", save)
    return events, given


def test_the_next_step_is_dispatched_before_the_last_is_read(tiny, tmp_path, spied):
    """Metrics of step N are read during N + 1; but before a save, which waits for N anyway.

    A line is then on disk before the checkpoint that a killed run would go on from.
    """
    events, given = spied
    words = ["--train.total-tokens", "1536", "--checkpoint.every", "4", "--train.eval-every", "3"]
    config = load_experiment(tiny, [*words, "--train.log-every", "1"])
    loop.train(config, tmp_path / "run")
    assert events == [
        ("dispatch", 1),
        ("dispatch", 2),
        ("read", 1),
        ("dispatch", 3),
        ("read", 2),
        ("validate", 3),
        ("dispatch", 4),
        ("read", 3),
        ("read", 4),
        ("save", 4),
        ("dispatch", 5),
        ("dispatch", 6),
        ("read", 5),
        ("validate", 6),
        ("read", 6),
        ("save", 6),
    ]
    # And what was on the device is in the file, bit for bit.
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        for name in ("loss", "gradient_norm", "learning_rate"):
            on_device = np.asarray(given[line["step"]][name])
            assert on_device.dtype == np.float32
            assert np.float32(line[name]).tobytes() == on_device.tobytes()
            assert float(on_device) == line[name]


def test_tokens_follow_the_batch_ramp(tiny, tmp_path):
    """From 2 windows to 8 over 12, in steps of 2: 2, 2, 4, 6, then 8 and 8, of 32 tokens each.

    The share of the ramp that is done before each step is 0, 2/12, 4/12, 8/12; 2 + 6 times that,
    down to an even number.
    """
    config = load_experiment(tiny, ["--train.log-every", "1", "--train.total-tokens", "960"])
    train = dataclasses.replace(config.train, ramp_start_tokens=64, ramp_tokens=12 * 32)
    outcome = loop.train(dataclasses.replace(config, train=train), tmp_path / "run")
    tokens = [line["tokens"] for line in metrics(tmp_path / "run")]
    assert tokens == [n * 32 for n in (2, 4, 8, 14, 22, 30)]
    assert int(saved(tmp_path / "run", outcome.step)["rest['samples']"]) == 30


@pytest.fixture
def poisoned(monkeypatch):
    """`poisoned(steps)`: the batches of these steps, counted from the start, make the loss NaN."""
    inner = loop.train_batches

    def poison(steps):
        class Batches:
            def __init__(self, *arguments, **keywords):
                self._inner = inner(*arguments, **keywords)

            def get_state(self):
                return self._inner.get_state()

            def set_state(self, state):
                self._inner.set_state(state)

            def __next__(self):
                batch = next(self._inner)
                if self.get_state()["next_index"] in steps:
                    batch["weights"] = batch["weights"] * np.float32(np.nan)
                return batch

        monkeypatch.setattr(loop, "train_batches", Batches)

    return poison


def test_a_run_that_diverges_stops_and_keeps_its_checkpoint(tiny, tmp_path, poisoned, capsys):
    """Step 2 alone is skipped and forgiven; 5, 6 and 7 are three in a row, and the end.

    What is not finite gets a line of its own, the parameters stay, and a later try goes on.
    """
    run = tmp_path / "run"
    poisoned({2, *range(5, 100)})
    command = ["train", str(tiny), "--workdir", str(run), "--train.max-skipped-in-row", "3"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: loss and gradients must be finite, and the last 3 updates")
    assert "the last at step 7: lower --optimizer.learning-rate" in error
    assert error.count("\n") == 1
    lines = [json.loads(text) for text in (run / "metrics.jsonl").open()]
    assert [(line["step"], line["skipped"]) for line in lines] == [
        (2, 1),
        (4, 1),
        (5, 2),
        (6, 3),
        (7, 4),
    ]
    assert [line["step"] for line in lines if np.isnan(line["loss"])] == [2, 5, 6, 7]
    assert saved_steps(run) == [4]
    assert all(np.isfinite(array).all() for array in saved(run, 4).values())
    _, params, _ = gpt_jax.load(run)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert not (run / "summary.json").exists()


def test_a_skipped_update_changes_nothing(tiny, tmp_path, poisoned, finished):
    """All of steps 5 to 8 skipped: checkpoint 8 has the parameters and moments of 4."""
    run = shutil.copytree(finished, tmp_path / "run")
    for step in (8, 12, 16, 20, 24):
        shutil.rmtree(run / "checkpoints" / str(step))
    poisoned(range(5, 100))
    config = load_experiment(tiny, ["--train.max-skipped-in-row", "5"])
    with pytest.raises(InputError, match=r"the last 5 updates were not .* the last at step 9"):
        loop.train(config, run)
    assert saved_steps(run) == [4, 8]
    before, after = saved(run, 4), saved(run, 8)
    counters = {"rest['step']", "rest['samples']", "rest['skipped']", "rest['skipped_in_row']"}
    changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed <= counters
    assert (int(after["rest['step']"]), int(after["rest['skipped']"])) == (8, 4)
