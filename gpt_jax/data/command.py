"""`gpt-jax data`: build a corpus, show what became of its sources, write text for others."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpt_jax.config import DataConfig, require
from gpt_jax.data.build.ledger import Ledger, as_table, read_ledger, said_lines
from gpt_jax.data.build.publish import share_corpus
from gpt_jax.data.build.runner import WORK, Runner
from gpt_jax.data.build.steps import build, take_steps
from gpt_jax.data.recipe import Recipe
from gpt_jax.data.sources import Document, documents, held_out
from gpt_jax.data.tfds_builder import write_dataset
from gpt_jax.data.workers import num_cores
from gpt_jax.paths import in_bucket

CORPORA = Path("corpora")


def run_build(options: argparse.Namespace, recipe: Recipe) -> None:
    """Build the corpus of `recipe`, and tell what became of it."""
    processes, console, begun = _processes(options), Console(), time.perf_counter()
    out = options.out or CORPORA / recipe.name
    console.print(f"corpus  {out}", soft_wrap=True, markup=False)
    # A bucket has no renames, so that the corpus is made here and copied when it is whole.
    local = (CORPORA / out.name if in_bucket(out) else out).resolve()
    try:
        ledger = build(recipe, local, processes, console)
    except KeyboardInterrupt:
        console.print("stopped: the same command goes on from what is done", highlight=False)
        raise
    share_corpus(local, out)
    show(ledger, console)
    console.print(
        f"corpus  {out}, in {time.perf_counter() - begun:.0f} s; what the steps left for the next "
        f"build is in {local}{WORK}\nmore    gpt-jax train EXPERIMENT --data.corpus {out}",
        soft_wrap=True,
        markup=False,
    )


def run_bench(options: argparse.Namespace, recipe: Recipe) -> None:
    """Build the corpus in a temporary folder with one process, then with all; tell each rate."""
    processes = _processes(options)
    rates = []
    for number in (1, processes):
        with tempfile.TemporaryDirectory() as folder, Runner(Path(folder), number) as runner:
            runner.start(_imported)
            _, ledger = take_steps(runner, recipe)
            rates.append(runner.seconds)
    size = sum(source["steps"]["read"]["bytes"] for source in ledger["sources"].values()) / 1e6
    table = Table(title=f"{recipe.name}: {size:.1f} MB of text, in MB/s", title_justify="left")
    for column in ("step", "1 process", f"{processes} processes", "ratio"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for step, alone in rates[0].items():
        shared = rates[1][step]
        figures = (size / alone, size / shared, alone / shared)
        table.add_row(step, *(f"{figure:.2f}" for figure in figures))
    Console().print(table)


def _imported() -> None:
    """In a worker: all that jobs need is there by now."""
    time.sleep(0.5)  # so that none takes the task that another is started for


def _processes(options: argparse.Namespace) -> int:
    number = options.processes
    require(number >= 0, f"--processes is negative: {number}; 0 takes all cores.")
    return number or num_cores()


def run_show(options: argparse.Namespace) -> None:
    """Print the ledger of a corpus."""
    show(read_ledger(options.corpus), Console())


def show(ledger: Ledger, console: Console) -> None:
    """The ledger's table, and a line for each reason that text was dropped for."""
    console.print(as_table(ledger))
    for line in said_lines(ledger):
        # Names of files may hold anything, and would move the cursor.
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def run_tfds(options: argparse.Namespace) -> None:
    """Write text as a dataset of TFDS, with whole documents held out for validation."""
    config = DataConfig(
        files=tuple(options.files),
        jsonl_field=options.text_field,
        validation_fraction=options.validation_fraction,
    )

    def side(number: int) -> Iterator[Document]:
        for document in documents(config):
            if text := held_out(document, config)[number]:
                yield Document(document.name, text)

    splits = {"train": lambda: side(0), "validation": lambda: side(1)}
    folder = write_dataset(
        options.name, options.version, options.data_dir, splits, options.file_format
    )
    print(
        f"dataset {folder}\nmore    gpt-jax train EXPERIMENT --data.files "
        f"'tfds:{options.name}?data_dir={options.data_dir}'"
    )
