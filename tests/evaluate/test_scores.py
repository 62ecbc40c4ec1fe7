"""Metrics against sums done by hand, against the libraries they come from, and a binomial."""

import importlib.util
import math

import numpy as np
import pytest

from gpt_jax.config import InputError
from gpt_jax.data.tasks.task import Question, Task
from gpt_jax.evaluate import scores
from gpt_jax.evaluate.language_model import Likelihood
from gpt_jax.evaluate.scores import Sums, bootstrap, mean


def task(kind="generate", metrics=("exact_match",)) -> Task:
    return Task("made_up", kind, "1", lambda split, seed: (), metrics)


def likely(logprob: float, tokens: int = 1) -> Likelihood:
    return Likelihood(logprob, tokens, 0, False, 0)


@pytest.mark.parametrize(
    ("text", "answers", "exact", "loose", "f1"),
    [
        (" 39", (" 39",), 1, 1, 1),
        (" -39", (" 39",), 0, 1, 1),  # SQuAD drops punctuation: no measure for arithmetic
        ("The cat.", ("a cat",), 0, 1, 1),
        # "quick brown fox" and "brown fox jumps": 2 common of 3 and 3.
        ("the quick brown fox", ("brown fox jumps",), 0, 0, 2 / 3),
        # The better of two answers: 1 of 2 found, 1 of 1 right: 2 * 1/2 * 1 / (3/2).
        ("red apple", ("pear", "apple"), 0, 0, 2 / 3),
        ("red red", ("red",), 0, 0, 2 / 3),  # a word counts as often as it is in both
        ("", ("",), 1, 1, 1),
        ("the", ("cat",), 0, 0, 0),
    ],
)
def test_exact_match_and_f1_by_hand(text, answers, exact, loose, f1):
    assert scores.exact_match(text, answers) == exact
    assert scores.exact_match_normalised(text, answers) == loose
    assert scores.f1(text, answers) == pytest.approx(f1)


def test_pass_at_k_is_the_share_of_draws_with_a_pass():
    """Counted over all draws of k of n answers."""
    from itertools import combinations

    for n, c, k in [(5, 2, 1), (5, 2, 3), (5, 0, 2), (5, 4, 2), (6, 1, 6)]:
        draws = list(combinations([True] * c + [False] * (n - c), k))
        assert scores.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


HYPOTHESES = ["the cat sat on the mat", "a dog barks loudly at night", "yes"]
REFERENCES = [
    ("the cat sat on a mat", "on the mat sat the cat"),
    ("a dog barks at night",),
    ("no",),
]


def test_bleu_is_that_of_sacrebleu_and_a_resample_too():
    from sacrebleu.metrics.bleu import BLEU

    streams = [[one[0] for one in REFERENCES], ["on the mat sat the cat", None, None]]
    sums = scores.bleu(HYPOTHESES, REFERENCES)
    whole = bootstrap({"bleu": sums}, 0)["bleu"]
    assert whole.value == pytest.approx(BLEU().corpus_score(HYPOTHESES, streams).score)
    assert whole.low <= whole.value <= whole.high
    twice = sums.value((sums.of_example_NS[[0, 0, 1]].sum(0)).tolist())
    texts, first = [HYPOTHESES[n] for n in (0, 0, 1)], [streams[0][n] for n in (0, 0, 1)]
    second = [streams[1][n] for n in (0, 0, 1)]
    assert twice == pytest.approx(BLEU().corpus_score(texts, [first, second]).score)
    assert scores.signature("bleu").startswith("case:mixed|eff:no|tok:13a|smooth:exp")


def test_rouge_by_hand():
    """Of "the cat sat" and "the cat": 2 of 3 words, 2 of 2, so 2 * 2/3 * 1 / (5/3)."""
    assert scores.rouge("rouge1", "the cat", ["the cat sat"]) == pytest.approx(0.8)
    assert scores.rouge("rouge2", "the cat", ["the cat sat"]) == pytest.approx(2 / 3)
    assert scores.rouge("rougeL", "cat the", ["the cat sat", "cat"]) == pytest.approx(2 / 3)


