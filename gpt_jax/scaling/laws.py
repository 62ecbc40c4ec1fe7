"""The published scaling laws as pure functions, each with its source.

Losses are nats per token. N counts parameters without embeddings, D tokens, S steps, B tokens in a
batch, and compute is in FLOPs everywhere (the papers' PF-days are converted here). Arguments may be
numbers or NumPy arrays that broadcast; what comes back is float64 of the broadcast shape.

Sources: Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361); Brown et
al. 2020 (GPT-3), figure 3.1; Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models"
(arXiv 2203.15556); Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt" (arXiv
2404.10102). Losses of different papers are of different texts and tokenizers: their absolute values
do not compare.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

PF_DAY = 1e15 * 86400
"""FLOPs of a petaflop/s-day."""
FLOPS_PER_PARAM_TOKEN = 6
"""C = 6 N D: forward and backward pass, attention left out (Kaplan et al., section 2.1)."""

Array = NDArray[np.float64]


def flops_of(params: ArrayLike, tokens: ArrayLike) -> Array:
    """C = 6 N D."""
    return FLOPS_PER_PARAM_TOKEN * _array(params) * _array(tokens)


# Kaplan et al. 2020.


class Power(NamedTuple):
    """L(x) = (scale / x)^exponent + E."""

    scale: float
    exponent: float
    E: float = 0.0

    def loss(self, x: ArrayLike) -> Array:
        """Nats per token, of the shape of x."""
        return (self.scale / _array(x)) ** self.exponent + self.E


KAPLAN_N = Power(8.8e13, 0.076)
"""L(N): trained to convergence on enough data (equation 1.1)."""
KAPLAN_D = Power(5.4e13, 0.095)
"""L(D): a large model stopped early on limited data (equation 1.2)."""
KAPLAN_C_MIN = Power(3.1e8 * PF_DAY, 0.050)
"""L(C_min): the best model for a compute at batches far below B_crit (equation 1.3)."""
GPT3_C = Power(PF_DAY * 2.57 ** (1 / 0.048), 0.048)
"""L = 2.57 C^-0.048 with C in PF-days: validation loss of GPT-3 (Brown et al., figure 3.1)."""


class KaplanND(NamedTuple):
    """L(N, D) = ((N_c / N)^(a_N / a_D) + D_c / D)^a_D."""

    N_c: float
    a_N: float
    D_c: float
    a_D: float

    def loss(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Nats per token, of the broadcast shape."""
        size = (self.N_c / _array(params)) ** (self.a_N / self.a_D)
        return (size + self.D_c / _array(tokens)) ** self.a_D


class KaplanNS(NamedTuple):
    """L(N, S_min) = (N_c / N)^a_N + (S_c / S_min)^a_S."""

    N_c: float
    a_N: float
    S_c: float
    a_S: float

    def loss(self, params: ArrayLike, min_steps: ArrayLike) -> Array:
        """Nats per token, of the broadcast shape."""
        size = (self.N_c / _array(params)) ** self.a_N
        return size + (self.S_c / _array(min_steps)) ** self.a_S


KAPLAN_ND = KaplanND(N_c=6.4e13, a_N=0.076, D_c=1.8e13, a_D=0.103)
"""Table 2, of equation 1.5."""
KAPLAN_NS = KaplanNS(N_c=6.5e13, a_N=0.077, S_c=2.1e3, a_S=0.76)
"""Table 3, of equation 1.6."""


def kaplan_critical_batch(loss: ArrayLike) -> Array:
    """B_crit(L) in tokens: twice the least compute, twice the fewest steps (equation 1.4)."""
    return 2.1e8 / _array(loss) ** (1 / 0.21)


def kaplan_min_steps(steps: ArrayLike, batch: ArrayLike, loss: ArrayLike) -> Array:
    """S_min: steps to the same loss at batches far above B_crit (equation 5.4)."""
    return _array(steps) / (1 + kaplan_critical_batch(loss) / _array(batch))


def kaplan_min_flops(flops: ArrayLike, batch: ArrayLike, loss: ArrayLike) -> Array:
    """C_min: compute to the same loss at batches far below B_crit (equation 5.5)."""
    return _array(flops) / (1 + _array(batch) / kaplan_critical_batch(loss))


