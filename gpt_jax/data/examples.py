"""Records to prompts and targets, by templates over their fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gpt_jax.config import DataConfig, InputError, nearest, read_template, require
from gpt_jax.data.sources import pieces, records


class Example(NamedTuple):
    """What is read, and what is learned to be written after it."""

    name: str
    """Of the record: source and position."""
    prompt: str
    target: str


def examples(data: DataConfig) -> Iterator[Example]:
    """An example of each record that `data.files` names, in an order that does not change.

    Raises:
      InputError: a record cannot be read, lacks a field that a template names or has nothing in
        it; or there is no record at all.
    """
    empty = True
    prompt, target = read_template(data.prompt), read_template(data.target)
    for piece in pieces(data.files):
        for name, record in records(piece):
            empty = False
            yield Example(name, fill(prompt, record, name), fill(target, record, name))
    require(not empty, f"there is no record in {', '.join(data.files)} (--data.files).")


def fill(
    template: tuple[tuple[str, tuple[str, ...]], ...],
    record: dict,
    name: str,
    null: str | None = None,
) -> str:
    """The text of a template, as `read_template` gives it, for the record of that name.

    Numbers and truth values are written as Python writes them, and `null` where there is nothing in
    a field; None: that is an error. Raises InputError where the record
    has no such field, nothing in it, or what is neither of these nor text.
    """
    return "".join(
        part if not field else part + _text(looked_up(record, field, name), field, name, null)
        for part, field in template
    )


def looked_up(record: dict, field: tuple[str, ...], name: str) -> Any:
    """What a record has in a field; raises InputError, with its name, where it has none."""
    value: Any = record
    for key in field:
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            hint = "there is nothing within it."
            if isinstance(value, list):
                hint = f"there are {len(value)} items, counted from 0."
            elif isinstance(value, dict) and value:
                hint = nearest(key, value)
            raise InputError(
                f"a template may name what every record has, and {name} has no {_written(field)}: "
                f"at {key!r}, {hint}"
            )
    return value


def _text(value: Any, field: tuple[str, ...], name: str, null: str | None) -> str:
    if value is None and null is not None:
        return null
    require(
        isinstance(value, str | int | float),
        f"a field in a template is a text or a number, and {_written(field)} of {name} is "
        f"{f'a {type(value).__name__}' if value is not None else 'empty'}: name a field within it, "
        "leave such records out of --data.files, or make prompts and targets in a Python function "
        "(python:PATH.py:FUNCTION).",
    )
    return str(value)


def _written(field: tuple[str, ...]) -> str:
    """A field as it stands in a template."""
    return f"{{{field[0]}{''.join(f'[{key}]' for key in field[1:])}}}"
