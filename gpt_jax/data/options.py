"""The options of `gpt-jax data`; of the standard library alone, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

OF_RECIPES = ("build",)
"""Commands that take a recipe's fields as options."""


def add_options(data: argparse.ArgumentParser) -> None:
    """The commands below `gpt-jax data` and what they take besides a recipe's fields."""
    commands = data.add_subparsers(dest="data_command", required=True, metavar="COMMAND")

    def add(name: str, help: str, epilog: str | None = None) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=help, description=help, epilog=epilog, allow_abbrev=False
        )

    build = add(
        "build",
        "make a corpus, or go on with one whose making was stopped",
        "Any field of the recipe can be given as an option, such as --dedup.threshold 0.7; "
        "`gpt-jax data build RECIPE --help` lists them.",
    )
    build.add_argument(
        "recipe",
        type=Path,
        help="a Python file with get_config(), such as experiments/data/python_text.py",
    )
    build.add_argument("--out", type=Path, help="the corpus's folder (default: corpora/NAME)")
    build.add_argument(
        "--processes", type=int, default=0, metavar="N", help="at work at a time (0: all cores)"
    )

    show = add("show", "print the ledger of a corpus")
    show.add_argument("corpus", type=Path, help="a folder that `gpt-jax data build` made")
