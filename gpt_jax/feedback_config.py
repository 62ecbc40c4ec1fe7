"""Learning from feedback as frozen data: from pairs of answers, or from a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpt_jax.fields import require, require_positive, require_types


@dataclass(frozen=True)
class FeedbackConfig:
    """What is learned from, besides text and examples; the default is nothing."""

    method: Literal["", "dpo", "reinforce"] = ""
    """dpo: of two answers to a prompt, data.target is to become likelier against data.rejected.
    reinforce: answers to data.prompt are drawn from the model, and those of higher reward are to
    become likelier. Both hold the model near to what it was at the start of the run."""
    beta: float = 0.1
    """How near: DPO's beta, and what the KL divergence from the start weighs against the reward."""
    reward: str = ""
    """exact:FIELD, 1 for what a field of the record says; match:PATTERN, 1 where a regular
    expression is found; length:N, 1 at N characters and less the further from it; tests:FIELD, 1
    for a program that passes the tests in a field, and continued_tests:FIELD for one that prompt
    and answer make together; python:PATH.py:FUNCTION, called as f(prompt, completion, record)."""
    reward_seconds: float = 30.0
    """After which a reward of python: or match: is given up; its sample is left out."""
    group: int = 4
    """Samples of each prompt in a batch; a batch is train.batch_tokens of them, each counted as a
    whole sequence."""
    baseline: Literal["leave_one_out", "running_mean"] = "leave_one_out"
    """What a reward is compared with: the mean of the others of its group (RLOO, Ahmadian et al.
    2024), or that of the batches before."""
    temperature: float = 1.0
    """Of sampling; the policy that is trained is the model at this temperature."""
    max_new_tokens: int = 64
    """Of a sample; a longer one is cut, and has not ended."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "group", "max_new_tokens", "temperature", "reward_seconds")
        require(self.beta >= 0, f"beta must not be negative: {self.beta}.")
        require(
            (self.method == "reinforce") == bool(self.reward),
            f"a reward is of method='reinforce', which needs one, and method={self.method!r} has "
            f"reward={self.reward!r}.",
        )
        require(
            self.method != "dpo" or self.beta > 0,
            "DPO's beta must be positive, and it is 0: with it every model would do.",
        )
        require(
            self.group > 1 or self.baseline != "leave_one_out" or self.method != "reinforce",
            "a group of 1 has no others to compare with: raise feedback.group, or set "
            "--feedback.baseline running_mean.",
        )
