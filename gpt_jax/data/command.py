"""`gpt-jax data`: build a corpus, and show what became of its sources."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from gpt_jax.config import require
from gpt_jax.data.build.ledger import Ledger, as_table, dropped_lines, read_ledger
from gpt_jax.data.build.steps import build
from gpt_jax.data.recipe import Recipe
from gpt_jax.data.workers import num_cores

CORPORA = Path("corpora")


def run_build(options: argparse.Namespace, recipe: Recipe) -> None:
    """Build the corpus of `recipe`, and tell what became of it."""
    require(
        options.processes >= 0, f"--processes is negative: {options.processes}; 0 takes all cores."
    )
    out, console, begun = options.out or CORPORA / recipe.name, Console(), time.perf_counter()
    console.print(f"corpus  {out}", soft_wrap=True)
    ledger = build(recipe, out, options.processes or num_cores(), console)
    show(ledger, console)
    console.print(
        f"corpus  {out}, in {time.perf_counter() - begun:.0f} s; what the steps left for the next "
        f"build is in {out}.work\nmore    gpt-jax train EXPERIMENT --data.corpus {out}",
        soft_wrap=True,
    )


def run_show(options: argparse.Namespace) -> None:
    """Print the ledger of a corpus."""
    show(read_ledger(options.corpus), Console())


def show(ledger: Ledger, console: Console) -> None:
    """The ledger's table, and a line for each reason that text was dropped for."""
    console.print(as_table(ledger))
    for line in dropped_lines(ledger):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
