"""`gpt-jax inspect`: what a run's model does inside, as one HTML page."""

from __future__ import annotations

import argparse
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from gpt_jax.config import ModelConfig, require
from gpt_jax.data.prompts import prompt_ids
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.evaluate.inspect.induction import Induction, induction
from gpt_jax.evaluate.inspect.look import lens, look, losses
from gpt_jax.evaluate.inspect.page import Guess, Page, page
from gpt_jax.paths import in_bucket
from gpt_jax.train.run import load, write_json
from gpt_jax.train.storage import steps_of, write_whole


def run(options: argparse.Namespace) -> None:
    """Write the page; a page that was there stays as it is until the new one is whole."""
    out = options.out
    for name, path in {"--out": out, "--json": options.json}.items():
        require(
            path is None or (not in_bucket(path) and path.parent.is_dir() and not path.is_dir()),
            f"{name} names a file in a folder of this machine, and it is {path}.",
        )
    folder, every = options.run_folder, options.step == "all"
    require(every or not options.json, "--json is for the scores of all steps: add --step all.")
    config, params, tokenizer = load(folder, "last" if every else options.step)
    shown = inspected(config.model, params, tokenizer, options.text)
    scores: dict[int, Induction] = {}
    for step in steps_of(folder / "checkpoints").found() if every else ():
        _, at_step, _ = load(folder, step)
        scores[step] = induction(config.model, at_step, tokenizer.vocab_size)
    now = induction(config.model, params, tokenizer.vocab_size)
    title = f"{config.name}, step {options.step or 'as generate takes it'}"
    text = page(shown, now, scores, title)
    # Letters beyond ASCII by their numbers: the same bytes whatever the machine's encoding is.
    write_whole(out, text.encode("ascii", "xmlcharrefreplace").decode())
    if options.json:
        write_json(options.json, {str(step): found.as_dict() for step, found in scores.items()})
    best, layer, head = now.best
    print(
        f"{out} shows {len(shown.texts)} tokens; induction score {best:.3f} (layer {layer}, head "
        f"{head}), {now.first:.3f} nats per random token and {now.again:.3f} said again."
    )


def inspected(model: ModelConfig, params: Any, tokenizer: Tokenizer, text: str) -> Page:
    """What the page shows of a text: one row of tokens."""
    ids = prompt_ids(tokenizer, text)
    require(
        2 <= len(ids) <= model.context_length,
        f"--text must have from 2 tokens to what the model's context holds, and it has {len(ids)} "
        f"where context_length={model.context_length}: give another text.",
    )
    tokens_BT = jnp.asarray(ids)[None]
    seen = look(model, params, tokens_BT)
    guesses, nats = [], np.zeros(0)
    for stream_BTD in seen.streams_KBTD:
        # One stream at a time: all of their logits would be large.
        logits_BTV = lens(model, params, stream_BTD)
        best_T = np.asarray(logits_BTV.argmax(-1))[0]
        chance_T = np.exp(np.asarray(logits_BTV.max(-1) - logsumexp(logits_BTV, axis=-1))[0])
        names = [_text(tokenizer, int(token)) for token in best_T]
        guesses.append([Guess(*pair) for pair in zip(names, chance_T.tolist(), strict=True)])
        nats = np.asarray(losses(logits_BTV, tokens_BT))[0]
    texts = [_text(tokenizer, int(token)) for token in ids]
    return Page(texts, nats, guesses, np.asarray(seen.attention_LBNTS[:, 0]))


def _text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; of one that the tokenizer does not know, its number."""
    return tokenizer.decode([token]) if token < tokenizer.vocab_size else f"[{token}]"