class KaplanOptimum(NamedTuple):
    """Of a compute, after table 6."""

    params: Array
    batch: Array
    """B_crit, in tokens."""
    min_steps: Array
    """S_min; a run at B_crit takes twice as many."""
    tokens: Array
    """Of that run: 2 S_min B_crit."""


def kaplan_optimal(min_flops: ArrayLike) -> KaplanOptimum:
    """N, B, S and D for a C_min, which is half the FLOPs of a run at B_crit (table 6).

    The four power laws were rounded each for itself: 6 N D is C only to within a quarter.
    """
    days = _array(min_flops) / PF_DAY
    return KaplanOptimum(
        params=1.3e9 * days**0.73,
        batch=2.0e6 * days**0.24,
        min_steps=5.4e3 * days**0.03,
        tokens=2e10 * days**0.27,
    )


def kaplan_run_loss(params: ArrayLike, tokens: ArrayLike) -> Array:
    """Loss of a run that sees each of D tokens once, in batches of B_crit: S_min is D / 2 B_crit.

    L(N, S_min) of equation 1.6, where B_crit is of that same loss: the root is found by halving, as
    the right side falls with the loss that B_crit is taken at.
    """
    n, d = np.broadcast_arrays(_array(params), _array(tokens))
    low, high = np.full(n.shape, 1e-3), np.full(n.shape, 1e3)
    for _ in range(100):
        middle = np.sqrt(low * high)
        above = KAPLAN_NS.loss(n, d / (2 * kaplan_critical_batch(middle))) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.sqrt(low * high)


def kaplan_learning_rate(params: ArrayLike) -> Array:
    """Peak learning rate of Adam by the rule of thumb D.1, which fails from 1e10 parameters on."""
    return 0.003239 - 0.0001395 * np.log(_array(params))


# Hoffmann et al. 2022 and its refit.


class Chinchilla(NamedTuple):
    """L(N, D) = E + A / N^a + B / D^b."""

    E: float
    A: float
    B: float
    a: float
    b: float

    def loss(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Nats per token, of the broadcast shape."""
        return self.E + self.A / _array(params) ** self.a + self.B / _array(tokens) ** self.b

    def optimal(self, flops: ArrayLike) -> tuple[Array, Array]:
        """N and D that make the least loss of 6 N D = C (Hoffmann et al., equation 4)."""
        ratio = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        product = _array(flops) / FLOPS_PER_PARAM_TOKEN
        params = ratio * product ** (self.b / (self.a + self.b))
        return params, product / params


HOFFMANN = Chinchilla(E=1.6934, A=406.4, B=410.7, a=0.3392, b=0.2849)
"""Approach 3 (equation 10). The exponents are printed as 0.34 and 0.28; those here are the source's
(Besiroglu et al., section 2), with which the rows of table A3 come out."""
BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, a=0.3478, b=0.3658)
"""The refit to the runs of figure 4; standard errors 0.03, 124.58, 1293.23, 0.02 and 0.02."""

# Parameters, and FLOPs for which they are best.
_TABLE_3 = (
    *((4e8, 1.92e19), (1e9, 1.21e20), (1e10, 1.23e22), (6.7e10, 5.76e23), (1.75e11, 3.85e24)),
    *((2.8e11, 9.90e24), (5.2e11, 3.43e25), (1e12, 1.27e26), (1e13, 1.30e28)),
)
_TABLE_A3 = (
    *((4e8, 1.84e19), (1e9, 1.20e20), (1e10, 1.32e22), (6.7e10, 6.88e23), (1.75e11, 4.54e24)),
    *((2.8e11, 1.18e25), (5.2e11, 4.19e25), (1e12, 1.59e26), (1e13, 1.75e28)),
)


def hoffmann_optimal(flops: ArrayLike, approach: int) -> tuple[Array, Array]:
    """N and D for a compute, by one of the paper's three approaches.

    1, the envelope of training curves, and 2, IsoFLOP profiles, are published as exponents (table
    2) without their factors: here as straight lines in the logarithms of tables 3 and A3. 3 is the
    minimum of `HOFFMANN`.
    """
    if approach == 3:
        return HOFFMANN.optimal(flops)
    params, compute = np.log({1: _TABLE_3, 2: _TABLE_A3}[approach]).T
    slope, level = np.polyfit(compute, params, 1)
    best = np.exp(level + slope * np.log(_array(flops)))
    return best, _array(flops) / (FLOPS_PER_PARAM_TOKEN * best)


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, np.float64)
