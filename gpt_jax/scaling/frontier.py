"""The compute-optimal frontier: the best size for a compute, by the three approaches of Hoffmann et
al. 2022, section 3.

Each ends in a power law, N = scale C^exponent, and with C = 6 N D in one of D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpt_jax.config import InputError, require
from gpt_jax.scaling.fit import BOOTSTRAPS, Fit, Interval, fit, interval
from gpt_jax.scaling.laws import FLOPS_PER_PARAM_TOKEN, Chinchilla, KaplanND
from gpt_jax.scaling.points import Point, column

Array = NDArray[np.float64]

APPROACHES = ("envelope", "isoflop", "parametric")
SAME_FLOPS = 0.05
"""Runs whose FLOPs differ by less than this share are of one IsoFLOP profile."""
GRID = 500
"""Computes at which the envelope is read."""


@dataclass(frozen=True)
class Frontier:
    """log N = level + exponent (log C - center)."""

    center: float
    line_2: Array
    """Level and exponent."""
    draws_R2: Array
    flops_g: Array
    """The computes that the line was drawn through, and the best size at each; of a parametric
    one there are none."""
    params_g: Array

    @property
    def exponents(self) -> tuple[Interval, Interval]:
        """Of C in N, and in D: a and b of Hoffmann et al.'s table 2."""
        found = interval(self.line_2[1], self.draws_R2[:, 1])
        a = Interval(*map(float, found))
        return a, Interval(1 - a.value, 1 - a.high, 1 - a.low)

    def optimal(self, flops: ArrayLike) -> tuple[Interval, Interval]:
        """N and D that are best for computes (m,) or a number, with their intervals."""
        x_m = np.log(np.asarray(flops, np.float64)) - self.center
        value = np.exp(self.line_2[0] + self.line_2[1] * x_m)
        level, exponent = self.draws_R2.T.reshape(2, -1, *[1] * np.ndim(flops))
        params = interval(value, np.exp(level + exponent * x_m))
        product = np.asarray(flops, np.float64) / FLOPS_PER_PARAM_TOKEN
        return params, Interval(product / value, product / params.high, product / params.low)


def frontier(
    points: Sequence[Point], approach: str, bootstraps: int = BOOTSTRAPS, seed: int = 0
) -> Frontier:
    """The frontier of runs by one of APPROACHES.

    Args:
      points: with params and flops. "envelope": several losses along each model's training, all
        that have the same params being one curve. "isoflop": the last losses of runs, of which
        some at a time have the same FLOPs. "parametric": the last losses of any runs.
      approach: which.
      bootstraps: for the intervals. The envelope is read again from as many models, drawn with
        replacement; of profiles the noise is drawn again, as `fit.fit` does.
      seed: of the bootstraps.

    Raises InputError where the runs show no optimum.
    """
    require(
        approach in APPROACHES,
        f"a frontier is found by {', '.join(APPROACHES)}, and not by {approach!r}.",
    )
    require(bootstraps >= 0, f"--bootstrap is a count of 0 or more, and it is {bootstraps}.")
    if approach == "parametric":
        return of_fit(fit(points, "chinchilla", bootstraps=bootstraps, seed=seed))
    find = _envelope if approach == "envelope" else _isoflop
    return find(points, bootstraps, np.random.default_rng(seed))


def of_fit(found: Fit) -> Frontier:
    """The least loss of a fitted chinchilla or kaplan_nd at 6 N D = C, which is a power law.

    Approach 3, equation 4. Kaplan's law is least where the sum within its power is, which is one
    of Chinchilla's form.
    """
    constants_RP = found.form.published(
        np.concatenate([found.theta_P[None], found.draws_RP]), found.center_K
    )
    if found.form.kind is KaplanND:
        scale, size, tokens, power = constants_RP.T
        ratio = size / power
        law = Chinchilla(*(np.zeros_like(ratio), scale**ratio, tokens, ratio, np.ones_like(ratio)))
    else:
        require(
            found.form.kind is Chinchilla,
            f"an optimum is of a law of both parameters and tokens, and {found.form.law} is none: "
            "fit chinchilla or kaplan_nd.",
        )
        law = Chinchilla(*constants_RP.T)
    center = float(found.center_K.sum() + np.log(FLOPS_PER_PARAM_TOKEN))
    exponent_R = np.asarray(law.b) / (np.asarray(law.a) + np.asarray(law.b))
    lines = np.stack([np.log(law.optimal(np.exp(center))[0]), exponent_R], 1)
    return Frontier(center, lines[0], lines[1:], np.empty(0), np.empty(0))


def _through(flops_g: Array, params_g: Array, center: float) -> Array:
    """Level and exponent of the line through best sizes; NaN where there are not two."""
    if not np.isfinite(params_g).all() or len(np.unique(params_g)) < 2:
        return np.full(2, np.nan)
    exponent, level = np.polyfit(np.log(flops_g) - center, np.log(params_g), 1)
    return np.array([level, exponent])


