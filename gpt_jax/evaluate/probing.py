"""Probes of `gpt-jax evaluate`: which are asked for, and what is told of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.table import Table

from gpt_jax.config import require
from gpt_jax.evaluate import pairs
from gpt_jax.evaluate.probe_words import LEXICON
from gpt_jax.evaluate.probes import PROBES, Asked, Probe, ProbeResult, read_lexicon

TOLD = 5
"""Words of each group in the terminal; the JSON has more."""


def is_probe(name: str) -> bool:
    """Whether what --tasks names is a probe and no task."""
    return name in PROBES or name.startswith(pairs.SCHEME)


def probe_names() -> dict[str, str]:
    """Their names, each with a line that says what it is."""
    return {
        **{name: probe.about for name, probe in PROBES.items()},
        f"{pairs.SCHEME}FILE.csv": pairs.ABOUT,
    }


def find_probe(name: str) -> Probe:
    """The probe of that name; raises InputError where the file that it names is malformed."""
    if name.startswith(pairs.SCHEME):
        return pairs.probe(name.removeprefix(pairs.SCHEME))
    return PROBES[name]


def asked(options: argparse.Namespace) -> Asked:
    """How the options say that probes are put; raises InputError for a bad number or lexicon."""
    require(options.samples > 0, f"--samples is 1 or more, and it is {options.samples}.")
    lexicon = read_lexicon(options.lexicon) if options.lexicon else LEXICON
    return Asked(options.seed, options.samples, lexicon)


def as_table(results: Sequence[ProbeResult]) -> Table:
    """Their figures with their intervals."""
    table = Table(box=None, pad_edge=False)
    for name in ("probe", "items", "metric", "value", "95 % interval"):
        table.add_column(name, justify="left" if name in ("probe", "metric") else "right")
    for result in results:
        for n, (name, score) in enumerate(result.scores.items()):
            interval = "-" if score.low is None else f"{score.low:.4f} to {score.high:.4f}"
            probe, items = result.probe.name if n == 0 else "", f"{result.items[name]:,}"
            table.add_row(probe, items, name, f"{score.value:.4f}", interval)
    return table


def lines(result: ProbeResult) -> list[str]:
    """The words that each group has more often than the others, with the texts that have them."""
    told = []
    for group, rows in result.details.get("favored", {}).items():
        words = (f"{row['word']} ({row['texts']:,}, others {row['others']:,})" for row in rows)
        said = ", ".join(list(words)[:TOLD]) or "no word stands out"
        told.append(f"{result.probe.name}, {group}: {said}")
    return told
