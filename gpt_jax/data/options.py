"""The options of `gpt-jax data`; of the standard library alone, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(data: argparse.ArgumentParser) -> None:
    """The commands below `gpt-jax data` and what they take besides a recipe's fields."""
    commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    def add(name: str, help: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=help, epilog=epilog, allow_abbrev=False
        )

    fields = (
        "Any field of the recipe can be given as an option, such as --dedup.threshold 0.85; "
        "`gpt-jax data %s RECIPE --help` lists them."
    )
    recipe = "a Python file with get_config(), such as experiments/data/python_text.py"

    build = add("build", "make a corpus, or go on with one that was stopped", fields % "build")
    build.add_argument("recipe", type=Path, help=recipe)
    build.add_argument("--out", type=Path, help="the corpus's folder (default: corpora/NAME)")
    _add_processes(build)

    bench = add("bench", "measure a build with one process and with all", fields % "bench")
    bench.add_argument("recipe", type=Path, help=recipe)
    _add_processes(bench)

    show = add("show", "print the ledger of a corpus")
    show.add_argument("corpus", type=Path, help="a folder that `gpt-jax data build` made")

    tfds = add("tfds", "write text as a dataset of TensorFlow Datasets, for others to open")
    tfds.add_argument("name", help="of the dataset, such as my_text")
    tfds.add_argument("files", nargs="+", help="as --data.files")
    tfds.add_argument("--data-dir", required=True, help="the folder with datasets in it")
    tfds.add_argument("--version", default="1.0.0", help="of the dataset (default: 1.0.0)")
    tfds.add_argument("--text-field", default="text", help="as --data.jsonl-field")
    tfds.add_argument(
        "--validation-fraction", type=float, default=0.05, help="as --data.validation-fraction"
    )
    tfds.add_argument(
        "--file-format",
        choices=("array_record", "tfrecord"),
        default="array_record",
        help="tfrecord is what tfds.load makes a tf.data.Dataset of (default: array_record)",
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--processes", type=int, default=0, metavar="N", help="at work at a time (0: all cores)"
    )
