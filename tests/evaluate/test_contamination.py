"""The report of a real build beside a task: which of its questions the text held."""

import dataclasses
import json

import pytest
from rich.console import Console

from gpt_jax.config import Config
from gpt_jax.data.build.steps import build
from gpt_jax.data.recipe import Benchmark, Decontaminate, Recipe, Source, Vocabulary
from gpt_jax.data.tasks.records import RecordTask
from gpt_jax.data.tasks.registry import find_task
from gpt_jax.evaluate.contamination import contamination

QUESTIONS = [
    "which boat did the harbour master send out on the morning after the great storm of march",
    "who carried a lantern up the ninety steps when every lamp along that coast had gone dark",
    "how many barrels of salted herring were landed before noon by crews that came from elsewhere",
    "why would nobody in town buy rope from anyone but an old widow whose shop had no sign",
]
ANSWERS = [f" a {word} lamp" for word in ("tall", "small", "broken", "bright")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus whose text has the second and the fourth question within it."""
    folder = tmp_path_factory.mktemp("built")
    rows = [
        {"prompt": question, "target": answer}
        for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    filler = "Some other text that is about nothing at all, and goes on and on. " * 20
    for i in range(40):
        held = QUESTIONS[i] if i in (1, 3) else ""
        (folder / f"{i}.txt").write_text(f"{filler}{i} {held} {i}{filler}")
    recipe = Recipe(
        name="harbour",
        sources=(Source("files", (f"{folder}/*.txt",)),),
        steps=("decontaminate",),
        decontaminate=Decontaminate(
            (Benchmark("harbour_quiz", (f"{folder}/quiz.jsonl",), "{prompt}{target}"),)
        ),
        vocabulary=Vocabulary("bytes"),
        validation_fraction=0.2,
    )
    build(recipe, folder / "corpus", 1, Console(quiet=True))
    return folder


def config_of(corpus, **changes) -> Config:
    config = Config()
    data = dataclasses.replace(config.data, corpus=str(corpus))
    return dataclasses.replace(config, data=data, **changes)


def test_what_was_found_is_named(corpus):
    """By the file of its questions; they were cut out of the text."""
    task = find_task(str(corpus / "quiz.jsonl"))
    said = contamination(config_of(corpus / "corpus"), task)
    assert (said.benchmark, said.examples, said.found, said.left) == ("harbour_quiz", 4, 2, 0)
    assert [said.is_clean(question) for question in task.questions("test", 0)] == [
        True,
        False,
        True,
        False,
    ]
    assert said.line == (
        "2 of 4 examples were found in the text of corpus, and 0 are in what was left of it"
    )


def test_a_task_is_known_by_its_name_too(corpus, tmp_path):
    """A definition of that name over a copy of the file."""
    (tmp_path / "harbour_quiz.jsonl").write_text((corpus / "quiz.jsonl").read_text())
    said = contamination(config_of(corpus / "corpus"), find_task(f"{tmp_path}/harbour_quiz.jsonl"))
    assert said.found == 2


def test_of_a_record_that_was_found_no_question_is_clean(corpus):
    """A definition that makes two questions of each record."""

    def rows(record):
        return [record, {"prompt": record["target"], "target": record["prompt"]}]

    task = RecordTask(
        "two", test=(f"{corpus}/quiz.jsonl",), prompt="{prompt}", target="{target}", rows=rows
    ).task()
    said = contamination(config_of(corpus / "corpus"), task)
    clean = [said.is_clean(question) for question in task.questions("test", 0)]
    assert clean == [True, True, False, False, True, True, False, False]


def test_what_the_origin_was_trained_on_counts(corpus, tmp_path):
    """A run that went on from another, with other text."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "config.json").write_text(
        json.dumps(dataclasses.asdict(config_of(corpus / "corpus")))
    )
    task = find_task(str(corpus / "quiz.jsonl"))
    tuned = dataclasses.replace(Config(), init_from=str(origin))
    assert contamination(tuned, task).found == 2
    (origin / "config.json").unlink()
    assert contamination(tuned, task) is None


def test_of_what_was_not_checked_nothing_is_known(corpus, tmp_path):
    """No corpus, another task, a corpus that is gone; an older ledger knows numbers alone."""
    task = find_task(str(corpus / "quiz.jsonl"))
    assert contamination(Config(), task) is None
    assert contamination(config_of(corpus / "corpus"), find_task("addition_2")) is None
    assert contamination(config_of(tmp_path / "gone"), task) is None
    old = tmp_path / "old"
    old.mkdir()
    ledger = json.loads((corpus / "corpus/ledger.json").read_text())
    del ledger["steps"]["decontaminate"]["benchmarks"]["harbour_quiz"]["dirty"]
    (old / "ledger.json").write_text(json.dumps(ledger))
    (old / "recipe.json").write_text((corpus / "corpus/recipe.json").read_text())
    said = contamination(config_of(old), task)
    assert (said.found, said.dirty) == (2, None)
