"""The options of `gpt-jax launch`, and what becomes of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from gpt_jax.chips import find_slice
from gpt_jax.config import Config, require
from gpt_jax.launch import source
from gpt_jax.launch.commands import as_text
from gpt_jax.launch.job import Job, check
from gpt_jax.launch.loop import launch


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line; experiment fields, which follow, are not among them."""
    add = parser.add_argument
    add("experiment", type=Path, help="a Python file with get_config()")
    add("--target", metavar="SLICE", help="such as v5e-16 or v5p-512")
    add("--slices", type=int, default=1, help="how many of them (default: 1)")
    add("--workdir", help="the run's folder in a bucket: gs://BUCKET/runs/NAME")
    add("--project", help="of Google Cloud, which is charged")
    add("--zone", help="such as us-east5-a")
    add("--name", help="of the machines (default: the experiment's)")
    parser.set_defaults(capacity="on-demand")
    capacity = parser.add_mutually_exclusive_group()
    for kind, told in (
        ("on-demand", "not preempted (the default)"),
        ("spot", "cheaper, and taken away at any time"),
        ("reserved", "of the project's reservation"),
    ):
        name = f"--{kind}"
        capacity.add_argument(name, dest="capacity", action="store_const", const=kind, help=told)
    add("--valid-until", metavar="DURATION", default="", help="end of waiting in the queue: 6h")
    add(
        "--max-restarts",
        type=int,
        default=5,
        help="in a row without a new checkpoint before it is given up (default: 5)",
    )
    add("--keep", action="store_true", help="leave the machines there at the end")
    add("--dry-run", action="store_true", help="print the gcloud lines, and run none")


def run(options: argparse.Namespace, config: Config, overrides: Sequence[str]) -> None:
    """Launch `config`, which is the experiment of the options with `overrides`, or say how.

    Raises InputError where an option is missing or wrong, before anything is run, and where the
    launch fails.
    """
    required = ("target", "workdir", "project", "zone")
    missing = [f"--{name}" for name in required if getattr(options, name) is None]
    require(not missing, f"launch needs to be told {', '.join(missing)}: see --help.")
    root = source.checkout()
    name = options.name or re.sub("[^a-z0-9]+", "-", config.name.lower()).strip("-")
    job = Job(
        name=name,
        project=options.project,
        zone=options.zone,
        slice=find_slice(options.target),
        slices=options.slices,
        capacity=options.capacity,
        valid_until=options.valid_until,
        workdir=options.workdir.rstrip("/"),
        archive=source.archive(name),
        experiment=source.place(options.experiment, root),
        overrides=tuple(overrides),
        keep=options.keep,
        max_restarts=options.max_restarts,
    )
    check(config, job)
    source.pack(options.experiment, root, job.archive)
    if options.dry_run:
        print(as_text(job))
    else:
        launch(job)
