"""Advice: budgets by hand, sizes that no other beats, rules at their limits, and the command."""

import json

import numpy as np
import pytest
from runs import as_csv, ladder

from gpt_jax.cli import main
from gpt_jax.config import InputError
from gpt_jax.scaling import laws
from gpt_jax.scaling.advise import PUBLISHED, advise, budget
from gpt_jax.scaling.fit import fit
from gpt_jax.scaling.record import as_record


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of runs of Besiroglu's law, as the command prints it."""
    from contextlib import redirect_stdout

    folder = tmp_path_factory.mktemp("fit")
    csv = as_csv(folder / "runs.csv", ladder(laws.BESIROGLU, noise=0.005))
    with (folder / "fit.json").open("w") as out, redirect_stdout(out):
        assert main(["scaling", "fit", "--csv", str(csv), "--json"]) == 0
    return str(folder / "fit.json")


def test_a_budget_is_chips_times_peak_times_share_times_seconds():
    """16 chips of 197 TFLOP/s, 40 %, 604,800 seconds."""
    assert budget("v5e-16", 7, 0.4) == pytest.approx(16 * 197e12 * 0.4 * 604800)
    assert budget("v5p-8", 1, 1.0) == pytest.approx(4 * 459e12 * 86400)  # 8 cores are 4 chips


@pytest.mark.parametrize("law", PUBLISHED)
def test_the_whole_compute_is_spent(law):
    found = advise(1e21, law)
    assert 6 * found.params.value * found.tokens.value == pytest.approx(1e21)
    assert 6 * found.nearest_params * found.nearest_tokens == pytest.approx(1e21)
    assert found.steps * found.batch == pytest.approx(found.tokens.value)
    assert np.isnan(found.loss.low)


def test_chinchillas_own_compute_by_the_refit():
    """70 B and 1.4 T are what it was trained with; the law says 1.974 there (test_laws)."""
    found = advise(6 * 70e9 * 1.4e12, "besiroglu")
    assert found.params.value == pytest.approx(70e9, rel=0.1)
    assert found.loss.value == pytest.approx(1.974, abs=1e-3)


def test_gpt3s_compute_by_kaplan_is_nearest_to_gpt3():
    """3,640 PF-days (table D.1): Kaplan's law is what its size was chosen by."""
    found = advise(3640 * laws.PF_DAY, "kaplan")
    assert found.nearest == "175b"
    assert found.tokens.value == pytest.approx(300e9, rel=0.5)
    assert (found.batch, found.learning_rate) == (2**21, pytest.approx(0.6e-4))


@pytest.mark.parametrize(("law", "other"), [("hoffmann", laws.HOFFMANN), ("besiroglu", None)])
def test_the_nearest_size_is_worse_by_little(law, other):
    found = advise(1e21, law)
    assert found.nearest == "2_7b"
    if other:
        expected = other.loss(found.nearest_params, found.nearest_tokens)
        assert found.nearest_loss == pytest.approx(float(expected))
    assert found.loss.value < found.nearest_loss < found.loss.value + 0.01


def test_sizes_are_counted_as_the_law_counts_them():
    """Of GPT-3 2.7B, 50,257 + 2,048 rows of 2,560 are embeddings."""
    whole = 2_517_652_480 + (50257 + 2048) * 2560
    assert advise(1e21, "besiroglu").nearest_params == whole
    assert advise(4e20, "kaplan").nearest_params == 2_517_652_480


def test_a_fit_gives_intervals(fitted):
    """They hold the planted law's own answers, and the loss is that of a run, with its noise."""
    found = advise(1e21, fitted)
    n, d = laws.BESIROGLU.optimal(1e21)
    assert found.params.low < n < found.params.high
    assert found.tokens.low < d < found.tokens.high
    assert found.loss.low < laws.BESIROGLU.loss(n, d) < found.loss.high
    assert np.log(found.loss.high / found.loss.low) > 2 * 1.9 * 0.004


def test_which_rule_makes_the_batch(tmp_path):
    """Of much compute GPT-3's, then Kaplan's where losses are high, then what leaves steps."""
    assert advise(1e23, "besiroglu").batch_rule.startswith("GPT-3's table 2.1")
    small = advise(1e15, "besiroglu")
    assert small.batch_rule.startswith("Kaplan's B_crit")
    assert small.critical_batch / 2 < small.batch <= small.critical_batch
    # Losses as low as those of letters, at which B_crit is millions of tokens.
    low = laws.Chinchilla(E=0.5, A=20.0, B=100.0, a=0.35, b=0.37)
    record = as_record(fit(ladder(low, noise=0), "chinchilla", bootstraps=0))
    (tmp_path / "fit.json").write_text(json.dumps(record))
    least = advise(1e16, str(tmp_path / "fit.json"))
    assert "1,000 steps" in least.batch_rule
    assert 1000 <= least.steps < 2000
    assert {np.log2(one.batch) % 1 for one in (small, least)} == {0}


def test_the_learning_rate_between_two_sizes_of_the_table():
    """At a row it is the row's, between them it lies between, below all it is Kaplan's."""
    rates = [advise(flops, "besiroglu").learning_rate for flops in np.geomspace(1e18, 1e25, 30)]
    assert [*rates] == sorted(rates, reverse=True)
    small = advise(1e15, "kaplan")
    assert small.learning_rate == laws.kaplan_learning_rate(small.params.value)
    assert "D.1" in small.learning_rate_rule


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--flops", "-1"], "a positive number of FLOPs, and it is -1.0"),
        (["--flops", "nan"], "a positive number of FLOPs"),
        (["--flops", "1e21", "--law", "chinchila"], "and the law is 'chinchila'"),
        (["--flops", "1e21", "--law", "missing.json"], "missing.json is none"),
        (["--flops", "1e21", "--days", "3"], "--chips and --days together"),
        (["--chips", "v5e-16"], "--chips and --days together"),
        (["--chips", "v5e-17", "--days", "1"], "there is no 'v5e-17'"),
        (["--chips", "v5e-16", "--days", "0"], "--days must be a positive number"),
        (["--chips", "v5e-16", "--days", "1", "--mfu", "40"], "and it is 40.0"),
    ],
)
def test_advice_that_cannot_be_given(words, rule, capsys):
    assert main(["scaling", "advise", *words]) == 1
    assert rule in capsys.readouterr().err


def test_a_fit_of_one_input_advises_nothing(tmp_path, capsys):
    csv = as_csv(tmp_path / "runs.csv", ladder(laws.BESIROGLU))
    main(["scaling", "fit", "--csv", str(csv), "--law", "power_n", "--json", "--bootstrap", "0"])
    (tmp_path / "fit.json").write_text(capsys.readouterr().out)
    with pytest.raises(InputError, match="fit chinchilla or kaplan_nd"):
        advise(1e21, str(tmp_path / "fit.json"))


def test_the_command_prints_the_advice(capsys, fitted):
    words = ["scaling", "advise", "--chips", "v5e-16", "--days", "7", "--law", fitted]
    assert main(words) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert [*rows] == ["compute", "law", "N", "D", "loss", "batch", "rate", "nearest"]
    assert rows["compute"].endswith("v5e-16 for 7 days at 40% MFU")
    assert "experiments/gpt3_2_7b.py" in rows["nearest"]
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert rows["N"].startswith(f"{record['params']['value']:.4g} (")
    assert record["loss"]["low"] < record["loss"]["value"] < record["loss"]["high"]
