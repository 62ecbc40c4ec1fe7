"""The options of `gpt-jax serve`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import STEP_HELP


def add_options(serve: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    serve.add_argument("run_folder", metavar="RUN", type=Path, help="the folder of a run")
    serve.add_argument("--step", metavar="N|best|last", help=STEP_HELP)
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, which this machine alone can reach)",
    )
    serve.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    serve.add_argument("--slots", type=int, default=8, help="texts written at once (default: 8)")
    serve.add_argument("--queue", type=int, default=64, help="texts that may wait (default: 64)")
    serve.add_argument("--max-body", type=int, default=2**20, help="bytes (default: 1 MiB)")
    serve.add_argument("--max-prompt", type=int, help="tokens (default: the model's context)")
    serve.add_argument("--max-tokens", type=int, help="of a text (default: the model's context)")
    serve.add_argument(
        "--timeout", type=float, default=300.0, help="seconds of a request (default: 300)"
    )
