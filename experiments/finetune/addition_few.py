"""addition.py with few problems to learn from: as far as 1,000 answers that are shown carry.

gpt-jax train experiments/stdlib_arithmetic.py --workdir runs/stdlib_arithmetic
gpt-jax train experiments/finetune/addition_few.py --workdir runs/addition_few

Two CPU cores, 3 minutes beside other work: 0.68 of the test's questions are answered.
addition_reinforce.py goes on from there.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import Config
from gpt_jax.data.tasks.arithmetic import examples
from gpt_jax.experiment import defined

PROBLEMS = 1000


def problems() -> Iterator[dict[str, str]]:
    """The first of those that addition.py learns, as {"prompt", "target"}."""
    yield from examples("addition_2", PROBLEMS)


def get_config() -> Config:
    """It ends when the match on unseen problems has not grown for a while."""
    base = defined(Path(__file__).with_name("addition.py"))
    files = (f"python:{Path(__file__).absolute()}:problems",)
    return dataclasses.replace(
        base,
        name="addition_few",
        data=dataclasses.replace(base.data, files=files),
        train=dataclasses.replace(base.train, total_tokens=1_000_000, eval_every=50, patience=5),
    )
