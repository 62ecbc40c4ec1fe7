"""What a run's metrics say of its tasks is what `gpt-jax evaluate` says of its checkpoint."""

import dataclasses
import json

import pytest
import tiny_run

from gpt_jax import cli
from gpt_jax.config import InputError, MeshConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.evaluate.training import scorer
from gpt_jax.experiment import load_experiment
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train.loop import train


@pytest.mark.slow
def test_the_scores_of_a_run_are_those_of_evaluate(tmp_path):
    """Of a choice and of text that is written, with shots and not all the questions."""
    lines = [
        {"prompt": "a b c"[: n % 5], "choices": ["e", " and", "zz"], "answer": n % 2, "t": "e" * 6}
        for n in range(1, 24)
    ]
    for name, some in [("mine.jsonl", lines), ("mine.train.jsonl", lines[3:9])]:
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in some))
    written = {"test": ["mine.jsonl"], "train": ["mine.train.jsonl"], "prompt": "{prompt}"}
    written |= {"target": "{t}", "max_new_tokens": 6, "metrics": ["f1", "rouge1"]}
    (tmp_path / "writing.json").write_text(json.dumps(written))
    names = (str(tmp_path / "mine.jsonl"), str(tmp_path / "writing.json"))
    config = load_experiment(tiny_run.write_experiment(tmp_path), ())
    options = dataclasses.replace(
        config.train, tasks=names, task_shots=1, task_examples=9, seed=3, total_tokens=8 * 256
    )
    run = tmp_path / "run"
    train(dataclasses.replace(config, train=options), run, scorer)
    last = tiny_run.metrics(run)[-1]
    out = tmp_path / "out.json"
    asked = f"--tasks {','.join(names)} --shots 1 --examples 9 --seed 3 --json {out}"
    assert cli.main(["evaluate", str(run), *asked.split()]) == 0
    found = {
        f"{one['task']}/{name}": score["value"]
        for one in json.loads(out.read_text())["results"]
        for name, score in one["metrics"].items()
    }
    of_tasks = {name: last[name] for name in last if name.startswith(("mine/", "writing/"))}
    assert of_tasks == {name: found[name] for name in of_tasks}
    assert of_tasks.keys() == {
        "mine/accuracy_per_token",
        "mine/accuracy",
        "writing/f1",
        "writing/rouge1",
    }
    assert 0 < of_tasks["mine/accuracy"] < 1


def test_a_task_that_is_not_there_ends_a_run_before_it_begins(tmp_path):
    config = load_experiment(tiny_run.write_experiment(tmp_path), ())
    wrong = dataclasses.replace(config.train, tasks=("additon_2",))
    with pytest.raises(InputError, match="addition_2"):
        scorer(dataclasses.replace(config, train=wrong), None, None)
    long = dataclasses.replace(config, train=dataclasses.replace(wrong, tasks=("copying",)))
    long = dataclasses.replace(long, model=dataclasses.replace(config.model, vocab_size=257))
    with pytest.raises(InputError, match="copying asks for 48 tokens of a context of 32"):
        scorer(long, make_mesh(MeshConfig()), ByteTokenizer())
