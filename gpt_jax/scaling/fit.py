"""Fitting a law to runs: constants, intervals, residuals, and what each run is predicted by others.

The fit is that of Hoffmann et al. 2022, section 3.3: the Huber loss of log L, of which residuals
beyond `delta` count by their size and not its square, minimised by L-BFGS from a grid of starts.
Ours differ in two ways: the logarithms of the inputs are centred, and the sum is minimised and not
the mean, which ended theirs early (Besiroglu et al. 2024, section 5).

Shapes: R vectors of constants or sets of losses at once, P constants, K inputs, n runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from gpt_jax.config import require
from gpt_jax.scaling.forms import Form, form
from gpt_jax.scaling.points import Point, column

Array = NDArray[np.float64]

DELTA = 1e-3
"""Residual of log L from which on it counts by its size: Hoffmann et al.'s."""
BOOTSTRAPS = 200
BEST_STARTS = 5
"""Of the grid, from which L-BFGS goes on."""
COVERAGE = 0.95
RESAMPLE = ("noise", "runs")


class Interval(NamedTuple):
    """A value and its 95 % interval; numbers, or arrays of one shape."""

    value: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Fit:
    """A law with constants, and how well runs tell them."""

    form: Form
    center_K: Array
    """Mean logarithm of each input: theta is of logarithms less this."""
    theta_P: Array
    draws_RP: Array
    """theta of each bootstrap; no rows where none was asked for."""
    noise_R: Array
    """Standard deviation of log L around the law, in each bootstrap."""
    names: tuple[str, ...]
    loss_n: Array
    fitted_n: Array
    """Of the runs, by the law, nats per token."""
    left_out_n: Array
    """Each run's loss as the law predicts it that is fitted to all others."""

    @property
    def law(self) -> Any:
        """The law with its constants: of `form.kind`."""
        return self.form.kind(*self.form.published(self.theta_P[None], self.center_K)[0])

    @property
    def residual_n(self) -> Array:
        """Logarithm of each run's loss less that of its fitted loss."""
        return np.log(self.loss_n) - np.log(self.fitted_n)

    def constants(self) -> dict[str, Interval]:
        """Every published constant by its name."""
        values_P = np.array(self.law[: len(self.form.constants)])
        draws_RP = self.form.published(self.draws_RP, self.center_K)
        found = interval(values_P, draws_RP)
        return {
            name: Interval(*row) for name, *row in zip(self.form.constants, *found, strict=True)
        }

    def predict(self, *inputs: ArrayLike, of_a_run: bool = False) -> Interval:
        """Losses at inputs (m,) or numbers, in the order of `form.inputs`, with their interval.

        It is that of the law's curve; `of_a_run` widens it by the noise of a single run, which is
        what a run that is yet to be trained should be judged by.
        """
        x_Km = np.log(np.stack(np.broadcast_arrays(*map(_at_least_1d, inputs))))
        x_Km = x_Km - self.center_K[:, None]
        value = np.exp(self.form.curves(self.theta_P[None], x_Km)[0][0])
        draws_Rm = self.form.curves(self.draws_RP, x_Km)[0]
        if of_a_run:
            normal = np.random.default_rng(0).standard_normal(draws_Rm.shape)
            draws_Rm = draws_Rm + self.noise_R[:, None] * normal
        found = interval(value, np.exp(draws_Rm))
        single = all(np.ndim(one) == 0 for one in inputs)
        return Interval(*(float(part[0]) for part in found)) if single else found


def interval(value: Array, draws: Array) -> Interval:
    """The middle 95 % of the draws, along their first axis; NaN where there are none."""
    if not len(draws):
        return Interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return Interval(value, low, high)


