"""Whole runs that start from another: what they take of it, when they end, what they leave."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_run import STEPS, metrics, saved, saved_steps

import gpt_jax
from gpt_jax.cli import load_experiment, main
from gpt_jax.config import InputError, TuneConfig
from gpt_jax.interop.convert import export
from gpt_jax.interop.origin import open_folder
from gpt_jax.train.loop import train
from gpt_jax.train.run import read_config, step_to_load

pytestmark = pytest.mark.slow

FINE = """
from gpt_jax.config import (
    CheckpointConfig, Config, DataConfig, OptimizerConfig, TrainConfig, TuneConfig
)

def get_config():
    return Config(
        name="fine",
        data=DataConfig(
            files=({files!r},), split="position", cache_dir={cache!r}, validation_fraction=0.1,
        ),
        tune=TuneConfig(lora_rank=2, lora_matrices=("qkv", "down")),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            epochs=0.25, batch_tokens=256, log_every=1, eval_every=2, sample_tokens=0
        ),
        checkpoint=CheckpointConfig(every=3, keep_last=9),
    )
"""
MESH = ("--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2")


@pytest.fixture(scope="module")
def fine(tiny, tmp_path_factory):
    """An experiment that says nothing of its model."""
    path = tmp_path_factory.mktemp("fine") / "fine.py"
    folder = tiny.parent
    path.write_text(FINE.format(files=str(folder / "text" / "*.txt"), cache=str(folder / "cache")))
    return path


@pytest.fixture(scope="module")
def tuned(fine, finished, tmp_path_factory):
    """Adapters beside the parameters of the finished run, over a mesh of 8; copy it."""
    run = tmp_path_factory.mktemp("runs") / "tuned"
    words = ["train", str(fine), "--init-from", str(finished), "--workdir", str(run), *MESH]
    assert main(words) == 0
    return run


def test_it_takes_model_and_tokenizer_of_its_origin(tuned, finished):
    """Its 6,504 tokens of text are 203 windows of 32, and a quarter of these are 51."""
    ours, theirs = read_config(tuned), read_config(finished)
    assert ours.model == theirs.model
    assert ours.data.tokenizer == str(finished / "tokenizer")
    assert ours.train.total_tokens == 51 * 32
    line = metrics(tuned)[-1]
    assert line["step"] == 7  # of 8 windows, the last one filled up
    # The cosine of the learning rate ends with it.
    assert line["learning_rate"] == pytest.approx(1e-3, rel=1e-3)


def test_the_base_is_the_origin_and_the_whole_is_merged(tuned, finished):
    """From Orbax's own reading: base bit for bit, moments of adapters alone; load and export."""
    last = metrics(tuned)[-1]["step"]
    ours, theirs = saved(tuned, last), saved(finished, STEPS)
    base = [name for name in theirs if name.startswith("params")]
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in base)
    names = [name for name in ours if name.startswith("params") and name not in base]
    assert len(names) == 4
    assert all("['adapters']" in name for name in names)
    moments = [name for name, x in ours.items() if "opt_state" in name and x.ndim]
    assert len(moments) == 8

    config, params, _ = gpt_jax.load(tuned)
    for place, name, letters in (
        ("attention", "qkv", "ldr,lrcnh->ldcnh"),
        ("mlp", "down", "lfr,lrd->lfd"),
    ):
        path = f"['layers']['0']['{place}']['{name}"
        a, b = (ours[f"params['adapters']{path}_{half}']"].astype("float64") for half in "ab")
        change = 16 / 2 * np.einsum(letters, a, b)
        assert np.abs(change).max() > 1e-3
        expected = theirs[f"params{path}']"] + change
        assert np.abs(params["layers"]["0"][place][name] - expected).max() < 1e-6
    assert set(params) == {"embedding", "positions", "layers", "norm_final"}
    assert config.tune.lora_rank == 2


def test_it_goes_out_merged(tuned, tmp_path):
    """What is read back of the export has the logits of `load`, and no adapters."""
    export(tuned, tmp_path / "out")
    config, params, _ = gpt_jax.load(tuned)
    _, again, _ = gpt_jax.load_hf(tmp_path / "out")
    tokens = np.arange(24, dtype="int32").reshape(2, 12)
    ours, theirs = (
        gpt_jax.GPT(config.model).apply({"params": tree}, tokens) for tree in (params, again)
    )
    assert np.array_equal(ours, theirs)


def test_stopped_and_resumed_it_is_the_same(tuned, fine, finished, tmp_path, capsys):
    """Bit for bit, adapters and moments too; and with other adapters it is another run."""
    run = shutil.copytree(tuned, tmp_path / "run")
    last = saved_steps(run)[-1]
    shutil.rmtree(run / "checkpoints" / str(last))
    words = ["train", str(fine), "--init-from", str(finished), "--workdir", str(run), *MESH]
    assert main(words) == 0
    assert metrics(run) == metrics(tuned)
    ours, theirs = saved(run, last), saved(tuned, last)
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    capsys.readouterr()
    assert main([*words, "--tune.lora-rank", "4", "--train.epochs", "2"]) == 1
    said = capsys.readouterr().err
    assert "tune.lora_rank: 2 in the run, 4 asked" in said
    assert "train.epochs: 0.25 in the run, 2.0 asked" in said
    assert "total_tokens" not in said


