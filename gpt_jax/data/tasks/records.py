"""Tasks over records: a JSONL file, a dataset of TFDS, or whatever else `data.files` can name."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from gpt_jax.config import InputError, from_dict, nearest, read_template, require
from gpt_jax.data import formats, functions
from gpt_jax.data.examples import fill, looked_up
from gpt_jax.data.sources import pieces, records
from gpt_jax.data.tasks.task import Kind, Question, Split, Task
from gpt_jax.paths import user_path

METRICS: Mapping[Kind, tuple[str, ...]] = {
    "choice": ("accuracy_per_token", "accuracy"),
    "generate": ("exact_match", "f1"),
    "text": ("bits_per_byte", "perplexity"),
}
"""What is told of a task whose definition does not say."""
CODE_STOP = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""Where a function that a model writes ends (Codex paper, section 2.1)."""
SHOTS_FROM = 10_000
"""Training questions that are kept for shots to be drawn from, a sample by the seed ..."""
SHOTS_WITHIN = 1_000_000
"""... of the first so many; those after them are not read. WMT 2014 has 40 M."""

T = TypeVar("T")


@dataclass(frozen=True)
class RecordTask:
    r"""A task by templates over the fields of its records, such as "Q: {question}\n\nA:".

    Templates are those of `DataConfig.prompt`. One whose only field holds a list stands for as many
    texts as the list is long.
    """

    name: str = ""
    about: str = ""
    """For a list of all tasks."""
    test: tuple[str, ...] = ()
    """Sources of what is scored, as `DataConfig.files`: globs, tfds:NAME?split=validation, ..."""
    train: tuple[str, ...] = ()
    """Sources that shots are drawn from, from `SHOTS_FROM` questions at most; none: there are no
    shots."""
    text: str = ""
    """Of kind "text", and then all that is needed."""
    prompt: str = ""
    """The context."""
    target: str = ""
    """What is to be written after the context, or, with `contexts`, what follows each of them."""
    choices: tuple[str, ...] = ()
    """The endings that are compared."""
    contexts: tuple[str, ...] = ()
    """The contexts that are compared, each before `target`."""
    answer: str = ""
    """Which choice or context is right: one of `labels`, or its number from 0, or its text."""
    labels: tuple[str, ...] = ()
    """What `answer` is for each choice, in their order."""
    check: str = ""
    """Python that raises unless the code before it is right."""
    rows: Callable[[dict[str, Any]], Iterable[dict[str, Any]]] | None = None
    """A record to those that the templates are filled with; None: to itself."""
    metrics: tuple[str, ...] = ()
    """None: those of its kind, in `METRICS`."""
    version: str = "1"
    instruction: str = ""
    delimiter: str = "\n\n"
    unconditional: str = "Answer:"
    stop: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        where = f"the task {self.name!r}"
        require(
            re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name) is not None,
            f"the name of a task is of letters, digits and _.+-, and it is {self.name!r}.",
        )
        for name in ("test", "train", "choices", "contexts", "labels", "metrics", "stop"):
            value = getattr(self, name)
            require(isinstance(value, tuple), f"{name} of {where} must be a tuple: {value!r}.")
        require(bool(self.test), f"{where} names no records to be scored (test).")
        compared = self.choices or self.contexts
        forms = [bool(self.text), bool(self.target) and not self.contexts, bool(self.choices)]
        require(
            sum(forms) + bool(self.contexts) == 1
            and bool(self.answer) == bool(compared)
            and not (self.contexts and not self.target),
            f"a task has a text, or a prompt and a target, or a prompt, choices and which of them "
            f"is the answer, or contexts, their target and an answer, and {where} has none or "
            "several of these.",
        )
        require(
            not (self.text and self.train), f"{where} is of texts, which have no shots (train)."
        )

    @property
    def kind(self) -> Kind:
        if self.text:
            return "text"
        return "choice" if self.answer else "generate"

    def task(self) -> Task:
        """The task itself; its records are read when they are asked for, and kept."""

        @cache
        def read(split: Split, seed: int) -> tuple[Question, ...]:
            found = self.questions(split)
            if split == "test":
                return tuple(found)
            return tuple(_sample(islice(found, SHOTS_WITHIN), SHOTS_FROM, f"{self.name} {seed}"))

        return Task(
            self.name,
            self.kind,
            self.version,
            lambda split, seed: read(split, seed if split == "train" else 0),
            self.metrics or METRICS[self.kind],
            self.instruction,
            self.delimiter,
            self.unconditional,
            self.stop,
            self.max_new_tokens,
            self.test,
        )

    def questions(self, split: Split) -> Iterator[Question]:
        """The questions of a split, in the order of its records.

        Raises InputError, with file and line or the record's name, where one is malformed, and
        where there is none.
        """
        files = self.test if split == "test" else self.train
        require(
            bool(files),
            f"shots are drawn from a task's training records, and {self.name} has none: ask it "
            "with --shots 0, or name some in its definition (train).",
        )
        empty = True
        for piece in pieces(files):
            for name, record in records(piece):
                rows = self._rows(record, name)
                for number, row in enumerate(rows):
                    empty = False
                    yield self.question(row, f"{name}.{number}" if len(rows) > 1 else name)
        require(not empty, f"there is no record in {', '.join(files)}, of the task {self.name}.")

    def _rows(self, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
        try:
            return [record] if self.rows is None else list(self.rows(record))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the function `rows` of the task {self.name} failed for {name}: "
                f"{functions.last_line(error)}."
            ) from error

    def question(self, record: dict[str, Any], name: str) -> Question:
        """One record as a question; raises InputError, with its name, where it is malformed."""
        if self.text:
            return Question(name, "", (_filled(self.text, record, name),))
        context = _filled(self.prompt, record, name)
        if not self.answer:
            answers = _each(self.target, record, name)
            require(bool(answers), f"a question has an answer, and {name} has none.")
            check = _filled(self.check, record, name)
            _require_text(name, answers)
            return Question(name, context, tuple(answers), test=check)
        contexts = [text for one in self.contexts for text in _each(one, record, name)]
        choices = [text for one in self.choices for text in _each(one, record, name)]
        compared = contexts or choices
        _require_text(name, compared)
        require(
            len(compared) > 1,
            f"a question has several choices, and {name} has {len(compared)}: {compared}.",
        )
        right = self._right(_filled(self.answer, record, name), compared, name)
        if contexts:
            choices = [_filled(self.target, record, name)] * len(contexts)
            _require_text(name, choices)
        shown = choices[right]
        return Question(name, context, (shown,), tuple(choices), right, tuple(contexts))

    def _right(self, answer: str, compared: list[str], name: str) -> int:
        """Which of the choices an answer names."""
        labels = [*(self.labels or map(str, range(len(compared))))][: len(compared)]
        if answer in labels:
            return labels.index(answer)
        texts = [text.strip() for text in compared]
        require(
            answer.strip() in texts,
            f"an answer is one of {', '.join(labels)}, or the text of a choice, and that of {name} "
            f"is {answer!r}: {nearest(answer, [*labels, *texts])}",
        )
        return texts.index(answer.strip())


