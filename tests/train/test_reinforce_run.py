"""Whole runs that learn from rewards: they get more of it, go on bit for bit, and outlive it."""

import json
import shutil

import numpy as np
import pytest
from tiny_run import finish, metrics, saved, saved_steps, start

from gpt_jax.cli import main
from gpt_jax.data.questions import Questions
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.train.run import read_config

pytestmark = pytest.mark.slow

RUN = """
from gpt_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(context_length=16, num_layers=1, embed_dim=32, num_heads=2),
        data=DataConfig(
            files=({files!r},), tokenizer="bytes", prompt="{{p}}", target="{{y}}",
            validation_fraction=0.3, cache_dir={cache!r},
        ),
        feedback=FeedbackConfig(
            method="reinforce", reward={reward!r}, reward_seconds=0.5, max_new_tokens=3,
            beta=0.01,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            total_tokens={steps} * 512, batch_tokens=512, log_every=1, eval_every=100,
            max_skipped_in_row=3, sample_tokens=0,
        ),
        checkpoint=CheckpointConfig(every=8),
    )
"""


def experiment(folder, reward, steps):
    path = folder / "x.py"
    lines = [json.dumps({"p": f"{n}:", "y": "x"}) for n in range(24)]
    (folder / "x.jsonl").write_text("\n".join(lines))
    files, cache = str(folder / "x.jsonl"), str(folder / "cache")
    path.write_text(RUN.format(files=files, cache=cache, reward=reward, steps=steps))
    return path


@pytest.fixture(scope="module")
def rewarded(tmp_path_factory):
    """(experiment, run): an answer is to have a small letter in it."""
    folder = tmp_path_factory.mktemp("rewarded")
    path, run = experiment(folder, "match:[a-z]", 24), folder / "run"
    assert main(["train", str(path), "--workdir", str(run)]) == 0
    return path, run


def test_a_run_raises_its_reward(rewarded):
    """From what chance gives of three bytes, 1 - (1 - 26 / 257)^3, and it says what it did."""
    lines = metrics(rewarded[1])
    rewards = [line["reward"] for line in lines]
    chance = 1 - (1 - 26 / 257) ** 3
    assert abs(np.mean(rewards[:2]) - chance) < 4 * (chance * (1 - chance) / 64) ** 0.5
    assert np.mean(rewards[-6:]) > 0.75
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines[-1]["kl"] > 0.1
    last = lines[-1]
    assert last["loss"] == pytest.approx(0.01 * last["kl"] - last["reward"], abs=0.05)
    assert {"completion_tokens", "ended", "reward_failures", "val_loss"} <= {*last}
    assert {line["reward_failures"] for line in lines} == {0}


def test_stopped_and_resumed_it_is_the_same(rewarded, tmp_path):
    """Bit for bit: the answers of each step are drawn from what the run is, and from its number."""
    path, undisturbed = rewarded
    run = shutil.copytree(undisturbed, tmp_path / "run")
    assert saved_steps(run)[-2:] == [16, 24]
    shutil.rmtree(run / "checkpoints" / "24")
    assert main(["train", str(path), "--workdir", str(run)]) == 0
    assert metrics(run) == metrics(undisturbed)
    ours, theirs = saved(run, 24), saved(undisturbed, 24)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert theirs["rest['feedback']['batches']"] == 24


HOSTILE = """
import math, time

def reward(prompt, completion, record):
    number = int(prompt[:-1])
    if number % 6 == 0:
        raise KeyError("no such thing")
    if number % 6 == 1:
        return math.nan
    if number % 6 == 2:
        return "1"
    if number == 3:
        while True:
            time.sleep(0.01)
    if number % 6 == 4:
        return 1e39
    return 0.25

def never(prompt, completion, record):
    raise RuntimeError("never")
"""


def test_a_reward_that_fails_takes_no_run_with_it(tmp_path, caplog):
    """It raises, gives NaN, text, or more than float32 holds, or loops, by the record; and it is
    said once. What is left is worth 0.25 each time.
    """
    (tmp_path / "own.py").write_text(HOSTILE)
    path, run = experiment(tmp_path, f"python:{tmp_path}/own.py:reward", 3), tmp_path / "run"
    assert main(["train", str(path), "--workdir", str(run)]) == 0
    lines = metrics(run)
    assert len(lines) == 3
    assert [line["reward"] for line in lines] == [0.25] * 3
    questions = Questions(read_config(run), ByteTokenizer())
    asked = questions.at(np.arange(96).reshape(3, 32))["asked"]
    numbers = np.array([int(question.prompt[:-1]) for question in questions.asked])[asked]
    assert {0, 1, 2, 4} < {*(numbers % 6).flat}
    assert 3 in numbers
    failed = np.isin(numbers % 6, (0, 1, 2, 4)) | (numbers == 3)
    assert [line["reward_failures"] for line in lines] == failed.sum(1).tolist()
    assert lines[-1]["skipped"] == 0
    said = [record.message for record in caplog.records if "has failed" in record.message]
    assert len(said) == 1
    assert f"the reward python:{tmp_path}/own.py:reward has failed of" in said[0]
    assert "left out, and counted as reward_failures" in said[0]


def test_a_run_ends_where_every_reward_fails(tmp_path, capsys):
    """After as many steps as may change nothing, with the reward and what it said."""
    (tmp_path / "own.py").write_text(HOSTILE)
    path, run = experiment(tmp_path, f"python:{tmp_path}/own.py:never", 9), tmp_path / "run"
    assert main(["train", str(path), "--workdir", str(run)]) == 1
    said = capsys.readouterr().err
    assert f"the reward python:{tmp_path}/own.py:never must be finite" in said
    assert "the last 3 updates were not" in said
    assert "it raised RuntimeError: never (own.py, line " in said
    assert "learning-rate" not in said
    lines = metrics(run)
    assert [line["reward_failures"] for line in lines] == [32] * 3
    assert saved_steps(run) == []


LATE = """
import pathlib, time

def reward(prompt, completion, record):
    asked = pathlib.Path({asked!r})
    with asked.open("a") as file:
        file.write("x")
    if asked.stat().st_size > {quick}:
        time.sleep(60)
    return len(completion)
"""


def test_rewards_that_take_long_are_no_stuck_step(tmp_path):
    """Three quick batches of 32, and then one of which each reward meets its limit of 0.5 s: with
    two cores 8 s, where a step of some 0.1 s is stuck after 10 times that and the second that is
    given.
    """
    asked = str(tmp_path / "asked")
    (tmp_path / "own.py").write_text(LATE.format(asked=asked, quick=3 * 32))
    path = experiment(tmp_path, f"python:{tmp_path}/own.py:reward", 4)
    run = tmp_path / "run"
    status, _, said = finish(
        start("train", path, "--workdir", run, "--train.watchdog-seconds", "1")
    )
    assert status == 0, said
    assert [line["reward_failures"] for line in metrics(run)] == [0, 0, 0, 32]