def test_each_rule_takes_its_own_choice():
    """Five rules and endings made so that they disagree; the space before one is not counted."""
    question = Question("q", "c", (" q",), (" q", " \u20ac\u20ac\u20ac", " abcdefgh", " xy"), 0)
    endings = [likely(-0.9, 1), likely(-5.0, 10), likely(-7.0, 5), likely(-6.0, 1)]
    alone = [likely(-0.9), likely(-5.0), likely(-7.0), likely(-7.0)]
    assert scores.chosen(question, endings, alone) == {
        "accuracy": 0,  # -0.9
        "accuracy_per_token": 1,  # -5 / 10
        "accuracy_per_byte": 1,  # -5 / 9, and -0.9 / 1; with spaces -0.9 / 2 and -5 / 10
        "accuracy_per_character": 2,  # -7 / 8, and -0.9 / 1
        "accuracy_unconditional": 3,  # one nat more with the context
    }


def test_perplexities_are_of_all_text_together():
    """Two documents of 2 and 6 tokens, 4 and 12 bytes, 2 and 1 words."""
    found = [Likelihood(-3.0, 2, 4, False, 0), Likelihood(-5.0, 6, 12, False, 0)]
    told = bootstrap(scores.of_texts(["to be", "unbelievable"], found), 0)
    assert told["perplexity"].value == pytest.approx(math.exp(8 / 8))
    assert told["byte_perplexity"].value == pytest.approx(math.exp(8 / 16))
    assert told["bits_per_byte"].value == pytest.approx(8 / 16 / math.log(2))
    assert told["word_perplexity"].value == pytest.approx(math.exp(8 / 3))
    # Of the resamples half have both, and a quarter one of them alone.
    assert told["perplexity"].low == pytest.approx(math.exp(5 / 6))
    assert told["perplexity"].high == pytest.approx(math.exp(3 / 2))


def test_the_interval_of_an_accuracy_is_the_binomials():
    """200 questions, 60 right: the percentiles of the number of hits in 200 draws of 0.3."""
    from scipy.stats import binom

    flags = [True] * 60 + [False] * 140
    score = bootstrap({"accuracy": mean(flags)}, seed=1, resamples=10_000)["accuracy"]
    low, high = binom.ppf([0.025, 0.975], 200, 0.3) / 200
    assert score.value == 0.3
    assert score.low == pytest.approx(low, abs=0.006)
    assert score.high == pytest.approx(high, abs=0.006)


def test_intervals_follow_from_the_seed():
    metrics = {"accuracy": mean([True, False, True, True, False] * 9)}
    drawn = [bootstrap(metrics, seed, 100)["accuracy"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert bootstrap(metrics, 1, 0)["accuracy"].low is None
    assert bootstrap({"accuracy": mean([True])}, 1)["accuracy"] == scores.Score(1.0)


def test_all_metrics_see_the_same_resamples():
    """So that a difference of two of them has a meaning."""
    random = np.random.default_rng(0)
    values = random.normal(size=50)
    both = {"a": mean(list(values)), "b": Sums(np.array([[v, 1.0] for v in values]), scores.ratio)}
    told = bootstrap(both, 3, 200)
    assert told["a"] == told["b"]


def test_answers_are_scored_by_the_metrics_of_the_task():
    questions = [Question("a", "", (" 4", " four")), Question("b", "", (" 5",))]
    of = task(metrics=("f1", "exact_match", "pass@1", "pass@2"))
    texts = [["four", "4", "no", "no"], ["6", "5", "5", "5"]]
    found = scores.of_answers(of, questions, texts, [2, 3])
    told = {name: sums.of_example_NS[:, 0].tolist() for name, sums in found.items()}
    assert told == {
        "f1": [1.0, 0.0],
        "exact_match": [1.0, 0.0],
        "pass@1": [0.5, 0.75],
        "pass@2": [pytest.approx(1 - 1 / 6), 1.0],
    }
    assert scores.answers_per_question(of) == 4
    assert scores.answers_per_question(task(metrics=("pass@1",))) == 1


def test_an_unknown_metric_names_the_nearest():
    for metrics, near in [(("exact_mach",), "exact_match"), (("pass@0",), "pass@1")]:
        with pytest.raises(InputError, match=f"made_up names '{metrics[0]}'.*{near}"):
            scores.check_metrics(task(metrics=metrics))
    with pytest.raises(InputError, match="kind choice"):
        scores.check_metrics(task("choice", ("bleu",)))


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"sacrebleu.*gpt_jax\[evaluate\]"):
        scores.check_metrics(task(metrics=("bleu",)))
    scores.check_metrics(task(metrics=("exact_match", "pass@1")))
