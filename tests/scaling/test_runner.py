"""Runs of a toy study: made once, continued after a kill, and left out by rule."""

import dataclasses
import json
import signal

import pytest
from tiny_run import finish, start, wait_for_step
from toy_study import NAMES, write_study

from gpt_jax.cli import main
from gpt_jax.config import InputError
from gpt_jax.experiment import defined
from gpt_jax.scaling.cost import Rate, cost, rate_of
from gpt_jax.scaling.registry import seen
from gpt_jax.scaling.results import (
    GAVE_UP,
    NO_LOWER,
    NOT_FINITE,
    Validation,
    diverged,
    experiment_digest,
    folder_of,
    gather,
    read_results,
    result_path,
    write_result,
)
from gpt_jax.scaling.runner import run_runs
from gpt_jax.scaling.study import Study


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(path of the study, its results): all runs but the held-out one, never interrupted."""
    path = write_study(tmp_path_factory.mktemp("trained"))
    done = start("scaling", "run", path, "--workdir", path.parent / "runs")
    status, out, err = finish(done)
    assert (status, err) == (0, ""), out
    assert "0 of 3 runs are in" in out
    study = defined(path)
    return path, read_results(study, folder_of(study, path))


def without_clock(result):
    return dataclasses.replace(result, seconds=0.0)


@pytest.mark.slow
def test_what_a_run_came_to(trained):
    """The numbers are those of the run's own metrics; the largest is not trained."""
    path, results = trained
    assert list(results) == NAMES[:3]
    assert not (path.parent / "runs" / NAMES[3]).exists()
    result = results[NAMES[1]]
    lines = (path.parent / "runs" / NAMES[1] / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert result.state == "finished"
    assert result.loss == last["val_loss"] < json.loads(lines[0])["loss"]
    # Of width 12: 12 x 12^2 + 13 x 12 in the layer, 24 in the last norm; 257 and 16 rows.
    assert result.params == 12 * 144 + 13 * 12 + 24
    assert result.params_total == result.params + (257 + 16) * 12
    # 2,048 (1,908 / 1,000)^0.5 = 2,829 tokens are 22 batches of 128.
    assert (result.tokens, result.steps, result.batch) == (2_816, 22, 128)
    assert result.flops == 6 * result.params * 2_816
    assert [at.step for at in result.curve] == [11, 22]
    assert result.point.loss == result.curve[-1].loss == result.loss
    assert [point.flops for point in result.curve_points] == [result.flops / 2, result.flops]
    assert result.seconds > 0


@pytest.mark.slow
def test_a_study_that_is_killed_anywhere_goes_on(trained, tmp_path):
    """Killed while its second run trains: the first is not made again, the others are the same."""
    path = write_study(tmp_path)
    words = ["scaling", "run", path, "--workdir", tmp_path / "runs"]
    process = start(*words)
    wait_for_step(tmp_path / "runs" / NAMES[1], 8, process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    study = defined(path)
    folder = folder_of(study, path)
    assert list(read_results(study, folder)) == NAMES[:1]
    first = result_path(folder, NAMES[0]).stat().st_mtime_ns
    status, out, err = finish(start(*words))
    assert (status, err) == (0, "")
    assert "1 of 3 runs are in" in out
    assert result_path(folder, NAMES[0]).stat().st_mtime_ns == first
    results = read_results(study, folder)
    for name, result in trained[1].items():
        assert without_clock(results[name]) == without_clock(result)


@pytest.mark.slow
def test_a_signal_ends_it_well(tmp_path):
    """It says how to go on, with the runs that were asked for."""
    path = write_study(tmp_path)
    words = ["scaling", "run", path, "--only", NAMES[2], "--workdir", tmp_path / "runs"]
    process = start(*words)
    wait_for_step(tmp_path / "runs" / NAMES[2], 4, process)
    process.send_signal(signal.SIGTERM)
    status, out, _ = finish(process)
    assert status == 0
    if "SIGTERM" in out:  # it may have been at its last step
        assert f"SIGTERM: saved {NAMES[2]}. To continue:\n  gpt-jax scaling run {path}" in out
        assert f"--only {NAMES[2]}" in out


@pytest.mark.slow
def test_a_run_that_diverges_is_reported_and_left_out(tmp_path):
    """An absurd learning rate: the trainer gives up, the next run is trained, the fit has that."""
    path = write_study(tmp_path)
    study = defined(path)
    wild, calm = study.runs[:2]
    wild = dataclasses.replace(
        wild,
        optimizer=dataclasses.replace(wild.optimizer, learning_rate=1e30),
        train=dataclasses.replace(wild.train, max_skipped_in_row=3),
    )
    study = Study("toy", (wild, calm, *study.runs[2:]))
    folder, said = folder_of(study, path), []
    assert run_runs(study, (wild, calm), folder, tmp_path / "runs", said.append) is None
    assert f"{wild.name} diverged and is left out: {GAVE_UP}." in said
    results = read_results(study, folder)
    assert (results[wild.name].state, results[wild.name].loss) == ("diverged", None)
    assert [result.name for result in seen(study, results)] == [calm.name]
    with pytest.raises(InputError, match="has diverged"):
        _ = results[wild.name].point


# Without training.

LINES = [
    {"step": 2, "tokens": 200, "loss": 5.0, "tokens_per_second": 100.0},
    {"step": 4, "tokens": 400, "loss": 4.0, "val_loss": 4.5, "tokens_per_second": 50.0},
    {"step": 8, "tokens": 800, "loss": 3.0, "val_loss": 3.5, "tokens_per_second": 200.0},
]


@pytest.mark.parametrize(
    ("gave_up", "losses", "loss", "why"),
    [
        (False, [5.0, 4.0], 4.0, ""),
        (True, [5.0, 4.0], 4.0, GAVE_UP),
        (False, [5.0, 4.0], float("nan"), NOT_FINITE),
        (False, [5.0, 4.0], float("inf"), NOT_FINITE),
        (False, [5.0, 9.0], 5.0, NO_LOWER),
        (False, [float("nan"), 4.0], 9.0, ""),
        (False, [4.0], 4.1, ""),
    ],
)
def test_the_rules_by_which_a_run_has_diverged(gave_up, losses, loss, why):
    assert diverged(gave_up, [{"loss": loss} for loss in losses], loss) == why


@pytest.fixture
def study(tmp_path):
    return defined(write_study(tmp_path))


def test_a_result_has_the_curve_and_the_time_of_its_metrics(study):
    """200 tokens at 100 a second, 200 at 50 and 400 at 200 take 8 seconds."""
    result = gather(study.runs[0], LINES, "text", "1 x cpu", False)
    assert result.curve == (Validation(4, 400, 4.5), Validation(8, 800, 3.5))
    assert (result.loss, result.steps, result.tokens, result.seconds) == (3.5, 8, 800, 8.0)


def test_with_patience_a_run_is_its_best_step(study):
    """It went on to a worse one; tokens and compute are those up to the best."""
    run = study.runs[0]
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, patience=1))
    worse = {"step": 12, "tokens": 1_200, "loss": 3.0, "val_loss": 3.6, "tokens_per_second": 100.0}
    result = gather(run, [*LINES, worse], "text", "1 x cpu", False)
    assert (result.loss, result.steps, result.tokens) == (3.5, 8, 800)
    assert result.flops == 6 * result.params * 800
    assert len(result.curve) == 3


