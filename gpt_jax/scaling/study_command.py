"""`gpt-jax scaling run`, and what else takes the file of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpt_jax.config import Config, require
from gpt_jax.scaling import registry
from gpt_jax.scaling.cost import as_table, cost, rate_of
from gpt_jax.scaling.points import Point
from gpt_jax.scaling.results import finished, folder_of, read_results
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


def register(options: argparse.Namespace) -> None:
    """Write the prediction for the held-out runs."""
    study, folder = open_study(options)
    begun = [
        path
        for path in ((options.workdir or RUNS / study.name) / name for name in study.held_out_names)
        if (path / "config.json").exists()
    ]
    require(
        not begun,
        "a prediction is written before its run is trained, and there is one of a held-out run "
        f"in {', '.join(map(str, begun))}: it predicts nothing any more.",
    )
    found = registry.register(study, options.study, folder, read_results(study, folder))
    for name, why in found.left_out.items():
        print(f"{name} diverged and is left out: {why}.")
    for one in found.predictions:
        print(f"{one.run} by {one.law}: {one.loss:.4f}, 95 % {one.low:.4f} to {one.high:.4f}")
    print(f"written to {folder / 'prediction.json'} (digest {found.digest[:12]})")


def check(options: argparse.Namespace) -> None:
    """Train the held-out runs, unless they are, and say what became of the prediction."""
    study, folder = open_study(options)
    found = registry.read_registered(folder)
    before = registry.parts_of(study, options.study, read_results(study, folder))
    registry.require_unchanged(found, before)
    if not train_runs(study, study.chosen(study.held_out_names), folder, options):
        return
    for verdict in registry.verdicts(study, folder, found, read_results(study, folder)):
        print(registry.in_words(verdict))


def report(options: argparse.Namespace) -> None:
    """Write the page of a study from its results; nothing is trained, nothing is judged anew."""
    from gpt_jax.plots import as_svg
    from gpt_jax.scaling.report import figures, page

    study, folder = open_study(options)
    results = read_results(study, folder)
    fits = {str(law): registry.fit_study(study, results, law) for law in study.laws}
    found, verdicts = None, []
    if (folder / "prediction.json").exists():
        found = registry.read_registered(folder)
        now = registry.parts_of(study, options.study, results)
        registry.require_unchanged(found, now)
        if (folder / "check.json").exists():
            verdicts = registry.verdicts(study, folder, found, results)
    out = options.out or Path(f"{study.name}.html")
    out.write_text(page(study.name, [*results.values()], fits, found, verdicts), encoding="utf-8")
    print(f"written to {out}")
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        for name, drawn in figures(finished(results.values()), fits, found).items():
            (options.figures / f"{name}.svg").write_text(as_svg(drawn), encoding="utf-8")
        print(f"figures in {options.figures}")


def points_of(options: argparse.Namespace, of: str) -> list[Point]:
    """The finished runs of the study that are not held out, as a law or an approach takes them."""
    study, folder = open_study(options)
    return registry.points_for(of, registry.seen(study, read_results(study, folder)))


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
