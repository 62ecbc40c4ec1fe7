"""Records to what is read and what is learned: by templates over their fields, or as a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import DataConfig, InputError, nearest, read_labels, read_template, require
from gpt_jax.data import chat
from gpt_jax.data.sources import pieces, records


class Example(NamedTuple):
    """What is read, and what is learned to be written after it."""

    name: str
    """Of the record: source and position."""
    parts: tuple[str, ...]
    """Prompt and target; of a pair prompt, target and what was rejected; of a conversation prompts
    and targets by turns, and two empty texts (`data/packing.py`)."""


def examples(data: DataConfig, classes: Sequence[str] = ()) -> Iterator[Example]:
    """An example of each record that `data.files` names, in an order that does not change.

    Args:
      data: where the records are, and what is read of them.
      classes: all targets that there may be, besides none; (): any.

    Raises:
      InputError: a record cannot be read, lacks a field that a template names or has nothing in
        it, has a label without a word or a target that is no class, or is no conversation; or
        there is no record at all.
    """
    empty = True
    prompt, target, rejected = map(read_template, (data.prompt, data.target, data.rejected))
    words = read_labels(data.labels)

    def answers(record: dict, name: str) -> Iterator[str]:
        yield fill(prompt, record, name)
        learned = fill(target, record, name, words=words)
        require(
            not classes or learned in classes or not learned,
            f"every target must be one of tune.classes, {', '.join(map(repr, classes))}, and that "
            f"of {name} is {learned!r:.60}: see data.target, and data.labels for their words.",
        )
        yield learned
        if rejected:
            yield fill(rejected, record, name)

    def turns(record: dict, name: str) -> Iterator[str]:
        said = looked_up(record, tuple(data.chat.split("/")), name)
        for pair in chat.spans(said, f"{data.chat} of {name}"):
            yield from pair
        yield from ("", "")

    parts = turns if data.chat else answers
    for piece in pieces(data.files):
        for name, record in records(piece):
            empty = False
            yield Example(name, tuple(parts(record, name)))
    require(not empty, f"there is no record in {', '.join(data.files)} (--data.files).")


def fill(
    template: tuple[tuple[str, tuple[str, ...]], ...],
    record: dict,
    name: str,
    null: str | None = None,
    words: Mapping[str, str] | None = None,
) -> str:
    """The text of a template, as `read_template` gives it, for the record of that name.

    Numbers and truth values are written as Python writes them, and `null` where there is nothing in
    a field; None: that is an error. Where there are `words`, they take the place of what is in the
    fields. Raises InputError where the record has no such field, nothing in it, what is neither of
    these nor text, or what there is no word for.
    """
    filled = ""
    for part, field in template:
        filled += part
        if field:
            value = _text(looked_up(record, field, name), field, name, null)
            filled += _word(value, words, field, name) if words else value
    return filled


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
        "leave such records out, or make others of them in a Python function "
        "(python:PATH.py:FUNCTION).",
    )
    return str(value)


def _word(value: str, words: Mapping[str, str], field: tuple[str, ...], name: str) -> str:
    require(
        value in words,
        f"each value of a label has a word in data.labels, and {_written(field)} of {name} is "
        f"{value!r:.60}: there are {', '.join(words)}.",
    )
    return words[value]


def _written(field: tuple[str, ...]) -> str:
    """A field as it stands in a template."""
    return f"{{{field[0]}{''.join(f'[{key}]' for key in field[1:])}}}"
