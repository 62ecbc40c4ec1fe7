"""A plan as a person reads it, and as JSON."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

from gpt_jax.chips import GIB, PUE
from gpt_jax.config import Config
from gpt_jax.plan.arithmetic import ASSUMPTIONS
from gpt_jax.plan.search import Found, mesh_words
from gpt_jax.plan.target import Target

ROWS = 12
"""Candidates in the table for the terminal; --json has them all."""
Smallest = tuple[Target, bool] | None


def as_records(
    config: Config,
    found: list[Found],
    least: Smallest,
    price: float | None,
    overrides: Sequence[str],
) -> list[dict[str, Any]]:
    """A dictionary for each candidate, ready for JSON: bytes are per device, times in seconds."""
    return [
        record | {"overrides": [*overrides, *record["overrides"]]}
        for record in (_record(config, one, least, price) for one in found)
    ]


def _record(config: Config, found: Found, least: Smallest, price: float | None) -> dict[str, Any]:
    target, compiled, chip = found.target, found.compiled, found.target.chip
    tokens_per_second = config.train.batch_tokens / found.step_seconds
    hours = config.train.total_tokens / tokens_per_second / 3600
    chip_hours = hours * target.chips
    return {
        "experiment": config.name,
        "target": target.name,
        "topology": target.topology,
        "slices": target.slices,
        "chips": target.chips,
        "fits": found.fits,
        "verified": compiled is not None,
        "compiled_to_the_end": compiled is not None and compiled.full,
        "mesh": dataclasses.asdict(found.candidate.mesh),
        "remat": found.candidate.remat,
        "split_residual": found.candidate.split_residual,
        "device_batch_tokens": found.candidate.device_batch_tokens,
        "hbm_bytes": found.hbm_bytes,
        "hbm_limit_bytes": chip.hbm_bytes,
        "hbm_margin_bytes": chip.hbm_bytes - found.hbm_bytes,
        "hbm_bytes_by_arithmetic": {k: round(v) for k, v in found.estimate.memory.items()},
        "argument_bytes": compiled.argument_bytes if compiled else None,
        "temporary_bytes": compiled.temporary_bytes if compiled else None,
        "compile_seconds": compiled.compile_seconds if compiled else None,
        "collectives": list(compiled.collectives) if compiled else None,
        "step_seconds": found.step_seconds,
        "step_seconds_by_part": found.seconds,
        "tokens_per_second": tokens_per_second,
        "mfu": found.mfu,
        "days": hours / 24,
        "chip_hours": chip_hours,
        "energy_kwh": chip_hours * chip.watts * PUE / 1000 if chip.watts else None,
        "cost": None if price is None else chip_hours * price,
        "smallest_slice": None if least is None else least[0].name,
        "smallest_slice_verified": None if least is None else least[1],
        "overrides": found.candidate.overrides(),
    }


def as_table(
    config: Config,
    found: list[Found],
    least: Smallest,
    price: float | None,
    command: Sequence[str],
) -> str:
    """The best candidates, what the best one costs, and the `command` that runs it."""
    target = found[0].target
    lines = [
        f"{config.name} on {target.described()}",
        f"batch {config.train.batch_tokens:,} tokens, {config.train.total_tokens:,} in all; "
        f"{target.chip.hbm_bytes / GIB:.2f} GiB a chip",
        "",
    ]
    head = ("mesh", "remat", "at a time", "GiB", "s/step", "MFU", "fits", "verified")
    rows = [head, *(_row(one) for one in found[:ROWS])]
    lines += aligned(rows)
    if len(found) > ROWS:
        lines.append(f"... and {len(found) - ROWS:,} more, in --json")
    best = found[0]
    lines += ["", *_best(config, best, price)]
    if least is not None:
        how = "compiled" if least[1] else "by arithmetic"
        lines.append(f"smallest  {least[0].described()} ({how})")
    else:
        lines.append(f"smallest  no slice of {target.chip.generation} holds it")
    if best.fits:
        lines.append(f"command   {shlex.join([*command, *best.candidate.overrides()])}")
    lines += ["", "The time is an estimate, no measurement. Its assumptions:"]
    return "\n".join([*lines, *(f"- {text}" for text in _assumptions(target))])


def _assumptions(target: Target) -> list[str]:
    chip = target.chip
    rates = (
        f"{chip.peak_flops / 1e12:,.4g} TFLOP/s, HBM {chip.hbm_bandwidth / 1e9:,.0f} GB/s, a link "
        f"{chip.ici_link / 1e9:,.0f} GB/s each way, between slices {chip.dcn / 1e9:,.3g} GB/s"
    )
    power = f"; {chip.watts:.0f} W a chip without its host, times a PUE of {PUE}"
    return [f"a chip: {rates}{power if chip.watts else ''}", *ASSUMPTIONS]


def _best(config: Config, best: Found, price: float | None) -> list[str]:
    record = _record(config, best, None, price)
    verdict = "fits" if best.fits else "does not fit"
    lines = [
        f"best      {mesh_words(best.candidate.mesh)}, {best.candidate.remat}: {verdict}, "
        f"{abs(record['hbm_margin_bytes']) / GIB:.2f} GiB {'free' if best.fits else 'too much'}"
    ]
    compiled = best.compiled
    if compiled and compiled.argument_bytes is not None and compiled.temporary_bytes is not None:
        lines.append(
            f"memory    {compiled.argument_bytes / GIB:.2f} GiB of arguments, "
            f"{compiled.temporary_bytes / GIB:.2f} of temporaries at the peak; compiled in "
            f"{compiled.compile_seconds:.0f} s"
        )
    if compiled and compiled.collectives:
        sums = [
            f"{one['operation']} {'+'.join(one['axes'])}{' beside other work' * one['hidden']} "
            f"{one['wire_bytes'] / 1e9:,.3g} GB"
            for one in sorted(compiled.collectives, key=lambda one: -one["wire_bytes"])[:4]
        ]
        lines.append(f"network   a device sends, each step: {', '.join(sums)}")
    parts = [f"{name} {value:,.3g}" for name, value in best.seconds.items() if value > 5e-4]
    lines.append(f"step      {record['step_seconds']:,.3g} s: {', '.join(parts)}")
    whole = [f"{record['tokens_per_second']:,.0f} tokens/s", f"MFU {record['mfu']:.1%}"]
    whole += [f"{record['days']:,.3g} days", f"{record['chip_hours']:,.0f} chip-hours"]
    if record["energy_kwh"] is not None:
        whole.append(f"{record['energy_kwh']:,.0f} kWh")
    if record["cost"] is not None:
        whole.append(f"cost {record['cost']:,.0f}")
    lines.append(f"run       {', '.join(whole)}")
    return lines


def _row(found: Found) -> tuple[str, ...]:
    candidate, compiled = found.candidate, found.compiled
    remat = candidate.remat + (" split" if candidate.split_residual else "")
    return (
        mesh_words(candidate.mesh),
        remat,
        f"{candidate.device_batch_tokens:,}",
        f"{found.hbm_bytes / GIB:.2f}",
        f"{found.step_seconds:,.3g}",
        f"{found.mfu:.1%}",
        "yes" if found.fits else "no",
        "arithmetic" if compiled is None else "compiled" if compiled.full else "buffers",
    )


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns: the first two to the left, the others to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def matrix(cells: dict[tuple[str, str], Found | str]) -> str:
    """Experiments x targets, in Markdown: step, MFU, mesh; * where only arithmetic says so."""
    experiments = list(dict.fromkeys(experiment for experiment, _ in cells))
    targets = list(dict.fromkeys(target for _, target in cells))
    lines = [f"| | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for experiment in experiments:
        row = [_cell(cells[experiment, target]) for target in targets]
        lines.append(f"| {experiment} | {' | '.join(row)} |")
    return "\n".join(lines)


def _cell(found: Found | str) -> str:
    if isinstance(found, str):
        return found
    mark = "" if found.compiled else "*"
    if not found.fits:
        return f"no: {found.hbm_bytes / GIB:.1f} GiB{mark}"
    candidate = found.candidate
    return (
        f"{found.step_seconds:,.3g} s, {found.mfu:.0%}{mark}<br>{mesh_words(candidate.mesh)}, "
        f"{candidate.remat}, {found.hbm_bytes / GIB:.1f} GiB"
    )
