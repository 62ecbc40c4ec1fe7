"""Direct preference optimisation: of two answers, one is to become likelier against the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gpt_jax.config import Config, require
from gpt_jax.model.decoder import GPT
from gpt_jax.parallel.sharding import replicated, rules
from gpt_jax.train.loss import token_nats
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Batch, Program, accumulate, updated
from gpt_jax.train.tune import effective, join, split


def dpo_step(
    state: TrainState,
    batch: Batch,
    *,
    model: GPT,
    tx: optax.GradientTransformation,
    config: Config,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from a batch of pairs: row 2i is the chosen answer of pair i, 2i + 1 the rejected.

    As `train_step`, with the loss of Rafailov et al. 2023, eq. 7, as the mean over the pairs.
    Returns with the new state: loss (nats per pair), reward_margin and preference_accuracy
    (`pair_sums`), and those of every step.
    """
    weights_ABT = batch["weights"]
    rows_AB = (weights_ABT > 0).any(-1)
    pairs = jnp.maximum(rows_AB.sum() / 2, 1).astype(jnp.float32)
    key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
    trained, frozen = split(state.params, config.tune)
    start = effective(join(state.feedback["start"], frozen), config)

    def objective(trained: Any, index: Array) -> tuple[Array, dict[str, Array]]:
        micro = jax.tree.map(lambda x: x[index], batch)
        rngs = {"dropout": jax.random.fold_in(key, index)}
        params = effective(join(trained, frozen), config)
        sums = pair_sums(model, params, start, micro, config, rngs)
        means = {name: x / pairs for name, x in sums.items() if name != "pairs"}
        return means["loss"], means

    means, grads = accumulate(objective, trained, rows_AB.any(-1))
    return updated(state, grads, rows_AB.sum(), means, tx=tx, config=config)


def pair_sums(
    model: GPT, params: Any, start: Any, batch: Batch, config: Config, rngs: Any = None
) -> dict[str, Array]:
    """Sums over the pairs of a micro-batch, by name.

    loss: -log sigmoid(margin), in nats. reward_margin: beta times what the log of the answers'
    ratio, chosen to rejected, has grown by since the start. preference_accuracy: of how many it has
    grown. pairs: how many there are.
    """
    vocab_size, weights_BT = model.config.vocab_size, batch["weights"]

    def log_prob(model: GPT, params: Any, rngs: Any = None) -> Array:
        nats_BT = token_nats(model, params, batch, vocab_size, rngs=rngs)
        return -(nats_BT * weights_BT).sum(-1)

    # The model at the start is what it was, and so is without dropout.
    of_start_B = jax.lax.stop_gradient(log_prob(model.clone(train=False), start))
    grown_B = log_prob(model, params, rngs) - of_start_B
    margin_P = config.feedback.beta * (grown_B[0::2] - grown_B[1::2])
    real_P = (weights_BT[0::2] > 0).any(-1).astype(jnp.float32)
    return {
        "loss": (-jax.nn.log_sigmoid(margin_P) * real_P).sum(),
        "reward_margin": (margin_P * real_P).sum(),
        "preference_accuracy": ((margin_P > 0) * real_P).sum(),
        "pairs": real_P.sum(),
    }


class PreferenceProgram(Program):
    """`Program` of pairs.

    Raises InputError where a batch or a micro-batch would end between the two rows of a pair.
    """

    def __init__(self, config: Config, devices: Any = None) -> None:
        super().__init__(config, devices)
        length = config.sequence_length
        first = config.train.ramp_start_tokens // length
        # A ramp grows in multiples of its first batch.
        require(
            self.rows % 2 == 0 and first % 2 == 0,
            f"the two answers of a pair are in one micro-batch, and it has {self.rows} sequences, "
            f"the first batch of the ramp {first}: make --train.batch-tokens and "
            f"--train.ramp-start-tokens multiples of {2 * length}, and set "
            "--train.device-batch-tokens to another number of sequences, or to 0.",
        )

        def sums(state: TrainState, batch: Batch) -> dict[str, Array]:
            _, frozen = split(state.params, config.tune)
            start = effective(join(state.feedback["start"], frozen), config)
            return pair_sums(self.model, effective(state.params, config), start, batch, config)

        self._sums = jax.jit(sums, out_shardings=replicated(self.mesh))

    def step(self) -> Callable[..., Any]:
        return dpo_step

    def validate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """val_loss, val_reward_margin and val_preference_accuracy over pairs, each their mean."""
        with jax.set_mesh(self.mesh), rules():
            found = [self._sums(state, self._placed(batch, stacked=False)) for batch in batches]
        totals = {name: math.fsum(float(sums[name]) for sums in found) for name in found[0]}
        pairs = totals.pop("pairs")
        return {f"val_{name}": total / pairs for name, total in totals.items()}
