"""From nothing to answers: text, then questions, then the test and the page, on a tiny model."""

import json

import pytest

from gpt_jax.cli import main

PRETRAINING = """
from gpt_jax.config import (
    CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
)

def sums():
    for place in range(40):
        numbers = [(a, (a + b + place) % 10) for a in range(10) for b in range(10)]
        yield "".join(f"{{a}} and {{b}} make {{a + b}}.\\n" for a, b in numbers)

def get_config():
    return Config(
        model=ModelConfig(context_length=64, num_layers=1, embed_dim=64, num_heads=4),
        data=DataConfig(
            files=("python:{file}:sums",), tokenizer="bytes", cache_dir={cache!r},
            validation_fraction=0.2,
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=1e-2, warmup_tokens=5000),
        train=TrainConfig(
            total_tokens=32 * 64 * 40, batch_tokens=32 * 64, eval_every=40, sample_tokens=0
        ),
        checkpoint=CheckpointConfig(every=1000),
    )
"""


def questions(path):
    """Every sum of two digits from 0 to 9, as a task and as what is learned."""
    problems = [(a, b) for a in range(10) for b in range(10)]
    rows = [{"prompt": f"Q: {a}+{b}?\nA:", "target": f" {a + b}"} for a, b in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_model_that_has_read_sums_learns_to_answer_them(tmp_path, capsys):
    """The commands of experiments/finetune/addition.py in miniature.

    What the run tells while it trains is, at its end, what `evaluate` finds, and what the report
    says.
    """
    experiment, text, tuned = (tmp_path / name for name in ("sums.py", "text", "tuned"))
    experiment.write_text(PRETRAINING.format(file=experiment, cache=str(tmp_path / "cache")))
    asked = questions(tmp_path / "asked.jsonl")

    def run(*words):
        assert main([str(word) for word in words]) == 0, capsys.readouterr().err

    run("train", experiment, "--workdir", text)
    learned = ["--data.files", asked, "--data.prompt", "{prompt}", "--data.target", "{target}"]
    length = ["--train.batch-tokens", 32 * 64, "--train.total-tokens", 32 * 64 * 120]
    told = ["--train.tasks", asked, "--train.task-examples", 100, "--train.eval-every", 120]
    run("train", text, "--workdir", tuned, *learned, *length, *told)
    found = {}
    for folder in (text, tuned):
        out = tmp_path / f"{folder.name}.json"
        run("evaluate", folder, "--tasks", asked, "--json", out)
        (result,) = json.loads(out.read_text())["results"]
        found[folder.name] = result["metrics"]["exact_match"]["value"]
    assert found["text"] < 0.2
    assert found["tuned"] > 0.9
    summary = json.loads((tuned / "summary.json").read_text())
    assert summary["asked/exact_match"] == found["tuned"]
    page = tmp_path / "page.html"
    run("report", tmp_path / "text.json", tmp_path / "tuned.json", "--out", page)
    assert f"{found['tuned']:.4g} <span" in page.read_text()
