"""A sweep: its runs are those of `gpt-jax train`, it goes on where it was, and curves by hand."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TEXTS

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    InputError,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.experiment import defined
from gpt_jax.scaling.sweep import (
    Result,
    Sweep,
    best_rate,
    curves,
    members,
    read_results,
    run_sweep,
)
from gpt_jax.scaling.widths import widened
from gpt_jax.train.loop import train

WORST = 1e30
EXPERIMENTS = Path(__file__).parents[2] / "experiments" / "scaling"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Widths of 16 and 32, two rates of which one is absurd: six runs of 6 steps."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    base = Config(
        model=ModelConfig(context_length=16, num_layers=1, embed_dim=16, num_heads=1),
        data=DataConfig(
            files=(str(folder / "*.txt"),),
            tokenizer="bytes",
            split="position",
            validation_fraction=0.1,
            cache_dir=str(folder / "cache"),
        ),
        optimizer=OptimizerConfig(warmup_tokens=256),
        train=TrainConfig(
            total_tokens=6 * 128, batch_tokens=128, sample_tokens=0, watchdog_seconds=0
        ),
        checkpoint=CheckpointConfig(every=100),
    )
    return Sweep("tiny", base, widths=(16, 32), learning_rates=(1e-2, WORST))


@pytest.fixture(scope="module")
def ran(sweep, tmp_path_factory):
    """(the file, its results)."""
    path = tmp_path_factory.mktemp("out") / "sweep.jsonl"
    return path, run_sweep(sweep, path, say=lambda _: None)


@pytest.mark.parametrize(
    ("name", "kind", "command"),
    [("mup_sweep", Sweep, "gpt-jax scaling sweep"), ("batch_size", Config, "gpt-jax train")],
)
def test_the_files_of_record_build(name, kind, command):
    """get_config() gives what its command takes, of the file's own name; the docstring says it."""
    path = EXPERIMENTS / f"{name}.py"
    made = defined(path)
    assert type(made) is kind
    assert made.name == name
    assert f"{command} experiments/scaling/{name}.py" in path.read_text()


def test_members_are_all_pairs_and_the_base_once(sweep):
    """At the base's width both parametrisations are one model."""
    said = [(m.parametrisation, m.width, m.learning_rate) for m in members(sweep)]
    assert said == [
        ("standard", 16, 1e-2),
        ("standard", 16, WORST),
        ("standard", 32, 1e-2),
        ("standard", 32, WORST),
        ("mup", 32, 1e-2),
        ("mup", 32, WORST),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("parametrisation", ["standard", "mup"])
def test_a_member_is_the_run_that_train_makes(sweep, ran, tmp_path, parametrisation):
    """With the learning rate compiled in, through the loop and its checkpoints: the same losses."""
    (result,) = (
        r
        for r in ran[1]
        if (r.parametrisation, r.width, r.learning_rate) == (parametrisation, 32, 1e-2)
    )
    config = dataclasses.replace(
        sweep.base,
        model=widened(sweep.base.model, 32, parametrisation),
        optimizer=dataclasses.replace(sweep.base.optimizer, learning_rate=1e-2),
    )
    found = train(config, tmp_path / "run").metrics
    assert result.val_loss == pytest.approx(found["val_loss"], rel=1e-5)
    assert result.train_loss == pytest.approx(found["loss"], rel=1e-5)  # of a tenth of 6 steps: 1
    assert result.tokens == found["tokens"]


def test_a_run_that_diverges_is_told(ran):
    """By rule: a step that was not finite."""
    for result in ran[1]:
        assert (result.val_loss is None) == (result.learning_rate == WORST)
        assert (result.train_loss is None) == (result.learning_rate == WORST)


def test_a_sweep_goes_on_where_it_was(sweep, ran, tmp_path):
    """Two results and the beginning of a third: four runs are made, and all six come out."""
    path, results = tmp_path / "sweep.jsonl", ran[1]
    lines = ran[0].read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])
    said = []
    again = run_sweep(sweep, path, say=said.append)
    assert said[0].startswith("4 of 6 runs")
    assert sum("validation loss" in line for line in said) == 2
    timeless = [dataclasses.replace(r, seconds=0.0) for r in again]
    assert timeless == [dataclasses.replace(r, seconds=0.0) for r in results]
    assert read_results(path) == again


def test_results_of_another_sweep_are_refused(sweep, ran):
    """A changed base changes what the results mean; other rates or widths do not."""
    longer = dataclasses.replace(sweep.base.train, total_tokens=1280)
    other = dataclasses.replace(sweep, base=dataclasses.replace(sweep.base, train=longer))
    with pytest.raises(InputError, match=r"has 6 of another one.*name another --out"):
        run_sweep(other, ran[0])
    fewer = dataclasses.replace(sweep, learning_rates=(1e-2,))
    said = []
    assert len(run_sweep(fewer, ran[0], say=said.append)) == 3
    assert said[0].startswith("3 of 3 runs")


def test_a_line_that_is_no_result_is_named(tmp_path):
    (tmp_path / "sweep.jsonl").write_text('{"width": 8}\n')
    with pytest.raises(InputError, match=r"line 1 is none.*remove it"):
        read_results(tmp_path / "sweep.jsonl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": ()}, r"widths, each once, and they are \(\)"),
        ({"learning_rates": (1.0, 1.0)}, "each once"),
        ({"learning_rates": (0.0,)}, "positive"),
        ({"widths": (24,)}, "heads of 16 dims"),
    ],
)
def test_a_sweep_that_cannot_be(sweep, changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(sweep, **changes)


def result(parametrisation, width, rate, loss, seed=0):
    return Result(parametrisation, width, rate, seed, 1, 1, loss, loss, 0.0)


def test_curves_are_means_over_seeds():
    """The base's width is of both; a rate at which one seed diverged is of none."""
    results = [
        result("standard", 8, 0.1, 2.0),
        result("standard", 8, 0.1, 3.0, seed=1),
        result("standard", 16, 0.2, 4.0),
        result("mup", 16, 0.1, 1.0),
        result("mup", 16, 0.2, None),
        result("mup", 16, 0.2, 5.0, seed=1),
    ]
    assert curves(results, "standard", 8) == {8: ([0.1], [2.5]), 16: ([0.2], [4.0])}
    assert curves(results, "mup", 8) == {8: ([0.1], [2.5]), 16: ([0.1], [1.0])}


def test_the_best_rate_is_a_parabolas_vertex():
    """Of (log2 rate + 6.3)^2 at powers of 2, and of uneven steps; at the edge the edge itself."""
    for powers in ([-9, -8, -7, -6, -5], [-9, -7, -6, -3]):
        losses = [(power + 6.3) ** 2 for power in powers]
        assert math.log2(best_rate([2.0**p for p in powers], losses)) == pytest.approx(-6.3)
    assert best_rate([0.1, 0.2, 0.4], [1, 2, 3]) == 0.1
    assert best_rate([0.1, 0.2, 0.4], np.array([3, 2, 1.0]).tolist()) == 0.4
