"""The three approaches to the frontier, on runs of laws whose optimum is known."""

import json

import numpy as np
import pytest
from runs import as_csv, ladder

from gpt_jax.cli import main
from gpt_jax.config import InputError
from gpt_jax.scaling import laws, options
from gpt_jax.scaling.fit import fit
from gpt_jax.scaling.frontier import APPROACHES, frontier, of_fit
from gpt_jax.scaling.points import Point

LAW = laws.BESIROGLU
EXPONENT = LAW.b / (LAW.a + LAW.b)


def profiles(noise=0.0, seed=0):
    """Five computes with seven sizes each, from a quarter to four times the best."""
    rng = np.random.default_rng(seed)
    points = []
    for flops in np.geomspace(1e18, 1e22, 5):
        best, _ = LAW.optimal(flops)
        for params in best * np.geomspace(0.25, 4, 7) * 1.1:
            tokens = flops / 6 / params
            loss = float(LAW.loss(params, tokens) * np.exp(noise * rng.standard_normal()))
            points.append(Point("", loss, params, tokens, flops))
    return points


def curves(sizes=30):
    """Training curves of 40 losses each, from 1 to 1000 tokens per parameter."""
    return [
        Point(
            "",
            float(LAW.loss(params, params * ratio)),
            params,
            params * ratio,
            6 * params**2 * ratio,
        )
        for params in np.geomspace(1e7, 1e10, sizes)
        for ratio in np.geomspace(1, 1000, 40)
    ]


@pytest.mark.parametrize(
    ("approach", "points", "within"),
    [
        ("envelope", curves, 0.1),
        ("isoflop", profiles, 0.02),  # the law is no parabola
        ("parametric", profiles, 0.001),
    ],
)
def test_each_approach_finds_the_optimum_of_the_law(approach, points, within):
    found = frontier(points(), approach, bootstraps=5)
    a, b = found.exponents
    assert a.value == pytest.approx(EXPONENT, abs=0.01)
    assert a.value + b.value == pytest.approx(1)
    n, d = found.optimal(1e20)
    assert (n.value, d.value) == pytest.approx(LAW.optimal(1e20), rel=within)
    many, _ = found.optimal([1e20, 1e21])
    assert many.value[0] == pytest.approx(n.value)
    assert many.low.shape == (2,)


def test_the_optimum_of_kaplans_law_is_the_least_of_all_sizes():
    found = of_fit(fit(ladder(laws.KAPLAN_ND, noise=0), "kaplan_nd", bootstraps=2))
    for flops in (1e20, 1e23):
        sizes = np.geomspace(1e6, 1e13, 100_001)
        best = sizes[laws.KAPLAN_ND.loss(sizes, flops / 6 / sizes).argmin()]
        assert found.optimal(flops)[0].value == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("approach", ["isoflop", "parametric"])
def test_the_exponent_is_in_its_interval(approach):
    """Of 20 trials, as in test_fit. The parabola's own error is well below the noise here."""
    held = 0
    for seed in range(20):
        a, _ = frontier(profiles(0.003, seed), approach, bootstraps=60, seed=seed).exponents
        held += a.low <= EXPONENT <= a.high
    assert held > 15


def test_an_interval_follows_its_value():
    """Of one compute that lies in the middle, N is known better than far beyond; D mirrors it."""
    found = frontier(profiles(0.003), "isoflop")
    (near, tokens), (far, _) = found.optimal(1e20), found.optimal(1e25)
    assert near.low < near.value < near.high
    assert np.log(far.high / far.low) > 2 * np.log(near.high / near.low)
    assert tokens.high == pytest.approx(1e20 / 6 / near.low)
    a, b = found.exponents
    assert b == pytest.approx((1 - a.value, 1 - a.high, 1 - a.low))
    assert b.low < b.value < b.high


def test_profiles_without_a_run_to_spare_have_no_interval():
    points = [point for i, point in enumerate(profiles()) if i % 7 in (1, 3, 5)]
    assert np.isnan(frontier(points, "isoflop").exponents[0].low)


@pytest.mark.parametrize(
    ("approach", "points", "rule"),
    [
        ("isoflop", lambda: profiles()[:7], "at least 2 groups of runs.* and there is 1: add"),
        ("isoflop", lambda: [p for i, p in enumerate(profiles()) if i % 7 < 3], "has none between"),
        ("envelope", lambda: curves(3), "of these 3 there are 1 that are best anywhere"),
        ("parametric", lambda: profiles()[:5], "needs at least 6 runs"),
        ("guess", profiles, "is found by envelope, isoflop, parametric, and not by 'guess'"),
    ],
)
def test_runs_that_show_no_optimum(approach, points, rule):
    with pytest.raises(InputError, match=rule):
        frontier(points(), approach, bootstraps=3)


def test_a_law_of_one_input_has_no_optimum():
    found = fit(profiles(), "power_n", bootstraps=0)
    with pytest.raises(InputError, match="of both parameters and tokens, and power_n is none"):
        of_fit(found)


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    assert options.APPROACHES == APPROACHES
    words = ["scaling", "frontier", "--csv", str(as_csv(tmp_path / "runs.csv", profiles(0.003)))]
    words += ["--approach", "isoflop", "--at", "1e21"]
    assert main(words) == 0
    first, second, _, _, row = capsys.readouterr().out.splitlines()
    assert first.startswith("best N = ")
    assert second.startswith("best D = ")
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert row.split()[:2] == ["1e+21", f"{record['optimal'][0]['params']['value']:.4g}"]
    a = record["exponents"]["params"]
    assert a["low"] < a["value"] < a["high"]
    assert [at["flops"] for at in record["read_at"]] == pytest.approx(
        [*np.geomspace(1e18, 1e22, 5)]
    )
    assert main([*words[:-1], "-5"]) == 1
    assert "--at takes positive numbers" in capsys.readouterr().err
