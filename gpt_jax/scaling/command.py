"""`gpt-jax scaling`: what its commands do, and print."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from gpt_jax.config import require
from gpt_jax.scaling.advise import PUBLISHED, WITH_EMBEDDINGS, Advice, advise, budget
from gpt_jax.scaling.fit import Fit, Interval, fit
from gpt_jax.scaling.frontier import Frontier, frontier, of_fit
from gpt_jax.scaling.laws import FLOPS_PER_PARAM_TOKEN, PF_DAY, hoffmann_optimal
from gpt_jax.scaling.points import Columns, Point, read_csv
from gpt_jax.scaling.record import as_numbers, as_record
from gpt_jax.scaling.tables import aligned

OF_STUDIES = ("run", "register", "check", "report")
"""Commands that take the file of a study: functions of `study_command` by their names."""
FORMULAS = {
    "chinchilla": "L = E + A/N^a + B/D^b",
    "kaplan_nd": "L = ((N_c/N)^(a_N/a_D) + D_c/D)^a_D",
    "kaplan_ns": "L = (N_c/N)^a_N + (S_c/S)^a_S",
    "power_n": "L = (N_c/N)^a_N",
    "power_d": "L = (D_c/D)^a_D",
    "power_c": "L = (C_c/C)^a_C",
}


def run(options: argparse.Namespace) -> None:
    """The command that `options.scaling_command` names."""
    if options.scaling_command in OF_STUDIES:
        from gpt_jax.scaling import study_command  # which knows training

        getattr(study_command, options.scaling_command)(options)
        return
    commands = {"fit": run_fit, "frontier": run_frontier, "advise": run_advise}
    commands |= {"sweep": run_sweep, "batch": run_batch}
    commands[options.scaling_command](options)


def run_sweep(options: argparse.Namespace) -> None:
    """Train what is left of a sweep, and print where each width's best learning rate is."""
    from gpt_jax.scaling import sweep  # which trains

    given = options.defined(options.sweep)
    require(
        isinstance(given, sweep.Sweep),
        f"get_config() of a sweep returns a Sweep, and that of {options.sweep} returns a "
        f"{type(given).__name__}: give a file such as experiments/scaling/mup_sweep.py.",
    )
    results = sweep.run_sweep(given, options.out or Path("runs") / f"{given.name}.jsonl")
    rows = [("", "width", "best rate", "loss there")]
    for parametrisation in given.parametrisations:
        by_width = sweep.curves(results, parametrisation, given.base.model.embed_dim)
        for width, (rates, losses) in by_width.items():
            best = f"{sweep.best_rate(rates, losses):.3g}"
            rows.append((parametrisation, str(width), best, f"{min(losses):.4f}"))
    print("\n".join(aligned(rows)))


def run_batch(options: argparse.Namespace) -> None:
    """Print the batch law of a run, and the options of the ramp that follows from it."""
    from gpt_jax.scaling.batch_size import fit as fit_batch
    from gpt_jax.scaling.batch_size import measured, ramp, read_records
    from gpt_jax.train.run import read_config

    config = read_config(options.run_folder)
    points = measured(read_records(options.run_folder), options.settled)
    law, last = fit_batch(points), points[-1]
    train = ramp(law, points, config)
    print(
        f"B(L) = {law.scale:.4g} L^(-1/{law.alpha:.4g}) tokens, of {len(points)} measurements, "
        f"which are {law.deviation:.0%} about it\n"
        f"at the last loss, {last.loss:.4f} nats per token: {law.at(last.loss):,.0f} tokens; the "
        f"run had {config.train.batch_tokens:,}\n"
        f"ramp    --train.ramp-start-tokens {train.ramp_start_tokens} "
        f"--train.ramp-tokens {train.ramp_tokens} --train.batch-tokens {train.batch_tokens} "
        f"--train.device-batch-tokens {train.device_batch_tokens}"
    )


