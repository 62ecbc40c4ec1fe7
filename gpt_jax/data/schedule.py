"""Which samples each step draws: arithmetic on the step number, the same on any devices.

A sample is one window of `sequence_length` tokens. Step n draws samples [start(n), start(n+1)).
GPT-3 grows its batch linearly in tokens from 32 k (section 2.3); here it grows in whole multiples
of the starting batch, so that every batch is a whole number of samples.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from gpt_jax.config import Config


@dataclass(frozen=True)
class BatchSchedule:
    """The batch of every step, in samples."""

    full: int
    """Samples of a batch once the ramp is over."""
    total: int
    """Samples after which the run is over; the last batch is whole, so it may end a little past."""
    ramp_starts: tuple[int, ...]
    """First sample of each step of the ramp, and of the first full step after it."""

    @classmethod
    def of(cls, config: Config) -> BatchSchedule:
        length, train = config.sequence_length, config.train
        full = train.batch_tokens // length
        start, ramp = train.ramp_start_tokens // length, train.ramp_tokens / length
        starts = [0]
        while start and starts[-1] < ramp:
            grown = start + (full - start) * starts[-1] / ramp
            starts.append(starts[-1] + int(grown) // start * start)
        return cls(full, -(-train.total_tokens // length), tuple(starts))

    def start(self, step: int) -> int:
        """Samples drawn before step `step`: the position in the data is this one number."""
        ramp_steps = len(self.ramp_starts) - 1
        if step <= ramp_steps:
            return self.ramp_starts[step]
        return self.ramp_starts[-1] + (step - ramp_steps) * self.full

    def size(self, step: int) -> int:
        """Samples in the batch of step `step`."""
        return self.start(step + 1) - self.start(step)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        if self.total <= self.ramp_starts[-1]:
            return bisect.bisect_left(self.ramp_starts, self.total)
        return len(self.ramp_starts) - 1 + -(-(self.total - self.ramp_starts[-1]) // self.full)
