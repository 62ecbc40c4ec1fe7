"""The options of `gpt-jax chat`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import STEP_HELP


def add_options(chat: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    chat.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    chat.add_argument("--step", metavar="N|best|last", help=STEP_HELP)
    chat.add_argument("--system", default="", help="what the model is told before anything else")
    chat.add_argument(
        "--max-new-tokens", type=int, help="of a reply (default: what the context has room for)"
    )
    chat.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest token")
    chat.add_argument("--top-p", type=float, default=1.0, help="of the likeliest that add to p")
    chat.add_argument("--seed", type=int, default=0)
