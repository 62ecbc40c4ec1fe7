"""A study on one HTML page that needs nothing else: its curves, its laws, its prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_jax.plots import COLOURS, MARKERS, as_svg, draw_lines, figure, short_count
from gpt_jax.scaling.fit import Fit
from gpt_jax.scaling.laws import GPT3_C
from gpt_jax.scaling.registry import Registered, Verdict, in_words
from gpt_jax.scaling.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .8em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1em 0; overflow-x: auto; }
"""
Rows = Sequence[Sequence[str]]


def figures(
    results: Sequence[Result], fits: Mapping[str, Fit], found: Registered | None
) -> dict[str, Figure]:
    """Loss against compute, and for each law its residuals; and the prediction, if there is one.

    `results` are those of finished runs, the held-out ones among them.
    """
    made = {"loss_against_compute": _curves(results)}
    for law, one in fits.items():
        drawn, (axes,) = figure(width=5.0)
        places = np.arange(len(one.names))
        axes.axhline(0, color="black", linewidth=0.8)
        axes.plot(places, 100 * one.residual_n, MARKERS[0], color=COLOURS[0], label="residual")
        apart = 100 * (np.log(one.loss_n) - np.log(one.left_out_n))
        axes.plot(places, apart, MARKERS[1], color=COLOURS[1], label="predicted by the others")
        axes.set_xticks(places, one.names, rotation=30, ha="right", fontsize=6)
        axes.set(ylabel="loss less the law's, %")
        axes.legend(fontsize=7)
        made[f"residuals_{law.replace(' + ', '_')}"] = drawn
    if found is not None:
        made["prediction"] = _prediction(results, found)
    return made


def _curves(results: Sequence[Result]) -> Figure:
    """Every run's validation loss over its compute, and the least of all at each."""
    drawn, (axes,) = figure(width=5.0, height=3.4)
    lines = {}
    for result in results:
        points = result.curve_points
        flops = [point.flops or 0.0 for point in points]
        lines[f"N = {short_count(result.params)}, D = {short_count(result.tokens)}"] = (
            flops,
            [point.loss for point in points],
        )
    draw_lines(axes, lines, "compute 6 N D, FLOPs", "validation loss, nats per token")
    _draw_frontier(axes, lines)
    spent = [flops for across, _ in lines.values() for flops in across if flops > 0]
    if spent:
        ends = np.array([min(spent), max(spent)])
        label = "GPT-3 on its own text: 2.57 C^-0.048"
        axes.plot(ends, GPT3_C.loss(ends), ":", color="black", linewidth=1, label=label)
    axes.legend(fontsize=5)
    return drawn


def _draw_frontier(axes: Axes, lines: Mapping[str, tuple[list[float], list[float]]]) -> None:
    seen = sorted(pair for across, up in lines.values() for pair in zip(across, up, strict=True))
    best: list[tuple[float, float]] = []
    for flops, loss in seen:
        if not best or loss < best[-1][1]:
            best.append((flops, loss))
    if best:
        axes.plot(*zip(*best, strict=True), color="black", linewidth=2, label="frontier", zorder=5)


def _prediction(results: Sequence[Result], found: Registered) -> Figure:
    drawn, (axes,) = figure(width=5.0)
    places = np.arange(len(found.predictions))
    losses = {result.name: result.loss for result in results if result.loss is not None}
    value = [one.loss for one in found.predictions]
    below = [max(one.loss - one.low, 0.0) for one in found.predictions]
    above = [max(one.high - one.loss, 0.0) for one in found.predictions]
    style: dict[str, Any] = {"color": COLOURS[0], "capsize": 3, "label": "predicted, 95 %"}
    axes.errorbar(places, value, yerr=[below, above], fmt=MARKERS[0], **style)
    there = [place for place in places if found.predictions[place].run in losses]
    if there:
        up = [losses[found.predictions[place].run] for place in there]
        axes.plot(there, up, MARKERS[3], color=COLOURS[1], label="found")
    names = [f"{one.run}\n{one.law}" for one in found.predictions]
    axes.set_xticks(places, names, fontsize=6)
    axes.set(ylabel="validation loss, nats per token", xlim=(-0.5, len(places) - 0.5))
    axes.legend(fontsize=7)
    return drawn


def page(
    name: str,
    results: Sequence[Result],
    fits: Mapping[str, Fit],
    found: Registered | None,
    verdicts: Sequence[Verdict],
) -> str:
    """The report of a study from all its results, those of runs that diverged among them."""
    drawn = figures([one for one in results if one.state == "finished"], fits, found)
    told = [f"<h2>Runs</h2>\n{_table(_runs(results))}"]
    told.append(f"<figure>{as_svg(drawn.pop('loss_against_compute'))}</figure>\n")
    for law, one in fits.items():
        rows: list[Sequence[str]] = [("constant", "value", "95 % from", "to")]
        for constant, part in one.constants().items():
            rows.append((constant, *(f"{number:.4g}" for number in part)))
        told.append(f"<h2>{escape(law)}</h2>\n{_table(rows)}")
        svg = as_svg(drawn[f"residuals_{law.replace(' + ', '_')}"])
        told.append(f"<figure>{svg}</figure>\n")
    if found is not None:
        told.append(f"<h2>Prediction</h2>\n<p>Written down as {found.digest[:12]}.</p>\n")
        told.append(f"<figure>{as_svg(drawn['prediction'])}</figure>\n")
        lines = [f"<li>{escape(in_words(verdict))}</li>" for verdict in verdicts]
        told.append(f"<ul>{''.join(lines)}</ul>\n" if lines else "<p>Not checked yet.</p>\n")
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(name)}</h1>\n"
        f"{''.join(told)}</body></html>\n"
    )


def _runs(results: Sequence[Result]) -> Rows:
    rows = [("run", "N", "with embeddings", "D", "6 N D", "loss", "")]
    for one in results:
        loss = "-" if one.loss is None else f"{one.loss:.4f}"
        counts = (f"{one.params:,}", f"{one.params_total:,}", f"{one.tokens:,}")
        why = f"diverged and left out: {one.why}" if one.why else ""
        rows.append((one.name, *counts, f"{one.flops:.3g}", loss, why))
    return rows


def _table(rows: Rows) -> str:
    head, *body = rows
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in body
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n{lines}</tbody></table>\n"
