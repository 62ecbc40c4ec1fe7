"""Plots that notebooks and the report share: what is drawn is what was given."""

import json
import math
import re

import pytest

from gpt_jax.config import InputError
from gpt_jax.plots import (
    Point,
    as_svg,
    draw_curves,
    draw_lines,
    draw_points,
    figure,
    read_metrics,
    short_count,
    wilson,
)


def lines_of(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_a_curve_has_the_records_with_its_metric(tmp_path):
    records = [
        {"step": 1, "tokens": 10, "loss": 4.0},
        {"step": 2, "tokens": 20, "val_loss": 3.0},
        {"step": 4, "tokens": 40, "val_loss": 2.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn, (axes,) = figure()
    draw_curves(axes, {"a": read_metrics(path), "b": records[:1]}, "val_loss", "loss, nats")
    assert lines_of(axes) == {"a": [(20, 3.0), (40, 2.5)]}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens", "loss, nats")
    assert "loss, nats" in as_svg(drawn)


def test_a_line_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n[1]\n')
    with pytest.raises(InputError, match=r"line 2 of .*metrics\.jsonl"):
        read_metrics(path)


def test_points_have_their_intervals_and_no_shots_a_place():
    drawn, (axes,) = figure()
    points = [Point(16, 0.8, 0.7, 0.95), Point(0, 0.1, 0.05, 0.2)]
    draw_points(axes, {"run": points}, "exact match", "shots")
    segments = axes.containers[0].lines[2][0].get_segments()
    assert [[tuple(end) for end in segment] for segment in segments] == [
        [(0, pytest.approx(0.05)), (0, pytest.approx(0.2))],
        [(16, pytest.approx(0.7)), (16, pytest.approx(0.95))],
    ]
    texts = re.findall(r">([^<>]+)</text>", as_svg(drawn))
    assert {"0", "16", "shots", "exact match"} <= set(texts)


def test_lines_are_drawn_by_their_logarithms_with_what_is_best():
    """The place that is marked is a line of the same colour, without a name of its own."""
    drawn, (axes,) = figure()
    lines = {"32": ([0.1, 0.2], [3.0, 4.0]), "64": ([0.1], [5.0])}
    draw_lines(axes, lines, "learning rate", "loss", log="x", best={"32": 0.15})
    named = lines_of(axes)
    assert named["32"] == [(0.1, 3.0), (0.2, 4.0)]
    assert named["64"] == [(0.1, 5.0)]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    first, mark, _ = axes.lines
    assert list(mark.get_xdata()) == [0.15, 0.15]
    assert mark.get_color() == first.get_color()
    assert "learning rate" in as_svg(drawn)


def test_names_are_text_whatever_is_in_them():
    """A dollar begins no formula, and an angle bracket no element."""
    drawn, (axes,) = figure()
    names = ["cost_$5_$", "<script>alert(1)</script>"]
    draw_points(axes, {name: [Point(1, 0.5, 0.4, 0.6)] for name in names}, "score", "shots")
    svg = as_svg(drawn)
    assert svg.startswith("<svg ")
    assert "cost_$5_$" in svg
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)" in svg


def test_the_interval_of_a_share_is_wilsons():
    """The formula, written out, for 19 of 20; none reaches below 0 or above 1."""
    p, n, z = 0.95, 20, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(p, n) == pytest.approx((centre - half, centre + half))
    assert wilson(0.0, 50)[0] == 0.0
    assert wilson(1.0, 50)[1] == 1.0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (999.6, "1k"),
        (800_000, "800k"),
        (999_999, "1M"),
        (1_234_567, "1.23M"),
        (175e9, "175B"),
    ],
)
def test_counts_are_short(number, text):
    assert short_count(number) == text
