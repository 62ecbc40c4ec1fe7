"""A small GPT that has read Python's standard library and sums: what the addition runs start from.

    gpt-jax train experiments/stdlib_arithmetic.py

The text is bytes, so that every digit is a token. Sums stand in it in many forms, never as the
question of the task addition_2, and none of the problems that are the task's test in any form.

0.8 M parameters; two CPU cores, 12 minutes beside other work (7 at the 14,400 tokens/s that
`gpt-jax bench` measures at rest): validation loss 1.03, 1.49 bits per byte. It answers none of the
task's 1,981 questions.
"""

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.data.tasks.arithmetic import is_test
from gpt_jax.presets import for_cpu

DOCUMENTS = 12_000
"""Of arithmetic; a quarter of the text."""
LINES = 24
"""In each of them."""
SUMS = (
    "{a}+{b}={sum}",
    "{a} + {b} = {sum}",
    "{a} plus {b} is {sum}.",
    "The sum of {a} and {b} is {sum}.",
    "assert {a} + {b} == {sum}",
    "{sum} - {b} = {a}",
    "{a} more than {b} is {sum}.",
)


def arithmetic() -> Iterator[str]:
    """Documents of lines that add, count and compare numbers below 100."""
    draw = random.Random(0)
    for _ in range(DOCUMENTS):
        yield "".join(f"{_line(draw)}\n" for _ in range(LINES))


def _line(draw: random.Random) -> str:
    a, b = draw.randrange(100), draw.randrange(100)
    kind = draw.randrange(10)
    if kind == 0:
        return ", ".join(str(a + i) for i in range(8)) + "."
    if kind == 1:
        return f"{a} {'<' if a < b else '>' if a > b else '='} {b}"
    while is_test("addition_2", (a, b)):
        a, b = draw.randrange(100), draw.randrange(100)
    return draw.choice(SUMS).format(a=a, b=b, sum=a + b)


def get_config() -> Config:
    """4 layers of width 128, in batches of 64 windows of 128 bytes."""
    model = ModelConfig(context_length=128, num_layers=4, embed_dim=128, num_heads=4)
    return Config(
        name="stdlib_arithmetic",
        model=dataclasses.replace(for_cpu(model), position_encoding="rotary_halves"),
        data=DataConfig(
            files=("stdlib:", f"python:{Path(__file__).absolute()}:arithmetic"),
            tokenizer="bytes",
            validation_fraction=0.02,
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup_tokens=200_000),
        train=TrainConfig(
            total_tokens=6_000_000,
            batch_tokens=64 * 128,
            eval_every=100,
            eval_tokens=100_000,
            sample_prompt="7 + 5 = ",
            sample_tokens=100,
        ),
    )
