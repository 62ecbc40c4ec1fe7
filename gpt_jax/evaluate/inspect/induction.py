"""Induction heads (Olsson et al. 2022, "In-context Learning and Induction Heads").

A head that finds where the present token stood before, and looks at what came after it there, is
told by random tokens that are said twice: nothing but the repetition can be of help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpt_jax.config import ModelConfig, require
from gpt_jax.evaluate.inspect.look import lens, look, losses

PERIOD, ROWS = 50, 4
"""Random tokens, at most, before they are said again; and rows of them."""


@dataclass(frozen=True)
class Induction:
    """How far a model has induction heads."""

    score_LN: np.ndarray
    """Prefix matching of each head, 0 to 1: `prefix_matching`."""
    first: float
    """Nats per token while the tokens are new."""
    again: float
    """Nats per token when they are said again; less, where the repetition is of use."""

    @property
    def best(self) -> tuple[float, int, int]:
        """The highest score, with its layer and head."""
        layer, head = np.unravel_index(self.score_LN.argmax(), self.score_LN.shape)
        return float(self.score_LN[layer, head]), int(layer), int(head)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `score` is by layer and head."""
        score = [[round(float(x), 4) for x in score_N] for score_N in self.score_LN]
        return {"score": score, "first": self.first, "again": self.again}


def prefix_matching(attention_LBNTS: Array, period: int) -> Array:
    """Mean attention from each token said again to the one after its first time, (L, N).

    T = S = 2 `period`: places t from `period` on look at t - period + 1.
    """
    again_T = jnp.arange(period, 2 * period)
    return attention_LBNTS[:, :, :, again_T, again_T - period + 1].mean((1, 3))


def repeated(vocab_size: int, period: int, seed: int) -> np.ndarray:
    """Rows of `period` random tokens, each said twice, (ROWS, 2 period) int32."""
    random = np.random.default_rng(seed)
    tokens = random.integers(vocab_size, size=(ROWS, period), dtype=np.int32)
    return np.concatenate([tokens, tokens], axis=1)


def induction(config: ModelConfig, params: Any, vocab_size: int, seed: int = 0) -> Induction:
    """The scores of every head, and what the model makes of the repetition.

    The first `vocab_size` tokens are drawn from: those that the tokenizer knows. Raises InputError
    where the model's context has no room to say a few tokens twice.
    """
    period = min(PERIOD, config.context_length // 2)
    require(
        period >= 2,
        "induction is seen where tokens are said twice, and context_length="
        f"{config.context_length} has no room for that: it must be at least 4.",
    )
    tokens_BT = jnp.asarray(repeated(min(vocab_size, config.vocab_size), period, seed))
    seen = look(config, params, tokens_BT)
    nats = losses(lens(config, params, seen.streams_KBTD[-1]), tokens_BT)
    score_LN = np.asarray(jax.device_get(prefix_matching(seen.attention_LBNTS, period)))
    # That the repetition begins nobody can know: that place is of neither half.
    first, again = nats[:, : period - 1].mean(), nats[:, period:].mean()
    return Induction(score_LN, float(first), float(again))
