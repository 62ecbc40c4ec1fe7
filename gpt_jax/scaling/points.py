"""The runs that a law is fitted to: one point each, read from a CSV or made by a study."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt_jax.config import InputError, require

NUMBERS = ("params", "tokens", "flops", "loss", "params_total", "steps", "batch")
"""The columns of a CSV that are read as numbers."""


@dataclass(frozen=True)
class Point:
    """What one run was and what it came to; None is what is not known of it."""

    name: str
    loss: float
    """Nats per token."""
    params: float | None = None
    """N, without embeddings."""
    tokens: float | None = None
    """D, of training."""
    flops: float | None = None
    """C, of training."""
    params_total: float | None = None
    """With embeddings."""
    steps: float | None = None
    batch: float | None = None
    """Tokens in a step."""


@dataclass(frozen=True)
class Columns:
    """What a CSV calls its columns. None: the default name, where the file has it."""

    params: str | None = None
    tokens: str | None = None
    flops: str | None = None
    loss: str | None = None
    params_total: str | None = None
    steps: str | None = None
    batch: str | None = None
    name: str | None = None


def read_csv(path: Path, columns: Columns | None = None) -> list[Point]:
    """The points of a CSV with a line of column names: one for each line after it.

    Of tokens and FLOPs the one that has no column follows from C = 6 N D, where the parameters are
    known, and steps from tokens and batch. An empty cell is a value that is not known. Raises
    InputError, with file and line, for a value that is no positive finite number, and for lines and
    column names that make no table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"the points are a CSV file in UTF-8, and {path} cannot be read as one: {error}."
        ) from error
    header = [name.strip() for name in (rows[0][1] if rows else [])]
    places = _places(header, columns or Columns(), path)
    points = []
    for number, row in rows[1:]:
        where = f"line {number} of {path}"
        require(
            len(row) == len(header),
            f"each line has a value for each column, and {where} has {len(row)} for "
            f"{len(header)}: {','.join(row)!r}.",
        )
        values = {
            name: _number(row[place], header[place], where)
            for name, place in places.items()
            if name != "name" and (row[place].strip() or name == "loss")
        }
        name = row[places["name"]].strip() if "name" in places else f"line {number}"
        points.append(_completed(Point(name=name, **values)))
    require(bool(points), f"a CSV has a line for each run, and {path} has none below its header.")
    return points


def column(points: Sequence[Point], name: str) -> NDArray[np.float64]:
    """One field of all points, float64 (n,); raises InputError where a point does not have it."""
    values = [getattr(point, name) for point in points]
    for point, value in zip(points, values, strict=True):
        require(
            value is not None,
            f"the law needs {name} of every run, and {point.name} has none: give the column that "
            f"has it with --{name}{_OR.get(name, '')}.",
        )
    return np.array(values, np.float64)


_OR = {
    "tokens": ", or --flops and --params, of which tokens follow by C = 6 N D",
    "flops": ", or --tokens and --params, of which FLOPs follow by C = 6 N D",
    "steps": ", or --tokens and --batch, of which steps follow",
}


def _places(header: list[str], columns: Columns, path: Path) -> dict[str, int]:
    """Where in a line each field is, of the fields that have a column."""
    require(
        len(set(header)) == len(header),
        f"each column has a name of its own, and {path} begins with {','.join(header)!r}.",
    )
    places = {}
    for item in fields(columns):
        asked = getattr(columns, item.name)
        require(
            asked is None or asked in header,
            f"--{item.name.replace('_', '-')} names a column, and {path} has no {asked!r}: it has "
            f"{', '.join(header)}.",
        )
        if (asked or item.name) in header:
            places[item.name] = header.index(asked or item.name)
    require(
        "loss" in places,
        f"a law is fitted to losses, and {path} has no column 'loss': name it with --loss; it has "
        f"{', '.join(header)}.",
    )
    twice = {place for place in places.values() if list(places.values()).count(place) > 1}
    require(
        not twice,
        f"a column is one thing, and {', '.join(header[place] for place in twice)!r} of {path} is "
        f"taken as {' and '.join(name for name, place in places.items() if place in twice)}.",
    )
    return places


def _number(cell: str, name: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    require(
        math.isfinite(value) and value > 0,
        f"{name} must be a positive number, and {where} has {cell!r}: correct the line, or take it "
        "out where the run diverged or was not finished.",
    )
    return value


def _completed(point: Point) -> Point:
    """The point with what follows from what is known of it."""
    values = vars(point).copy()
    params, tokens, flops = point.params, point.tokens, point.flops
    if params is not None and tokens is None and flops is not None:
        values["tokens"] = flops / (6 * params)
    if params is not None and tokens is not None and flops is None:
        values["flops"] = 6 * params * tokens
    if point.steps is None and point.batch is not None and values["tokens"] is not None:
        values["steps"] = values["tokens"] / point.batch
    return Point(**values)
