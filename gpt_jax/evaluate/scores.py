"""From what a model said to figures: of each example a few sums, of all a value and its interval.

Every metric is a function of sums over examples, so that one bootstrap serves them all: a corpus
metric such as BLEU is computed anew from the sums of each resample, and not averaged.
"""

from __future__ import annotations

import collections
import importlib.util
import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gpt_jax.config import nearest, require
from gpt_jax.data.tasks.task import Kind, Question, Task
from gpt_jax.evaluate.language_model import Likelihood

RESAMPLES = 1000
LEVEL = 0.95
"""Of the intervals: percentiles of a bootstrap over examples."""
NAMES: dict[Kind, tuple[str, ...]] = {
    "choice": (
        "accuracy",
        "accuracy_per_token",
        "accuracy_per_byte",
        "accuracy_per_character",
        "accuracy_unconditional",
    ),
    "generate": (
        "exact_match",
        "exact_match_normalised",
        "f1",
        "bleu",
        "rouge1",
        "rouge2",
        "rougeL",
        "pass@1",
    ),
    "text": ("perplexity", "bits_per_byte", "byte_perplexity", "word_perplexity"),
}
"""All metrics; of pass@k any k. BLEU is from 0 to 100, as sacrebleu has it, all others but
perplexities and bits are from 0 to 1."""
EXTRAS = {"bleu": "sacrebleu", "rouge": "rouge_score"}
"""What needs an extra: the beginning of a metric's name, and the module."""


@dataclass(frozen=True)
class Score:
    """A figure and its interval, which one example alone does not have."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Sums:
    """What a metric adds up over examples, and what it makes of the sums."""

    of_example_NS: np.ndarray
    """float64: S sums of each of N examples."""
    value: Callable[[Sequence[float]], float]


def ratio(sums: Sequence[float]) -> float:
    """The first sum over the second; the mean where that counts examples."""
    return sums[0] / sums[1] if sums[1] else math.nan


def mean(values: Sequence[float]) -> Sums:
    """The metric that is the mean of a value of each example."""
    return Sums(np.array([[float(value), 1.0] for value in values]).reshape(-1, 2), ratio)


def bootstrap(metrics: dict[str, Sums], seed: int, resamples: int = RESAMPLES) -> dict[str, Score]:
    """The value of each metric, with the interval that `resamples` of its examples give.

    All metrics see the same resamples. Sums are Python's, from the first example to the last, so
    that they are those of the lm-evaluation-harness to the last digit.
    """
    values = {
        name: m.value([sum(column) for column in m.of_example_NS.T.tolist()])
        for name, m in metrics.items()
    }
    count = max((len(m.of_example_NS) for m in metrics.values()), default=0)
    if count < 2 or resamples == 0:
        return {name: Score(value) for name, value in values.items()}
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples):
        weights_N = np.bincount(random.integers(count, size=count), minlength=count)
        for name, metric in metrics.items():
            drawn[name].append(metric.value((weights_N @ metric.of_example_NS).tolist()))
    ends = (50 * (1 - LEVEL), 50 * (1 + LEVEL))
    return {
        name: Score(values[name], *map(float, np.percentile(drawn[name], ends))) for name in metrics
    }


def check_metrics(task: Task) -> None:
    """Raise InputError unless every metric of a task is one of its kind that can be had here."""
    for name in task.metrics:
        known = name in NAMES[task.kind] or (task.kind == "generate" and bool(_k_of(name)))
        require(
            known,
            f"a task of kind {task.kind} has metrics of that kind, and {task.name} names {name!r}: "
            f"{nearest(name, NAMES[task.kind])}",
        )
        for beginning, module in EXTRAS.items():
            require(
                not name.startswith(beginning) or importlib.util.find_spec(module) is not None,
                f"{name}, a metric of {task.name}, needs {module}, which is not installed: pip "
                "install 'gpt_jax[evaluate]', or -e '.[evaluate]' in a clone.",
            )


def answers_per_question(task: Task) -> int:
    """How many answers the model writes to a question: for pass@k twice as many as the largest k,
    and one, the likeliest, where nothing more is asked.
    """
    largest = max((_k_of(name) for name in task.metrics), default=0)
    return 2 * largest if largest > 1 else 1


def _k_of(metric: str) -> int:
    found = re.fullmatch(r"pass@([1-9]\d*)", metric)
    return int(found[1]) if found else 0


# Of kind "choice".


def chosen(
    question: Question, endings: Sequence[Likelihood], alone: Sequence[Likelihood]
) -> dict[str, int]:
    """Which choice each rule takes, of equals the first.

    By the log-probability of the ending: as it is (`accuracy`); by its tokens; by its UTF-8 bytes
    or characters without the white space before it (acc_bytes and acc_norm of the harness); less
    that of the ending alone, after the task's `unconditional` (the paper's section 2.4).
    """
    logprobs = np.array([ending.logprob for ending in endings])
    texts = [choice.lstrip() or choice for choice in question.choices]
    by = {
        "accuracy": logprobs,
        "accuracy_per_token": logprobs / [ending.tokens for ending in endings],
        "accuracy_per_byte": logprobs / [float(len(text.encode())) for text in texts],
        "accuracy_per_character": logprobs / [float(len(text)) for text in texts],
        "accuracy_unconditional": logprobs - [ending.logprob for ending in alone],
    }
    return {name: int(np.argmax(values)) for name, values in by.items()}


# Of kind "generate".


def normalised(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Whether a text is one of the answers, white space around them aside."""
    return float(text.strip() in {answer.strip() for answer in answers})