def run_fit(options: argparse.Namespace) -> None:
    """Fit a law to the runs of a CSV and print it, as a table or as JSON."""
    law, irreducible = options.law or "chinchilla", options.irreducible
    if options.study is not None and options.law is None:
        from gpt_jax.scaling.study_command import open_study  # which knows training

        first = open_study(options)[0].laws[0]
        law, irreducible = first.name, irreducible or first.irreducible
    found = fit(
        _points(options, law),
        law,
        irreducible=irreducible,
        bootstraps=options.bootstrap,
        resample=options.resample,
        seed=options.seed,
        delta=options.delta,
    )
    print(json.dumps(as_record(found)) if options.json else as_table(found, options.runs))


def run_frontier(options: argparse.Namespace) -> None:
    """Find the compute-optimal frontier of the runs of a CSV and print it."""
    at = np.array(options.at)
    require(
        bool(np.all(np.isfinite(at) & (at > 0))),
        f"--at takes positive numbers of FLOPs, and they are {' '.join(map(str, options.at))}.",
    )
    points = _points(options, options.approach)
    found = frontier(points, options.approach, options.bootstrap, options.seed)
    best = [found.optimal(flops) for flops in options.at]
    if options.json:
        a, b = found.exponents
        record = {
            "approach": options.approach,
            "exponents": {"params": as_numbers(a), "tokens": as_numbers(b)},
            "read_at": [
                {"flops": flops, "params": params}
                for flops, params in zip(found.flops_g, found.params_g, strict=True)
            ],
            "optimal": [
                {"flops": flops, "params": as_numbers(params), "tokens": as_numbers(tokens)}
                for flops, (params, tokens) in zip(options.at, best, strict=True)
            ],
        }
        print(json.dumps(record))
        return
    print("\n".join(frontier_lines(found)))
    if best:
        rows = [("FLOPs", "parameters", "95 % interval", "tokens", "95 % interval")]
        rows += [
            (f"{flops:.3g}", f"{n.value:.4g}", _range(n, 3), f"{d.value:.4g}", _range(d, 3))
            for flops, (n, d) in zip(options.at, best, strict=True)
        ]
        print("\n".join(["", *aligned(rows)]))


def run_advise(options: argparse.Namespace) -> None:
    """Say what to train for a compute."""
    require(
        (options.chips is None) == (options.days is None),
        "chips train for some days: give --chips and --days together, or --flops alone.",
    )
    flops, source = options.flops, ""
    if options.chips:
        flops = budget(options.chips, options.days, options.mfu)
        source = f": {options.chips} for {options.days:g} days at {options.mfu:.0%} MFU"
    found = advise(flops, options.law)
    if options.json:
        record = {
            name: as_numbers(value) if isinstance(value, Interval) else value
            for name, value in vars(found).items()
        }
        print(json.dumps(record | {"steps": found.steps}))
        return
    print(advice_table(found, source))


def advice_table(found: Advice, source: str) -> str:
    """The advice in lines, and beside it what each published law says."""
    size = found.nearest
    counted = "as the fit counts them"
    if found.law in PUBLISHED:
        counted = f"{'with' if found.law in WITH_EMBEDDINGS else 'without'} embeddings"
    rows = [
        ("compute", f"{found.flops:.4g} FLOPs, {found.flops / PF_DAY:.4g} PF-days{source}"),
        ("law", found.law),
        ("N", f"{_with_range(found.params)} parameters, {counted}"),
        (
            "D",
            f"{_with_range(found.tokens)} tokens, {found.tokens.value / found.params.value:.3g} "
            "for each parameter",
        ),
        ("loss", f"{_with_range(found.loss)} nats per token, on the text of the law"),
        (
            "batch",
            f"{found.batch:,.0f} tokens in {found.steps:,.0f} steps: {found.batch_rule} "
            f"(B_crit at that loss: {found.critical_batch:.3g})",
        ),
        ("rate", f"{found.learning_rate:.2g} at its peak, for Adam: {found.learning_rate_rule}"),
        (
            "nearest",
            f"GPT-3 {size} of N = {found.nearest_params:.4g}, experiments/gpt3_{size}.py, with "
            f"--train.total-tokens {found.nearest_tokens:.0f}: loss {found.nearest_loss:.4g}",
        ),
    ]
    others = [("published laws", "N", "D", "D/N", "loss")]
    for law in PUBLISHED:
        one = advise(found.flops, law)
        n, d = one.params.value, one.tokens.value
        others.append((law, f"{n:.3g}", f"{d:.3g}", f"{d / n:.3g}", f"{one.loss.value:.3f}"))
    for approach in (1, 2):
        n, d = map(float, hoffmann_optimal(found.flops, approach))
        law = f"hoffmann, approach {approach}"
        others.append((law, f"{n:.3g}", f"{d:.3g}", f"{d / n:.3g}", "-"))
    lines = [f"{name:<9}{text}" for name, text in rows]
    return "\n".join([*lines, "", *aligned(others)])


