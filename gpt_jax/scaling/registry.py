"""A prediction that is written down before the largest run is trained, and checked after it.

prediction.json, beside the study's results, has the losses that the held-out runs are predicted to
come to, and digests of all that this followed from: the study's file, the experiments, the text,
the results of the runs that were fitted, and the prediction itself. Where any of them has changed
since, there is nothing left to check.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_jax.config import Config, InputError, require
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.scaling.fit import Fit, fit
from gpt_jax.scaling.points import Point
from gpt_jax.scaling.results import Result, experiment_digest, finished, result_path
from gpt_jax.scaling.study import Law, Study, compute, params_of, tokens_of
from gpt_jax.train.storage import write_whole


@dataclass(frozen=True)
class Predicted:
    """What a law says of a run that is held out: nats per token, of a single run in 95 %."""

    run: str
    law: str
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Registered:
    """What prediction.json holds."""

    predictions: tuple[Predicted, ...]
    """Of the study's first law before the others."""
    left_out: Mapping[str, str]
    """Runs that diverged, and by which rule."""
    parts: Mapping[str, str]
    """Digests, by what they are of."""
    digest: str
    """Of all of the above."""


@dataclass(frozen=True)
class Verdict:
    """A prediction beside what the run came to."""

    predicted: Predicted
    loss: float | None
    """None of a run that diverged, which is neither hit nor miss."""
    why: str
    """By which rule it diverged."""

    @property
    def hit(self) -> bool | None:
        """Whether the loss is within the interval."""
        if self.loss is None:
            return None
        return self.predicted.low <= self.loss <= self.predicted.high


def seen(study: Study, results: Mapping[str, Result]) -> list[Result]:
    """The results that the study's laws are fitted to: of runs that are not held out, finished."""
    return finished(results[run.name] for run in study.fitted if run.name in results)


def fit_study(study: Study, results: Mapping[str, Result], law: Law) -> Fit:
    """A law fitted to the finished runs that are not held out; L(N, S) to their loss curves."""
    return fit(points_for(law.name, seen(study, results)), law.name, irreducible=law.irreducible)


def points_for(of: str, results: list[Result]) -> list[Point]:
    """What a law or an approach to the frontier is fitted to: the ends of runs, or their curves.

    L(N, S) and the envelope are of curves.
    """
    if of in ("kaplan_ns", "envelope"):
        return [point for result in results for point in result.curve_points]
    return [result.point for result in results]


def register(study: Study, path: Path, folder: Path, results: Mapping[str, Result]) -> Registered:
    """Write the prediction for the study's held-out runs, once.

    Args:
      study: whose.
      path: of its file.
      folder: of its results.
      results: `read_results` of it.

    Raises InputError where there is a prediction already, where a held-out run has been trained,
    where a run is yet to be, or where the runs do not tell a law.
    """
    target = folder / "prediction.json"
    require(
        not target.exists(),
        f"a prediction is written once, and {target} is there: check it (gpt-jax scaling check), "
        "or give the study another name.",
    )
    held_out = study.chosen(study.held_out_names)
    require(
        bool(held_out), f"a prediction is of runs that are held out, and {study.name} has none."
    )
    trained = [run.name for run in held_out if run.name in results]
    require(
        not trained,
        f"a prediction is written before its run is trained, and {', '.join(trained)} has a "
        f"result in {folder}: it predicts nothing any more.",
    )
    missing = [run.name for run in study.fitted if run.name not in results]
    require(
        not missing,
        f"the laws are fitted to all runs but the held-out ones, and {', '.join(missing)} is not "
        "trained yet: gpt-jax scaling run does that.",
    )
    predictions = tuple(
        _predicted(run, law, found)
        for law in study.laws
        for found in (fit_study(study, results, law),)
        for run in held_out
    )
    left_out = {
        run.name: results[run.name].why
        for run in study.fitted
        if results[run.name].state == "diverged"
    }
    parts = parts_of(study, path, results)
    made = Registered(predictions, left_out, parts, _digest([predictions, left_out, parts]))
    write_whole(target, json.dumps(dataclasses.asdict(made), indent=1) + "\n")
    return made


def parts_of(study: Study, path: Path, results: Mapping[str, Result]) -> dict[str, str]:
    """Digests of all that a prediction follows from, by what each is of."""
    parts = {"the study's file": hashlib.sha256(path.read_bytes()).hexdigest()}
    for run in study.runs:
        parts[f"the experiment {run.name}"] = experiment_digest(run)
    fitted = [results[run.name] for run in study.fitted if run.name in results]
    for result in fitted:
        parts[f"the result of {result.name}"] = _digest(dataclasses.asdict(result))
    parts["the text"] = fitted[0].text if fitted else ""
    return parts


def read_registered(folder: Path) -> Registered:
    """The prediction that was written; raises InputError where there is none or it was changed."""
    path = folder / "prediction.json"
    require(
        path.exists(),
        f"what is checked is a prediction, and there is none at {path}: gpt-jax scaling register "
        "writes it.",
    )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        predictions = tuple(Predicted(**one) for one in said["predictions"])
        found = Registered(**said | {"predictions": predictions})
        same = found.digest == _digest([predictions, found.left_out, found.parts])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read as a prediction ({error}): restore it.") from error
    require(
        same,
        f"a prediction stands as it was written, and {path} was changed (digest "
        f"{found.digest[:12]}): restore it.",
    )
    return found


def require_unchanged(found: Registered, now: Mapping[str, str]) -> None:
    """Raise InputError, with what, where anything that a prediction followed from has changed."""
    names = {*found.parts, *now}
    changed = sorted(name for name in names if found.parts.get(name) != now.get(name))
    require(
        not changed,
        "a prediction is checked against the study that it was made by, and since it was written "
        f"{', '.join(changed)} changed: undo that.",
    )


def verdicts(
    study: Study, folder: Path, found: Registered, results: Mapping[str, Result]
) -> list[Verdict]:
    """Each prediction beside the result of its run, kept in check.json too.

    Raises InputError where a held-out run has no result.
    """
    made = []
    for one in found.predictions:
        require(
            one.run in results,
            f"a prediction is checked by its run, and {one.run} has no result in "
            f"{result_path(folder, one.run)}.",
        )
        made.append(Verdict(one, results[one.run].loss, results[one.run].why))
    told = [dataclasses.asdict(verdict) | {"hit": verdict.hit} for verdict in made]
    kept = {"study": study.name, "prediction": found.digest, "verdicts": told}
    write_whole(folder / "check.json", json.dumps(kept, indent=1) + "\n")
    return made


def in_words(verdict: Verdict) -> str:
    """A verdict in a line."""
    one = verdict.predicted
    said = f"{one.run} by {one.law}: {one.loss:.4f} predicted ({one.low:.4f} to {one.high:.4f})"
    if verdict.loss is None:
        return f"{said}, diverged: {verdict.why}; neither hit nor miss"
    off = math.log(verdict.loss / one.loss)
    return f"{said}, {verdict.loss:.4f} found ({off:+.2%}): {'hit' if verdict.hit else 'miss'}"


def _predicted(run: Config, law: Law, found: Fit) -> Predicted:
    values = {
        "params": params_of(run),
        "tokens": tokens_of(run),
        "flops": compute(run),
        "steps": BatchSchedule.of(run).num_steps,
    }
    inputs = [float(values[name]) for name in found.form.inputs]
    loss, low, high = found.predict(*inputs, of_a_run=True)
    return Predicted(run.name, str(law), loss, low, high)


def _digest(value: Any) -> str:
    def plain(part: Any) -> Any:
        return dataclasses.asdict(part)

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=plain).encode()).hexdigest()
