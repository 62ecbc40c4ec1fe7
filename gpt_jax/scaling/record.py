"""A fit as JSON, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gpt_jax.config import InputError
from gpt_jax.scaling.fit import Fit
from gpt_jax.scaling.forms import form


def as_record(fit: Fit) -> dict[str, Any]:
    """All of the fit: constants with intervals, runs with residuals, and what `from_record` reads.

    `null` stands for an end of an interval that is not known, or that no number holds.
    """
    runs = zip(fit.names, fit.loss_n, fit.fitted_n, fit.residual_n, fit.left_out_n, strict=True)
    return {
        "law": fit.form.law,
        "irreducible": fit.form.floor,
        "constants": {
            name: {part: _finite(value) for part, value in found._asdict().items()}
            for name, found in fit.constants().items()
        },
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


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
