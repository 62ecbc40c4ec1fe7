"""How much of a task was in the text that a run was trained on (section 4 and appendix C).

A corpus whose recipe had the task among its benchmarks has a report in its ledger: which examples
share words with a document, before the filter and in what it left (`data/build/decontaminate.py`).
A score is then told on all examples and on the clean ones, which were never found, not even in text
that was cut out. Of a run without such a report nothing is known, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_jax.config import Config, InputError
from gpt_jax.data.build.ledger import read_ledger
from gpt_jax.data.tasks.task import Question, Task
from gpt_jax.paths import user_path
from gpt_jax.train.run import read_config


@dataclass(frozen=True)
class Contamination:
    """What a corpus says of a task."""

    corpus: str
    benchmark: str
    """Its name in the recipe."""
    examples: int
    found: int
    """Of these, in the text as it was read ..."""
    left: int
    """... and in what training saw of it."""
    dirty: frozenset[str] | None
    """The names of those found; None where the ledger is older than these names."""

    def is_clean(self, question: Question) -> bool:
        """Whether a question's record was never found; several may be made of one record."""
        assert self.dirty is not None
        return self.dirty.isdisjoint((question.name, question.name.rpartition(".")[0]))

    @property
    def line(self) -> str:
        """What is said beside a score."""
        return (
            f"{self.found:,} of {self.examples:,} examples were found in the text of "
            f"{self.corpus}, and {self.left:,} are in what was left of it"
        )


NOT_CHECKED = "not checked"
"""What is said of a run whose corpora know nothing of the task."""


def contamination(config: Config, task: Task) -> Contamination | None:
    """What is known of a task and the corpora of a run, and of those that it began from.

    None: nothing; the corpus did not have it as a benchmark, or the text was no built corpus, or
    its ledger is not where it was. The benchmark is the task by its name, or by the sources of its
    records. Of several corpora it is the one that had most of it.
    """
    found = [said for corpus in _corpora(config) for said in _reports(corpus, task)]
    return max(found, key=lambda said: said.found, default=None)


def _corpora(config: Config) -> Iterator[str]:
    """The corpora of a run and of the runs that its parameters come from, each once."""
    seen = set()
    while True:
        if config.data.corpus:
            yield config.data.corpus
        origin = config.init_from
        if not origin or origin in seen:
            return
        seen.add(origin)
        try:
            config = read_config(user_path(origin))
        except (InputError, OSError):  # a model from elsewhere, or a run that is gone
            return


def _reports(corpus: str, task: Task) -> Iterator[Contamination]:
    folder = user_path(corpus)
    try:
        ledger, recipe = read_ledger(folder), json.loads((folder / "recipe.json").read_bytes())
        known = ledger["steps"]["decontaminate"]["benchmarks"]
        benchmarks = recipe["decontaminate"]["benchmarks"]
    except (InputError, OSError, ValueError, KeyError):
        return
    for benchmark in benchmarks:
        name = benchmark["name"]
        if name in known and (name == task.name or {*benchmark["files"]} & {*task.sources}):
            yield _said(folder, name, known[name])


def _said(folder: Path, name: str, figures: dict[str, Any]) -> Contamination:
    dirty = figures.get("dirty")
    names = dirty and frozenset(one.removeprefix(f"{name}:") for one in dirty["before"])
    return Contamination(
        folder.name,
        name,
        figures["examples"],
        figures["dirty_before"],
        figures["dirty_after"],
        names if dirty else None,
    )
