r"""The arithmetic of the paper's section 3.9.1, in the form of OpenAI's published files.

Those are data/*.jsonl of github.com/openai/gpt-3, with lines such as

    {"context": "\n\nQ: What is 98 plus 45?\n\nA:", "completion": " 143"}

whose first two line breaks are what stands between shots. Numbers of n digits are drawn evenly from
[0, 10^n), so that a difference may be negative. A composite is "(9 + 8) * 2", with digits from 1 to
9: the text of the paper says [0, 10), with brackets around the last two; its files and its figure
G.42 do neither, and we do as the files.

Whether a problem is of the test or to learn from says a hash of the problem itself, whatever the
seed and whichever task asks it; its mirror image, 45 plus 98, is on the same side.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from gpt_jax.config import nearest, require
from gpt_jax.data.sources import is_held_out
from gpt_jax.data.tasks.task import Question, Split, Task

TEST_FRACTION = 0.2
"""Of all problems, those that are never learned from."""
TEST_QUESTIONS = 2000
"""At most, as in the paper."""
TRAIN_QUESTIONS = 10_000
"""At most, of which shots are drawn."""
FEW = 100_000
"""A task of no more problems than this is listed whole before any are drawn."""

Problem = tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """Problems of one kind."""

    about: str
    """For a list of all tasks."""
    sizes: tuple[int, ...]
    """A problem is one number from [0, size) for each."""
    asked: Callable[[Problem], str]
    """A problem in words."""
    answer: Callable[[Problem], int]
    commutes: bool = False
    """Whether the order of its numbers does not matter."""


OPERATORS = "+-*"


def _composite(problem: Problem) -> str:
    a, b, c, first, second = problem
    return f"({a + 1} {OPERATORS[first]} {b + 1}) {OPERATORS[second]} {c + 1}"


def _apply(operator: int, a: int, b: int) -> int:
    return (a + b, a - b, a * b)[operator]


def _composite_answer(problem: Problem) -> int:
    a, b, c, first, second = problem
    return _apply(second, _apply(first, a + 1, b + 1), c + 1)


def _families() -> dict[str, Family]:
    found = {}
    for digits in range(2, 7):
        sizes = (10**digits,) * 2
        found[f"addition_{digits}"] = Family(
            f"sums of two numbers of {digits} digits (as figure G.44)",
            sizes,
            lambda p: f"{p[0]} plus {p[1]}",
            lambda p: p[0] + p[1],
            commutes=True,
        )
        found[f"subtraction_{digits}"] = Family(
            f"differences of two numbers of {digits} digits (as figure G.43)",
            sizes,
            lambda p: f"{p[0]} minus {p[1]}",
            lambda p: p[0] - p[1],
        )
    found["multiplication_2"] = Family(
        "products of two numbers of 2 digits (figure G.45)",
        (100, 100),
        lambda p: f"{p[0]} times {p[1]}",
        lambda p: p[0] * p[1],
        commutes=True,
    )
    found["composite_1"] = Family(
        "two operations on three numbers of 1 digit (figure G.42)",
        (9, 9, 9, 3, 3),
        _composite,
        _composite_answer,
    )
    return found


FAMILIES = _families()
"""By the name of the task."""


def task(name: str) -> Task:
    """The task of that name; of `FAMILIES`."""

    def questions(split: Split, seed: int) -> tuple[Question, ...]:
        count = TEST_QUESTIONS if split == "test" else TRAIN_QUESTIONS
        return tuple(
            Question(f"{name}: {FAMILIES[name].asked(problem)}", *_form(name, problem))
            for problem in itertools.islice(_problems(name, split, seed), count)
        )

    return Task(name, "generate", "1", questions, ("exact_match",), max_new_tokens=12)


def examples(name: str, count: int = TRAIN_QUESTIONS, seed: int = 0) -> Iterator[dict[str, str]]:
    r"""Problems to learn from: {"prompt": "Q: What is 98 plus 45?\n\nA:", "target": " 143"}.

    None of them is a test problem, and none comes twice. A function of an experiment's file that
    yields from this is a source: `--data.files python:FILE.py:FUNCTION --data.prompt {prompt}
    --data.target {target}`.

    Args:
      name: of a task, such as addition_2.
      count: so many at most; of two digits there are about 8,000.
      seed: of which they are, and in which order.

    Raises InputError for another name.
    """
    require(name in FAMILIES, f"there is no arithmetic task {name!r}: {nearest(name, FAMILIES)}")
    for problem in itertools.islice(_problems(name, "train", seed), count):
        context, (answer,) = _form(name, problem)
        yield {"prompt": context, "target": answer}


def _form(name: str, problem: Problem) -> tuple[str, tuple[str]]:
    """(context, answers) as published."""
    family = FAMILIES[name]
    return f"Q: What is {family.asked(problem)}?\n\nA:", (f" {family.answer(problem)}",)


def is_test(name: str, problem: Problem) -> bool:
    """Whether a problem of the task of that name is one that nothing may be learned from."""
    family = FAMILIES[name]
    key = tuple(sorted(problem)) if family.commutes else problem
    return is_held_out(family.asked(key), TEST_FRACTION)


@cache
def _all(name: str, split: Split) -> tuple[Problem, ...]:
    """Every problem of a split, in order."""
    every = itertools.product(*(range(size) for size in FAMILIES[name].sizes))
    return tuple(problem for problem in every if is_test(name, problem) == (split == "test"))


def _problems(name: str, split: Split, seed: int) -> Iterator[Problem]:
    """Different problems of a split in an order drawn by the seed: all, or without end."""
    draw = random.Random(f"{name} {split} {seed}")
    sizes = FAMILIES[name].sizes
    if math.prod(sizes) <= FEW:
        # By keys, for what random() gives is the same in every version of Python.
        yield from sorted(_all(name, split), key=lambda _: draw.random())
        return
    seen = set()
    while True:
        problem = tuple(int(draw.random() * size) for size in sizes)
        if problem not in seen and is_test(name, problem) == (split == "test"):
            seen.add(problem)
            yield problem
