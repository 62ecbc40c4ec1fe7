"""The options of `gpt-jax plan`; of the standard library alone, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(plan: argparse.ArgumentParser) -> None:
    """What the command takes besides an experiment's fields."""
    plan.add_argument("experiment", type=Path, nargs="+", help="Python files with get_config()")
    plan.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="SLICE",
        help="such as v5e-16, v5p-512 (Cloud TPU counts TensorCores here: 256 chips), v5p:4x8x8, "
        "or local; more than one make a table, and so do more than one EXPERIMENT",
    )
    plan.add_argument("--slices", type=int, default=1, help="how many of them (default: 1)")
    plan.add_argument("--json", action="store_true", help="print a list of candidates")
    plan.add_argument(
        "--candidates", type=int, metavar="N", help="to look at (default: 24; in a table 4)"
    )
    plan.add_argument(
        "--full", type=int, metavar="N", help="of them to compile to the end (default: 2; 0)"
    )
    plan.add_argument("--no-compile", action="store_true", help="arithmetic alone")
    plan.add_argument(
        "--jobs", type=int, default=0, help="compilers at a time (0: as many as cores)"
    )
    plan.add_argument("--price", type=float, help="of a chip for an hour, in any currency")
