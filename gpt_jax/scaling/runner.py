"""Trains the runs of a study one after the other, and keeps what they come to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from gpt_jax.config import Config, require
from gpt_jax.data.built import open_built
from gpt_jax.data.corpus import prepare
from gpt_jax.scaling.results import Result, gather, read_results, write_result
from gpt_jax.scaling.study import Study
from gpt_jax.train.loop import Diverged, train


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A signal ended the training of a run, which goes on with the same call."""

    run: str
    signal: str


def run_runs(
    study: Study,
    runs: Sequence[Config],
    folder: Path,
    workdir: Path,
    say: Callable[[str], None] = print,
) -> Stopped | None:
    """Train what has no result yet of these runs of a study, in their order.

    Stopped anywhere, the same call goes on: a run with a result is not touched, and a run without
    one goes on from its last checkpoint. A run that diverged has a result that says so.

    Args:
      study: whose runs they are.
      runs: which of them.
      folder: of the study's results.
      workdir: each run's own folder is in it, by the run's name.
      say: told of progress.

    Returns who was stopped by a signal, or None. Raises InputError where the results or a run's
    folder are of another experiment or text, or a run cannot be trained.
    """
    results = read_results(study, folder)
    left = [run for run in runs if run.name not in results]
    say(f"{len(runs) - len(left)} of {len(runs)} runs are in {folder}")
    if not left:
        return None
    text = text_digest(left[0], say)
    _require_text(results, text)
    for number, run in enumerate(left, 1):
        say(f"run {number} of {len(left)}: {workdir / run.name}")
        result = _trained(run, workdir / run.name, text)
        if isinstance(result, Stopped):
            return result
        write_result(folder, result)
        say(described(result))
        jax.clear_caches()  # the next run is another program, and memory is the larger models'
    return None


def text_digest(run: Config, say: Callable[[str], None] = lambda _: None) -> str:
    """Of the text of a run, its tokenizer and its split, as checkpoints have it."""
    return (open_built(run) if run.data.corpus else prepare(run, say)).digest


def described(result: Result) -> str:
    """A result in a line."""
    if result.state == "diverged":
        return f"{result.name} diverged and is left out: {result.why}."
    return f"{result.name}: validation loss {result.loss:.4f}, {result.seconds:.0f} s"


def _trained(run: Config, path: Path, text: str) -> Result | Stopped:
    gave_up = False
    try:
        outcome = train(run, path)
        if outcome.stopped_by:
            return Stopped(run.name, outcome.stopped_by)
    except Diverged:
        gave_up = True
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    devices = jax.devices()
    device = f"{len(devices)} x {devices[0].device_kind}"
    return gather(run, [json.loads(line) for line in lines], text, device, gave_up)


def _require_text(results: dict[str, Result], text: str) -> None:
    """Raise InputError where the results are of another text than there is now."""
    for result in results.values():
        require(
            result.text == text,
            "losses compare on the same text, and the text, its tokenizer or its split has changed "
            f"since {result.name} was trained (digest {result.text[:12]} then, {text[:12]} now): "
            "bring it back, or remove all results.",
        )
