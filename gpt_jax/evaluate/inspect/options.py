"""The options of `gpt-jax inspect`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(inspect: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    inspect.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    inspect.add_argument("--text", required=True, help="what the model is to read")
    inspect.add_argument(
        "--out", type=Path, default=Path("inspect.html"), help="the page (default: inspect.html)"
    )
    inspect.add_argument(
        "--step",
        help="of the checkpoint: a number, best, last, or all for the induction score of each "
        "(default: the one that generate takes)",
    )
    inspect.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="a file for the induction scores of every head at each step, with --step all",
    )
