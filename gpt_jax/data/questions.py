"""Records whole, with their prompts: what a model is asked, and what a reward is told about it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import Config, read_template, require
from gpt_jax.data.batches import Batch, in_epochs
from gpt_jax.data.examples import fill
from gpt_jax.data.prompts import prompt_ids
from gpt_jax.data.sources import is_held_out, pieces, records
from gpt_jax.data.tokenizers import Tokenizer


class Asked(NamedTuple):
    """A prompt, and the record that it is of."""

    name: str
    """Of the record: source and position."""
    prompt: str
    ids: np.ndarray
    """Its tokens, as `generate` reads it, (T,) int32."""
    record: dict[str, Any]


class Questions:
    """The prompts of the training split, each asked `feedback.group` times in a row.

    Sample n asks prompt number n // group of an order that is a pure function of the seed, and a
    new one in each epoch, as that of other samples is. Held in memory, records and all.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        """Read them; raises InputError where none leaves room for an answer."""
        self.sequence_length, self._seed = config.sequence_length, config.train.seed
        self._group = config.feedback.group
        room = config.sequence_length - config.feedback.max_new_tokens
        template, fraction = read_template(config.data.prompt), config.data.validation_fraction
        self.asked: list[Asked] = []
        self.too_long = 0
        for piece in pieces(config.data.files):
            for name, record in records(piece):
                if is_held_out(name, fraction):
                    continue
                prompt = fill(template, record, name)
                ids = prompt_ids(tokenizer, prompt)
                if len(ids) > room:
                    self.too_long += 1
                else:
                    self.asked.append(Asked(name, prompt, ids, record))
        require(
            bool(self.asked),
            f"a prompt must leave room for feedback.max_new_tokens="
            f"{config.feedback.max_new_tokens} in a sequence of {config.sequence_length} tokens, "
            f"and none of {self.too_long:,} does: ask for fewer, or raise data.sequence_length.",
        )
        self.num_samples = len(self.asked) * self._group

    def at(self, samples: np.ndarray) -> Batch:
        """The number of each "sample", and its place in `asked` as "asked", (...) int64."""
        of_prompt = samples.reshape(-1) // self._group
        _, place = in_epochs(of_prompt, len(self.asked), self._seed)
        return {"sample": samples, "asked": place.reshape(samples.shape)}

    def describe(self) -> str:
        """How many there are, in a line."""
        cut = f"; {self.too_long:,} are too long and left out" if self.too_long else ""
        return f"ask     {len(self.asked):,} prompts, each {self._group} times in a row{cut}"
