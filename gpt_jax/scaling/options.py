"""The options of `gpt-jax scaling`; of the standard library alone, for --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

LAWS = ("chinchilla", "kaplan_nd", "kaplan_ns", "power_n", "power_d", "power_c")
"""`forms.LAWS`, which takes NumPy to import; a test holds the two together."""

APPROACHES = ("envelope", "isoflop", "parametric")
"""`frontier.APPROACHES`, likewise."""


def add_options(scaling: argparse.ArgumentParser, name: str) -> None:
    """The commands below the one of that name."""
    commands = scaling.add_subparsers(dest="scaling_command", required=True, metavar="COMMAND")

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, allow_abbrev=False)

    _add_run(add("run", "train the runs of a study, or tell what they would cost"))
    for of_study in (
        add("register", "write down what the held-out runs of a study will come to"),
        add("check", "train the held-out runs of a study, and compare with what was written down"),
    ):
        _add_study(of_study)
        _add_workdir(of_study)
    report = add("report", "show a study on one HTML page: curves, laws, prediction and check")
    _add_study(report)
    report.add_argument("--out", type=Path, metavar="FILE", help="(default: NAME.html)")
    report.add_argument("--figures", type=Path, metavar="DIR", help="its figures too, as SVG files")
    _add_fit(add("fit", "fit a scaling law to runs, of ours or of others, in a CSV file"))
    _add_frontier(add("frontier", "find the best size for a compute from runs in a CSV file"))
    _add_advise(add("advise", "what to train for a compute, or with chips and days"))
    sweep = add("sweep", "train learning rates x widths by the standard parametrisation and by muP")
    sweep.add_argument("sweep", type=Path, help="a file such as experiments/scaling/mup_sweep.py")
    sweep.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="of results, a line each; what it has is not run again (default: runs/NAME.jsonl)",
    )
    batch = add("batch", "the batch law of a run with train.noise_scale, and the ramp it suggests")
    batch.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of the run")
    batch.add_argument(
        "--settled",
        type=int,
        default=100,
        metavar="STEPS",
        help="at the start that are no part of it (default: 100)",
    )


def _add_run(run: argparse.ArgumentParser) -> None:
    _add_study(run)
    run.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="of its runs, by their names"
    )
    _add_workdir(run)
    run.add_argument(
        "--dry-run", action="store_true", help="train nothing: parameters, FLOPs, hours, energy"
    )
    rate = run.add_argument_group(
        "of --dry-run", "By default at the rate that the study's finished runs were measured at."
    )
    rate.add_argument(
        "--flops-per-second",
        type=float,
        metavar="X",
        help="as `gpt-jax bench` measures it (model gflops per second)",
    )
    rate.add_argument("--target", metavar="SLICE", help="such as v5e-16")
    rate.add_argument("--mfu", type=float, help="share of the slice's peak (default: 0.4)")
    rate.add_argument(
        "--watts", type=float, help="of all machines (default: the slice's chips, with a PUE)"
    )


def _add_study(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "study",
        type=Path,
        metavar="STUDY",
        help="a Python file with get_config(), such as experiments/scaling/stdlib_ladder.py",
    )


def _add_workdir(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workdir", type=Path, help="of the runs' own folders (default: runs/NAME)"
    )


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument(
        "--law",
        choices=LAWS,
        help="chinchilla: E + A/N^a + B/D^b; kaplan_nd and kaplan_ns: Kaplan's of N and tokens, or "
        "steps; power_n, power_d, power_c: of one of parameters, tokens and FLOPs (default: the "
        "first of the study, or chinchilla)",
    )
    fit.add_argument(
        "--irreducible", action="store_true", help="add a loss E to a power law, which has none"
    )
    _add_runs(fit, "steps", "batch")
    fit.add_argument(
        "--resample",
        choices=("noise", "runs"),
        default="noise",
        help="what a bootstrap draws: new noise around the law, or which runs (default: noise)",
    )
    fit.add_argument(
        "--delta",
        type=float,
        default=1e-3,
        help="of the Huber loss: from which residual of log L on runs count less (default: 1e-3)",
    )
    fit.add_argument("--runs", action="store_true", help="show each run beside the law")


def _add_frontier(frontier: argparse.ArgumentParser) -> None:
    frontier.add_argument(
        "--approach",
        choices=APPROACHES,
        default="parametric",
        help="envelope: of training curves, the lines of one size being one curve; isoflop: "
        "parabolas through runs of the same FLOPs; parametric: chinchilla, fitted to any runs "
        "(default: parametric)",
    )
    frontier.add_argument(
        "--at",
        type=float,
        nargs="+",
        default=[],
        metavar="FLOPS",
        help="show the best size and tokens of these computes",
    )
    _add_runs(frontier)


def _add_advise(advise: argparse.ArgumentParser) -> None:
    compute = advise.add_mutually_exclusive_group(required=True)
    compute.add_argument("--flops", type=float, help="of the whole run, such as 1e21")
    compute.add_argument("--chips", metavar="SLICE", help="a slice, such as v5e-16, with --days")
    advise.add_argument("--days", type=float, help="of training on the chips")
    advise.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the chips' peak that the model's FLOPs take; gpt-jax plan estimates it "
        "(default: 0.4)",
    )
    advise.add_argument(
        "--law",
        default="besiroglu",
        metavar="LAW",
        help="kaplan, hoffmann, besiroglu, or a file of gpt-jax scaling fit --json (default: "
        "besiroglu)",
    )
    advise.add_argument("--json", action="store_true", help="print one JSON object")


def _add_runs(command: argparse.ArgumentParser, *more: str) -> None:
    """What commands that read runs take, with the columns that all have and `more`."""
    command.add_argument(
        "study",
        type=Path,
        nargs="?",
        metavar="STUDY",
        help="whose finished runs are read, without the held-out ones",
    )
    command.add_argument("--csv", type=Path, help="or a line for each run, names on top")
    columns = command.add_argument_group(
        "columns",
        "What the file calls them, where not as the options are called. Of tokens and FLOPs the "
        "one that is not there follows from C = 6 N D, and steps from tokens and batch.",
    )
    for option, what in (
        ("params", "parameters without embeddings"),
        ("tokens", "of training"),
        ("flops", "of training"),
        ("loss", "nats per token"),
        ("steps", "of training"),
        ("batch", "tokens in a step"),
        ("name", "of the run"),
    ):
        if option in more or option not in ("steps", "batch"):
            columns.add_argument(f"--{option}", metavar="COL", help=what)
    command.add_argument(
        "--bootstrap", type=int, default=200, metavar="N", help="fits for intervals (default: 200)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the bootstraps (default: 0)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
