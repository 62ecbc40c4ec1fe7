"""The options of `gpt-jax report`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_options(report: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    report.add_argument(
        "files",
        metavar="JSON",
        type=Path,
        nargs="+",
        help="what gpt-jax evaluate --json wrote, of any runs, sizes and seeds",
    )
    report.add_argument(
        "--out", type=Path, default=Path("report.html"), help="the page (default: report.html)"
    )