def _sample(found: Iterable[T], count: int, seed: str) -> list[T]:
    """`count` of what is found, each as likely as the others, in their order; all where there are
    no more. No more than that are ever held (Vitter 1985, algorithm R).
    """
    # By random() alone, which gives the same in every version of Python.
    numbers, kept = random.Random(seed), []
    for place, one in enumerate(found):
        if place < count:
            kept.append((place, one))
        elif (slot := int(numbers.random() * (place + 1))) < count:
            kept[slot] = (place, one)
    return [one for _, one in sorted(kept, key=itemgetter(0))]


def _filled(template: str, record: dict[str, Any], name: str) -> str:
    return fill(read_template(template), record, name)


def _each(template: str, record: dict[str, Any], name: str) -> list[str]:
    """The texts that a template stands for."""
    parts = read_template(template)
    fields = [field for _, field in parts if field]
    if len(fields) == 1 and isinstance(found := looked_up(record, fields[0], name), list):
        one = tuple((text, ("item",) if field else ()) for text, field in parts)
        return [fill(one, {"item": item}, f"{name} (item {i})") for i, item in enumerate(found)]
    return [_filled(template, record, name)]


def _require_text(name: str, texts: list[str]) -> None:
    for text in texts:
        require(bool(text.strip()), f"answers and choices have text, and one of {name} has none.")


