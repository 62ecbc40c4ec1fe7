"""Every task by its name, or by the file that holds or defines it."""

from __future__ import annotations

from collections.abc import Iterable

from gpt_jax.config import nearest, require
from gpt_jax.data.tasks import arithmetic, records, scrambles, sequences
from gpt_jax.data.tasks.benchmarks import BENCHMARKS
from gpt_jax.data.tasks.task import Task

OF_FILES = {
    ".jsonl": records.of_jsonl,
    ".jsonl.gz": records.of_jsonl,
    ".jsonl.zst": records.of_jsonl,
    ".json": records.of_json,
    ".py": records.of_python,
}
"""What reads a task from a file, by the ending of its name."""


def find_task(name: str, others: Iterable[str] = ()) -> Task:
    """The task of that name, of `task_names`, or in a file.

    `others` are names that the caller knows itself: one of them may have been meant.

    A .jsonl file holds questions (`records.of_jsonl`), a .json file or the get_task() of a .py file
    defines a task over some (`records.RecordTask`).

    Raises InputError for an unknown name, and for a file that is not there or holds no task.
    """
    for ending, read in OF_FILES.items():
        if name.endswith(ending):
            return read(name)
    known = task_names()
    hint = "" if name in known else nearest(name, [*known, *others])
    require(
        name in known,
        f"there is no task {name!r}: {hint} `gpt-jax evaluate --list-tasks` lists all; the path "
        "of a .jsonl, .json or .py file names one of your own.",
    )
    if name in BENCHMARKS:
        return BENCHMARKS[name].task()
    made = (
        (arithmetic.FAMILIES, arithmetic.task),
        (scrambles.SCRAMBLES, scrambles.task),
        (sequences.ABOUT, sequences.task),
    )
    (make,) = (make for names, make in made if name in names)
    return make(name)


def task_names() -> dict[str, str]:
    """The names that `find_task` knows, each with a line that says what it is."""
    return {
        **{name: family.about for name, family in arithmetic.FAMILIES.items()},
        **{name: scramble.about for name, scramble in scrambles.SCRAMBLES.items()},
        **sequences.ABOUT,
        **{name: task.about for name, task in BENCHMARKS.items()},
    }
