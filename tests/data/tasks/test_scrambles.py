"""Word scrambles against the paper's own examples, each undone; copying and induction by eye."""

import random
import re
from collections import Counter

import pytest

from gpt_jax.data.tasks.registry import find_task
from gpt_jax.data.tasks.scrambles import SCRAMBLES
from gpt_jax.data.tasks.words import WORDS

# (scrambled, word) of section 3.9.2 and of appendix G.
PAPER = {
    "cycle_letters": [("lyinevitab", "inevitably"), ("asinoc", "casino")],
    "anagrams_1": [("criroptuon", "corruption"), ("skicts", "sticks")],
    "anagrams_2": [("opoepnnt", "opponent"), ("volwskagen", "volkswagen")],
    "random_insertion": [
        ("s.u!c/c!e.s s i/o/n", "succession"),
        ("r e!c.i p r o.c a/l", "reciprocal"),
    ],
    "reversed_words": [("stcejbo", "objects"), ("taefed", "defeat")],
}


def undoes(name: str, scrambled: str, word: str) -> bool:
    """Whether this scramble can make the one of the other."""
    if name == "cycle_letters":
        return word in {scrambled[i:] + scrambled[:i] for i in range(1, len(word))}
    if name in ("anagrams_1", "anagrams_2"):
        keep = int(name[-1])
        same = scrambled[:keep] == word[:keep] and scrambled[-keep:] == word[-keep:]
        return same and Counter(scrambled) == Counter(word) and scrambled != word
    if name == "random_insertion":
        return bool(re.fullmatch(r"[a-z]([ .!/][a-z])*", scrambled)) and word == scrambled[::2]
    return scrambled == "".join(reversed(word))


@pytest.mark.parametrize("name", SCRAMBLES)
def test_it_scrambles_as_the_paper_does(name):
    """The paper's examples pass the check that ours pass, and can come of our functions."""
    for scrambled, word in PAPER[name]:
        assert undoes(name, scrambled, word)
        made = {SCRAMBLES[name].make(word, random.Random(i)) for i in range(3000)}
        if name != "random_insertion" and len(word) < 9:  # of which there are too many
            assert scrambled in made
    for split in ("train", "test"):
        for question in find_task(name).questions(split, 4):
            (answer,) = question.answers
            assert undoes(name, question.context.removesuffix(" ="), answer.removeprefix(" "))


def test_the_prompt_is_that_of_the_figures():
    """Figure G.19, and two shots."""
    task = find_task("reversed_words")
    one, two, three, *_ = task.questions("train", 0)
    shots = task.delimiter.join([one.context + one.answers[0], two.context + two.answers[0]])
    assert re.fullmatch(
        r"Please unscramble the letters into a word, and write that word:\n"
        r"([a-z]{5,14} = [a-z]{5,14}\n){2}[a-z]{5,14} =",
        task.instruction + shots + task.delimiter + three.context,
    )


def test_words_are_of_the_test_or_to_learn_from_in_all_tasks_and_for_all_seeds():
    sides = {"train": set(), "test": set()}
    for name in SCRAMBLES:
        for split, words in sides.items():
            words |= {
                q.answers[0] for seed in (0, 1) for q in find_task(name).questions(split, seed)
            }
    assert sides["train"] & sides["test"] == set()
    assert min(map(len, sides.values())) > 1400


def test_the_words_are_those_that_it_says():
    assert len(WORDS) == len({*WORDS}) == 3000
    assert all(re.fullmatch("[a-z]{5,14}", word) for word in WORDS)


def test_a_seed_draws_the_same_for_ever():
    drawn = [find_task(name).questions("test", 0)[0].context for name in SCRAMBLES]
    assert drawn == [
        "tdependen =",
        "btareyary =",
        "prceossed =",
        "f.a l/l/i/n.g =",
        "regral =",
    ]
    assert find_task("copying").questions("test", 0)[0].context[:23] == "o q x d e j l g s i w m"


def test_copying_asks_for_the_same_line():
    train, test = ([*find_task("copying").questions(s, 1)] for s in ("train", "test"))
    for question in train + test:
        first, second = (question.context + question.answers[0]).split("\n")
        assert first == second
        assert re.fullmatch("[a-z]( [a-z]){11}", first)
        assert len({*first.split()}) == 12
    assert len({q.context for q in train + test}) == 2000


def test_induction_asks_what_followed():
    questions = find_task("induction").questions("test", 1)
    for question in questions:
        *line, again = question.context.split()
        assert question.choices[question.right].strip() == line[line.index(again) + 1]
        assert [choice.strip() for choice in question.choices] == line
    places = Counter(question.right for question in questions)
    assert sorted(places) == [*range(1, 12)]
    assert min(places.values()) > 50
