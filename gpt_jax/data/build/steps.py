"""From a recipe to a corpus: the steps of GPT-3's section 2.2 in their order, each done once.

Every step is made of jobs (`runner.py`) whose results are kept in a folder beside the corpus,
OUT.work, under a digest of all that they depend on: a build that was stopped anywhere, or whose
recipe is changed in a later step, goes on from what is there.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from gpt_jax.config import require
from gpt_jax.data.build import filters
from gpt_jax.data.build.ledger import Ledger, as_ledger
from gpt_jax.data.build.publish import Content, publish, restore
from gpt_jax.data.build.read import read_sources
from gpt_jax.data.build.runner import WORK, Runner
from gpt_jax.data.build.tokens import keep_text, make_tokenizer, write_shards
from gpt_jax.data.recipe import Recipe

FILTERS = {
    "quality": filters.by_quality,
    "dedup": filters.by_dedup,
    "decontaminate": filters.by_decontamination,
}
"""In the order in which they are taken."""


def build(recipe: Recipe, out: Path, processes: int, console: Console) -> Ledger:
    """Make the corpus of `recipe` in the folder `out`; returns its ledger.

    What was in `out` stays until the new corpus is whole. The result is a function of the recipe
    and the text alone: not of the number of processes, nor of how often the build was stopped.

    Raises:
      InputError: any fault of a source, a benchmark or the tokenizer; `out` holds something else;
        another build is at work there.
    """
    with Runner(out.with_name(f"{out.name}{WORK}"), processes, console) as runner:
        restore(out)
        require(
            not out.exists() or (out / "corpus.json").exists(),
            f"a corpus is built in a new folder, or in place of an older corpus, and {out} is "
            "neither: name another (--out).",
        )
        content, ledger = take_steps(runner, recipe)
        publish(recipe, out, content, ledger)
    return ledger


def take_steps(runner: Runner, recipe: Recipe) -> tuple[Content, Ledger]:
    """All that a corpus is made of, and what became of its sources."""
    state = read_sources(runner, recipe)
    steps = {"read": state}
    for name, step in FILTERS.items():
        if name in recipe.steps:
            steps[name] = state = step(runner, recipe, state)
    content = Content()
    if recipe.keep_text:
        content.documents = keep_text(runner, state)
    if recipe.vocabulary.tokenizer != "none":
        content.tokenizer = make_tokenizer(runner, recipe, state)
        content.shards = write_shards(runner, recipe, state, content.tokenizer)
    return content, as_ledger(recipe, steps, content)
