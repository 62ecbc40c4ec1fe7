"""A prediction is written once and before, is refused when anything changed, and may miss."""

import dataclasses
import json
import re

import pytest
from toy_study import NAMES, write_study

from gpt_jax.cli import main
from gpt_jax.experiment import defined
from gpt_jax.scaling.registry import Predicted, Verdict, in_words, read_registered
from gpt_jax.scaling.report import figures
from gpt_jax.scaling.results import folder_of, gather, result_path, write_result
from gpt_jax.scaling.study import compute


def law(flops):
    """A loss that the runs are made up to have."""
    return 3.0 * (flops / 1e7) ** -0.1


def result_of(run, loss):
    """A finished run's result with this loss."""
    line = {"step": 1, "tokens": 1, "loss": 9.0, "tokens_per_second": 1.0}
    end = {"step": 9, "tokens": run.train.total_tokens, "loss": loss, "val_loss": loss}
    return gather(run, [line, end | {"tokens_per_second": 1e3}], "text", "1 x cpu", False)


@pytest.fixture
def study(tmp_path):
    """The path of a study whose three fitted runs have results within 0.1 % of a law."""
    path = write_study(tmp_path)
    made = defined(path)
    folder = folder_of(made, path)
    for run, noise in zip(made.fitted, (1.001, 0.999, 1.001), strict=True):
        write_result(folder, result_of(run, law(compute(run)) * noise))
    return path


def scaling(command, path):
    return main(["scaling", command, str(path), "--workdir", str(path.parent / "runs")])


def test_the_prediction_is_that_of_the_law(study, capsys):
    """With an interval around it; the file says what it followed from."""
    made = defined(study)
    assert scaling("register", study) == 0
    found = read_registered(folder_of(made, study))
    (one,) = found.predictions
    assert (one.run, one.law) == (NAMES[3], "power_c")
    assert one.loss == pytest.approx(law(compute(made.runs[3])), rel=0.003)
    assert one.low < one.loss < one.high
    assert {re.sub(" toy-.*", "", name) for name in found.parts} == {
        "the study's file",
        "the experiment",
        "the result of",
        "the text",
    }
    assert f"(digest {found.digest[:12]})" in capsys.readouterr().out


def test_the_digest_is_the_same_wherever_the_study_is(study, tmp_path):
    """The same study, results and text give the same parts; only the file's text has a path."""
    scaling("register", study)
    first = read_registered(folder_of(defined(study), study))
    other = write_study(tmp_path / "elsewhere")
    made = defined(other)
    for run, noise in zip(made.fitted, (1.001, 0.999, 1.001), strict=True):
        write_result(folder_of(made, other), result_of(run, law(compute(run)) * noise))
    scaling("register", other)
    second = read_registered(folder_of(made, other))
    assert first.predictions == second.predictions
    file = {"the study's file": ""}
    assert first.parts | file == second.parts | file


def test_a_study_is_fitted_without_its_held_out_run(study, capsys):
    """By its own law where none is named; --json says which runs, and the exponent is planted."""
    made = defined(study)
    write_result(folder_of(made, study), result_of(made.runs[3], 0.1))
    assert main(["scaling", "fit", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["law"] == "power_c"
    assert [run["name"] for run in found["runs"]] == NAMES[:3]
    assert found["constants"]["a_C"]["value"] == pytest.approx(0.1, abs=0.002)
    assert main(["scaling", "fit", str(study), "--law", "power_n"]) == 0
    assert "power_n: L = (N_c/N)^a_N" in capsys.readouterr().out
    for words in ([], [str(study), "--csv", str(study)]):
        assert main(["scaling", "fit", *words]) == 1
        assert "those of a STUDY or of a file, --csv FILE" in capsys.readouterr().err


def test_it_is_written_once(study, capsys):
    assert scaling("register", study) == 0
    assert scaling("register", study) == 1
    assert "a prediction is written once, and" in capsys.readouterr().err


def test_it_is_written_before(study, tmp_path, capsys):
    """Neither a result nor a begun run of what is held out; and all others are there."""
    made = defined(study)
    begun = tmp_path / "runs" / NAMES[3] / "config.json"
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    assert scaling("register", study) == 1
    assert f"there is one of a held-out run in {begun.parent}" in capsys.readouterr().err
    begun.unlink()
    write_result(folder_of(made, study), result_of(made.runs[3], 2.0))
    assert scaling("register", study) == 1
    assert f"{NAMES[3]} has a result in" in capsys.readouterr().err
    result_path(folder_of(made, study), NAMES[3]).unlink()
    result_path(folder_of(made, study), NAMES[1]).unlink()
    assert scaling("register", study) == 1
    assert f"{NAMES[1]} is not trained yet" in capsys.readouterr().err


@pytest.mark.parametrize(("off", "verdict"), [(1.0, "hit"), (1.2, "miss"), (0.8, "miss")])
def test_a_check_says_hit_or_miss(study, capsys, off, verdict):
    """Of a run that is there already; a miss is no failure of the command."""
    made = defined(study)
    folder = folder_of(made, study)
    scaling("register", study)
    write_result(folder, result_of(made.runs[3], law(compute(made.runs[3])) * off))
    assert scaling("check", study) == 0
    assert capsys.readouterr().out.rstrip().endswith(f": {verdict}")
    (kept,) = json.loads((folder / "check.json").read_text())["verdicts"]
    assert kept["hit"] is (verdict == "hit")


def test_a_check_without_a_prediction(study, capsys):
    assert scaling("check", study) == 1
    assert "gpt-jax scaling register writes it" in capsys.readouterr().err


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda path, _: edited(path, "\n\ndef", "\n# a remark\n\ndef"), "the study's file"),
        (
            lambda _, folder: edited(
                folder / "prediction.json", '"law": "power_c"', '"law": "power_d"'
            ),
            "prediction.json was changed",
        ),
    ],
)
def test_what_changed_is_named(study, capsys, change, named):
    """A remark in the study; the prediction itself."""
    folder = folder_of(defined(study), study)
    scaling("register", study)
    change(study, folder)
    assert scaling("check", study) == 1
    assert named in capsys.readouterr().err