def of_jsonl(path: str) -> Task:
    """The task in a JSONL file whose lines have `text`; or `prompt` and `target`, a text or a list
    of them; or `prompt`, `choices` and `answer`, its number from 0 or its text. Targets and choices
    follow the prompt as they are written.

    With `test` beside prompt and target, Python that raises unless the code before it is right, it
    is a task of code; so is one in the form of HumanEval. Shots are drawn from NAME.train.jsonl,
    where that stands beside NAME.jsonl.

    Raises InputError where the first line has none of these forms.
    """
    where = user_path(path)
    first = next(formats.json_lines(where), None)
    require(first is not None, f"a task has a question at least, and {path} has no line.")
    assert first is not None
    number, record = first
    if isinstance(record, InputError):
        raise record
    stem, _, packed = where.name.partition(".jsonl")
    beside = where.with_name(f"{stem}.train.jsonl{packed}")
    shape = _shape(record, f"{path}:{number}")
    train = (str(beside),) if beside.exists() and "text" not in shape else ()
    name = re.sub(r"[^A-Za-z0-9_.+-]", "_", stem) or "task"
    return RecordTask(name, test=(path,), train=train, **shape).task()


def _shape(record: dict[str, Any], where: str) -> dict[str, Any]:
    """What of a definition a line has the fields for."""
    fields = {*record}
    code = {"metrics": ("pass@1",), "stop": CODE_STOP, "max_new_tokens": 256}
    if {"prompt", "choices", "answer"} <= fields:
        return {"prompt": "{prompt}", "choices": ("{choices}",), "answer": "{answer}"}
    if {"prompt", "target"} <= fields:
        asked = {"prompt": "{prompt}", "target": "{target}"}
        return asked | ({"check": "{test}"} | code if "test" in fields else {})
    if {"prompt", "canonical_solution", "test", "entry_point"} <= fields:
        check = "\n{test}\ncheck({entry_point})\n"
        return {"prompt": "{prompt}", "target": "{canonical_solution}", "check": check} | code
    if "text" in fields:
        return {"text": "{text}"}
    raise InputError(
        "a line of a task has text, or prompt and target, or prompt, choices and answer, and "
        f"{where} has {', '.join(sorted(fields)) or 'nothing'}: write it so, or name your fields "
        "in a definition (a .json or .py file)."
    )


def of_json(path: str) -> Task:
    """The task that a JSON file defines: the fields of `RecordTask`.

    Files that it names lie where it lies. Raises InputError for what is no such definition.
    """
    where = user_path(path)
    try:
        values = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"a task is defined in JSON, and {path} cannot be read ({error}): correct it."
        ) from error
    try:
        require(isinstance(values, dict), f"it must be an object, and is {values!r:.60}.")
        values = {"name": where.stem, **values}
        for name in ("test", "train"):
            if isinstance(values.get(name), list):
                values[name] = [_beside(where, str(file)) for file in values[name]]
        return from_dict(RecordTask, values).task()
    except InputError as error:
        raise InputError(f"{path} does not define a task: {error}") from error


def _beside(definition: Path, file: str) -> str:
    named = re.match(r"[a-z]+:|/|~", file)
    return file if named else str(definition.parent / file)


def of_python(path: str) -> Task:
    """What get_task() of a Python file gives: a RecordTask, or a Task.

    Raises InputError where the file cannot be imported, or get_task() fails or gives something
    else.
    """
    require(user_path(path).is_file(), f"a task is defined in a file, and there is no {path}.")
    try:
        found = functions.function(str(user_path(path).absolute()), "get_task")()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"get_task() of {path}, which takes no arguments and gives a task, failed: "
            f"{functions.last_line(error)}."
        ) from error
    if isinstance(found, RecordTask):
        return found.task()
    require(
        isinstance(found, Task),
        f"get_task() of {path} must give a RecordTask or a Task, and gives a "
        f"{type(found).__name__}.",
    )
    return found
