"""The options of `gpt-jax evaluate`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import STEP_HELP


def add_options(evaluate: argparse.ArgumentParser, name: str) -> None:
    """What the command of that name takes."""
    evaluate.add_argument(
        "run_folder",
        metavar="RUN",
        type=Path,
        nargs="?",
        help="the folder of a run, or of a model in the Hugging Face format",
    )
    evaluate.add_argument(
        "--tasks", default="", metavar="A,B,...", help="names, or files that hold or define a task"
    )
    evaluate.add_argument(
        "--samples",
        type=int,
        default=800,
        metavar="N",
        help="texts that a probe has written after each prompt (default: 800)",
    )
    evaluate.add_argument(
        "--lexicon",
        metavar="PATH",
        help="how kind words are, for probes: lines of a word, a tab and a number",
    )
    evaluate.add_argument("--list-tasks", action="store_true", help="tell the names and end")
    evaluate.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="SOURCE",
        help="perplexity and bits per byte of each document of a source, as --data.files names it",
    )
    evaluate.add_argument(
        "--text-field", default="text", help="of the records in SOURCE (default: text)"
    )
    evaluate.add_argument(
        "--shots", default="0", metavar="K,...", help="solved examples before a question"
    )
    evaluate.add_argument(
        "--examples", type=int, default=0, metavar="N", help="questions of each task; 0: all"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of shots, questions and intervals")
    evaluate.add_argument("--json", type=Path, metavar="PATH", help="a file for all figures")
    evaluate.add_argument(
        "--records", action="store_true", help="write what was said to each question to it too"
    )
    evaluate.add_argument("--step", metavar="N|best|last", help=STEP_HELP)
    evaluate.add_argument(
        "--fsdp", type=int, default=1, help="devices to split the weights over (default: 1)"
    )
    evaluate.add_argument(
        "--device-batch-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="tokens that a device takes at a time (default: 8192)",
    )