def test_it_is_an_origin_itself_and_so_is_its_export(tuned, fine, tmp_path):
    """What starts from it starts from what is merged, over another mesh, by either way."""
    export(tuned, tmp_path / "out")
    _, expected, _ = gpt_jax.load(tuned)
    still = ["--optimizer.learning-rate", "1e-12", "--train.epochs", "0", "--tune.lora-rank", "0"]
    still += ["--train.total-tokens", "256", "--mesh.fsdp", "4"]
    for origin in (tuned, tmp_path / "out"):
        words = [*still, "--init-from", str(origin)]
        config = load_experiment(fine, words, reader=open_folder)
        assert dataclasses.replace(config.model, attention="auto") == read_config(tuned).model
        outcome = train(config, tmp_path / f"from {origin.name}", reader=open_folder)
        assert outcome.step == 1
        _, params, _ = gpt_jax.load(outcome.folder)
        for tree in (params, expected):  # an export has no rows that only pad the vocabulary
            tree["embedding"] = tree["embedding"][:257]
        same = jax.tree.map(lambda x, y: np.abs(x - y).max() < 1e-8, params, expected)
        assert jax.tree.all(same)


SCORES = (0.25, 0.5, 0.5, 0.375, 0.125, 0.875)
"""What a task gives at each validation: with a patience of 3 the last is never seen."""


def scorer(seen, first=0):
    """Gives SCORES from the first on; `seen`: the parameters that it was called with."""

    def make(config, mesh, tokenizer):
        values = iter(SCORES[first:])

        def score(params):
            seen.append((set(params), mesh.size, tokenizer.vocab_size))
            return {"fake/right": next(values)}

        return score

    return make


def test_a_task_says_when_to_end_and_what_is_best(fine, finished, tmp_path):
    """Validated at 2, 4, 6, 8, 10: best at 4, ended at 10, although 10 is no multiple of 3.

    What is best is saved when it is found, and load takes it. Resumed from step 9 the run has not
    forgotten how long it has waited.
    """
    config = load_experiment(fine, ["--init-from", str(finished), "--checkpoint.keep-last", "2"])
    more = {"tasks": ("fake",), "best": "fake/right", "patience": 3, "epochs": 5.0}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **more))
    seen = []
    outcome = train(config, tmp_path / "run", scorer(seen))
    assert (outcome.step, outcome.best.step, outcome.stopped_by) == (10, 4, None)
    assert [line["fake/right"] for line in metrics(outcome.folder) if "val_loss" in line] == [
        *SCORES[:5]
    ]
    assert seen == [({"embedding", "positions", "layers", "norm_final"}, 8, 257)] * 5
    assert saved_steps(outcome.folder) == [4, 9, 10]
    summary = json.loads((outcome.folder / "summary.json").read_text())
    assert (summary["best_step"], summary["stopped_by"]) == (4, None)
    ran = read_config(outcome.folder)
    steps = {step: step_to_load(outcome.folder, ran, step) for step in (None, "best", "last", "9")}
    assert steps == {None: 4, "best": 4, "last": None, "9": 9}
    _, best, _ = gpt_jax.load(outcome.folder)
    _, last, _ = gpt_jax.load(outcome.folder, "last")
    _, fourth, _ = gpt_jax.load(outcome.folder, 4)
    assert jax.tree.all(jax.tree.map(np.array_equal, best, fourth))
    assert not jax.tree.all(jax.tree.map(np.array_equal, best, last))
    with pytest.raises(InputError, match="a step is a number, best or last, and it is 'first'"):
        gpt_jax.load(outcome.folder, "first")

    run = shutil.copytree(outcome.folder, tmp_path / "again")
    shutil.rmtree(run / "checkpoints" / "10")
    again = train(config, run, scorer([], first=4))
    assert (again.step, again.best.step) == (10, 4)
    ours, theirs = saved(run, 10), saved(outcome.folder, 10)
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    over = train(config, run, scorer([]))  # and once more it has nothing to do
    assert (over.step, over.stopped_by) == (10, None)


def test_what_cannot_be_is_refused_before_anything_is_written(fine, finished, tmp_path):
    config = load_experiment(fine, ["--init-from", str(finished)])
    tasks = dataclasses.replace(config.train, tasks=("fake",))
    for changed, said in (
        ({"init_from": "", "model": read_config(finished).model}, "say which \\(--init-from RUN"),
        ({"train": tasks}, "train.tasks are scored by"),
        ({"tune": TuneConfig(freeze=("layer/*",))}, "'layer/\\*' matches none"),
        ({"train": dataclasses.replace(config.train, best="val_los")}, "did you mean 'val_loss'"),
    ):
        with pytest.raises(InputError, match=said):
            train(dataclasses.replace(config, **changed), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_epochs_and_tokens_are_not_both_given(fine, finished):
    with pytest.raises(InputError, match=r"--train\.total-tokens is given with"):
        load_experiment(fine, ["--init-from", str(finished), "--train.total-tokens", "512"])
