"""A task put to a model: questions to prompts, prompts to what it says, that to figures."""

from __future__ import annotations

import collections
import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from gpt_jax import sandbox
from gpt_jax.config import Config, require
from gpt_jax.data.sources import pieces
from gpt_jax.data.sources import read as documents
from gpt_jax.data.tasks.task import Question, Task
from gpt_jax.evaluate import scores
from gpt_jax.evaluate.contamination import NOT_CHECKED, Contamination, contamination
from gpt_jax.evaluate.language_model import LanguageModel, Progress
from gpt_jax.evaluate.scores import Score, Sums
from gpt_jax.evaluate.shots import Prompt, draw, prompt
from gpt_jax.model.sampling import Sampling
from gpt_jax.parallel import hosts

TEMPERATURE = 0.8
"""Of answers of which there are several to a question (Codex paper, section 2.3: for many)."""


@dataclass(frozen=True)
class Exam:
    """The questions of a task that are put, and what shots are drawn from."""

    task: Task
    questions: tuple[Question, ...]
    training: tuple[Question, ...]
    shots: int
    seed: int


@dataclass(frozen=True)
class Result:
    """What became of an exam."""

    exam: Exam
    scores: dict[str, Score]
    """The task's own metrics first; not a number where all questions are `without_tokens`."""
    contamination: Contamination | None
    """What the text that the model learned from had of the task, where that is known."""
    clean: dict[str, Score]
    """The scores of the questions that were not found there, where these are known by name and
    there are any."""
    num_clean: int
    counts: dict[str, int]
    """What did not go as it should: with_fewer_shots, too_long, without_tokens and
    with_shorter_answers (`answer_tokens`) are numbers of questions, shots_left_out of shots."""
    seconds: float
    records: list[dict[str, Any]]
    """What the model said to each question, for a look at its errors."""

    def as_dict(self, with_records: bool = False) -> dict[str, Any]:
        """What JSON can hold of it."""
        task = self.exam.task
        signatures = {name: text for name in self.scores if (text := scores.signature(name))}
        found = {
            "task": task.name,
            "kind": task.kind,
            "prompt_version": task.version,
            "shots": self.exam.shots,
            **({"shots_drawn_from": len(self.exam.training)} if self.exam.shots else {}),
            "seed": self.exam.seed,
            "examples": len(self.exam.questions) - self.counts["without_tokens"],
            "metrics": _by_name(self.scores),
            "contamination": self.contamination.line if self.contamination else NOT_CHECKED,
            **(
                {"clean_examples": self.num_clean, "clean": _by_name(self.clean)}
                if self.clean
                else {}
            ),
            "interval": {"level": scores.LEVEL, "resamples": scores.RESAMPLES},
            **({"signatures": signatures} if signatures else {}),
            "counts": self.counts,
            "seconds": round(self.seconds, 3),
        }
        return found | ({"records": self.records} if with_records else {})


def _by_name(found: dict[str, Score]) -> dict[str, Any]:
    """JSON has no number for what is none or without bound."""
    return {
        name: {
            end: value if value is None or math.isfinite(value) else None
            for end, value in dataclasses.asdict(score).items()
        }
        for name, score in found.items()
    }


def text_task(source: str, text_field: str = "text") -> Task:
    """The task of telling the documents of a source, as `DataConfig.files` names one."""

    @cache
    def read() -> tuple[Question, ...]:
        every = (one for piece in pieces((source,)) for one in documents(piece, text_field))
        found = tuple(Question(one.name, "", (one.text,)) for one in every)
        require(bool(found), f"there is no text in {source} (--text).")
        return found

    return Task(source, "text", "1", lambda split, seed: read(), scores.NAMES["text"])


def prepare(task: Task, shots: int, examples: int, seed: int) -> Exam:
    """The questions that are put, in the task's order: `examples` of them by the seed, 0 is all.

    Raises InputError where a question is malformed, a metric cannot be had, or there is nothing to
    draw shots from; before any model is needed.
    """
    scores.check_metrics(task)
    require(shots >= 0, f"a number of shots is 0 or more, and it is {shots}.")
    require(
        shots == 0 or task.kind != "text",
        f"a text stands by itself, and {task.name} is one of texts: ask it with --shots 0.",
    )
    questions = list(task.questions("test", seed))
    require(bool(questions), f"a task has a question at least, and {task.name} has none.")
    if 0 < examples < len(questions):
        numbers = random.Random(f"{task.name} {seed}")
        keys = [numbers.random() for _ in questions]
        taken = sorted(sorted(range(len(questions)), key=keys.__getitem__)[:examples])
        questions = [questions[place] for place in taken]
    training = tuple(task.questions("train", seed)) if shots else ()
    require(
        len(training) >= shots,
        f"shots are drawn from a task's training questions, and {task.name} has {len(training)} "
        f"for {shots}: ask for fewer (--shots).",
    )
    return Exam(task, tuple(questions), training, shots, seed)


