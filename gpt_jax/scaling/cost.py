"""What the runs of a study will cost, before any is trained: FLOPs, hours and energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gpt_jax.chips import PUE, find_slice
from gpt_jax.config import Config, require
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.scaling.results import Result
from gpt_jax.scaling.study import compute, model_flops, params_of, params_total_of, tokens_of

MFU = 0.4
"""Of a slice, where --mfu does not say: what well tuned training of large models comes to."""


@dataclass(frozen=True)
class Rate:
    """How fast models are trained, and with what power."""

    flops_per_second: Callable[[float], float] | None
    """At N parameters, of FLOPs as MFU counts them; None: not known."""
    watts: float | None
    """Of all machines; None: not known."""
    source: str
    """Where these are from, in words."""


@dataclass(frozen=True)
class Cost:
    """What a run is and what it takes."""

    name: str
    params: int
    """N, without embeddings."""
    params_total: int
    tokens: int
    steps: int
    flops: float
    """C = 6 N D."""
    model_flops: float
    """With attention and the output layer."""
    hours: float | None
    kwh: float | None


def cost(run: Config, rate: Rate) -> Cost:
    """The cost of a run; hours and energy are None where the rate is not known."""
    flops, hours, kwh = model_flops(run), None, None
    if rate.flops_per_second is not None:
        hours = flops / rate.flops_per_second(params_of(run)) / 3600
        kwh = None if rate.watts is None else hours * rate.watts / 1000
    return Cost(
        name=run.name,
        params=params_of(run),
        params_total=params_total_of(run),
        tokens=tokens_of(run),
        steps=BatchSchedule.of(run).num_steps,
        flops=compute(run),
        model_flops=flops,
        hours=hours,
        kwh=kwh,
    )


def rate_of(
    results: Iterable[Result],
    *,
    flops_per_second: float | None = None,
    target: str | None = None,
    mfu: float | None = None,
    watts: float | None = None,
) -> Rate:
    """The rate that is stated, that of a slice, or what finished runs were measured at.

    Args:
      results: of which each model is taken to be as fast as the one nearest to it in size.
      flops_per_second: as stated; `gpt-jax bench` measures it.
      target: a slice as `chips.find_slice` takes it, at the share `mfu` of its peak.
      mfu: of the slice.
      watts: of all machines; of a slice by default its chips' mean, times the PUE.

    Raises InputError where two sources are given, or a number is not positive.
    """
    require(
        flops_per_second is None or target is None,
        "the rate is stated or that of a slice, and both are given: leave out --flops-per-second "
        "or --target.",
    )
    require(mfu is None or target is not None, "--mfu is of a slice, and --target names none.")
    for name, value in (("flops-per-second", flops_per_second), ("mfu", mfu), ("watts", watts)):
        require(
            value is None or (math.isfinite(value) and value > 0),
            f"--{name} is a positive number, and it is {value}.",
        )
    require(mfu is None or mfu <= 1, f"--mfu is a share of the peak, and it is {mfu}.")
    if flops_per_second is not None:
        stated = flops_per_second
        return Rate(lambda _: stated, watts, f"{stated:.3g} FLOP/s, as stated")
    if target is not None:
        part, share = find_slice(target), mfu or MFU
        peak = part.chips * part.chip.peak_flops
        power = part.chips * part.chip.watts * PUE if watts is None else watts
        source = f"{share:.0%} of the peak of {part.name} ({part.chips} chips, {peak:.3g} FLOP/s)"
        return Rate(lambda _: share * peak, power, source)
    measured = [
        (result.params, result.model_flops / result.seconds)
        for result in results
        if result.state == "finished" and result.seconds > 0
    ]
    if not measured:
        return Rate(None, watts, "not known: give --flops-per-second or --target")

    def nearest(params: float) -> float:
        return min(measured, key=lambda one: abs(math.log(one[0] / params)))[1]

    return Rate(nearest, watts, f"measured in {len(measured)} finished runs")


def as_table(costs: Sequence[Cost], held_out: Sequence[str], rate: Rate) -> list[tuple[str, ...]]:
    """Rows of the table, the first its head and the last the sum."""
    rows = [
        ("run", "N", "with embeddings", "tokens", "steps", "6 N D", "FLOPs", "hours", "kWh", "")
    ]
    for one in costs:
        rows.append(
            (
                one.name,
                f"{one.params:,}",
                f"{one.params_total:,}",
                f"{one.tokens:,}",
                f"{one.steps:,}",
                f"{one.flops:.3g}",
                f"{one.model_flops:.3g}",
                _or_dash(one.hours),
                _or_dash(one.kwh),
                "held out" if one.name in held_out else "",
            )
        )
    hours, kwh = ([getattr(one, name) for one in costs] for name in ("hours", "kwh"))
    rows.append(
        (
            f"{len(costs)} runs",
            "",
            "",
            f"{sum(one.tokens for one in costs):,}",
            "",
            f"{sum(one.flops for one in costs):.3g}",
            f"{sum(one.model_flops for one in costs):.3g}",
            _or_dash(None if None in hours else sum(hours)),
            _or_dash(None if None in kwh else sum(kwh)),
            "",
        )
    )
    return rows


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g}"
