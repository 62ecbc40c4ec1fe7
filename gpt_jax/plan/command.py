"""`gpt-jax plan`: one experiment on one target in full, or several of either as one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt_jax.config import Config, DataConfig, InputError, require
from gpt_jax.paths import in_bucket, user_path
from gpt_jax.plan import report
from gpt_jax.plan.compile import compiler_version
from gpt_jax.plan.search import Effort, Found, described, plan, smallest
from gpt_jax.plan.target import LOCAL, Target, find_target

# Candidates looked at, and compiled to the end: of a plan, and of each cell of a table.
OF_A_PLAN, OF_A_CELL = (24, 2), (4, 0)


def run(
    options: argparse.Namespace, experiments: list[tuple[Path, Config]], overrides: Sequence[str]
) -> None:
    """Plan, telling of progress on stderr and of the result on stdout.

    `overrides` are the options of the command line that the experiments were changed by.
    """
    # Compilers for the devices that are here need their memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    require(
        bool(options.target),
        "a plan is for a slice, and none is named: --target v5e-16, say, or --target local.",
    )
    targets = [find_target(name, options.slices) for name in options.target]
    in_a_table = len(targets) * len(experiments) > 1
    effort = _effort(options, in_a_table)
    if in_a_table and not options.json:
        print(_table(experiments, targets, effort))
        return
    records = []
    for path, config in experiments:
        for target in targets:
            cache = _cache(config)
            found = plan(config, target, effort, cache, _say)
            least = smallest(config, target, effort, cache, _say)
            if options.json:
                records += report.as_records(config, found, least, options.price, overrides)
            else:
                command = ["gpt-jax", "train", str(path), *overrides]
                print(report.as_table(config, found, least, options.price, command))
    if options.json:
        print(json.dumps(records))


def _effort(options: argparse.Namespace, in_a_table: bool) -> Effort:
    candidates, full = OF_A_CELL if in_a_table else OF_A_PLAN
    candidates = candidates if options.candidates is None else options.candidates
    full = full if options.full is None else options.full
    require(
        candidates >= 0 and full >= 0 and options.jobs >= 0,
        f"--candidates, --full and --jobs must not be negative, and they are {candidates}, {full} "
        f"and {options.jobs}.",
    )
    require(
        options.price is None or options.price >= 0,
        f"a price is a number of 0 or more, and --price is {options.price}.",
    )
    # Compilers for the devices that are here share them.
    jobs = 1 if LOCAL in options.target else options.jobs or os.cpu_count() or 1
    return Effort(0 if options.no_compile else candidates, full, jobs)


def _table(experiments: list[tuple[Path, Config]], targets: list[Target], effort: Effort) -> str:
    cells: dict[tuple[str, str], Found | str] = {}
    for target in targets if effort.candidates else []:
        compiler_version(target)
    for _, config in experiments:
        for target in targets:
            name = f"{target.slices} x {target.name}" if target.slices > 1 else target.name
            cell = config.name, f"{name} ({target.chips:,} chips)"
            try:
                best = plan(config, target, effort, _cache(config), _say)[0]
                _say(f"{config.name} on {name}: {described(best)}")
                cells[cell] = best
            except InputError as error:
                _say(f"{config.name} on {name}: {error}")
                cells[cell] = "-"
    marks = "MFU by estimate; * arithmetic alone, the others are verified by the compiler."
    return f"{report.matrix(cells)}\n\n{marks}"


def _cache(config: Config) -> Path:
    folder = user_path(config.data.cache_dir)
    # Answers are small and of this machine; a bucket is for those who share text.
    return (user_path(DataConfig().cache_dir) if in_bucket(folder) else folder) / "plan"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
