"""Each experiment of experiments/finetune on a small local file, from a model of random weights."""

import dataclasses
import json

import jax
import pytest
from random_model import random_params

from gpt_jax.cli import main
from gpt_jax.config import Config, DataConfig, ModelConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.run import read_config, write_run

MODEL = ModelConfig(vocab_size=257, context_length=128, num_layers=1, embed_dim=16, num_heads=2)
CONVERSATION = [{"role": "user", "content": "{i}?"}, {"role": "assistant", "content": "{i}!"}]
RECORDS = {
    "translation": {"ro": "Noroc {i}", "en": "Good luck {i}"},
    "summarisation": {"article": "It rained for {i} days.", "highlights": "Rain, {i}"},
    "question_answering": {
        "title": "Sums",
        "context": "It is {i}.",
        "question": "What is it?",
        "answers": {"text": ["{i}"]},
    },
    "dialogue": {"messages": CONVERSATION},
    "code_completion": {"prompt": "def f{i}():\n", "completion": "    return {i}"},
    "classification": {"text": "{i} stars", "label": ["neg", "pos"]},
    "classification_head": {"text": "{i} stars", "label": ["neg", "pos"]},
}


def filled(value, i):
    """A record with its number in every text, and one of two labels."""
    if isinstance(value, dict):
        return {
            name: item[i % 2] if name == "label" else filled(item, i)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [filled(item, i) for item in value]
    return value.replace("{i}", str(i))


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A run of one small layer with bytes as tokens, without any training."""
    folder = tmp_path_factory.mktemp("origin") / "run"
    config = Config(model=MODEL, data=DataConfig(tokenizer="bytes"))
    write_run(folder, config, ByteTokenizer())
    params = jax.tree.map(lambda leaf: 0.1 * leaf, random_params(MODEL))
    with Checkpointer(folder / "checkpoints", 1, 0) as checkpointer:
        checkpointer.save(1, params, {"step": jax.numpy.int32(1)}, {})
    return folder


def test_all_of_them_are_here(root):
    """Those of addition bring their own problems: tests/test_addition.py has them in miniature."""
    stems = {path.stem for path in root.glob("experiments/finetune/*.py")}
    assert {stem for stem in stems if not stem.startswith("addition")} == {*RECORDS}


@pytest.mark.parametrize("name", RECORDS)
def test_without_a_model_to_start_from_no_data_is_read(name, root, tmp_path, monkeypatch, capsys):
    """With its own data, which may be downloaded, and with a file that is not there."""
    monkeypatch.chdir(tmp_path)
    experiment = str(root / "experiments" / "finetune" / f"{name}.py")
    for more in ([], ["--data.files", "none.jsonl"]):
        assert main(["train", experiment, *more]) == 1
        error = capsys.readouterr().err
        assert f"{name} learns examples with a model that has been trained before" in error
        assert "--init-from RUN" in error
        assert "vocab" not in error
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDS)
def test_an_experiment_of_fine_tuning_runs(name, origin, root, tmp_path, capsys):
    path, run = tmp_path / "x.jsonl", tmp_path / "run"
    rows = [filled(RECORDS[name], i) for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = root / "experiments" / "finetune" / f"{name}.py"
    options = {
        "--init-from": origin,
        "--data.files": path,
        "--workdir": run,
        "--data.cache-dir": tmp_path / "cache",
        "--data.validation-fraction": 0.2,
        # As many steps for all, so that they share what was compiled.
        "--train.epochs": 0,
        "--train.total-tokens": 2 * 8 * 128,
        "--train.batch-tokens": 8 * 128,
    }
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", str(experiment), *words]) == 0
    out = capsys.readouterr().out
    config, summary = read_config(run), json.loads((run / "summary.json").read_text())
    assert config.model == dataclasses.replace(MODEL, attention=config.model.attention)
    assert summary["val_loss"] > 0
    assert "of 60" not in out
    lines = [line.split() for line in out.splitlines() if line.startswith(("learn ", "test "))]
    assert sum(int(words[1]) for words in lines) == 60
    assert all(words[1] == words[3] for words in lines)
    if name == "classification_head":
        assert 0 <= summary["val_accuracy"] <= 1