def test_a_result_of_another_experiment_or_text_is_refused(study, tmp_path):
    """Where it trains may change, what it computes may not."""
    run, other = study.runs[:2]
    write_result(tmp_path, gather(run, LINES, "text", "1 x cpu", False))
    assert read_results(study, tmp_path) == {run.name: gather(run, LINES, "text", "1 x cpu", False)}
    mesh = dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, fsdp=2))
    assert experiment_digest(mesh) == experiment_digest(run)
    seeded = dataclasses.replace(run, train=dataclasses.replace(run.train, seed=1))
    changed = Study("toy", (seeded, *study.runs[1:]))
    with pytest.raises(InputError, match="is of another experiment: undo the change"):
        read_results(changed, tmp_path)
    write_result(tmp_path, gather(other, LINES, "another text", "1 x cpu", False))
    with pytest.raises(InputError, match="losses compare on the same text"):
        read_results(study, tmp_path)
    result_path(tmp_path, run.name).write_text("{}")
    with pytest.raises(InputError, match="cannot be read as one"):
        read_results(study, tmp_path)


def test_the_held_out_run_is_not_trained_by_run(study, tmp_path, capsys):
    path = tmp_path / "toy.py"
    assert main(["scaling", "run", str(path), "--only", NAMES[3]]) == 1
    assert f"and {NAMES[3]} is held out: leave it out" in capsys.readouterr().err
    assert main(["scaling", "run", str(path), "--only", "toy-n888"]) == 1
    assert f"no run 'toy-n888': did you mean '{NAMES[0]}'?" in capsys.readouterr().err
    (tmp_path / "recipe.py").write_text("get_config = dict\n")
    assert main(["scaling", "run", str(tmp_path / "recipe.py")]) == 1
    assert "get_config() of a study returns a Study" in capsys.readouterr().err


