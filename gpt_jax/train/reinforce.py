"""REINFORCE: answers are drawn from the model, and those of more reward become likelier.

What is maximised is E[reward(y) - beta log(p(y) / p_start(y))] over answers y drawn from p, the
model: the reward less beta times the KL divergence of p from the model at the start of the run. Its
gradient is E[(R(y) - b) grad log p(y)], where R is all within the brackets and b any baseline that
does not depend on y (Williams 1992). So the divergence is part of what an answer is worth, and the
gradient of its estimate is exact in the mean; what is reported as kl is another estimate of the
same number, of less variance: the sum over the tokens of r - 1 - log r with r = p_start / p
(Schulman 2020, "k3"). p is the model at `feedback.temperature`, among the tokens of the tokenizer.

One batch is drawn, scored and learned from at a time: there is no answer of an older model, and so
no ratio of two policies to be clipped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gpt_jax.config import Config, require
from gpt_jax.data.prompts import TextRow
from gpt_jax.data.questions import Questions
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.model.decode import decode_all
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling
from gpt_jax.parallel import hosts
from gpt_jax.parallel.sharding import replicated, rules
from gpt_jax.train.loss import token_nats
from gpt_jax.train.rewards import Reward, Rewards, Sample
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Batch, Program, accumulate, updated
from gpt_jax.train.tune import effective, join, split

log = logging.getLogger("gpt_jax")
MEAN_DECAY = 0.9
"""Of the running mean: what the mean of the batches before the last weighs in it."""


def reinforce_step(
    state: TrainState,
    batch: Batch,
    *,
    model: GPT,
    tx: optax.GradientTransformation,
    config: Config,
    vocab_size: int,
) -> tuple[TrainState, dict[str, Array]]:
    """One update from answers: inputs, targets and weights (A, B, T), all else (A, B) float32.

    Groups are rows one after the other, through all micro-batches. "rewards" are NaN where there is
    none: such a sample is left out. "log_ratios" are log(p / p_start) of each answer, "kls" the
    estimate that is reported, "ended" whether it came to its end by itself. Returns with the new
    state the metrics of every step and: loss (what is minimised, -E[R]), reward, kl,
    completion_tokens, ended (a share), reward_failures.
    """
    rewards_N = batch["rewards"].reshape(-1)
    known_N = jnp.isfinite(rewards_N)
    worth_N = rewards_N - config.feedback.beta * batch["log_ratios"].reshape(-1)
    worth_N = jnp.where(known_N, worth_N, 0.0)
    advantages_N = advantages(worth_N, known_N, state.feedback, config)
    count = jnp.maximum(known_N.sum(), 1).astype(jnp.float32)
    trained, frozen = split(state.params, config.tune)
    # Without dropout, as the model was that drew the answers.
    model = model.clone(train=False)

    def objective(trained: Any, index: Array) -> tuple[Array, None]:
        micro = jax.tree.map(lambda x: x[index], batch)
        advantages_B = advantages_N.reshape(batch["rewards"].shape)[index]
        params = effective(join(trained, frozen), config)
        nats_BT = token_nats(model, params, micro, vocab_size, config.feedback.temperature)
        nats_B = (nats_BT * micro["weights"]).sum(-1)
        return (advantages_B * nats_B).sum() / count, None

    everything_A = jnp.ones(len(batch["rewards"]), bool)
    _, grads = accumulate(objective, trained, everything_A)

    def mean(name: str) -> Array:
        return jnp.where(known_N, batch[name].reshape(-1), 0.0).sum() / count

    tokens_N = batch["weights"].sum(-1).reshape(-1)
    means = {
        "loss": -worth_N.sum() / count,
        "reward": mean("rewards"),
        "kl": mean("kls"),
        "completion_tokens": tokens_N.mean(),
        "ended": batch["ended"].mean(),
        "reward_failures": (~known_N).sum(),
    }
    rows, usable = jnp.int32(rewards_N.size), known_N.any() & jnp.isfinite(means["loss"])
    kept = _remembered(state.feedback, -means["loss"], usable)
    state = dataclasses.replace(state, feedback=kept)
    return updated(state, grads, rows, means, tx=tx, config=config, usable=usable)


def advantages(worth_N: Array, known_N: Array, feedback: Any, config: Config) -> Array:
    """What each answer is worth more than its baseline, (N,) float32; 0 where it is not known.

    leave_one_out: the baseline is the mean of the other known answers of its group, and without
    any the answer teaches nothing. running_mean: that of the batches before, and in the first one
    the mean of the others in it, so that no answer is ever part of its own baseline.
    """
    group = config.feedback.group
    size = group if config.feedback.baseline == "leave_one_out" else worth_N.size
    worth_GI, known_GI = worth_N.reshape(-1, size), known_N.reshape(-1, size)
    sum_G1 = jnp.where(known_GI, worth_GI, 0.0).sum(-1, keepdims=True)
    others_G1 = known_GI.sum(-1, keepdims=True) - 1
    baseline_GI = (sum_G1 - worth_GI) / jnp.maximum(others_G1, 1)
    usable_GI = known_GI & (others_G1 > 0)
    if config.feedback.baseline == "running_mean":
        later = feedback["batches"] > 0
        baseline_GI = jnp.where(later, feedback["reward"], baseline_GI)
        usable_GI = known_GI & (later | usable_GI)
    return jnp.where(usable_GI, worth_GI - baseline_GI, 0.0).reshape(-1)


def _remembered(feedback: Any, mean: Array, usable: Array) -> Any:
    """With the mean of one more batch, unless that is none: it would stay in all later ones."""
    first = feedback["batches"] == 0
    running = MEAN_DECAY * feedback["reward"] + (1 - MEAN_DECAY) * mean
    moved = jnp.where(first, mean, running)
    return feedback | {
        "reward": jnp.where(usable, moved, feedback["reward"]),
        "batches": feedback["batches"] + usable,
    }


def compare(
    params: Any,
    feedback: Any,
    batch: Batch,
    *,
    model: GPT,
    config: Config,
    vocab_size: int,
) -> tuple[Array, Array]:
    """(log(p / p_start), the estimate of the divergence) of the answers of a micro-batch, two (B,).

    `params` are those of a state.
    """
    _, frozen = split(params, config.tune)
    start = effective(join(feedback["start"], frozen), config)
    now_BT, start_BT = (
        -token_nats(model, plain, batch, vocab_size, config.feedback.temperature)
        for plain in (effective(params, config), start)
    )
    log_r_BT = (start_BT - now_BT) * batch["weights"]
    return -log_r_BT.sum(-1), (jnp.expm1(log_r_BT) - log_r_BT).sum(-1)


class ReinforceProgram(Program):
    """`Program` whose training step draws answers, has them scored, and learns from them.

    Every host draws the whole batch, on the mesh that it is then trained on; each asks for the
    rewards of a part of it, and all get those of all.
    """

    def __init__(
        self, config: Config, questions: Questions, tokenizer: Tokenizer, devices: Any = None
    ) -> None:
        self._vocab_size = vocab_size = min(tokenizer.vocab_size, config.model.vocab_size)
        super().__init__(config, devices)
        total, group = self.rows * self.num_micro, config.feedback.group
        require(
            total % group == 0 and config.train.ramp_start_tokens == 0,
            f"a batch is a whole number of groups, from the first on, and {total} samples are not "
            f"of groups of {group}: change --feedback.group, or --train.batch-tokens without a "
            "ramp.",
        )
        self.train_rows = np.arange(self.rows)
        self._questions, self._tokenizer = questions, tokenizer
        self._rewards = Rewards(config.feedback.reward, config.feedback.reward_seconds)
        self._told = False
        self.must_be_finite = f"loss, gradients and the reward {config.feedback.reward}"
        self._compare = jax.jit(
            partial(compare, model=self.model, config=config, vocab_size=vocab_size),
            out_shardings=replicated(self.mesh),
        )
        self._whole = jax.jit(lambda tree: tree, out_shardings=replicated(self.mesh))

    def step(self) -> Callable[..., Any]:
        return partial(reinforce_step, vocab_size=self._vocab_size)

    def close(self) -> None:
        self._rewards.close()

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        """Draw, score and learn; `batch` is of `Questions`, and `state` is donated.

        Waits for the answers, and not for the update.
        """
        parts = []
        plain = self.effective(state.params)
        for samples, asked in zip(batch["sample"], batch["asked"], strict=True):
            parts.append(self._drawn(plain, samples, [self._questions.asked[i] for i in asked]))
        # The devices compare while the rewards are asked for.
        compared = [self._compared(state, part) for part in parts]
        samples = [sample for part in parts for sample in part.pop("samples")]
        # Each reward has a limit of its own, and many that meet it take long together.
        with self.looks_away():
            rewards = np.array(self._scored(samples), np.float32).reshape(len(parts), -1)
        found = jax.device_get(compared)
        whole = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        whole["rewards"] = rewards
        whole["log_ratios"], whole["kls"] = (np.stack(x) for x in zip(*found, strict=True))
        own = {name: x[:, self.local_rows] for name, x in whole.items()}
        return super().train_step(state, own)

    def _drawn(self, plain: Any, samples: np.ndarray, asked: list) -> dict[str, Any]:
        """Answers to the prompts of a micro-batch, as rows to learn from."""
        feedback, end = self.config.feedback, self._tokenizer.separator
        with jax.set_mesh(self.mesh), rules():
            found = decode_all(
                self.config.model,
                plain,
                [question.ids for question in asked],
                feedback.max_new_tokens,
                Sampling(temperature=feedback.temperature),
                vocab_size=self._vocab_size,
                ends=[end],
                seed=self.config.train.seed % 2**32,
                first_row=int(samples[0]),
            )
            tokens_BN, lengths_B = jax.device_get(self._whole((found.tokens_BN, found.lengths_B)))
        shape = (len(asked), self.config.sequence_length)
        rows = {
            "inputs": np.full(shape, end, np.int32),
            "targets": np.full(shape, end, np.int32),
            "weights": np.zeros(shape, np.float32),
            "ended": np.zeros(len(asked), np.float32),
        }
        texts = []
        for row, (question, tokens, length) in enumerate(
            zip(asked, tokens_BN, lengths_B, strict=True)
        ):
            answer, before = tokens[:length], len(question.ids)
            ids = np.concatenate([question.ids, answer])
            rows["inputs"][row, : len(ids) - 1] = ids[:-1]
            rows["targets"][row, : len(ids) - 1] = ids[1:]
            rows["weights"][row, before - 1 : len(ids) - 1] = 1
            rows["ended"][row] = answer[-1] == end
            text = TextRow(self._tokenizer, (), question.ids)
            said = "".join([*(text.push(int(token)) for token in answer), text.flush()])
            texts.append(Sample(question.name, question.prompt, said, question.record))
        return {**rows, "samples": texts}

    def _compared(self, state: TrainState, part: dict[str, Any]) -> tuple[Array, Array]:
        own = {name: part[name][self.local_rows] for name in ("inputs", "targets", "weights")}
        with jax.set_mesh(self.mesh), rules():
            placed = self._placed(own, stacked=False)
            return self._compare(state.params, state.feedback, placed)

    def _scored(self, samples: list[Sample]) -> list[float]:
        """The reward of each sample, NaN where it has failed; asked for by all hosts together."""
        index, count = jax.process_index(), jax.process_count()
        mine = self._rewards.of(samples[index::count])
        said = [json.loads(text) for text in hosts.gather(json.dumps(mine))]
        found: list[Any] = [None] * len(samples)
        for host, rewards in enumerate(said):
            found[host::count] = [Reward(*reward) for reward in rewards]
        failed = [i for i, reward in enumerate(found) if reward.value is None]
        if failed:
            self._tell(samples[failed[0]], found[failed[0]], len(failed) == len(found))
        return [np.nan if reward.value is None else reward.value for reward in found]

    def _tell(self, sample: Sample, reward: Reward, is_all: bool) -> None:
        """Say once what goes wrong; where all do, keep it for the error that may follow."""
        name = self.config.feedback.reward
        said = f"of {sample.name}: {reward.failure}"
        if is_all:
            self.remedy = f"the reward has failed {said}"
        if not self._told and hosts.is_first():
            log.warning(
                "the reward %s has failed %s. Such samples are left out, and counted as "
                "reward_failures.",
                name,
                said,
            )
        self._told = True