def require_names(tasks: Iterable[Task]) -> None:
    """Raise InputError where two tasks have one name, by which their figures are told apart."""
    for name, count in collections.Counter(task.name for task in tasks).items():
        require(
            count == 1,
            f"each task has a name of its own, and {count} are called {name!r}: name each once, "
            "and rename files that have one name in two folders.",
        )


def require_room(model: LanguageModel, exams: Sequence[Exam]) -> None:
    """Raise InputError where an answer alone would fill the model's context: `put` would shorten
    it, and no run is to be steered by that.
    """
    context = model.config.context_length
    for task in (exam.task for exam in exams):
        require(
            task.kind != "generate" or task.max_new_tokens < context,
            f"an answer must leave room for the question, and {task.name} asks for "
            f"{task.max_new_tokens} tokens of a context of {context}: leave that task out, or "
            "define it with fewer (max_new_tokens).",
        )


def require_tokens(model: LanguageModel, exams: Sequence[Exam]) -> None:
    """Raise InputError where the tokenizer cannot write what is asked, as one of characters lacks
    some, or makes nothing of a choice of every question.
    """
    for exam in exams:
        if exam.task.kind == "text":
            model.tokenizer.encode_batch([question.answers[0] for question in exam.questions])
            continue
        made = prompts(model, exam)
        if exam.task.kind == "choice":
            model.num_tokens(exam.task.unconditional)
            asked = _asked(exam, made)
            sizes = iter(model.ending_tokens([pair for pairs in asked for pair in pairs]))
            require(
                any(min([next(sizes) for _ in pairs]) > 0 for pairs in asked),
                f"a choice has tokens, and each question of {exam.task.name} has one that this "
                "tokenizer makes nothing of: train with another tokenizer, or change the task.",
            )


def put(
    model: LanguageModel,
    exam: Exam,
    trained: Config | None = None,
    progress: Progress | None = None,
    resamples: int = scores.RESAMPLES,
) -> Result:
    """Put an exam to a model.

    Args:
      trained: the run that the model is of, to be asked what it has seen of the task.
      resamples: of the examples, for the intervals; 0: there are none.
    """
    start = time.monotonic()
    sums, counts, records = _ways[exam.task.kind](model, exam, progress)
    # The task's own metrics first.
    sums = {name: sums[name] for name in dict.fromkeys([*exam.task.metrics, *sums])}
    found = scores.bootstrap(sums, exam.seed, resamples)
    known = contamination(trained, exam.task) if trained else None
    clean, num_clean = {}, 0
    if known and known.dirty is not None:
        scored = [q for q, r in zip(exam.questions, records, strict=True) if "left_out" not in r]
        keep_N = np.array([known.is_clean(question) for question in scored], bool)
        num_clean = int(keep_N.sum())
        if num_clean:
            kept = {n: Sums(s.of_example_NS[keep_N], s.value) for n, s in sums.items()}
            clean = scores.bootstrap(kept, exam.seed, resamples)
    seconds = time.monotonic() - start
    return Result(exam, found, known, clean, num_clean, counts, seconds, records)


def prompts(model: LanguageModel, exam: Exam) -> list[Prompt]:
    """What the model reads of each question."""
    task, made = exam.task, []
    for place, question in enumerate(exam.questions):
        drawn = draw(task, question, place, exam.training, exam.shots, exam.seed)
        made.append(prompt(task, question, drawn, partial(_fits, model, task, question)))
    return made


def answer_tokens(model: LanguageModel, task: Task) -> int:
    """Tokens of an answer at most: the task's, or half of a context that they alone would fill."""
    context = model.config.context_length
    return task.max_new_tokens if task.max_new_tokens < context else context // 2


def _fits(model: LanguageModel, task: Task, question: Question, text: str) -> bool:
    """Whether there is room for a text and what is to follow it."""
    if task.kind == "generate":
        room = model.config.context_length - answer_tokens(model, task)
        return model.num_tokens(text) <= room
    # The last token of an ending is not read.
    longest = max(model.num_tokens(text + ending) for ending in set(question.choices))
    return longest - 1 <= model.max_length


_Found = tuple[dict[str, Sums], dict[str, int], list[dict[str, Any]]]


