"""What the runs of a study came to: a JSON file for each, beside the study, without its weights.

They are kept in results/NAME/runs/ in the folder of the study's file, one file a run, so that
several machines may each make a part of a study.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_jax.config import Config, InputError, flatten, require
from gpt_jax.scaling.points import Point
from gpt_jax.scaling.study import (
    Study,
    compute,
    model_flops,
    params_of,
    params_total_of,
    tokens_of,
)
from gpt_jax.train.run import is_free
from gpt_jax.train.storage import write_whole

GAVE_UP = "its trainer gave up: too many updates in a row were not finite"
NOT_FINITE = "its last validation loss is not finite"
NO_LOWER = "its last validation loss is not below its first training loss"
"""The rules by which a run has diverged and is left out of every fit."""


@dataclass(frozen=True)
class Validation:
    """A point of a run's loss curve."""

    step: int
    tokens: int
    loss: float
    """Of the validation text, nats per token."""


@dataclass(frozen=True)
class Result:
    """One run and what it came to."""

    name: str
    state: Literal["finished", "diverged"]
    why: str
    """By which rule it has diverged."""
    loss: float | None
    """Of the validation text, nats per token; None of a run that diverged."""
    params: int
    """N, without embeddings."""
    params_total: int
    tokens: int
    """D, of training."""
    flops: float
    """C = 6 N D."""
    model_flops: float
    """With attention and the output layer, as MFU counts."""
    batch: int
    """Tokens in a step, after any ramp."""
    steps: int
    learning_rate: float
    seed: int
    seconds: float
    """Of training alone."""
    device: str
    experiment: str
    """Digest of the config, less what may change when a run is continued."""
    text: str
    """Digest of the text, its tokenizer and its split."""
    curve: tuple[Validation, ...]

    @property
    def point(self) -> Point:
        """The run's end, for a fit; InputError of one that diverged."""
        require(self.loss is not None, f"{self.name} has diverged ({self.why}) and has no loss.")
        assert self.loss is not None
        return self._at(self.name, self.steps, self.tokens, self.loss)

    @property
    def curve_points(self) -> list[Point]:
        """The points of the loss curve, for L(N, S) and the envelope."""
        return [
            self._at(f"{self.name} at step {at.step}", at.step, at.tokens, at.loss)
            for at in self.curve
        ]

    def _at(self, name: str, step: int, tokens: int, loss: float) -> Point:
        return Point(
            name=name,
            loss=loss,
            params=self.params,
            tokens=tokens,
            flops=self.flops * tokens / self.tokens,
            params_total=self.params_total,
            steps=step,
            batch=self.batch,
        )


def folder_of(study: Study, path: Path) -> Path:
    """Where results, prediction and check of the study in the file `path` are."""
    return path.parent / "results" / study.name


def experiment_digest(run: Config) -> str:
    """Of all that decides what a run computes, but for the text, which has a digest of its own."""
    told = {
        name: value
        for name, value in flatten(run).items()
        if not is_free(name) and name != "data.files"  # which may be of one machine
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def read_results(study: Study, folder: Path) -> dict[str, Result]:
    """The results that there are, by the names of the runs, in the study's order.

    Raises InputError where a file is none, where one is of another experiment than the study has
    by that name, or where two are of different texts.
    """
    results = {}
    for run in study.runs:
        path = result_path(folder, run.name)
        if not path.exists():
            continue
        result = _read(path)
        require(
            result.name == run.name and result.experiment == experiment_digest(run),
            f"a result is of the run that the study has by its name, and {path} is of another "
            "experiment: undo the change of the study, or remove the file and the run's folder.",
        )
        results[run.name] = result
    texts = {result.text: result.name for result in results.values()}
    require(
        len(texts) <= 1,
        "losses compare on the same text, and the results of "
        f"{' and '.join(texts.values())} are of different ones: remove those of one of them.",
    )
    return results


def write_result(folder: Path, result: Result) -> None:
    """Keep a result, whole or not at all."""
    path = result_path(folder, result.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def result_path(folder: Path, name: str) -> Path:
    return folder / "runs" / f"{name}.json"


def finished(results: Iterable[Result]) -> list[Result]:
    """Those that a fit is made of."""
    return [result for result in results if result.state == "finished"]


def gather(
    run: Config, records: Sequence[Mapping[str, Any]], text: str, device: str, gave_up: bool
) -> Result:
    """The result of a run from the lines of its metrics.jsonl.

    Args:
      run: its experiment.
      records: all lines, in their order.
      text: digest of its corpus.
      device: what it ran on.
      gave_up: whether the trainer did, after `train.max_skipped_in_row`.
    """
    validations = [record for record in records if "val_loss" in record]
    curve = tuple(
        Validation(record["step"], record["tokens"], record["val_loss"])
        for record in validations
        if math.isfinite(record["val_loss"])
    )
    last = records[-1]
    # With patience the run goes on past its best step, and is that step.
    best = validations[-1:]
    if run.train.patience and curve:
        best = [min(validations, key=lambda record: _or_infinite(record["val_loss"]))]
    loss = best[0]["val_loss"] if best else math.nan
    why = diverged(gave_up, records, loss)
    end = best[0] if best and not why else last
    share = end["tokens"] / tokens_of(run)
    return Result(
        name=run.name,
        state="diverged" if why else "finished",
        why=why,
        loss=None if why else loss,
        params=params_of(run),
        params_total=params_total_of(run),
        tokens=end["tokens"],
        flops=compute(run) * share,
        model_flops=model_flops(run) * share,
        batch=run.train.batch_tokens,
        steps=end["step"],
        learning_rate=run.optimizer.learning_rate,
        seed=run.train.seed,
        seconds=_training_seconds(records),
        device=device,
        experiment=experiment_digest(run),
        text=text,
        curve=curve,
    )


def diverged(gave_up: bool, records: Sequence[Mapping[str, Any]], loss: float) -> str:
    """By which rule a run with these records and this last validation loss diverged; "" if none."""
    if gave_up:
        return GAVE_UP
    if not math.isfinite(loss):
        return NOT_FINITE
    # A first loss that is not finite, or is the last one too, says nothing of where it started.
    first = records[0]["loss"]
    return NO_LOWER if len(records) > 1 and math.isfinite(first) and loss >= first else ""


def _or_infinite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _training_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """What the rates say that the tokens between the lines took."""
    seconds, before = 0.0, 0
    for record in records:
        seconds += (record["tokens"] - before) / max(record["tokens_per_second"], 1e-9)
        before = record["tokens"]
    return seconds


def _read(path: Path) -> Result:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        curve = tuple(Validation(**point) for point in values["curve"])
        return Result(**values | {"curve": curve})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is the result of a run as `gpt-jax scaling run` writes it, and cannot be read "
            f"as one ({type(error).__name__}: {error}): restore it, or remove it and run it again."
        ) from error
