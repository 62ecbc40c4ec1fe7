"""The batch that a run could use, from its gradient noise scale, and the ramp that follows.

McCandlish et al. 2018 (arXiv:1812.06162): a batch of B tokens needs 1 + B_simple / B times the
fewest steps that are possible, and 1 + B / B_simple times the fewest tokens, so that at B_simple
each costs twice its least. It grows while the loss L falls. Kaplan et al. 2020 (arXiv:2001.08361,
equation 5.3) fit B_crit(L) = B* L^(-1/alpha), with B* = 2e8 tokens and alpha = 0.21 for their text
and tokens. The noise scale is as far from B_crit as a factor of some units (McCandlish et al.,
section 2.3), and depends on the learning rate: it is a measure of what to try.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_jax.config import Config, TrainConfig, require
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.train.noise import DECAY

Record = Mapping[str, float]
"""A line of metrics.jsonl."""


class Measured(NamedTuple):
    """A moment of a run."""

    tokens: float
    loss: float
    """Nats per token, averaged over the same last steps as the noise scale."""
    noise_scale: float
    """Tokens."""


@dataclasses.dataclass(frozen=True)
class BatchLaw:
    """B_crit(L) = scale L^(-1/alpha), in tokens and nats per token."""

    scale: float
    """B*: the batch at a loss of 1."""
    alpha: float
    deviation: float
    """Root mean square of the residuals of log B: of what the law does not say."""

    def at(self, loss: float) -> float:
        """Tokens."""
        return self.scale * loss ** (-1 / self.alpha)


KAPLAN = BatchLaw(2e8, 0.21, 0.0)
"""Of WebText2 in GPT-2's tokens: a loss of other tokens is not to be put in."""


def read_records(run: Path) -> list[Record]:
    """The whole lines of a run's metrics.jsonl, while it is trained too."""
    path = run / "metrics.jsonl"
    require(
        path.is_file(),
        f"a run that was trained has metrics, and there is no {path}: give the folder of a run.",
    )
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def measured(records: Sequence[Record], settled: int = 100) -> list[Measured]:
    """What a run with `train.noise_scale` has measured, from its lines of metrics.jsonl.

    The first `settled` steps are left out: the means are of some 50, and the learning rate still
    rises. Raises InputError where nothing is left.
    """
    mean = weight = 0.0
    last, found = 0, []
    for record in records:
        if "loss" not in record or "noise_scale" not in record:
            continue
        kept = DECAY ** (record["step"] - last)
        mean, weight = kept * mean + (1 - kept) * record["loss"], kept * weight + 1 - kept
        last = record["step"]
        if record["step"] > settled and record["noise_scale"] > 0:
            found.append(Measured(record["tokens"], mean / weight, record["noise_scale"]))
    require(
        len(found) >= 3,
        f"a law of the batch needs 3 measurements of a noise scale after step {settled}, and there "
        f"are {len(found)}: train with --train.noise-scale True, for longer or with a smaller "
        "--train.log-every.",
    )
    return found


def fit(points: Sequence[Measured]) -> BatchLaw:
    """Least squares of log B on log L.

    Neighbouring measurements share most of their steps, so that no interval is given. Raises
    InputError where the noise scale does not grow as the loss falls.
    """
    x, y = (np.log([getattr(p, name) for p in points]) for name in ("loss", "noise_scale"))
    slope, level = np.polyfit(x, y, 1)
    require(
        slope < 0,
        "the batch law has a noise scale that grows while the loss falls, and here it goes with "
        f"the loss to the power of {slope:.2f}: measure for longer.",
    )
    deviation = float(np.sqrt(np.mean((level + slope * x - y) ** 2)))
    return BatchLaw(float(np.exp(level)), float(-1 / slope), deviation)


def ramp(law: BatchLaw, points: Sequence[Measured], config: Config) -> TrainConfig:
    """`config.train` with the batch and the ramp that follow the law along a run's loss.

    The ramp is GPT-3's, linear in tokens (section 2.3): from the law's batch at the first of the
    points to that at the last. Both are powers of two of sequences, the nearest; the ramp's length
    is the one nearest to the law's logarithms over the points.
    """
    length = config.sequence_length
    start, full = (_sequences(law.at(p.loss), length) for p in (points[0], points[-1]))
    if start >= full:
        return dataclasses.replace(
            config.train, batch_tokens=full, ramp_start_tokens=0, ramp_tokens=0
        )
    wanted = np.log([law.at(p.loss) for p in points])
    tokens = np.array([p.tokens for p in points])

    def distance(ramp_tokens: float) -> float:
        share = np.minimum(tokens / ramp_tokens, 1.0)
        return float(np.square(np.log(start + (full - start) * share) - wanted).mean())

    best = min(np.linspace(tokens[-1] / 100, tokens[-1], 100), key=distance)
    return dataclasses.replace(
        config.train,
        batch_tokens=full,
        ramp_start_tokens=start,
        ramp_tokens=max(length, round(best / length) * length),
        device_batch_tokens=min(config.train.device_batch_tokens, start),
    )


def _sequences(tokens: float, length: int) -> int:
    """The power of two of sequences that is nearest by its logarithm, in tokens."""
    return length * 2 ** max(0, round(math.log2(tokens / length)))


def steps_and_tokens(law: BatchLaw, loss: float, batch: float) -> tuple[float, float]:
    """How many times the fewest steps, and the fewest tokens, a batch of that many tokens costs.

    McCandlish et al., equation 2.7, at one loss.
    """
    noise = law.at(loss)
    return 1 + noise / batch, 1 + batch / noise


def batches(config: Config) -> tuple[list[int], list[int]]:
    """The schedule of an experiment: tokens at the start of each step, and its batch in tokens."""
    schedule, length = BatchSchedule.of(config), config.sequence_length
    steps = range(schedule.num_steps)
    return [schedule.start(n) * length for n in steps], [schedule.size(n) * length for n in steps]
