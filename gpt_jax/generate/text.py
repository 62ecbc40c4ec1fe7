"""Text that continues prompts, in pieces as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpt_jax.config import ModelConfig
from gpt_jax.data.prompts import TextRow, prompt_ids
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.sampling import Sampling


def room_after(
    config: ModelConfig, tokenizer: Tokenizer, prompts: Sequence[str], special_tokens: bool = False
) -> int:
    """Tokens that the context has room for after the longest prompt, and 1 where it has none."""
    longest = max(len(prompt_ids(tokenizer, prompt, special_tokens)) for prompt in prompts)
    return max(config.context_length - longest, 1)


def generate(
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    how: Sampling,
    stop: Sequence[str] = (),
    seed: int = 0,
    special_tokens: bool = False,
) -> Iterator[list[str]]:
    """Text that continues each prompt, in pieces as it comes: one string per prompt and turn.

    A row ends at the end of its document, or before the `stop` string that is complete first (the
    longer of two at once), and then yields ""; what might be the beginning of a stop string is held
    back until it is known not to be. An empty prompt begins a document. Raises InputError as
    `generate_tokens` does.
    """
    ids = [prompt_ids(tokenizer, prompt, special_tokens) for prompt in prompts]
    rows = [TextRow(tokenizer, stop, prompt) for prompt in ids]
    vocab_size = min(tokenizer.vocab_size, config.vocab_size)
    for tokens in generate_tokens(
        config, params, ids, max_new_tokens, how, vocab_size=vocab_size, seed=seed
    ):
        yield [row.push(int(token)) for row, token in zip(rows, tokens, strict=True)]
        if all(row.ended for row in rows):
            return
    yield [row.flush() for row in rows]
