"""`gpt-jax report`: one page that compares what `gpt-jax evaluate` found."""

from __future__ import annotations

import argparse

from gpt_jax.config import require
from gpt_jax.evaluate.report.page import page
from gpt_jax.evaluate.report.read import read_scores
from gpt_jax.paths import in_bucket
from gpt_jax.train.storage import write_whole


def run(options: argparse.Namespace) -> None:
    """Write the page; a page that was there stays as it is until the new one is whole."""
    out = options.out
    require(
        not in_bucket(out) and out.parent.is_dir() and not out.is_dir(),
        f"--out names a file in a folder of this machine, and it is {out}.",
    )
    scores = read_scores(options.files)
    text = page(scores, [str(path) for path in options.files])
    # Letters beyond ASCII by their numbers: the same bytes whatever the machine's encoding is.
    write_whole(out, text.encode("ascii", "xmlcharrefreplace").decode())
    tasks, runs = {score.task for score in scores}, {score.origin for score in scores}
    print(f"{out} compares {len(runs)} evaluations over {len(tasks)} tasks.")
