"""`gpt-jax scaling`: what its commands do, and print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np

from gpt_jax.scaling.fit import Fit, Interval, fit
from gpt_jax.scaling.points import Columns, read_csv
from gpt_jax.scaling.record import as_record

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
    {"fit": run_fit}[options.scaling_command](options)


def run_fit(options: argparse.Namespace) -> None:
    """Fit a law to the runs of a CSV and print it, as a table or as JSON."""
    names = ("params", "tokens", "flops", "loss", "steps", "batch", "name")
    points = read_csv(options.csv, Columns(**{name: getattr(options, name) for name in names}))
    found = fit(
        points,
        options.law,
        irreducible=options.irreducible,
        bootstraps=options.bootstrap,
        resample=options.resample,
        seed=options.seed,
        delta=options.delta,
    )
    print(json.dumps(as_record(found)) if options.json else as_table(found, options.runs))


def as_table(found: Fit, runs: bool) -> str:
    """The law, a line for each constant, and how well it says each run; `runs` shows these."""
    formula = FORMULAS[found.form.law] + (" + E" if found.form.constants[-1] == "E" else "")
    lines = [f"{found.form.law}: {formula}, nats per token, of {len(found.names)} runs", ""]
    constants = [
        (name, f"{part.value:.5g}", _range(part)) for name, part in found.constants().items()
    ]
    lines += _aligned([("", "", "95 % interval"), *constants])
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
        lines += ["", *_aligned([head, *rows])]
    return "\n".join(lines)


def _range(part: Interval) -> str:
    return "-" if np.isnan(part.low) else f"{part.low:.5g} to {part.high:.5g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