def exact_match_normalised(text: str, answers: Sequence[str]) -> float:
    return float(normalised(text) in map(normalised, answers))


def f1(text: str, answers: Sequence[str]) -> float:
    """SQuAD's F1 of normalised words, with the answer that gives most; equal where none has any."""
    return max(_f1(normalised(text).split(), normalised(answer).split()) for answer in answers)


def _f1(found: list[str], right: list[str]) -> float:
    if not found or not right:
        return float(found == right)
    common = sum((collections.Counter(found) & collections.Counter(right)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(right)
    return 2 * precision * recall / (precision + recall)


def pass_at_k(written: int, passed: int, k: int) -> float:
    """The chance that one of k answers passes, where `passed` of `written` do: without bias.

    1 - C(n - c, k) / C(n, k), as Chen et al. 2021, equation 1.
    """
    return 1.0 - math.comb(written - passed, k) / math.comb(written, k)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # A sentence's counts are asked for, not its score, about which it would warn.
    return BLEU(effective_order=True)


def bleu(texts: Sequence[str], answers: Sequence[Sequence[str]]) -> Sums:
    """Corpus BLEU as sacrebleu computes it by default."""
    scorer, sums = _bleu(), []
    for text, references in zip(texts, answers, strict=True):
        of_text = scorer.sentence_score(text.strip(), [answer.strip() for answer in references])
        sums.append([*of_text.counts, *of_text.totals, of_text.sys_len, of_text.ref_len])

    def value(sums: Sequence[float]) -> float:
        whole = [round(number) for number in sums]
        counts, totals, (length, reference) = whole[:4], whole[4:8], whole[8:]
        return scorer.compute_bleu(counts, totals, length, reference, smooth_method="exp").score

    return Sums(np.array(sums, np.float64), value)


def signature(metric: str) -> str:
    """What else a figure of this metric depends on; "" of most."""
    import importlib.metadata

    if metric == "bleu":
        version = importlib.metadata.version("sacrebleu")
        return f"case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    if metric.startswith("rouge"):
        return f"rouge-score {importlib.metadata.version('rouge-score')}, stemmed, F measure"
    return ""


@cache
def _rouge(metric: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([metric], use_stemmer=True)


def rouge(metric: str, text: str, answers: Sequence[str]) -> float:
    """The F measure of rouge1, rouge2 or rougeL, with the answer that gives most."""
    return _rouge(metric).score_multi(list(answers), text)[metric].fmeasure


def of_answers(
    task: Task, questions: Sequence[Question], texts: Sequence[Sequence[str]], passed: Sequence[int]
) -> dict[str, Sums]:
    """The metrics of a task of kind "generate".

    Args:
      texts: what was written to each question, the same count each; the first is scored by all
        but pass@k.
      passed: how many of them passed the question's test, where the metrics ask for that.
    """
    by_text = {
        "exact_match": exact_match,
        "exact_match_normalised": exact_match_normalised,
        "f1": f1,
    }
    first, answers = [written[0] for written in texts], [q.answers for q in questions]
    pairs = list(zip(first, answers, strict=True))
    found = {}
    for name in task.metrics:
        if k := _k_of(name):
            counts = zip(texts, passed, strict=True)
            found[name] = mean([pass_at_k(len(written), ok, k) for written, ok in counts])
        elif name == "bleu":
            found[name] = bleu(first, answers)
        elif name in by_text:
            found[name] = mean([by_text[name](text, right) for text, right in pairs])
        else:
            found[name] = mean([rouge(name, text, right) for text, right in pairs])
    return found


# Of kind "text".


def of_texts(texts: Sequence[str], found: Sequence[Likelihood]) -> dict[str, Sums]:
    """Perplexities and bits, each from sums over documents.

    Perplexity is by token, and so of one tokenizer alone; the others compare across tokenizers.
    A word is what stands between white space, as in the harness.
    """

    def sums(units: Sequence[int], value: Callable[[float], float]) -> Sums:
        pairs = [(-one.logprob, float(n)) for one, n in zip(found, units, strict=True)]
        return Sums(np.array(pairs).reshape(-1, 2), lambda s: value(ratio(s)))

    num_bytes = [one.num_bytes for one in found]
    return {
        "perplexity": sums([one.tokens for one in found], _exp),
        "bits_per_byte": sums(num_bytes, lambda nats: nats / math.log(2)),
        "byte_perplexity": sums(num_bytes, _exp),
        "word_perplexity": sums([len(re.split(r"\s+", text)) for text in texts], _exp),
    }


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
