"""Solved examples before a question, as in the paper (section 2.4).

For each question K examples are drawn anew from the task's training split, without those that ask
the same: the figure is then one of the task and not of some K examples, whose choice matters much.
The draw follows from the seed and the question's place alone. Those that do not fit the context
with the question are left out, the first of them first, and counted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpt_jax.config import require
from gpt_jax.data.tasks.task import Question, Task


@dataclass(frozen=True)
class Prompt:
    """What the model reads of a question."""

    contexts: tuple[str, ...]
    """One, or where the contexts are compared, one for each choice."""
    shots: int
    """Solved examples in it."""
    fits: bool
    """Whether the question without any of them fits the model's context; if not, its beginning is
    not read."""


def solved(task: Task, question: Question) -> str:
    """A question with its answer, as it stands before another."""
    context = question.contexts[question.right] if question.contexts else question.context
    return context + question.answers[0]


def draw(
    task: Task, question: Question, place: int, training: Sequence[Question], shots: int, seed: int
) -> list[Question]:
    """`shots` training questions for the question at that place, none of which asks the same.

    Raises InputError where there are not as many.
    """
    # By random() alone, which gives the same in every version of Python.
    numbers = random.Random(f"{task.name} {seed} {place}")
    found: dict[int, Question] = {}
    rejected: set[int] = set()
    while len(found) < shots:
        require(
            len(found) + len(rejected) < len(training),
            f"shots are drawn from a task's training questions, and {task.name} has "
            f"{len(training) - len(rejected)} of them for {shots}: ask for fewer (--shots).",
        )
        number = int(numbers.random() * len(training))
        if number in found or number in rejected:
            continue
        one = training[number]
        same = (one.context, one.contexts) == (question.context, question.contexts)
        if same:
            rejected.add(number)
        else:
            found[number] = one
    return list(found.values())


def prompt(
    task: Task, question: Question, shots: Sequence[Question], fits: Callable[[str], bool]
) -> Prompt:
    """The question after as many of the shots as fit.

    Args:
      fits: whether the model's context has room for a text, an ending or an answer to it included.
    """
    before = [solved(task, shot) for shot in shots]
    own = question.contexts or (question.context,)

    def texts(count: int) -> tuple[str, ...]:
        kept = before[len(before) - count :]
        return tuple(task.instruction + task.delimiter.join([*kept, text]) for text in own)

    if all(map(fits, texts(len(before)))):
        return Prompt(texts(len(before)), len(before), True)
    low, high = -1, len(before)  # the most that fit is low or more, and less than high
    while high - low > 1:
        middle = (low + high) // 2
        if all(map(fits, texts(middle))):
            low = middle
        else:
            high = middle
    return Prompt(texts(max(low, 0)), max(low, 0), low >= 0)
