"""Fits: planted constants come back, within their own intervals, and the optimum is one."""

import dataclasses

import numpy as np
import pytest
from runs import ladder, line
from scipy.optimize import minimize

from gpt_jax.config import InputError
from gpt_jax.scaling import laws
from gpt_jax.scaling.fit import fit, refit
from gpt_jax.scaling.forms import form
from gpt_jax.scaling.points import Point

PLANTED = {
    "chinchilla": laws.BESIROGLU,
    "kaplan_nd": laws.KAPLAN_ND,
    "kaplan_ns": laws.KAPLAN_NS,
    "power_n": laws.Power(1e16, 0.12),
    "power_d": laws.Power(1e17, 0.2),
    "power_c": laws.GPT3_C,
}


def points(law, noise, **how):
    return (line if law.startswith("power") else ladder)(PLANTED[law], noise=noise, **how)


@pytest.mark.parametrize("law", PLANTED)
def test_planted_constants_come_back_where_there_is_no_noise(law):
    found = fit(points(law, 0), law, bootstraps=3)
    names = form(law).constants
    np.testing.assert_allclose(found.law[: len(names)], PLANTED[law][: len(names)], rtol=1e-3)
    assert [*found.constants()] == [*names]
    np.testing.assert_allclose(found.fitted_n, found.loss_n, rtol=1e-5)
    np.testing.assert_allclose(found.left_out_n, found.loss_n, rtol=1e-4)


def test_an_irreducible_loss_comes_back():
    planted = laws.Power(1e16, 0.2, 1.5)
    found = fit(line(planted, noise=0, count=9), "power_c", irreducible=True, bootstraps=0)
    assert found.law == pytest.approx(planted, rel=1e-3)
    assert np.isnan(found.constants()["E"].low)


@pytest.mark.parametrize("law", PLANTED)
def test_intervals_hold_what_was_planted_about_as_often_as_they_say(law):
    """Of 20 trials 19 should, so that 15 or fewer for any constant is one chance in 400.

    So is the loss beyond all runs. interval_coverage.py has the count of 200.
    """
    held = []
    for seed in range(20):
        found = fit(points(law, 0.005, seed=seed), law, bootstraps=100, seed=seed)
        parts = [*found.constants().values()]
        truth = [*PLANTED[law][: len(parts)]]
        at = (1e22,) if law.startswith("power") else (5e10, 1e6 if law == "kaplan_ns" else 1e12)
        parts.append(found.predict(*at))
        truth.append(float(PLANTED[law].loss(*at)))
        held.append([p.low <= t <= p.high for p, t in zip(parts, truth, strict=True)])
    assert np.sum(held, 0).min() > 15


@pytest.mark.parametrize("law", ["chinchilla", "kaplan_nd"])
def test_no_other_constants_are_better(law):
    """A search that uses no gradient, from the fit and from beside it, finds nothing below."""
    runs = points(law, 0.01)
    found = fit(runs, law, bootstraps=0)
    logs = np.log([[getattr(run, name) for run in runs] for name in form(law).inputs])
    x = logs - logs.mean(1, keepdims=True)

    def huber(theta):
        off = np.abs(form(law).curves(theta[None], x)[0][0] - np.log(found.loss_n))
        return np.where(off < 1e-3, off**2 / 2, 1e-3 * off - 5e-7).sum() * 1e6

    least = huber(found.theta_P)
    rng = np.random.default_rng(0)
    how = {"maxiter": 3000, "maxfev": 3000, "xatol": 1e-10, "fatol": 1e-10}
    for spread in (0, 0.02, 0.1):
        start = found.theta_P * (1 + spread * rng.standard_normal(len(found.theta_P)))
        other = minimize(huber, start, method="Nelder-Mead", options=how)
        assert other.fun > least - 1e-6 * least


