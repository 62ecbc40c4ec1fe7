"""What to train for a compute: size, tokens, batch, learning rate, and the loss to expect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt_jax.chips import find_slice
from gpt_jax.config import require
from gpt_jax.flops import num_non_embedding_params, num_params
from gpt_jax.paths import user_path
from gpt_jax.presets import GPT3_SIZES, gpt3
from gpt_jax.scaling import laws
from gpt_jax.scaling.fit import Interval
from gpt_jax.scaling.frontier import of_fit
from gpt_jax.scaling.record import read_fit

Array = NDArray[np.float64]

PUBLISHED = ("kaplan", "hoffmann", "besiroglu")
WITH_EMBEDDINGS = ("hoffmann", "besiroglu")
"""Laws whose N is of all parameters (Hoffmann et al., appendix F), not as Kaplan counts them."""
LEAST_STEPS = 1000
"""Of a run: ours. Smaller batches than that of GPT-3's smallest model are for small computes."""


@dataclass(frozen=True)
class Advice:
    """For one compute, by one law."""

    law: str
    flops: float
    params: Interval
    """N as the law counts it. By a published law its interval is NaN, and so are the others."""
    tokens: Interval
    loss: Interval
    """Nats per token of one run of this size, on the text that the law was fitted to."""
    critical_batch: float
    """Tokens: Kaplan et al.'s B_crit at that loss."""
    batch: float
    """Tokens."""
    batch_rule: str
    learning_rate: float
    learning_rate_rule: str
    nearest: str
    """The size of GPT-3 that is nearest, as `presets.gpt3` takes it."""
    nearest_params: int
    nearest_tokens: float
    """What the compute pays for at that size."""
    nearest_loss: float

    @property
    def steps(self) -> float:
        """Of the whole run at that batch."""
        return self.tokens.value / self.batch


def budget(chips: str, days: float, mfu: float) -> float:
    """FLOPs of a slice, as `chips.find_slice` names it, in so many days at that MFU.

    Raises InputError for a slice that is none, and times and shares that are not possible.
    """
    require(np.isfinite(days) and days > 0, f"--days must be a positive number, and it is {days}.")
    require(
        0 < mfu <= 1,
        f"--mfu is the share of the chips' peak that the model's FLOPs take, above 0 and up to 1, "
        f"and it is {mfu}.",
    )
    part = find_slice(chips)
    return part.chips * part.chip.peak_flops * mfu * days * 86400


def advise(flops: float, law: str) -> Advice:
    """What to train for so many FLOPs.

    Args:
      flops: of the whole run, as C = 6 N D.
      law: one of PUBLISHED, or the path of a fit of chinchilla or kaplan_nd that
        `gpt-jax scaling fit --json` printed.

    Raises InputError for a compute or a law that is none.
    """
    require(
        np.isfinite(flops) and flops > 0,
        f"a compute is a positive number of FLOPs, and it is {flops}.",
    )
    require(
        law in PUBLISHED or law.endswith(".json"),
        f"advice follows {', '.join(PUBLISHED)}, or a fit in a .json file, and the law is {law!r}.",
    )
    params, tokens, loss_of = _optimum(flops, law)
    loss = loss_of(params.value, tokens.value)
    count = num_params if law in WITH_EMBEDDINGS else num_non_embedding_params
    sizes = {size: count(gpt3(size).model) for size in GPT3_SIZES}
    nearest = min(sizes, key=lambda size: abs(np.log(sizes[size] / params.value)))
    paid = flops / laws.FLOPS_PER_PARAM_TOKEN / sizes[nearest]
    critical = float(laws.kaplan_critical_batch(loss.value))
    place = np.log(params.value), np.log([*sizes.values()])
    batch, batch_rule = _batch(*place, tokens.value, critical)
    rate, rate_rule = _learning_rate(*place)
    return Advice(
        law=law,
        flops=flops,
        params=params,
        tokens=tokens,
        loss=loss,
        critical_batch=critical,
        batch=batch,
        batch_rule=batch_rule,
        learning_rate=rate,
        learning_rate_rule=rate_rule,
        nearest=nearest,
        nearest_params=sizes[nearest],
        nearest_tokens=paid,
        nearest_loss=loss_of(sizes[nearest], paid).value,
    )


def _optimum(
    flops: float, law: str
) -> tuple[Interval, Interval, Callable[[float, float], Interval]]:
    """N and D of a law's optimum, and its loss as a function of both."""
    if law == "kaplan":
        # Batches of B_crit take twice the least compute (section 5.1).
        params = float(laws.kaplan_optimal(flops / 2).params)
        tokens = flops / laws.FLOPS_PER_PARAM_TOKEN / params
        return _known(params), _known(tokens), lambda n, d: _known(laws.kaplan_run_loss(n, d))
    if law in PUBLISHED:
        published = {"hoffmann": laws.HOFFMANN, "besiroglu": laws.BESIROGLU}[law]
        best = published.optimal(flops)
        return _known(best[0]), _known(best[1]), lambda n, d: _known(published.loss(n, d))
    found = read_fit(user_path(law))
    return *of_fit(found).optimal(flops), lambda n, d: found.predict(n, d, of_a_run=True)


def _known(value: float | Array) -> Interval:
    """A number whose interval is not known."""
    return Interval(float(value), np.nan, np.nan)


def _batch(
    log_params: float, log_sizes: Array, tokens: float, critical: float
) -> tuple[float, str]:
    """Tokens in a batch, a power of two, and the least of three limits that it keeps."""
    batches = np.log2([gpt3(size).train.batch_tokens for size in GPT3_SIZES])
    limits = {
        "GPT-3's table 2.1 at this N": np.interp(log_params, log_sizes, batches),
        "Kaplan's B_crit, above which steps hardly become fewer": np.log2(critical),
        f"so small that there are {LEAST_STEPS:,} steps": np.log2(tokens / LEAST_STEPS),
    }
    rule = min(limits, key=lambda name: limits[name])
    return 2.0 ** max(math.floor(limits[rule]), 0), rule


def _learning_rate(log_params: float, log_sizes: Array) -> tuple[float, str]:
    """Peak learning rate for Adam, and why."""
    if log_params < log_sizes[0]:
        return float(laws.kaplan_learning_rate(np.exp(log_params))), "Kaplan's rule D.1 at this N"
    rates = np.log([gpt3(size).optimizer.learning_rate for size in GPT3_SIZES])
    rate = np.exp(np.interp(log_params, log_sizes, rates))
    return float(rate), "GPT-3's table 2.1 at this N"
