"""Prompts against the layout of the paper's figures, written out."""

import collections

import pytest

from gpt_jax.config import InputError
from gpt_jax.data.tasks.task import Question, Task
from gpt_jax.evaluate.shots import draw, prompt


def question(n: int) -> Question:
    return Question(f"q{n}", f"Q: {n}?\nA:", (f" {n * n}", " other"))


TRAINING = [question(n) for n in range(10)]
TASK = Task("squares", "generate", "1", lambda split, seed: (), ("exact_match",), "Square it.\n\n")


def test_a_prompt_is_instruction_shots_and_question():
    """With the task's delimiter between, and the first answer of each shot."""
    made = prompt(TASK, question(3), TRAINING[:2], lambda text: True)
    assert made.contexts == ("Square it.\n\nQ: 0?\nA: 0\n\nQ: 1?\nA: 1\n\nQ: 3?\nA:",)
    assert (made.shots, made.fits) == (2, True)


def test_contexts_that_are_compared_each_follow_the_shots():
    """Winogrande: of a shot it is the right context that is shown."""
    shot = Question("s", "", (" is big",), (" is big",) * 2, 1, ("the cat", "the dog"))
    asked = Question("q", "", (" is red",), (" is red",) * 2, 0, ("the car", "the tree"))
    made = prompt(TASK, asked, [shot], lambda text: True)
    assert made.contexts == tuple(
        f"Square it.\n\nthe dog is big\n\nthe {thing}" for thing in ("car", "tree")
    )


@pytest.mark.parametrize(("room", "shots", "fits"), [(99, 4, True), (45, 2, True), (9, 0, False)])
def test_as_many_shots_as_fit_are_kept(room, shots, fits):
    """The last ones, next to the question; without any the question stands all the same."""
    made = prompt(TASK, question(3), TRAINING[:4], lambda text: len(text) <= room)
    assert (made.shots, made.fits) == (shots, fits)
    (text,) = made.contexts
    assert text.endswith("Q: 3?\nA:")
    assert text.count("Q:") == shots + 1
    if shots:
        assert "Q: 3?\nA: 9\n\nQ: 3?" in text
    assert fits == (len(text) <= room)


def test_shots_are_drawn_anew_for_each_question():
    """By seed and place; none of them twice, none that asks the same."""
    drawn = {
        (seed, place): [one.name for one in draw(TASK, TRAINING[5], place, TRAINING, 4, seed)]
        for seed in (0, 1)
        for place in range(200)
    }
    assert drawn[0, 7] == [one.name for one in draw(TASK, TRAINING[5], 7, TRAINING, 4, 0)]
    assert drawn[0, 7] != drawn[0, 8]
    assert drawn[0, 7] != drawn[1, 7]
    assert all(len(set(names)) == 4 for names in drawn.values())
    counts = collections.Counter(name for names in drawn.values() for name in names)
    assert counts.keys() == {f"q{n}" for n in range(10) if n != 5}
    # Each of nine is in 4/9 of 400 draws: 178, with a deviation of 10.
    assert all(138 < count < 218 for count in counts.values())


def test_too_few_training_questions_are_an_error():
    assert len(draw(TASK, question(99), 0, TRAINING, 10, 0)) == 10
    with pytest.raises(InputError, match="squares has 9 of them for 10"):
        draw(TASK, question(5), 0, TRAINING, 10, 0)