def test_the_fits_at_once_are_those_of_one_at_a_time():
    """Weights of 2 and 0 are the run twice and not at all."""
    runs = points("chinchilla", 0.01)
    whole = fit(runs, "chinchilla", bootstraps=0)
    x = np.log([[run.params for run in runs], [run.tokens for run in runs]])
    x -= whole.center_K[:, None]
    weight = np.ones((2, len(runs)))
    weight[1, 0], weight[1, 7] = 2, 0
    y = np.tile(np.log(whole.loss_n), (2, 1))
    same, other = refit(whole.form, x, y, weight, whole.theta_P, 1e-3)
    np.testing.assert_allclose(same, whole.theta_P, atol=1e-4)
    alone = fit([runs[0], *runs[:7], *runs[8:]], "chinchilla", bootstraps=0)
    np.testing.assert_allclose(
        whole.form.published(other[None], whole.center_K)[0], alone.law, rtol=1e-3
    )


def test_a_run_is_left_out_by_a_fit_without_it():
    runs = points("power_c", 0.01)
    found = fit(runs, "power_c", bootstraps=0)
    without = fit(runs[:-1], "power_c", bootstraps=0)
    assert found.left_out_n[-1] == pytest.approx(without.predict(runs[-1].flops).value, rel=1e-3)


def test_one_run_that_went_wrong_hardly_moves_the_law():
    """What the Huber loss is for: least squares (a large delta) is drawn to it."""
    runs = points("chinchilla", 0.002)
    runs[20] = dataclasses.replace(runs[20], loss=2 * runs[20].loss)
    truth = laws.BESIROGLU.loss(7e10, 1.4e12)
    huber = fit(runs, "chinchilla", bootstraps=0).predict(7e10, 1.4e12).value
    squares = fit(runs, "chinchilla", bootstraps=0, delta=10).predict(7e10, 1.4e12).value
    assert abs(huber - truth) < 0.01 < abs(squares - truth)


def test_a_single_run_is_less_certain_than_the_curve():
    """With many runs the curve is known, and a run lies within 1.96 deviations of its noise."""
    found = fit(points("chinchilla", 0.01, sizes=12, lengths=12), "chinchilla", bootstraps=400)
    curve = found.predict(1e9, 2e10)
    run = found.predict(1e9, 2e10, of_a_run=True)
    assert curve.value == run.value
    assert run.low < curve.low < curve.value < curve.high < run.high
    assert np.log(run.high / run.low) == pytest.approx(2 * 1.96 * 0.01, rel=0.2)
    both = found.predict([1e9, 1e9], [2e10, 4e10])
    assert both.value[0] == curve.value
    assert both.low.shape == (2,)


def test_resampling_runs_agrees_with_resampling_noise():
    """The two intervals of a, of many runs, are of one width to within a third."""
    runs = points("chinchilla", 0.01, sizes=12, lengths=12)
    a = [fit(runs, "chinchilla", resample=how).constants()["a"] for how in ("noise", "runs")]
    widths = [part.high - part.low for part in a]
    assert widths[0] == pytest.approx(widths[1], rel=0.33)
    assert a[0].value == a[1].value


def test_the_same_seed_gives_the_same_intervals():
    runs = points("power_n", 0.01)
    one, same, other = (fit(runs, "power_n", seed=seed).constants() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("law", "change", "rule"),
    [
        (
            "chinchilla",
            lambda runs: runs[:5],
            r"5 constants \(E, A, B, a, b\) and needs at",
        ),
        ("power_n", lambda runs: runs[:2], "needs at least 3 runs, and there are 2"),
        ("kaplan_nd", lambda runs: runs[:6], "at least 2 different params, and there is one: add"),
        ("chinchilla", lambda runs: runs[:12], "3 different params, and there are 2: add"),
        ("power_d", lambda runs: [runs[0]] * 4, "at least 2 different tokens, and there is one"),
        (
            "chinchilla",
            lambda runs: runs[::6] + runs[::6],
            "params to the power of 1.00 thr",
        ),
        ("kaplan_ns", lambda runs: [Point("x", 3.0, 1e6, 1e8)] * 6, "needs steps of every run"),
    ],
)
def test_runs_that_cannot_tell_the_constants(law, change, rule):
    with pytest.raises(InputError, match=rule):
        fit(change(ladder(laws.BESIROGLU)), law)


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        ({"bootstraps": -1}, "a count of 0 or more"),
        ({"delta": 0.0}, "delta must be positive"),
        ({"resample": "rows"}, "noise or runs, and not 'rows'"),
    ],
)
def test_settings_that_are_none(how, rule):
    with pytest.raises(InputError, match=rule):
        fit(points("power_n", 0), "power_n", **how)
