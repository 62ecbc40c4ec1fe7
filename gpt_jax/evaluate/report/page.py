"""Scores to one HTML page that needs nothing else: for each task its plots and its table."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from html import escape
from typing import TypeVar

from gpt_jax.evaluate.report.read import Score
from gpt_jax.plots import Point, as_svg, draw_points, figure, short_count

K = TypeVar("K", bound=Hashable)
Labels = Mapping[tuple[str, str, int | None], str]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { border-bottom: 1px solid #ddd; padding: .25em .8em; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.missing { color: #999; text-align: center; }
.interval, .about { color: #666; }
figure { margin: 1em 0; overflow-x: auto; }
"""


def page(scores: Sequence[Score], files: Sequence[str]) -> str:
    """The report of all scores, which the JSON files named `files` gave."""
    labels = run_labels(scores)
    tasks = [section(name, list(of), labels) for name, of in _grouped(scores, lambda s: s.task)]
    seeds = _listed(sorted({score.seed for score in scores}))
    read = "".join(f"<li>{escape(name)}</li>" for name in files)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8"><title>gpt_jax: evaluations</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>Evaluations</h1>\n"
        f'<p class="about">{len(tasks)} tasks, {len(labels)} runs, seeds {seeds}. Intervals are '
        f"bootstrap intervals of 95 %. Read from:</p><ul>{read}</ul>\n"
        f"{''.join(tasks)}</body></html>\n"
    )


def run_labels(scores: Iterable[Score]) -> dict[tuple[str, str, int | None], str]:
    """What each run is called: its name, with what tells it from another of that name."""
    runs = {score.origin: score for score in scores}
    labels = {}
    for origin, score in runs.items():
        same = [other for other in runs.values() if other.run == score.run]
        parts = [score.run]
        if len({other.step for other in same}) > 1 and score.step is not None:
            parts.append(f"step {score.step:,}")
        if len({(other.step, other.file) for other in same}) > len({o.step for o in same}):
            parts.append(score.file)
        labels[origin] = ", ".join(parts)
    return labels


def section(name: str, scores: list[Score], labels: Labels) -> str:
    """What is told of one task."""
    versions = sorted({score.version for score in scores})
    told = [f"<h2>{escape(name)}</h2>\n"]
    if len(versions) > 1:
        told.append(
            f'<p class="about">The prompt was asked in versions {escape(_listed(versions))}, whose '
            "scores do not compare: each has its own plots.</p>\n"
        )
    for version in versions:
        of_version = [score for score in scores if score.version == version]
        main = [score for score in of_version if score.metric == of_version[0].metric]
        told.append(f'<p class="about">Prompt version {escape(version)}.</p>\n')
        told.append(_plots(main, labels))
        told.append(_table(of_version, labels))
        told.append(_contamination(of_version, labels))
    return "".join(told)


def _plots(scores: list[Score], labels: Labels) -> str:
    """The main metric over shots, and over sizes where there are several."""
    found = [score for score in scores if score.value is not None]
    if not found:
        return '<p class="about">There is no score to draw.</p>\n'
    seeds = {score.seed for score in found}

    def with_seed(name: str, score: Score) -> str:
        return f"{name}, seed {score.seed}" if len(seeds) > 1 else name

    over_shots = _curves((with_seed(labels[s.origin], s), s.shots, s) for s in found)
    over_sizes = _curves((with_seed(f"{s.shots} shots", s), s.parameters, s) for s in found)
    sizes = {score.parameters for score in found}
    drawn, axes = figure(1 + (len(sizes) > 1))
    metric = found[0].metric.replace("_", " ")
    draw_points(axes[0], over_shots, metric, "shots")
    if len(sizes) > 1:
        draw_points(axes[1], over_sizes, metric, "parameters")
    return f"<figure>{as_svg(drawn)}</figure>\n"


def _curves(points: Iterable[tuple[str, float, Score]]) -> dict[str, list[Point]]:
    curves: dict[str, list[Point]] = {}
    for name, x, score in points:
        assert score.value is not None
        low, high = score.low, score.high
        point = Point(x, score.value, *(score.value if end is None else end for end in (low, high)))
        curves.setdefault(name, []).append(point)
    return curves


def _table(scores: list[Score], labels: Labels) -> str:
    """A row for each run, metric and seed; a column for each number of shots."""
    shots = sorted({score.shots for score in scores})
    head = ["run", "parameters", "step", "metric", "seed", *(f"{n} shots" for n in shots)]
    rows = []
    for (origin, metric, seed), of in _grouped(scores, lambda s: (s.origin, s.metric, s.seed)):
        by_shots = {score.shots: score for score in of}
        first = next(iter(by_shots.values()))
        step = "-" if first.step is None else f"{first.step:,}"
        about = [labels[origin], short_count(first.parameters), step, metric, seed]
        cells = [f"<td>{escape(str(value))}</td>" for value in about]
        rows.append("".join([*cells, *(_cell(by_shots.get(n)) for n in shots)]))
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>\n{body}</tbody></table>\n"


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return '<td class="missing" title="not measured">missing</td>'
    interval = ""
    if score.low is not None and score.high is not None:
        interval = f"[{score.low:.4g}, {score.high:.4g}] "
    return (
        f'<td class="number">{score.value:.4g} '
        f'<span class="interval">{interval}n={score.examples:,}</span></td>'
    )


def _contamination(scores: list[Score], labels: Labels) -> str:
    """What each run's training text is known to hold of the task."""
    by_line = _grouped(scores, lambda score: score.contamination)
    told = [
        f"{escape(_listed(dict.fromkeys(labels[score.origin] for score in of)))}: {escape(line)}"
        for line, of in by_line
    ]
    return f'<p class="about">Contamination. {"; ".join(told)}</p>\n'


def _grouped(scores: Iterable[Score], key: Callable[[Score], K]) -> Iterable[tuple[K, list[Score]]]:
    """Scores of one key together, in the order in which the keys came first."""
    groups: dict[K, list[Score]] = {}
    for score in scores:
        groups.setdefault(key(score), []).append(score)
    return groups.items()


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
