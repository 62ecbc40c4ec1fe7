"""What a run's metrics say of its tasks is what `gpt-jax evaluate` says of its checkpoint."""

import dataclasses
import json

import pytest
import tiny_run

from gpt_jax import cli
from gpt_jax.config import InputError, MeshConfig
from gpt_jax.data.tokenizers import ByteTokenizer, CharacterTokenizer
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


def test_what_a_validation_would_find_wrong_is_told_before_a_run_begins(tmp_path):
    """Of a task in a file, whose metrics go by the name that the file gives."""
    (tmp_path / "b").mkdir()
    question = json.dumps({"prompt": "ab", "choices": ["a", "b"], "answer": 0})
    for name in ("glossary.jsonl", "b/glossary.jsonl"):
        (tmp_path / name).write_text(question)
    mine, other = str(tmp_path / "glossary.jsonl"), str(tmp_path / "b/glossary.jsonl")
    config = load_experiment(tiny_run.write_experiment(tmp_path), ())
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=257))

    def made(tokenizer, *tasks, best):
        options = dataclasses.replace(config.train, tasks=tasks, best=best)
        return scorer(
            dataclasses.replace(config, train=options), make_mesh(MeshConfig()), tokenizer
        )

    assert made(ByteTokenizer(), mine, best="glossary/accuracy")
    with pytest.raises(InputError, match="did you mean 'glossary/accuracy'"):
        made(ByteTokenizer(), mine, best="glossary/acuracy")
    with pytest.raises(InputError, match="2 are called 'glossary'"):
        made(ByteTokenizer(), mine, other, best="val_loss")
    with pytest.raises(InputError, match="'A' \\(U\\+0041\\) is not one of them"):
        made(CharacterTokenizer("ab\n"), mine, best="val_loss")
    with pytest.raises(InputError, match="TASK/METRIC of one of"):
        dataclasses.replace(config.train, best="glossary/accuracy")
