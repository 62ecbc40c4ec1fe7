"""The arithmetic of section 3.9.1 against OpenAI's published lines, and by brute force."""

import json
import re
from collections import Counter

import pytest

from gpt_jax.config import InputError
from gpt_jax.data.tasks.arithmetic import FAMILIES, examples
from gpt_jax.data.tasks.registry import find_task, task_names

# Lines of data/*.jsonl of github.com/openai/gpt-3.
PUBLISHED = {
    "addition_2": r'{"context": "\n\nQ: What is 98 plus 45?\n\nA:", "completion": " 143"}',
    "addition_4": r'{"context": "\n\nQ: What is 9923 plus 617?\n\nA:", "completion": " 10540"}',
    "subtraction_2": r'{"context": "\n\nQ: What is 33 minus 88?\n\nA:", "completion": " -55"}',
    "subtraction_4": r'{"context": "\n\nQ: What is 8205 minus 42?\n\nA:", "completion": " 8163"}',
    "multiplication_2": r'{"context": "\n\nQ: What is 4 times 69?\n\nA:", "completion": " 276"}',
    "composite_1": r'{"context": "\n\nQ: What is (1 - 9) * 5?\n\nA:", "completion": " -40"}',
}
PROBLEM = {
    "addition_2": (98, 45),
    "addition_4": (9923, 617),
    "subtraction_2": (33, 88),
    "subtraction_4": (8205, 42),
    "multiplication_2": (4, 69),
    "composite_1": (0, 8, 4, 1, 2),
}


def numbers(question) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", question.context)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_question_is_the_published_line(name, monkeypatch):
    monkeypatch.setattr("gpt_jax.data.tasks.arithmetic._problems", lambda *_: [PROBLEM[name]])
    task = find_task(name)
    (question,) = task.questions("test", 0)
    line = json.loads(PUBLISHED[name])
    assert (task.delimiter + question.context, question.answers) == (
        line["context"],
        (line["completion"],),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_answer_is_right(name):
    """Python's own reading of the question."""
    task = find_task(name)
    for question in [*task.questions("test", 3)[:500], *task.questions("train", 3)[:500]]:
        asked = re.fullmatch(r"Q: What is ([-\d+*() a-z]+)\?\n\nA:", question.context)[1]
        for word, sign in (("plus", "+"), ("minus", "-"), ("times", "*")):
            asked = asked.replace(word, sign)
        assert question.answers == (f" {eval(asked)}",)
        assert question.answers[0].strip().lstrip("-").isdecimal()


def test_all_problems_of_two_digits_are_on_one_side_or_the_other():
    """All 10,000, mirror images on one side, a fifth in the test."""
    task = find_task("addition_2")
    train = {numbers(question) for question in task.questions("train", 0)}
    drawn = [{numbers(q) for q in task.questions("test", seed)} for seed in range(9)]
    test = set().union(*drawn)
    assert train & test == set()
    assert train | test == {(a, b) for a in range(100) for b in range(100)}
    assert {(b, a) for a, b in test} == test
    assert 0.17 < len(test) / 10_000 < 0.23
    assert all(len(one) == min(2000, len(test)) for one in drawn)


def test_a_problem_is_on_one_side_in_every_task_and_for_every_seed():
    """A sum of two numbers below 100 that is asked among those of three digits too."""
    test = {numbers(question) for question in find_task("addition_2").questions("test", 0)}
    learned = {
        tuple(map(int, re.findall(r"\d+", example["prompt"])))
        for seed in range(3)
        for example in examples("addition_3", 30_000, seed)
    }
    assert sum(max(problem) < 100 for problem in learned) > 200
    assert learned & test == set()


@pytest.mark.parametrize("name", ["addition_3", "subtraction_5", "composite_1"])
def test_nothing_comes_twice_and_the_sides_are_disjoint(name):
    task = find_task(name)
    train, test = ([q.context for q in task.questions(s, 5)] for s in ("train", "test"))
    assert len({*train, *test}) == len(train) + len(test)
    assert len(test) == 2000 if name != "composite_1" else 1000 < len(test) < 1600
    assert {example["prompt"] for example in examples(name, 300, seed=5)} <= {*train}


def test_numbers_are_drawn_evenly():
    """Of six digits nine of ten have six, and half of the differences are negative."""
    digits = Counter(
        len(str(n)) for q in find_task("addition_6").questions("test", 0) for n in numbers(q)
    )
    assert 0.87 < digits[6] / 4000 < 0.93
    answers = [int(q.answers[0]) for q in find_task("subtraction_6").questions("test", 0)]
    assert 0.45 < sum(answer < 0 for answer in answers) / 2000 < 0.55


def test_a_seed_draws_the_same_for_ever():
    """Literal questions: a change here makes every reported score another."""

    def asked(contexts):
        return [context[11:-5] for context in contexts]

    test = find_task("addition_2").questions("test", 0)
    assert asked(q.context for q in test[:3]) == ["80 plus 83", "66 plus 95", "79 plus 18"]
    test = find_task("subtraction_5").questions("test", 7)
    assert asked(q.context for q in test[:2]) == ["96584 minus 38621", "83541 minus 58400"]
    learned = examples("composite_1", 2, seed=1)
    assert asked(e["prompt"] for e in learned) == ["(7 + 2) * 9", "(4 - 1) - 9"]


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(
        InputError, match=r"'adition_2': did you mean 'addition_2'\? .*--list-tasks"
    ):
        find_task("adition_2")
    with pytest.raises(InputError, match="did you mean 'composite_1'"):
        next(examples("composite_2"))
    assert {*FAMILIES} <= {*task_names()}
    assert len(FAMILIES) == 12
