"""Every task by its name."""

from __future__ import annotations

from gpt_jax.config import nearest, require
from gpt_jax.data.tasks import arithmetic
from gpt_jax.data.tasks.task import Task


def find_task(name: str) -> Task:
    """The task of that name; raises InputError for an unknown one."""
    require(
        name in arithmetic.FAMILIES,
        f"there is no task {name!r}: {nearest(name, task_names())} "
        "`gpt-jax evaluate --list-tasks` lists all.",
    )
    return arithmetic.task(name)


def task_names() -> dict[str, str]:
    """The names that `find_task` knows, each with a line that says what it is."""
    return {name: family.about for name, family in arithmetic.FAMILIES.items()}
