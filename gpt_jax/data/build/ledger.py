"""What a build kept and dropped, step by step and source by source: ledger.json and its table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from gpt_jax.config import InputError
from gpt_jax.data.build.documents import Part
from gpt_jax.data.build.publish import Content
from gpt_jax.data.build.runner import digest_of, made_with
from gpt_jax.data.recipe import Recipe
from gpt_jax.data.tokenizers import load_tokenizer
from gpt_jax.paths import user_path

EXAMPLES = 5
"""Of each reason for dropping a document, kept for each source and step."""

Ledger = dict[str, Any]
"""What ledger.json holds: figures and digests that are the same whenever the build is repeated."""
Tally = dict[str, Any]
"""{"documents": left, "bytes": left, "dropped": {reason: {"documents", "bytes", "examples"}}}."""


def tally(documents: int = 0, size: int = 0) -> Tally:
    """A count of what is left, with nothing dropped."""
    return {"documents": documents, "bytes": size, "dropped": {}}


def drop(into: Tally, reason: str, example: str, size: int = 0, documents: int = 1) -> None:
    """Count a document that goes, or `size` bytes of one that stays (`documents` 0)."""
    row = into["dropped"].setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
    row["documents"] += documents
    row["bytes"] += size
    if len(row["examples"]) < EXAMPLES:
        row["examples"].append(example)


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies, with the first examples of each reason."""
    whole = tally()
    for one in tallies:
        whole["documents"] += one["documents"]
        whole["bytes"] += one["bytes"]
        for reason, row in one["dropped"].items():
            into = whole["dropped"].setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
            into["documents"] += row["documents"]
            into["bytes"] += row["bytes"]
            into["examples"] = (into["examples"] + row["examples"])[:EXAMPLES]
    return whole


@dataclass(frozen=True)
class State:
    """What a step leaves."""

    parts: tuple[Part, ...]
    """All sources' documents, in the recipe's order."""
    tallies: Mapping[str, Tally]
    """Per source, what is left of it and what the step dropped."""
    key: str
    """A digest of all that this depends on."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else the step has to say, for the ledger."""


def as_ledger(recipe: Recipe, steps: Mapping[str, State], content: Content) -> Ledger:
    """What became of each source, in figures that are the same whenever the build is repeated."""
    sources = {
        source.name: {
            "weight": source.weight,
            "steps": {step: state.tallies[source.name] for step, state in steps.items()},
            "shards": {
                side: {
                    "documents": index.documents,
                    "bytes": index.bytes,
                    "tokens": index.tokens,
                    "sha256": digest_of(dataclasses.asdict(index)),
                }
                for side, (index, _) in content.shards.get(source.name, {}).items()
            },
        }
        for source in recipe.sources
    }
    texts = [state.key for state in steps.values()]
    tokenizer = load_tokenizer(content.tokenizer) if content.tokenizer else None
    made = [tokenizer.digest if tokenizer else "", texts[-1] if content.documents else ""]
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "recipe": digest_of(dataclasses.asdict(recipe)),
        "digest": digest_of([*made, [source["shards"] for source in sources.values()]]),
        "tokenizer": tokenizer and {"sha256": tokenizer.digest, "vocab_size": tokenizer.vocab_size},
        "steps": {step: {"key": state.key, **state.notes} for step, state in steps.items()},
        "sources": sources,
        "versions": made_with(),
    }


def read_ledger(folder: Path) -> dict[str, Any]:
    """The ledger of a corpus; raises InputError where there is none."""
    path = user_path(folder) / "ledger.json"
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"a corpus has a ledger.json, and {path} cannot be read ({error}): give a folder that "
            "gpt-jax data build made."
        ) from error


def as_table(ledger: Mapping[str, Any]) -> Table:
    """What became of each source, for the terminal: documents and MB that each step left."""
    steps = ["read", *(step for step in ledger["steps"] if step != "read")]
    title = f"{ledger['name']}: documents and MB of text that each step left, and tokens"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("source")
    for column in (*steps, "train", "held out"):
        table.add_column(column, justify="right")
    for name, source in ledger["sources"].items():
        left = [source["steps"][step] for step in steps]
        cells = [f"{one['documents']:,}\n{one['bytes'] / 1e6:,.1f}" for one in left]
        for side in ("train", "validation"):
            made = source["shards"].get(side)
            cells.append(f"{made['tokens']:,}" if made else "")
        table.add_row(name, *cells)
    return table


def said_lines(ledger: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that a step found out, and for each reason that it dropped text for."""
    for step, found in ledger["steps"].items():
        for name, value in found.items():
            if isinstance(value, int | float):
                yield f"{step}: {name.replace('_', ' ')} {value:,}"
            elif name != "sha256" and isinstance(value, dict):
                for part, figures in value.items():
                    yield f"{step}: {name} {part}: {_listed(figures)}"
    for name, source in ledger["sources"].items():
        for step, counts in source["steps"].items():
            for reason, row in counts["dropped"].items():
                what = f"{row['documents']:,} documents, " if row["documents"] else ""
                yield (
                    f"{step}: {name}: {what}{row['bytes'] / 1e6:,.2f} MB {reason}, such as "
                    f"{row['examples'][0]}"
                )


def _listed(figures: Mapping[str, Any]) -> str:
    """Names and numbers of a record, in one line."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in numbers.items())
