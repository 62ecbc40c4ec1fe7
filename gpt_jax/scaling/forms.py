"""The laws that can be fitted: log L with its gradient, and the constants as papers write them.

What is free is theta: first the level of each term, the logarithm of what it gives at the mean of
the runs, then the exponents. So centred, the free constants hardly depend on each other, while the
published ones (A and a, say) can hardly be told apart.

Shapes: R vectors of constants at once, P free constants, J terms, K inputs, n runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_jax.config import require
from gpt_jax.scaling.laws import Chinchilla, KaplanND, KaplanNS, Power

Array = NDArray[np.float64]

FLOOR_SHARES = (0.2, 0.5, 0.8)
TERM_SHARES = (0.05, 0.2, 0.4, 0.8)
EXPONENTS = (0.05, 0.1, 0.3, 0.6, 1.0)
"""What the grid of starts is made of."""


@dataclass(frozen=True)
class Form:
    """A law whose constants are to be found."""

    law: str
    """As `--law` names it."""
    inputs: tuple[str, ...]
    """The fields of a Point that it is a function of."""
    constants: tuple[str, ...]
    """Names of the published constants, in the order of `kind`."""
    kind: Callable[..., Any]
    """Makes the law of its constants: something with `loss(*inputs)`."""
    floor: bool
    """Whether there is a loss E that no scale removes: the first level of theta."""

    def curves(self, theta_RP: Array, x_Kn: Array) -> tuple[Array, Array]:
        """log L (R, n), and its gradient (R, n, P), at centred logarithms of the inputs."""
        inputs = len(x_Kn)
        level_RJ, slope_RK = theta_RP[:, :-inputs], theta_RP[:, -inputs:]
        if self.kind is KaplanND:
            return _sum_to_a_power(level_RJ, slope_RK, x_Kn)
        return _sum_of_powers(level_RJ, slope_RK, x_Kn)

    def published(self, theta_RP: Array, center_K: Array) -> Array:
        """The constants as papers write them, (R, P) in the order of `constants`."""
        inputs = len(center_K)
        level_RJ, slope_RK = theta_RP[:, self.floor : -inputs], theta_RP[:, -inputs:]
        floor_R1 = np.exp(theta_RP[:, : self.floor])
        if self.kind is Chinchilla:
            factor_RJ = np.exp(level_RJ + slope_RK * center_K)
            return np.concatenate([floor_R1, factor_RJ, slope_RK], 1)
        per_input_RK = slope_RK
        if self.kind is KaplanND:
            per_input_RK = slope_RK / slope_RK[:, 1:]
        with np.errstate(over="ignore"):  # where an exponent is nearly 0 the scale is endless
            scale_RK = np.exp(level_RJ / per_input_RK + center_K)
        pairs = np.stack([scale_RK, slope_RK], 2).reshape(len(theta_RP), 2 * inputs)
        return np.concatenate([pairs, floor_R1], 1)

    def starts(self, log_loss_n: Array) -> Array:
        """A grid of theta (S, P) to begin a fit from, around losses like those of the runs.

        Each term gives a twentieth to four fifths of the loss at the mean of the runs, and each
        exponent is between 0.05 and 1: what is published lies well within.
        """
        shares = [FLOOR_SHARES] * self.floor + [TERM_SHARES] * len(self.inputs)
        corners = itertools.product(*shares, *[EXPONENTS] * len(self.inputs))
        theta_SP = np.array(list(corners))
        levels = len(shares)
        level = log_loss_n.mean()
        power = theta_SP[:, -1:] if self.kind is KaplanND else 1
        theta_SP[:, :levels] = level / power + np.log(theta_SP[:, :levels])
        return theta_SP


def _sum_of_powers(level_RJ: Array, slope_RK: Array, x_Kn: Array) -> tuple[Array, Array]:
    """L = sum_j exp(c_j - k_j x_j), in logarithms; a level without a slope is a constant."""
    fall_RJn = slope_RK[:, :, None] * x_Kn
    constants = level_RJ.shape[1] - len(x_Kn)
    z_RJn = np.repeat(level_RJ[:, :, None], x_Kn.shape[1], 2)
    z_RJn[:, constants:] -= fall_RJn
    total_Rn, share_RJn = _log_sum(z_RJn)
    gradient = np.concatenate([share_RJn, -share_RJn[:, constants:] * x_Kn], 1)
    return total_Rn, gradient.transpose(0, 2, 1)


def _sum_to_a_power(level_R2: Array, slope_R2: Array, x_2n: Array) -> tuple[Array, Array]:
    """L = (exp(c_1 - (k_1 / k_2) x_1) + exp(c_2 - x_2))^k_2, in logarithms."""
    first_R1, power_R1 = slope_R2[:, :1], slope_R2[:, 1:]
    fall_Rn = first_R1 / power_R1 * x_2n[0]
    z_R2n = np.stack([level_R2[:, :1] - fall_Rn, level_R2[:, 1:] - x_2n[1]], 1)
    total_Rn, share_R2n = _log_sum(z_R2n)
    by_first = -share_R2n[:, 0] * x_2n[0]
    by_power = total_Rn + share_R2n[:, 0] * fall_Rn
    by_level = power_R1[:, None] * share_R2n
    gradient = np.concatenate([by_level, by_first[:, None], by_power[:, None]], 1)
    return power_R1 * total_Rn, gradient.transpose(0, 2, 1)


def _log_sum(z_RJn: Array) -> tuple[Array, Array]:
    """log sum_j exp(z_j), (R, n), and each term's share of the sum, (R, J, n)."""
    top_R1n = z_RJn.max(1, keepdims=True)
    terms_RJn = np.exp(z_RJn - top_R1n)
    sum_R1n = terms_RJn.sum(1, keepdims=True)
    return (top_R1n + np.log(sum_R1n))[:, 0], terms_RJn / sum_R1n


_POWERS = {
    "power_n": ("params", "N"),
    "power_d": ("tokens", "D"),
    "power_c": ("flops", "C"),
}
LAWS = ("chinchilla", "kaplan_nd", "kaplan_ns", *_POWERS)


def form(law: str, irreducible: bool = False) -> Form:
    """The form of one of LAWS; `irreducible` adds a loss E to a power law, which has none."""
    require(law in LAWS, f"there is no law {law!r}: there are {', '.join(LAWS)}.")
    require(
        not irreducible or law in _POWERS,
        f"an irreducible loss is added to power_n, power_d or power_c, and the law is {law}: "
        "chinchilla has one already, and Kaplan's have none.",
    )
    if law == "chinchilla":
        return Form(law, ("params", "tokens"), Chinchilla._fields, Chinchilla, True)
    if law == "kaplan_nd":
        return Form(law, ("params", "tokens"), KaplanND._fields, KaplanND, False)
    if law == "kaplan_ns":
        return Form(law, ("params", "steps"), KaplanNS._fields, KaplanNS, False)
    field, letter = _POWERS[law]
    names = (f"{letter}_c", f"a_{letter}")
    return Form(law, (field,), (*names, "E") if irreducible else names, Power, irreducible)
