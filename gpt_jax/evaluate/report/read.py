"""The scores in the JSON files that `gpt-jax evaluate` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from gpt_jax.config import InputError, require


@dataclass(frozen=True)
class Score:
    """A metric of a task, for a run and a number of shots."""

    file: str
    """Where it was read."""
    run: str
    step: int | None
    """None of a model that is of no run."""
    parameters: int
    task: str
    version: str
    """Of the prompt."""
    metric: str
    shots: int
    seed: int
    examples: int
    value: float | None
    """None: it could not be had, such as a BLEU of nothing."""
    low: float | None
    """Of the interval, as `high`; None where there is none."""
    high: float | None
    contamination: str
    """What is known of the task in the training text."""

    @property
    def origin(self) -> tuple[str, str, int | None]:
        """What tells the run from the others on the page."""
        return self.file, self.run, self.step


def read_scores(paths: Sequence[Path]) -> list[Score]:
    """All scores of the files, in their order.

    Raises InputError with the file, and what is wrong there, where one is not as `gpt-jax evaluate`
    writes it.
    """
    scores = []
    for name, path in zip(_names(paths), paths, strict=True):
        try:
            scores += _of_document(name, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:  # JSON's and Unicode's errors are ValueErrors
            said = f"{error.strerror}" if isinstance(error, OSError) else f"{error}"
            raise InputError(
                f"a report is made of files that `gpt-jax evaluate --json` wrote, and {path} is "
                f"none: {said.rstrip('.')}."
            ) from error
    return scores


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names, with their folders where names alone do not tell them apart."""
    names = [path.name for path in paths]
    return [path.name if names.count(path.name) == 1 else str(path) for path in paths]


def _of_document(file: str, document: Any) -> list[Score]:
    run, parameters, results = (
        _member(document, name, kind, "the file")
        for name, kind in (("run", str), ("parameters", int), ("results", list))
    )
    step = None if document.get("step", 0) is None else _member(document, "step", int, "the file")
    return [
        Score(file, PurePath(run).name, step, parameters, *score)
        for place, exam in enumerate(results)
        for score in _of_exam(exam, f"results[{place}]")
    ]


def _of_exam(exam: Any, where: str) -> Iterator[tuple]:
    """What is told of a task, of all examples and of those that training had not seen."""
    texts = ("task", "prompt_version", "contamination")
    task, version, contamination = (_member(exam, name, str, where) for name in texts)
    shots, seed = (_member(exam, name, int, where) for name in ("shots", "seed"))
    for part, count, remark in (
        ("metrics", "examples", ""),
        ("clean", "clean_examples", ", clean"),
    ):
        if part == "clean" and part not in exam:
            continue
        examples = _member(exam, count, int, where)
        for metric, found in _member(exam, part, dict, where).items():
            at = f"{where}.{part}.{metric}"
            ends = (_number(found, name, at) for name in ("value", "low", "high"))
            yield task, version, metric + remark, shots, seed, examples, *ends, contamination


def _member(of: Any, name: str, kind: type, where: str) -> Any:
    """A member of an object; raises InputError where it is missing or of another type."""
    require(isinstance(of, dict), f"{where} is no object but {_short(of)}")
    require(name in of, f"{where} has no {name!r}")
    value = of[name]
    right = isinstance(value, kind) and not isinstance(value, bool)
    require(right, f"{name!r} of {where} is {_short(value)}")
    return value


def _number(of: Any, name: str, where: str) -> float | None:
    """A finite number, or None for null and what is not finite."""
    require(isinstance(of, dict) and name in of, f"{where} has no {name!r}")
    value = of[name]
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(number, f"{name!r} of {where} is {_short(value)}")
    return float(value) if math.isfinite(value) else None


def _short(value: Any) -> str:
    return json.dumps(value)[:60]
