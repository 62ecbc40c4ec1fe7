"""Probes of copying and induction: what a model does with a sequence that it has just seen.

Random letters stand in the place of words, so that nothing but the context can help. They do not
come twice in a sequence.

    h v f u t p m g y q n d
    h v f u t p m g y q n d

is what copying asks for, after the first letter of the second line; induction asks, after the
sequence and one of its letters again, which letter follows, of all that are in it (Olsson et al.
2022, "In-context Learning and Induction Heads"). Guessing is right once in 12 times.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

from gpt_jax.data.sources import is_held_out
from gpt_jax.data.tasks.task import Question, Split, Task

LENGTH = 12
"""Letters in a sequence."""
TEST_FRACTION = 0.5
QUESTIONS = 1000
ABOUT = {
    "copying": "a line of random letters, to be written again",
    "induction": "which letter follows one that was there before",
}
"""By the name of the task."""


def task(name: str) -> Task:
    """The task of that name; of `ABOUT`."""

    def questions(split: Split, seed: int) -> tuple[Question, ...]:
        draw = random.Random(f"{name} {split} {seed}")
        sequences = _sequences(split, draw)
        made = (next(sequences) for _ in range(QUESTIONS))
        return tuple(
            _copying(letters) if name == "copying" else _induction(letters, draw)
            for letters in made
        )

    if name == "copying":
        return Task(name, "generate", "1", questions, ("exact_match",), max_new_tokens=4 * LENGTH)
    return Task(name, "choice", "1", questions, ("accuracy",))


def _sequences(split: Split, draw: random.Random) -> Iterator[list[str]]:
    """Different sequences of a split, without end."""
    seen = set()
    while True:
        letters = sorted(string.ascii_lowercase, key=lambda _: draw.random())[:LENGTH]
        text = " ".join(letters)
        if text not in seen and is_held_out(text, TEST_FRACTION) == (split == "test"):
            seen.add(text)
            yield letters


def _copying(letters: list[str]) -> Question:
    line = " ".join(letters)
    rest = line[1:]
    return Question(f"copying: {line}", f"{line}\n{letters[0]}", (rest,))


def _induction(letters: list[str], draw: random.Random) -> Question:
    at = int(draw.random() * (LENGTH - 1))
    line = " ".join(letters)
    choices = tuple(f" {letter}" for letter in letters)
    name = f"induction: {line} {letters[at]}"
    return Question(name, f"{line} {letters[at]}", (choices[at + 1],), choices, at + 1)