def fit(
    points: Sequence[Point],
    law: str,
    *,
    irreducible: bool = False,
    bootstraps: int = BOOTSTRAPS,
    resample: str = "noise",
    seed: int = 0,
    delta: float = DELTA,
) -> Fit:
    """Fit one of `forms.LAWS` to runs.

    Args:
      points: the runs; each has the law's inputs.
      law: which.
      irreducible: a power law gets a loss E.
      bootstraps: how often it is fitted again, for the intervals.
      resample: how. "noise": the law with new normal noise of the residuals' size, which itself is
        drawn (so that intervals of few runs have Student's width). "runs": as many runs drawn with
        replacement, as Hoffmann et al. and Besiroglu et al. do; right where the noise differs from
        run to run, and wide where runs are few.
      seed: of the bootstraps.
      delta: of the Huber loss.

    Raises InputError where the runs are too few, or do not tell the constants apart.
    """
    kind = form(law, irreducible)
    require(bootstraps >= 0, f"--bootstrap is a count of 0 or more, and it is {bootstraps}.")
    require(delta > 0, f"delta must be positive, and it is {delta}.")
    require(
        resample in RESAMPLE, f"what is resampled is {' or '.join(RESAMPLE)}, and not {resample!r}."
    )
    log_Kn = np.log([column(points, name) for name in kind.inputs])
    loss_n = column(points, "loss")
    _require_enough(kind, log_Kn)
    center_K = log_Kn.mean(1)
    x_Kn, y_n = log_Kn - center_K[:, None], np.log(loss_n)
    with threadpool_limits(1):  # of such small arrays threads only wait for each other
        theta_P = _from_grid(kind, x_Kn, y_n, delta)
        draws_RP, noise_R = _bootstrap(kind, x_Kn, y_n, theta_P, bootstraps, resample, seed, delta)
        left_out_n = _leave_one_out(kind, x_Kn, y_n, theta_P, delta)
    return Fit(
        form=kind,
        center_K=center_K,
        theta_P=theta_P,
        draws_RP=draws_RP,
        noise_R=noise_R,
        names=tuple(point.name for point in points),
        loss_n=loss_n,
        fitted_n=np.exp(kind.curves(theta_P[None], x_Kn)[0][0]),
        left_out_n=left_out_n,
    )


def _require_enough(kind: Form, log_Kn: Array) -> None:
    """Raise InputError where n runs cannot tell the constants of the law."""
    runs, needed = log_Kn.shape[1], len(kind.constants) + 1
    require(
        runs >= needed,
        f"{kind.law} has {needed - 1} constants ({', '.join(kind.constants)}) and needs at least "
        f"{needed} runs, and there are {runs}: add runs, or fit a law with fewer.",
    )
    values = 3 if kind.floor else 2
    for name, log_n in zip(kind.inputs, log_Kn, strict=True):
        distinct = len(np.unique(np.round(log_n, 3)))
        require(
            distinct >= values,
            f"{kind.law} needs runs of at least {values} different {name}, and there "
            f"{'is one' if distinct == 1 else 'are 2'}: add runs that differ in {name}, or fit a "
            f"law that has no {name} in it.",
        )
    if len(log_Kn) == 2:
        slope, level = np.polyfit(log_Kn[0], log_Kn[1], 1)
        off = (log_Kn[1] - level - slope * log_Kn[0]).std()
        require(
            off > 0.05,
            f"{kind.law} needs runs in which {kind.inputs[1]} do not follow from "
            f"{kind.inputs[0]}, and here they are {kind.inputs[0]} to the power of {slope:.2f} "
            "throughout: add runs of the same size trained for longer or shorter, or fit power_n, "
            "power_d or power_c along that line.",
        )


def _objective(residual_Rn: Array, weight_Rn: Array | float, delta: float) -> Array:
    """Sum of the Huber loss over runs, in units of delta^2, (R,)."""
    size_Rn = np.abs(residual_Rn) / delta
    huber_Rn = np.where(size_Rn <= 1, 0.5 * size_Rn**2, size_Rn - 0.5)
    return (weight_Rn * huber_Rn).sum(1)


def _from_grid(kind: Form, x_Kn: Array, y_n: Array, delta: float) -> Array:
    """theta (P,) of the least objective that L-BFGS comes to from the best of the grid."""

    def value_and_gradient(theta_P: Array) -> tuple[float, Array]:
        log_loss_1n, gradient_1nP = kind.curves(theta_P[None], x_Kn)
        residual_1n = log_loss_1n - y_n
        slope_n = np.clip(residual_1n[0] / delta, -1, 1) / delta
        return float(_objective(residual_1n, 1.0, delta)[0]), slope_n @ gradient_1nP[0]

    starts_SP = kind.starts(y_n)
    values_S = _objective(kind.curves(starts_SP, x_Kn)[0] - y_n, 1.0, delta)
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-13, "gtol": 1e-8, "maxcor": 20}
    found = [
        minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        for start in starts_SP[np.argsort(values_S)[:BEST_STARTS]]
    ]
    best = min((one for one in found if np.isfinite(one.fun)), key=lambda one: one.fun)
    return best.x