def _made(flops_g: Array, params_g: Array, draws: list[Array], center: float) -> Frontier:
    draws_R2 = np.array(draws).reshape(-1, 2)
    known = np.isfinite(draws_R2).all(1)
    line_2 = _through(flops_g, params_g, center)
    return Frontier(center, line_2, draws_R2[known], flops_g, params_g)


# Approach 1.


def _envelope(points: Sequence[Point], bootstraps: int, rng: np.random.Generator) -> Frontier:
    params_n, flops_n = column(points, "params"), column(points, "flops")
    loss_n = column(points, "loss")
    sizes = np.unique(params_n)
    grid = np.geomspace(flops_n.min(), flops_n.max(), GRID)
    curves = np.full((len(sizes), GRID), np.inf)
    for row, size in enumerate(sizes):
        own = np.flatnonzero(params_n == size)
        own = own[np.argsort(flops_n[own])]
        curves[row] = np.interp(
            np.log(grid), np.log(flops_n[own]), np.log(loss_n[own]), left=np.inf, right=np.inf
        )
    flops_g, params_g = _lowest(grid, sizes, curves)
    require(
        len(np.unique(params_g)) >= 2,
        "an envelope needs the training curves of at least 4 sizes, of which one is best and then "
        f"another, and between the smallest and the largest of these {len(sizes)} there are "
        f"{len(np.unique(params_g))} that are best anywhere: add curves of other sizes, with more "
        "points along each, or longer ones.",
    )
    center = float(np.log(flops_g).mean())
    draws = []
    for _ in range(bootstraps):
        drawn = np.unique(rng.integers(len(sizes), size=len(sizes)))
        draws.append(_through(*_lowest(grid, sizes[drawn], curves[drawn]), center))
    return _made(flops_g, params_g, draws, center)


def _lowest(grid: Array, sizes: Array, curves: Array) -> tuple[Array, Array]:
    """Computes and the size that is best there; where it is the smallest or the largest, a size
    beyond them might be better, and nothing is known.
    """
    best = curves.argmin(0)
    inside = (best > 0) & (best < len(sizes) - 1) & np.isfinite(curves.min(0))
    return grid[inside], sizes[best[inside]]


# Approach 2.


def _isoflop(points: Sequence[Point], bootstraps: int, rng: np.random.Generator) -> Frontier:
    params_n, flops_n = column(points, "params"), column(points, "flops")
    y_n = np.log(column(points, "loss"))
    profiles = [own for own in _profiles(flops_n) if len(np.unique(params_n[own])) >= 3]
    require(
        len(profiles) >= 2,
        "IsoFLOP profiles are at least 2 groups of runs, each of at least 3 sizes trained with the "
        f"same FLOPs to within {SAME_FLOPS:.0%}, and there "
        f"{'is 1' if len(profiles) == 1 else f'are {len(profiles)}'}: add such runs, or use "
        "parametric, which takes any.",
    )
    flops_g = np.array([np.exp(np.log(flops_n[own]).mean()) for own in profiles])
    params_g = np.array([_least(params_n[own], y_n[own]) for own in profiles])
    for flops, size, own in zip(flops_g, params_g, profiles, strict=True):
        if not params_n[own].min() <= size <= params_n[own].max():
            raise InputError(
                f"a profile has its least loss between its sizes, and that of {flops:.3g} FLOPs "
                f"has none between {params_n[own].min():.3g} and {params_n[own].max():.3g} "
                "parameters: add smaller or larger models there, or take its runs out."
            )
    center = float(np.log(flops_g).mean())
    fitted = [
        np.polyval(np.polyfit(np.log(params_n[own]), y_n[own], 2), np.log(params_n[own]))
        for own in profiles
    ]
    off = np.concatenate([y_n[own] - y for own, y in zip(profiles, fitted, strict=True)])
    free = len(off) - 3 * len(profiles)
    draws = []
    # Without a run to spare the parabolas go through every run, and nothing is known of the noise.
    for _ in range(bootstraps if free else 0):
        sigma = np.sqrt((off**2).sum() / rng.chisquare(free))
        drawn = [
            _least(params_n[own], y + sigma * rng.standard_normal(len(y)))
            for own, y in zip(profiles, fitted, strict=True)
        ]
        draws.append(_through(flops_g, np.array(drawn), center))
    return _made(flops_g, params_g, draws, center)


def _profiles(flops_n: Array) -> list[NDArray[np.intp]]:
    """Runs of the same FLOPs, by their places."""
    order = np.argsort(flops_n)
    steps = np.flatnonzero(np.diff(np.log(flops_n[order])) > SAME_FLOPS)
    return np.split(order, steps + 1)


def _least(params: Array, log_loss: Array) -> float:
    """Where a parabola in log N has its least loss; NaN where it has none."""
    center = np.log(params).mean()
    square, slope, _ = np.polyfit(np.log(params) - center, log_loss, 2)
    return float(np.exp(center - slope / (2 * square))) if square > 0 else np.nan
