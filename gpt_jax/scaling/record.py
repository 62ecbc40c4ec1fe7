"""A fit as JSON, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.config import InputError
from gpt_jax.scaling.fit import Fit, Interval
from gpt_jax.scaling.forms import form


def as_record(fit: Fit) -> dict[str, Any]:
    """The fit with its intervals, and each run beside it: what `from_record` reads."""
    runs = zip(fit.names, fit.loss_n, fit.fitted_n, fit.residual_n, fit.left_out_n, strict=True)
    return {
        "law": fit.form.law,
        "irreducible": fit.form.floor,
        "constants": {name: as_numbers(found) for name, found in fit.constants().items()},
        "runs": [
            {
                "name": name,
                "loss": float(loss),
                "fitted": float(fitted),
                "residual": float(residual),
                "left_out": float(left_out),
            }
            for name, loss, fitted, residual, left_out in runs
        ],
        "center": fit.center_K.tolist(),
        "theta": fit.theta_P.tolist(),
        "draws": fit.draws_RP.tolist(),
        "noise": fit.noise_R.tolist(),
    }


def from_record(record: dict[str, Any]) -> Fit:
    """The fit of which `as_record` made this."""
    power = record["law"].startswith("power_")
    runs = {
        name: np.array([run[name] for run in record["runs"]])
        for name in ("loss", "fitted", "left_out")
    }
    return Fit(
        form=form(record["law"], power and record["irreducible"]),
        center_K=np.array(record["center"]),
        theta_P=np.array(record["theta"]),
        draws_RP=np.array(record["draws"]).reshape(-1, len(record["theta"])),
        noise_R=np.array(record["noise"]),
        names=tuple(run["name"] for run in record["runs"]),
        loss_n=runs["loss"],
        fitted_n=runs["fitted"],
        left_out_n=runs["left_out"],
    )


def read_fit(path: Path) -> Fit:
    """The fit that `gpt-jax scaling fit --json` printed into a file."""
    try:
        return from_record(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"a fit is what `gpt-jax scaling fit --json` prints, and {path} is none: "
            f"{type(error).__name__}: {error}."
        ) from error


def as_numbers(found: Interval) -> dict[str, float | None]:
    """An interval of numbers; None where one is not known or not finite, which JSON cannot say."""
    return {
        name: float(part) if np.isfinite(part) else None for name, part in found._asdict().items()
    }