def _counts(
    exam: Exam, made: Sequence[Prompt], without_tokens: int = 0, with_shorter_answers: int = 0
) -> dict[str, int]:
    return {
        "with_fewer_shots": sum(one.shots < exam.shots for one in made),
        "shots_left_out": sum(exam.shots - one.shots for one in made),
        "too_long": sum(not one.fits for one in made),
        "without_tokens": without_tokens,
        "with_shorter_answers": with_shorter_answers,
    }


def _asked(exam: Exam, made: Sequence[Prompt]) -> list[list[tuple[str, str]]]:
    """(context, ending) of each choice of each question."""
    asked = []
    for question, one in zip(exam.questions, made, strict=True):
        contexts = one.contexts * (1 if question.contexts else len(question.choices))
        asked.append(list(zip(contexts, question.choices, strict=True)))
    return asked


def _choose(model: LanguageModel, exam: Exam, progress: Progress | None) -> _Found:
    made = prompts(model, exam)
    pairs: dict[tuple[str, str], int] = {}
    asked = []
    for question, with_context in zip(exam.questions, _asked(exam, made), strict=True):
        alone = [(exam.task.unconditional, choice) for choice in question.choices]
        asked.append((with_context, alone))
        for pair in [*with_context, *alone]:
            pairs.setdefault(pair, len(pairs))
    likelihoods = model.loglikelihoods(list(pairs), progress)
    right: dict[str, list[bool]] = {name: [] for name in scores.NAMES["choice"]}
    records = []
    for question, one, (with_context, alone) in zip(exam.questions, made, asked, strict=True):
        found, bare = ([likelihoods[pairs[p]] for p in some] for some in (with_context, alone))
        record = {"question": question.name, "shots": one.shots, "right": question.right}
        if any(ending.tokens == 0 for ending in found):
            records.append(record | {"left_out": "a choice has no tokens"})
            continue
        chosen = scores.chosen(question, found, bare)
        for name, choice in chosen.items():
            right[name].append(choice == question.right)
        records.append(
            record
            | {"contexts": list(one.contexts), "choices": list(question.choices), "chosen": chosen}
            | {"logprobs": [ending.logprob for ending in found]}
            | {"logprobs_unconditional": [ending.logprob for ending in bare]}
            | {"tokens": [ending.tokens for ending in found]}
        )
    without = sum("left_out" in record for record in records)
    sums = {name: scores.mean(flags) for name, flags in right.items()}
    return sums, _counts(exam, made, without), records


def _write(model: LanguageModel, exam: Exam, progress: Progress | None) -> _Found:
    task, made = exam.task, prompts(model, exam)
    many = scores.answers_per_question(task)
    asked = [one.contexts[0] for one in made for _ in range(many)]
    how = Sampling(temperature=TEMPERATURE if many > 1 else 0.0)
    most = answer_tokens(model, task)
    written = model.generate(asked, task.stop, most, how, exam.seed, progress)
    texts = [written[start : start + many] for start in range(0, len(written), many)]
    passed, tested = [0] * len(texts), any(name.startswith("pass@") for name in task.metrics)
    if tested:
        programs = [
            f"{question.context}{text}\n{question.test}"
            for question, answers in zip(exam.questions, texts, strict=True)
            for text in answers
        ]
        # Each host runs them; where a program passes on one by luck alone, all must agree.
        outcomes = hosts.from_first([outcome.passed for outcome in sandbox.run_all(programs)])
        passed = [sum(outcomes[n : n + many]) for n in range(0, len(outcomes), many)]
    sums = scores.of_answers(task, exam.questions, texts, passed)
    records = [
        {"question": question.name, "shots": one.shots, "context": one.contexts[0]}
        | {"answers": list(question.answers), "written": answers}
        | {name: float(sums[name].of_example_NS[n, 0]) for name in sums if name != "bleu"}
        for n, (question, one, answers) in enumerate(zip(exam.questions, made, texts, strict=True))
    ]
    shorter = len(made) if most < task.max_new_tokens else 0
    return sums, _counts(exam, made, with_shorter_answers=shorter), records


def _tell(model: LanguageModel, exam: Exam, progress: Progress | None) -> _Found:
    texts = [question.answers[0] for question in exam.questions]
    found = model.rolling(texts, progress)
    records = [
        {"question": question.name, "logprob": one.logprob, "tokens": one.tokens}
        | {"bytes": one.num_bytes}
        for question, one in zip(exam.questions, found, strict=True)
    ]
    return scores.of_texts(texts, found), _counts(exam, []), records


_ways: dict[str, Callable[[LanguageModel, Exam, Progress | None], _Found]] = {
    "choice": _choose,
    "generate": _write,
    "text": _tell,
}
