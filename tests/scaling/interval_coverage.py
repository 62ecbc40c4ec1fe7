"""How often the 95 % intervals of a fit hold the truth.

Run as `python tests/scaling/interval_coverage.py`. Of 200 trials each, with 200 bootstraps, in %:
the mean over the constants, the loss beyond all runs, and a new run there; and the least and the
most of these.

                       noise                runs
    chinchilla, 36     94.1 (92.0 - 96.0)   97.6 (96.0 - 99.0)
    kaplan_nd, 36      93.2 (90.5 - 95.5)   94.7 (91.5 - 96.5)
    kaplan_ns, 36      94.0 (92.0 - 95.0)   95.2 (94.0 - 96.5)
    power_c, 8         96.6 (95.5 - 97.5)   93.1 (91.5 - 94.5)

The standard error of one share is 1.5 %. "noise" and "runs" are the two ways of `--resample`, and
the numbers of runs are as they stand.
"""

import sys

import numpy as np
from runs import ladder, line

from gpt_jax.scaling import laws
from gpt_jax.scaling.fit import fit

CASES = {
    "chinchilla": (laws.BESIROGLU, ladder, {"noise": 0.01}, (7e10, 1.4e12)),
    "kaplan_nd": (laws.KAPLAN_ND, ladder, {"noise": 0.005}, (7e10, 1.4e12)),
    "kaplan_ns": (laws.KAPLAN_NS, ladder, {"noise": 0.005}, (7e10, 1e6)),
    "power_c": (laws.GPT3_C, line, {"noise": 0.005}, (1e22,)),
}
"""Law, runs, their noise, and what is predicted: beyond all of the runs."""


def held(law: str, resample: str, seed: int) -> list[bool]:
    """Whether each constant, the loss beyond the runs, and a run there are in their intervals."""
    planted, make, how, at = CASES[law]
    found = fit(make(planted, seed=seed, **how), law, seed=seed, resample=resample)
    parts = [*found.constants().values(), found.predict(*at), found.predict(*at, of_a_run=True)]
    loss = float(planted.loss(*at))
    noise = np.exp(how["noise"] * np.random.default_rng([seed, 1]).standard_normal())
    truth = [*planted[: len(parts) - 2], loss, loss * noise]
    return [part.low <= value <= part.high for part, value in zip(parts, truth, strict=True)]


def main(trials: int = 200) -> None:
    """Print the share of trials, in %, for each law, way of resampling, and value."""
    for law, (planted, make, how, _) in CASES.items():
        for resample in ("noise", "runs"):
            shares = np.mean([held(law, resample, seed) for seed in range(trials)], 0)
            names = [*planted._fields[: len(shares) - 2], "loss", "run"]
            each = "  ".join(
                f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True)
            )
            runs = len(make(planted, **how))
            print(f"{law}, {runs} runs, {resample}: mean {shares.mean():.1%}; {each}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