def test_a_changed_result_or_text_is_named(study, capsys):
    made = defined(study)
    folder = folder_of(made, study)
    scaling("register", study)
    run = made.runs[1]
    write_result(folder, result_of(run, law(compute(run))))
    assert scaling("check", study) == 1
    assert f"since it was written the result of {NAMES[1]} changed" in capsys.readouterr().err
    for run, noise in zip(made.fitted, (1.001, 0.999, 1.001), strict=True):
        result = result_of(run, law(compute(run)) * noise)
        write_result(folder, dataclasses.replace(result, text="another"))
    assert scaling("check", study) == 1
    assert "the text changed" in capsys.readouterr().err


def test_the_report_is_one_page_and_its_figures(study, tmp_path):
    """Losses, constants and the verdict stand in it, and it asks for nothing from elsewhere."""
    pytest.importorskip("matplotlib")
    made = defined(study)
    scaling("register", study)
    write_result(folder_of(made, study), result_of(made.runs[3], 2.0))
    scaling("check", study)
    words = ["--out", str(tmp_path / "page.html"), "--figures", str(tmp_path / "figures")]
    assert main(["scaling", "report", str(study), *words]) == 0
    page = (tmp_path / "page.html").read_text()
    assert f"<td>{NAMES[3]}</td><td>7,272</td>" in page
    assert "<td>2.0000</td>" in page
    assert "2.0000 found" in page
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)=\"http", page)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "loss_against_compute.svg",
        "residuals_power_c.svg",
        "prediction.svg",
    }


def test_gpt_3s_law_stands_beside_the_curves(study):
    """By hand at the ends of what was spent: 2.57 C^-0.048 in days of 8.64e19 FLOPs."""
    made = defined(study)
    results = [result_of(run, 2.0) for run in made.fitted]
    (axes,) = figures(results, {}, None)["loss_against_compute"].axes
    (line,) = (line for line in axes.lines if line.get_label().startswith("GPT-3"))
    spent = [point.flops for result in results for point in result.curve_points]
    ends = [min(spent), max(spent)]
    assert line.get_xdata().tolist() == ends
    want = [2.57 * (flops / 8.64e19) ** -0.048 for flops in ends]
    assert line.get_ydata() == pytest.approx(want, rel=1e-9)


def test_a_held_out_run_that_diverged_is_neither():
    verdict = Verdict(Predicted("x", "power_c", 2.0, 1.9, 2.1), None, "by a rule")
    assert verdict.hit is None
    assert in_words(verdict).endswith("diverged: by a rule; neither hit nor miss")


@pytest.mark.slow
def test_a_check_trains_what_is_held_out(tmp_path, capsys):
    """From nothing to a verdict by the commands alone."""
    path = write_study(tmp_path)
    assert [scaling(command, path) for command in ("run", "register", "check")] == [0, 0, 0]
    out = capsys.readouterr().out
    assert re.search(rf"{NAMES[3]} by power_c: .* found \(.*\): (hit|miss)\n$", out)
