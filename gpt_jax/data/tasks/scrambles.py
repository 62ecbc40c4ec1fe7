"""The five word scrambles of the paper's section 3.9.2, in the form of its appendix G.

    Please unscramble the letters into a word, and write that word:
    asinoc = casino

(figures G.19, G.22, G.23, G.26 and G.27): the request stands once, before the shots, which are a
line each. A word is of the test, or to learn from, by a hash of itself, in all five tasks and for
every seed. How it is scrambled is drawn by the seed; a word that a scramble cannot change is not
asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gpt_jax.data.sources import is_held_out
from gpt_jax.data.tasks.task import Question, Split, Task
from gpt_jax.data.tasks.words import WORDS

REQUEST = "Please unscramble the letters into a word, and write that word:\n"
TEST_FRACTION = 0.5
MARKS = " .!/"
"""What is inserted: "random punctuation or space", those of figure G.26 and of the text."""


@dataclass(frozen=True)
class Scramble:
    """One way to do it."""

    about: str
    make: Callable[[str, random.Random], str]


def cycled(word: str, draw: random.Random) -> str:
    """The last letters first: inevitably, lyinevitab."""
    cut = 1 + int(draw.random() * (len(word) - 1))
    return word[cut:] + word[:cut]


def shuffled(word: str, draw: random.Random, keep: int) -> str:
    """Its letters in another order, but for the first and the last `keep`."""
    inner = word[keep:-keep]
    if len(set(inner)) < 2:
        return word
    while (mixed := sorted(inner, key=lambda _: draw.random())) == list(inner):
        pass
    return word[:keep] + "".join(mixed) + word[-keep:]


def inserted(word: str, draw: random.Random) -> str:
    """A mark between each two letters: r e!c.i p r o.c a/l."""
    marks = [MARKS[int(draw.random() * len(MARKS))] for _ in word[1:]]
    return word[0] + "".join(mark + letter for mark, letter in zip(marks, word[1:], strict=True))


SCRAMBLES = {
    "cycle_letters": Scramble("a word whose letters are cycled (figure G.19)", cycled),
    "anagrams_1": Scramble(
        "a word with all letters but the first and the last mixed (figure G.22)",
        lambda word, draw: shuffled(word, draw, 1),
    ),
    "anagrams_2": Scramble(
        "a word with all letters but the first two and the last two mixed (figure G.23)",
        lambda word, draw: shuffled(word, draw, 2),
    ),
    "random_insertion": Scramble("a word with marks between its letters (figure G.26)", inserted),
    "reversed_words": Scramble("a word backwards (figure G.27)", lambda word, draw: word[::-1]),
}
"""By the name of the task."""


def task(name: str) -> Task:
    """The task of that name; of `SCRAMBLES`."""
    scramble = SCRAMBLES[name]

    def questions(split: Split, seed: int) -> tuple[Question, ...]:
        draw = random.Random(f"{name} {split} {seed}")
        words = [word for word in WORDS if is_held_out(word, TEST_FRACTION) == (split == "test")]
        made = [(word, scramble.make(word, draw)) for word in words]
        asked = [
            Question(f"{name}: {word}", f"{scrambled} =", (f" {word}",))
            for word, scrambled in made
            if scrambled != word
        ]
        return tuple(sorted(asked, key=lambda _: draw.random()))

    return Task(
        name,
        "generate",
        "1",
        questions,
        ("exact_match",),
        instruction=REQUEST,
        delimiter="\n",
        max_new_tokens=16,
    )
