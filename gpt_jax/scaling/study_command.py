"""`gpt-jax scaling run`, and what else takes the file of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import Config, require
from gpt_jax.scaling.cost import as_table, cost, rate_of
from gpt_jax.scaling.results import folder_of, read_results
from gpt_jax.scaling.study import Study
from gpt_jax.scaling.tables import aligned
from gpt_jax.train.run import RUNS, command


def open_study(options: argparse.Namespace) -> tuple[Study, Path]:
    """The study of the file that the command names, and the folder of its results."""
    given = options.defined(options.study)
    require(
        isinstance(given, Study),
        f"get_config() of a study returns a Study, and that of {options.study} returns a "
        f"{type(given).__name__}: give a file such as experiments/scaling/stdlib_ladder.py.",
    )
    return given, folder_of(given, options.study)


def run(options: argparse.Namespace) -> None:
    """Train the runs that the laws are fitted to, or tell what all runs would cost."""
    study, folder = open_study(options)
    if options.dry_run:
        print(_costs(study, folder, options))
        return
    runs = study.fitted
    if options.only:
        runs = study.chosen(options.only)
        held_out = [run.name for run in runs if run.name in study.held_out_names]
        require(
            not held_out,
            f"a held-out run is trained by `gpt-jax scaling check`, after its prediction was "
            f"written down, and {', '.join(held_out)} is held out: leave it out of --only.",
        )
    train_runs(study, runs, folder, options)


def train_runs(
    study: Study, runs: tuple[Config, ...], folder: Path, options: argparse.Namespace
) -> bool:
    """Train them; False where a signal ended that, and then how to go on has been said."""
    from gpt_jax.scaling.runner import run_runs  # which takes jax to import

    workdir = options.workdir or RUNS / study.name
    stopped = run_runs(study, runs, folder, workdir, lambda line: print(line, flush=True))
    if stopped is None:
        return True
    words = ["scaling", options.scaling_command, str(options.study), "--workdir", str(workdir)]
    if getattr(options, "only", None):
        words += ["--only", *options.only]
    print(f"{stopped.signal}: saved {stopped.run}. To continue:\n  {command(words)}")
    return False


def _costs(study: Study, folder: Path, options: argparse.Namespace) -> str:
    runs = study.chosen(options.only) if options.only else study.runs
    rate = rate_of(
        read_results(study, folder).values(),
        flops_per_second=options.flops_per_second,
        target=options.target,
        mfu=options.mfu,
        watts=options.watts,
    )
    rows = as_table([cost(run, rate) for run in runs], study.held_out_names, rate)
    watts = "not stated (--watts)" if rate.watts is None else f"{rate.watts:,.0f} W"
    return "\n".join([*aligned(rows), "", f"rate: {rate.source}; power: {watts}"])
