"""Plots that notebooks and the report page share: curves of a run, and scores with intervals.

Colours are Okabe and Ito's (2008), which colour-blind readers tell apart; markers and dashes say
the same again without colour. Needs the extra `notebooks`.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.config import InputError, require

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        FixedLocator,
        LogLocator,
        MaxNLocator,
        NullLocator,
        StrMethodFormatter,
    )
except ImportError as error:
    raise InputError(
        "plots are drawn by matplotlib, and it is not installed: pip install -e '.[notebooks]'."
    ) from error

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "font.size": 9,
    "legend.frameon": False,
    "figure.dpi": 110,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gpt_jax",  # the same names in the same figure
    "text.parse_math": False,  # a dollar in a run's name is a dollar
}


class Point(NamedTuple):
    """A score and its interval."""

    x: float
    value: float
    low: float
    high: float


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; raises InputError with the line where one is no record."""
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        require(
            isinstance(record, dict) and "step" in record,
            f"a line of metrics is an object with a step, and line {number} of {path} is none.",
        )
        records.append(record)
    return records


def series(records: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list, list]:
    """The values of y, and of x beside them, of the records that have both."""
    found = [(record[x], record[y]) for record in records if x in record and y in record]
    return [a for a, _ in found], [b for _, b in found]


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that `count` questions gave (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(round(share * count), count).proportion_ci(0.95, method="wilson")
    return found.low, found.high


def figure(columns: int = 1, width: float = 3.6, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, each `width` by `height` inches; no window is opened."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(columns * width, height), layout="constrained")
        return made, list(made.subplots(1, columns, squeeze=False)[0])


def draw_curves(
    axes: Axes,
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    y: str,
    label: str,
    *,
    x: str = "tokens",
    x_label: str = "tokens",
    count: int = 0,
) -> None:
    """A line for each run that has the metric `y`, by its name.

    Args:
      axes: to draw on.
      runs: the records of each run, as `read_metrics` gives them.
      y: the metric.
      label: what the metric is, with its unit.
      x: the metric along the other axis, and `x_label` what that is.
      count: where `y` is a share of so many questions, their 95 % interval is shaded.
    """
    with mpl.rc_context(STYLE):
        for place, (name, records) in enumerate(runs.items()):
            across, up = series(records, x, y)
            if not across:
                continue
            marker = MARKERS[place % len(MARKERS)] if len(across) <= 40 else ""
            style: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)]}
            axes.plot(
                across, up, DASHES[place % 4], marker=marker, markersize=3, label=name, **style
            )
            if count:
                low, high = zip(*(wilson(share, count) for share in up), strict=True)
                axes.fill_between(across, low, high, alpha=0.2, linewidth=0, **style)
        axes.set(xlabel=x_label, ylabel=label)
        axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
        if count:
            axes.set_ylim(-0.02, 1.02)
        if len(runs) > 1:
            axes.legend()


def draw_lines(
    axes: Axes,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    *,
    log: str = "xy",
    best: Mapping[str, float] | None = None,
) -> None:
    """A line for each name, of values along x and of y beside them.

    Args:
      axes: to draw on.
      lines: (along x, along y) by name.
      x, y: what is along them, with their units.
      log: which of the two are drawn by their logarithms: "x", "y", "xy" or "".
      best: of some names the place along x that is marked, by a dotted line of the same colour.
    """
    with mpl.rc_context(STYLE):
        for place, (name, (across, up)) in enumerate(lines.items()):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            marker = marker if len(across) <= 40 else ""
            axes.plot(
                across, up, DASHES[place % 4], color=colour, marker=marker, markersize=3, label=name
            )
            if best and name in best:
                axes.axvline(best[name], color=colour, linestyle=":", linewidth=1)
        for letter, scale in (("x", axes.set_xscale), ("y", axes.set_yscale)):
            if letter in log:
                scale("log")
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            if axis.get_scale() == "log":
                # A logarithmic axis of less than a decade would have one number, or too many.
                subs = (1,) if high > 1000 * low else (1, 2, 5)
                axis.set_major_locator(LogLocator(subs=subs) if high > 8 * low else MaxNLocator(5))
                axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: short_count(value))
        axes.set(xlabel=x, ylabel=y)
        if len(lines) > 1:
            axes.legend(fontsize=7)


def draw_points(axes: Axes, curves: Mapping[str, Sequence[Point]], label: str, x: str) -> None:
    """Scores with their intervals, joined in the order of x.

    Args:
      axes: to draw on.
      curves: the points of each curve, by its name.
      label: what the score is, with its unit.
      x: "shots", which are drawn by their logarithm from 1 on, or "parameters", by theirs.
    """
    with mpl.rc_context(STYLE):
        for place, (name, points) in enumerate(curves.items()):
            points = sorted(points)
            across, value = [p.x for p in points], [p.value for p in points]
            below = [max(p.value - p.low, 0.0) for p in points]
            above = [max(p.high - p.value, 0.0) for p in points]
            axes.errorbar(
                across,
                value,
                yerr=[below, above],
                color=COLOURS[place % len(COLOURS)],
                linestyle=DASHES[place // len(COLOURS) % 4],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                capsize=2,
                linewidth=1,
                label=name,
            )
        seen = sorted({p.x for points in curves.values() for p in points})
        if x == "shots":
            axes.set_xscale("symlog", linthresh=1, linscale=0.5)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
            axes.xaxis.set_major_locator(FixedLocator(seen))
            axes.set_xlim(-0.2, max(seen) * 1.3 + 0.3)
        else:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: short_count(value))
            axes.xaxis.set_major_locator(FixedLocator(_apart(seen)))
            axes.set_xlim(min(seen) / 1.5, max(seen) * 1.5)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=x, ylabel=label)
        axes.legend(fontsize=7)


def short_count(number: float) -> str:
    """1234567 as 1.23M, and 999999, which is rounded first, as 1M."""
    number = float(f"{number:.3g}")
    size = min(max(int(math.log10(max(number, 1))) // 3, 0), 4)
    return f"{number / 1000**size:.3g}{['', 'k', 'M', 'B', 'T'][size]}"


def as_svg(drawn: Figure) -> str:
    """The figure as an <svg> element, the same for the same figure, with nothing from elsewhere."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        drawn.savefig(out, format="svg", metadata=nothing)
    return re.sub(r"^.*?(?=<svg)", "", out.getvalue(), flags=re.DOTALL)


def _apart(values: Sequence[float]) -> list[float]:
    """Those of ascending values that are at least a quarter above the one kept before."""
    kept: list[float] = []
    for value in values:
        if not kept or value > 1.25 * kept[-1]:
            kept.append(value)
    return kept
