"""gpt-jax scaling: what it prints, and that its JSON is read back."""

import json

import pytest
from runs import as_csv, ladder, line

from gpt_jax.cli import main
from gpt_jax.scaling import laws, options
from gpt_jax.scaling.fit import fit
from gpt_jax.scaling.forms import LAWS
from gpt_jax.scaling.record import as_record, from_record, read_fit


@pytest.fixture
def file(tmp_path):
    return as_csv(tmp_path / "runs.csv", ladder(laws.BESIROGLU))


def test_the_options_know_the_laws():
    """Written twice, as --help must not import NumPy."""
    assert options.LAWS == LAWS


def test_fit_prints_a_table(file, capsys):
    assert main(["scaling", "fit", "--csv", str(file), "--runs"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("chinchilla: L = E + A/N^a + B/D^b, nats per token, of 36 runs\n")
    constants = out.split("\n\n")[1].splitlines()[1:]
    assert [row.split()[0] for row in constants] == ["E", "A", "B", "a", "b"]
    name, value, low, to, high = constants[0].split()
    assert (name, to) == ("E", "to")
    assert float(low) < float(value) < float(high)
    assert out.split("\n\n")[2].startswith("best N = ")
    assert len(out.split("\n\n")[4].splitlines()) == 1 + 36


def test_fit_prints_json_that_is_the_fit(file, capsys, tmp_path):
    """The same constants as the function gives, and read back it predicts the same."""
    assert main(["scaling", "fit", "--csv", str(file), "--json", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    record = json.loads(out)
    found = fit(ladder(laws.BESIROGLU), "chinchilla", seed=3)
    assert record["constants"]["a"]["value"] == found.law.a
    assert record["constants"]["E"]["low"] == found.constants()["E"].low
    assert record["runs"][0]["residual"] == found.residual_n[0]
    (tmp_path / "fit.json").write_text(out)
    again = read_fit(tmp_path / "fit.json")
    assert again.predict(1e11, 2e12, of_a_run=True) == found.predict(1e11, 2e12, of_a_run=True)
    assert as_record(again) == record


def test_a_power_law_with_its_irreducible_loss_is_read_back():
    found = fit(line(laws.Power(1e16, 0.2, 1.5)), "power_d", irreducible=True, bootstraps=5)
    again = from_record(json.loads(json.dumps(as_record(found))))
    assert again.form == found.form
    assert again.predict(1e21) == found.predict(1e21)


@pytest.mark.parametrize("irreducible", [False, True])
def test_a_file_of_others_with_flops_alone(tmp_path, capsys, irreducible):
    rows = "\n".join(f"{point.flops},{point.loss}" for point in line(laws.GPT3_C))
    (tmp_path / "runs.csv").write_text(f"Training compute (FLOP),val\n{rows}\n")
    words = ["--flops", "Training compute (FLOP)", "--loss", "val", "--bootstrap", "0"]
    words += ["--irreducible"] if irreducible else []
    csv = ["--csv", str(tmp_path / "runs.csv")]
    assert main(["scaling", "fit", *csv, "--law", "power_c", *words]) == 0
    out = capsys.readouterr().out
    first, _, _, scale, exponent, *_ = out.splitlines()
    assert first.startswith(f"power_c: L = (C_c/C)^a_C{' + E' * irreducible}, nats")
    assert scale.split() == ["C_c", scale.split()[1], "-"]
    assert float(exponent.split()[1]) == pytest.approx(0.048, abs=0.002)


def test_a_file_that_cannot_be_fitted_is_one_paragraph(tmp_path, capsys):
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e6,2e7,nan\n")
    assert main(["scaling", "fit", "--csv", str(tmp_path / "runs.csv")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: loss must be a positive number, and line 2 of {tmp_path}/runs")
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"law": "chinchilla"}', '{"law": 3}'])
def test_a_file_that_is_no_fit(tmp_path, text):
    from gpt_jax.config import InputError

    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(InputError, match="a fit is what `gpt-jax scaling fit --json` prints"):
        read_fit(tmp_path / "fit.json")