def frontier_lines(found: Frontier) -> list[str]:
    """The two power laws, in words."""
    a, b = found.exponents
    scale = found.line_2[0] - a.value * found.center
    return [
        f"best N = {np.exp(scale):.3g} C^{a.value:.3f} ({_range(a, 3)})",
        f"best D = {np.exp(-scale) / FLOPS_PER_PARAM_TOKEN:.3g} C^{b.value:.3f} ({_range(b, 3)})",
    ]


def _points(options: argparse.Namespace, law: str) -> list[Point]:
    """The runs of the CSV or of the study; of a study the law says which points of them."""
    require(
        (options.csv is None) != (options.study is None),
        "the runs are those of a STUDY or of a file, --csv FILE: give one of the two.",
    )
    if options.study is not None:
        from gpt_jax.scaling.study_command import points_of  # which knows training

        return points_of(options, law)
    given = {item.name: getattr(options, item.name, None) for item in fields(Columns)}
    return read_csv(options.csv, Columns(**given))


def as_table(found: Fit, runs: bool) -> str:
    """The law, a line for each constant, and how well it says each run; `runs` shows these."""
    formula = FORMULAS[found.form.law] + (" + E" if found.form.constants[-1] == "E" else "")
    lines = [f"{found.form.law}: {formula}, nats per token, of {len(found.names)} runs", ""]
    constants = [
        (name, f"{part.value:.5g}", _range(part)) for name, part in found.constants().items()
    ]
    lines += aligned([("", "", "95 % interval"), *constants])
    if found.form.law in ("chinchilla", "kaplan_nd"):
        lines += ["", *frontier_lines(of_fit(found))]
    residual = found.residual_n
    apart = np.log(found.loss_n) - np.log(found.left_out_n)
    worst = int(np.abs(apart).argmax())
    lines += [
        "",
        f"residuals of {np.sqrt(np.mean(residual**2)):.2%} (root mean square), "
        f"{np.sqrt(np.mean(apart**2)):.2%} where a run is predicted by all others;",
        f"the farthest is {found.names[worst]}: {apart[worst]:+.2%} of its prediction.",
    ]
    if runs:
        columns = found.names, found.loss_n, found.fitted_n, residual, apart
        head = ("run", "loss", "law", "residual", "left out")
        rows = [
            (name, f"{loss:.4f}", f"{law:.4f}", f"{off:+.2%}", f"{left:+.2%}")
            for name, loss, law, off, left in zip(*columns, strict=True)
        ]
        lines += ["", *aligned([head, *rows])]
    return "\n".join(lines)


def _with_range(part: Interval) -> str:
    known = "" if np.isnan(part.low) else f" ({_range(part, 4)})"
    return f"{part.value:.4g}{known}"


def _range(part: Interval, digits: int = 5) -> str:
    if np.isnan(part.low):
        return "-"
    return f"{part.low:.{digits}g} to {part.high:.{digits}g}"
