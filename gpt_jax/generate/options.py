"""The options of `gpt-jax generate`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import STEP_HELP


def add_options(generate: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    generate.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    generate.add_argument("--step", metavar="N|best|last", help=STEP_HELP)
    generate.add_argument(
        "--prompt",
        action="append",
        help="text to continue; more than one makes a batch, which is printed when it is done",
    )
    generate.add_argument(
        "--max-new-tokens", type=int, help="default: 100, or what the context has room for"
    )
    generate.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    generate.add_argument("--top-k", type=int, default=0, help="of the k likeliest; 0: of all")
    generate.add_argument("--top-p", type=float, default=1.0, help="of the likeliest that add to p")
    generate.add_argument("--repetition-penalty", type=float, default=1.0, help="1: none")
    generate.add_argument("--stop", action="append", default=[], help="text to stop at")
    generate.add_argument(
        "--special-tokens",
        action="store_true",
        help="names such as <|endoftext|> in a prompt are those tokens, and not text",
    )
    generate.add_argument("--seed", type=int, default=0)