def _bootstrap(
    kind: Form,
    x_Kn: Array,
    y_n: Array,
    theta_P: Array,
    bootstraps: int,
    resample: str,
    seed: int,
    delta: float,
) -> tuple[Array, Array]:
    """theta (R, P) fitted to each resampling, from the full fit on, and the noise (R,) of each."""
    rng = np.random.default_rng(seed)
    runs, free = len(y_n), len(y_n) - len(theta_P)
    fitted_n = kind.curves(theta_P[None], x_Kn)[0][0]
    sigma = np.sqrt(((y_n - fitted_n) ** 2).sum() / free)
    noise_R = sigma * np.sqrt(free / rng.chisquare(free, bootstraps))
    y_Rn: Array = np.tile(y_n, (bootstraps, 1))
    weight_Rn: Array = np.ones((bootstraps, runs))
    if resample == "noise":
        y_Rn = fitted_n + noise_R[:, None] * rng.standard_normal(y_Rn.shape)
    else:
        # A run that is not drawn keeps a trace, so that a resampling of few sizes has an answer.
        drawn_Rn = rng.multinomial(runs, np.full(runs, 1 / runs), bootstraps)
        weight_Rn = drawn_Rn.astype(np.float64) + 1e-9
    return refit(kind, x_Kn, y_Rn, weight_Rn, theta_P, delta), noise_R


def _leave_one_out(kind: Form, x_Kn: Array, y_n: Array, theta_P: Array, delta: float) -> Array:
    """The loss of each run by the law that is fitted to all others, (n,)."""
    runs = len(y_n)
    weight_nn = 1 - np.eye(runs) + 1e-9
    theta_nP = refit(kind, x_Kn, np.tile(y_n, (runs, 1)), weight_nn, theta_P, delta)
    return np.exp(np.diagonal(kind.curves(theta_nP, x_Kn)[0]))


def refit(
    kind: Form, x_Kn: Array, y_Rn: Array, weight_Rn: Array, theta_P: Array, delta: float
) -> Array:
    """theta (R, P) of the least objective of each of R sets of losses or weights, at once.

    From theta_P on, by Gauss-Newton steps on the squares that touch the Huber loss from above
    (iteratively reweighted), damped until they go down (Levenberg, Marquardt).
    """
    theta_RP = np.tile(theta_P, (len(y_Rn), 1))
    live_R = np.arange(len(y_Rn))
    damping_R = np.full(len(y_Rn), 1e-6)
    log_loss_Rn, gradient_RnP = kind.curves(theta_RP, x_Kn)
    residual_Rn = y_Rn - log_loss_Rn
    value_R = _objective(residual_Rn, weight_Rn, delta)
    for _ in range(500):
        if not len(live_R):
            break
        touching_Rn = weight_Rn[live_R] / np.maximum(np.abs(residual_Rn) / delta, 1)
        weighted_RnP = touching_Rn[:, :, None] * gradient_RnP
        curvature_RPP = weighted_RnP.transpose(0, 2, 1) @ gradient_RnP
        slope_RP = (weighted_RnP * residual_Rn[:, :, None]).sum(1)
        diagonal_RP = np.einsum("rpp->rp", curvature_RPP)  # a view, written to
        diagonal_RP += damping_R[:, None] * diagonal_RP + 1e-12
        step_RP = np.linalg.solve(curvature_RPP, slope_RP[:, :, None])[:, :, 0]
        tried_RP = theta_RP[live_R] + step_RP
        log_loss_Rn, tried_gradient_RnP = kind.curves(tried_RP, x_Kn)
        tried_residual_Rn = y_Rn[live_R] - log_loss_Rn
        tried_value_R = _objective(tried_residual_Rn, weight_Rn[live_R], delta)
        better_R = tried_value_R <= value_R
        theta_RP[live_R[better_R]] = tried_RP[better_R]
        gain_R = np.where(better_R, value_R - tried_value_R, np.inf)
        damping_R = np.where(
            better_R, np.maximum(damping_R / 10, 1e-9), np.maximum(damping_R * 10, 1e-3)
        )
        go_R = (gain_R > 1e-9 * np.maximum(value_R, 1)) & (damping_R < 1e8)
        value_R = np.where(better_R, tried_value_R, value_R)[go_R]
        residual_Rn = np.where(better_R[:, None], tried_residual_Rn, residual_Rn)[go_R]
        gradient_RnP = np.where(better_R[:, None, None], tried_gradient_RnP, gradient_RnP)[go_R]
        live_R, damping_R = live_R[go_R], damping_R[go_R]
    return theta_RP


def _at_least_1d(values: ArrayLike) -> Array:
    return np.atleast_1d(np.asarray(values, np.float64))
