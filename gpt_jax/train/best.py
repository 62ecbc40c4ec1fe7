"""The best validation of a run, and whether waiting for a better one still makes sense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from gpt_jax.config import nearest, require

LOWER = ("loss", "perplexity", "bits_per")
"""In the names of metrics of which less is better."""


def lower_is_better(metric: str) -> bool:
    """Whether less of it is better: of losses, perplexities and bits, and of nothing else."""
    first, *rest = metric.split("/")
    # Of TASK/METRIC the metric says so, of val_loss/SOURCE the beginning: a name that somebody
    # gave, such as glossary, says nothing.
    own = first if first.startswith("val_") or not rest else rest[-1]
    return any(part in own for part in LOWER)


def rank(metric: str, value: float) -> float:
    """What the best value of a metric is the least of; infinite for one that is not finite."""
    if not math.isfinite(value):
        return math.inf
    return value if lower_is_better(metric) else -value


@dataclasses.dataclass
class Best:
    """The best validation so far by one metric; kept in checkpoints as `get_state` gives it."""

    metric: str
    patience: int
    """Validations in a row without a better one after which the run has ended; 0: none ends it."""
    step: int = 0
    """Of the best; 0 before there is one."""
    value: float = math.nan
    waited: int = 0
    """Validations since."""

    def see(self, step: int, record: Mapping[str, float]) -> bool:
        """Take the record of a validation; whether it is the best so far.

        The first is, unless its value is not finite; after it only one that is better, and not one
        that is as good. Raises InputError where the record lacks the metric.
        """
        require(
            self.metric in record,
            f"train.best must be a metric of the validation, and {self.metric!r} is none: "
            f"{nearest(self.metric, record)}",
        )
        value = float(record[self.metric])
        so_far = rank(self.metric, self.value)
        if rank(self.metric, value) < so_far:
            self.step, self.value, self.waited = step, value, 0
            return True
        self.waited += 1
        return False

    @property
    def over(self) -> bool:
        """Whether the run has waited long enough."""
        return 0 < self.patience <= self.waited

    def get_state(self) -> dict[str, Any]:
        """What JSON can hold, for `set_state`."""
        return {"step": self.step, "value": self.value, "waited": self.waited}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` gave; {}, of an older checkpoint, is a beginning."""
        for name, value in state.items():
            setattr(self, name, value)
