"""`gpt-jax generate`: text that continues a prompt, as it comes; of several, when it is done."""

from __future__ import annotations

import argparse

from gpt_jax.generate.text import generate, room_after
from gpt_jax.model.sampling import Sampling
from gpt_jax.train.run import load


def run(options: argparse.Namespace) -> None:
    """Write what continues each prompt."""
    how = Sampling(options.repetition_penalty, options.temperature, options.top_k, options.top_p)
    config, params, tokenizer = load(options.run_folder, options.step)
    prompts = options.prompt or [""]
    most = options.max_new_tokens
    if most is None:
        most = min(100, room_after(config.model, tokenizer, prompts, options.special_tokens))
    pieces = generate(
        config.model,
        params,
        tokenizer,
        prompts,
        max_new_tokens=most,
        how=how,
        stop=options.stop,
        seed=options.seed,
        special_tokens=options.special_tokens,
    )
    if len(prompts) == 1:
        for n, (piece,) in enumerate(pieces):
            # The prompt is printed once it is known to fit.
            print(piece if n else prompts[0] + piece, end="", flush=True)
        print()
    else:
        texts = zip(*pieces, strict=True)
        for prompt, parts in zip(prompts, texts, strict=True):
            print(f"{prompt}{''.join(parts)}\n---")
