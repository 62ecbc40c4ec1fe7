"""What the fields of a frozen config are checked, read from JSON and compared with."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import re
import string
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """What was asked for breaks a rule; the message gives the rule, the value met and the remedy.

    The command line prints it as one paragraph. Any other exception is a defect of ours and keeps
    its traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def require_positive(config: Any, *names: str) -> None:
    """Every named field of `config` must be above zero."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{name} must be positive, and it is {value}.")


def require_range(config: Any, low: float, high: float, *names: str) -> None:
    """Every named field of `config` must lie in [low, high)."""
    for name in names:
        value = getattr(config, name)
        require(low <= value < high, f"{name} must be in [{low}, {high}), and it is {value}.")


@dataclasses.dataclass(frozen=True)
class Share:
    """What a source weighs in a mixture from a token count on."""

    source: str
    weight: float
    tokens: int


def read_shares(entries: typing.Iterable[str]) -> tuple[Share, ...]:
    """The entries of a mixture, SOURCE=WEIGHT or SOURCE=WEIGHT@TOKENS, by ascending tokens."""
    shares = []
    for entry in entries:
        found = re.fullmatch(r"([^=@]+)=(\d+\.?\d*|\.\d+)(?:@(\d[\d_]*))?", entry)
        require(
            found is not None,
            "an entry of a mixture is SOURCE=WEIGHT or SOURCE=WEIGHT@TOKENS, with a weight of 0 or "
            f"more, such as books=0.08 or books=0.16@1_000_000, and there is {entry!r}.",
        )
        assert found is not None
        tokens = int((found[3] or "0").replace("_", ""))
        shares.append(Share(found[1], float(found[2]), tokens))
    require(
        all(one.tokens <= next.tokens for one, next in itertools.pairwise(shares)),
        f"a mixture must be in the order of its token counts: {', '.join(entries)}.",
    )
    moments = {(share.source, share.tokens) for share in shares}
    require(
        len(moments) == len(shares),
        f"a mixture weighs a source once at a time, and here is one twice: {', '.join(entries)}.",
    )
    return tuple(shares)


def read_labels(entries: typing.Iterable[str]) -> dict[str, str]:
    """The words for values, VALUE=WORD; raises InputError where two are of one, or are one."""
    words: dict[str, str] = {}
    for entry in entries:
        value, equals, word = entry.partition("=")
        require(
            bool(equals and word) and value not in words and word not in words.values(),
            "a label is VALUE=WORD, such as 0=negative, each value with a word that no other has, "
            f"and there is {entry!r}.",
        )
        words[value] = word
    return words


def read_template(template: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(text, the field that follows it) of each part of a template; () where none does.

    Fields stand in braces, {a[b]} for b within a, and braces of the text are doubled, as in
    str.format. Nothing else of it is known, so that a field is only ever looked up. Raises
    InputError for a template that is none.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(
            f"braces of a template are closed, or doubled where they are text, and in {template!r}"
            f" they are not ({error})."
        ) from error
    parts = []
    for text, name, form, conversion in parsed:
        found = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]]+\])*)", name or "")
        if name is None:
            parts.append((text, ()))
            continue
        if found is None or form or conversion:
            raise InputError(
                "a template names fields as {a}, or {a[b]} for b within a, without a format, and "
                f"{template!r} has another: {name!r}."
            )
        parts.append((text, (found[1], *re.findall(r"[^\[\]]+", found[2]))))
    return tuple(parts)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as {"model.num_layers": 4, ...}."""
    flat = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint for a name that is not known: the closest one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a config from parsed JSON; unknown and ill-typed fields are errors that name them."""
    require(isinstance(values, Mapping), f"{where or 'a config'} must be an object: {values!r}.")
    hints = _hints(cls)
    arguments = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        require(name in hints, f"there is no field {path!r}: {nearest(name, hints)}")
        arguments[name] = _typed(hints[name], value, path)
    return cls(**arguments)


def require_types(config: Any) -> None:
    """Every field of `config` must be of its type: a frozen config is checked when it is built."""
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        # A list cannot be hashed, as a compiled program's config must be.
        require(type(value) is not list, f"{name} must be a tuple, and it is {value!r}.")
        if not dataclasses.is_dataclass(value):
            _typed(hint, value, name)


_hints = functools.cache(typing.get_type_hints)  # which parses every annotation anew


def _typed(hint: Any, value: Any, path: str) -> Any:
    """`value` as the field's type, or an error; int serves as float, JSON lists as tuples."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        # A config that is there already was checked when it was built.
        return value if type(value) is hint else from_dict(typing.cast(type, hint), value, path)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(inner[0], item, path) for item in value)
    if origin is Literal:
        options = ", ".join(map(repr, inner))
        require(value in inner, f"{path} must be one of {options}, and it is {value!r}.")
        return value
    if hint is float and type(value) is int:
        return float(value)
    matches = isinstance(hint, type) and not isinstance(hint, types.GenericAlias)
    require(matches and type(value) is hint, f"{path} must be of type {hint}, and it is {value!r}.")
    return value
