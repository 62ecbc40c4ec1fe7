"""Runs that a law made, with noise: what fits are tried on."""

import numpy as np

from gpt_jax.scaling.points import Point


def ladder(law, sizes=6, lengths=6, noise=0.01, seed=0):
    """Runs of `sizes` sizes by `lengths` tokens per parameter, with log-normal noise.

    The law is a function of parameters and tokens, or of parameters and steps of half a million
    tokens where it is of steps.
    """
    rng = np.random.default_rng(seed)
    points = []
    for params in np.geomspace(1e7, 1e10, sizes):
        for ratio in np.geomspace(2, 200, lengths):
            tokens = params * ratio
            given = tokens / 5e5 if "S_c" in law._fields else tokens
            loss = float(law.loss(params, given) * np.exp(noise * rng.standard_normal()))
            name = f"{params:.0e} x {ratio:.0f}"
            points.append(
                Point(name, loss, params, tokens, 6 * params * tokens, steps=tokens / 5e5)
            )
    return points


def line(law, count=8, noise=0.003, seed=0):
    """Runs of one input from 1e15 to 1e20, which is their FLOPs, tokens and parameters alike."""
    rng = np.random.default_rng(seed)
    values = np.geomspace(1e15, 1e20, count)
    losses = law.loss(values) * np.exp(noise * rng.standard_normal(count))
    return [Point(f"{x:.1e}", float(y), x, x, x) for x, y in zip(values, losses, strict=True)]


def as_csv(path, points):
    """The points in a file with our own names."""
    names = ("name", "params", "tokens", "flops", "loss", "steps")
    values = [[getattr(point, name) for name in names] for point in points]
    rows = [",".join("" if value is None else str(value) for value in row) for row in values]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")
    return path
