"""What was spent on training models: table D.1 of the GPT-3 paper, and its figure 2.2.

The table's rule: FLOPs = 2 x 3 x parameters x tokens, two for a multiply-add and three for the
forward pass and a backward pass of twice its work; T5's encoder and decoder each see about half of
the tokens, which halves it. Attention is left out, some tenth of it at these sizes; the model's own
count is `flops.train_flops_per_token`.
"""

from __future__ import annotations

from typing import NamedTuple

from gpt_jax.flops import num_params
from gpt_jax.presets import GPT3_SIZES, gpt3
from gpt_jax.scaling.laws import FLOPS_PER_PARAM_TOKEN, PF_DAY

GPT3_TOKENS = 300e9
"""That every GPT-3 was trained on (section 2.2)."""


class Trained(NamedTuple):
    """A model and its training."""

    name: str
    params: float
    tokens: float
    per_param_and_token: float = FLOPS_PER_PARAM_TOKEN
    """FLOPs."""

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return self.per_param_and_token * self.params * self.tokens

    @property
    def pf_days(self) -> float:
        """In petaflop/s-days."""
        return self.flops / PF_DAY


OTHERS = (
    Trained("T5-Small", 60e6, 1e12, 3.0),
    Trained("T5-Base", 220e6, 1e12, 3.0),
    Trained("T5-Large", 770e6, 1e12, 3.0),
    Trained("T5-3B", 3e9, 1e12, 3.0),
    Trained("T5-11B", 11e9, 1e12, 3.0),
    Trained("BERT-Base", 109e6, 250e9),
    Trained("BERT-Large", 355e6, 250e9),
    Trained("RoBERTa-Base", 125e6, 2e12),
    Trained("RoBERTa-Large", 355e6, 2e12),
)
"""Of the table, with its parameters and tokens."""


def gpt3_trained() -> tuple[Trained, ...]:
    """The eight sizes, with the parameters that ours have."""
    return tuple(
        Trained(f"GPT-3 {size}", num_params(gpt3(size).model), GPT3_TOKENS) for size in GPT3_SIZES
    )