# What it will cost.


def test_a_dry_run_trains_nothing_and_tells_the_cost(study, tmp_path, capsys):
    """Of the first run by hand: forward FLOPs a token 2 x 12 x 64 + 4 x 8 x 16 + 2 x 8 x 257."""
    words = ["scaling", "run", str(tmp_path / "toy.py"), "--dry-run"]
    assert main([*words, "--flops-per-second", "1e6", "--watts", "100"]) == 0
    out = capsys.readouterr().out
    first = next(line for line in out.splitlines() if line.startswith(NAMES[0]))
    flops = 3 * (2 * 12 * 64 + 4 * 8 * 16 + 2 * 8 * 257) * 1_920
    hours = flops / 1e6 / 3600
    assert first.split()[1:] == [
        "888",  # 12 x 64 + 13 x 8 + 16
        f"{888 + 273 * 8:,}",
        "1,920",
        "15",
        f"{6 * 888 * 1_920:.3g}",
        f"{flops:.3g}",
        f"{hours:.3g}",
        f"{hours / 10:.3g}",
    ]
    assert f"{NAMES[3]}" in out
    assert "held out" in out
    assert "rate: 1e+06 FLOP/s, as stated; power: 100 W" in out
    assert {path.name for path in tmp_path.iterdir()} == {"toy.py", "text.txt"}
    assert main([*words, "--only", NAMES[0]]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[-2:] == ["-", "-"]
    assert "rate: not known: give --flops-per-second or --target" in out


def test_the_rate_of_a_slice():
    """16 v5e at 40 % of 197 TFLOP/s each; 122 W each, times a PUE of 1.09."""
    rate = rate_of([], target="v5e-16", mfu=0.4)
    assert rate.flops_per_second(1e9) == pytest.approx(16 * 197e12 * 0.4)
    assert rate.watts == pytest.approx(16 * 122 * 1.09)
    assert rate_of([], target="v5e-16", watts=5.0).watts == 5.0


def test_the_rate_that_finished_runs_were_measured_at(study):
    """A model is as fast as the one nearest to it in size; one that diverged tells nothing."""
    small, large = (
        gather(study.runs[i], LINES, "text", "1 x cpu", False) for i in (0, 2)
    )  # in 8 seconds each
    wild = dataclasses.replace(small, state="diverged", seconds=1e-3)
    rate = rate_of([small, large, wild])
    assert rate.flops_per_second(1_000) == small.model_flops / 8
    assert rate.flops_per_second(1e9) == large.model_flops / 8
    run = study.runs[2]
    told = cost(run, dataclasses.replace(rate, watts=50.0))
    assert told.hours == pytest.approx(told.model_flops / (large.model_flops / 8) / 3600)
    assert told.kwh == pytest.approx(told.hours * 0.05)
    assert cost(run, Rate(None, 50.0, "")).kwh is None


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"flops_per_second": 1e9, "target": "v5e-16"}, "and both are given"),
        ({"mfu": 0.4}, "--mfu is of a slice, and --target names none"),
        ({"target": "v5e-16", "mfu": 1.4}, "--mfu is a share of the peak, and it is 1.4"),
        ({"flops_per_second": -1.0}, "--flops-per-second is a positive number, and it is -1.0"),
        ({"target": "v5e-17"}, "there is no 'v5e-17'"),
    ],
)
def test_rates_that_are_none(given, rule):
    with pytest.raises(InputError) as error:
        rate_of([], **given)
    assert rule in str(error.value)
