"""Learning from rewards: the gradient of what is expected, by writing down every answer."""

import dataclasses
import functools
import itertools
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import (
    Config,
    DataConfig,
    FeedbackConfig,
    InputError,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TuneConfig,
)
from gpt_jax.data.questions import Questions
from gpt_jax.data.tokenizers import CharacterTokenizer
from gpt_jax.model.decoder import GPT
from gpt_jax.train.reinforce import ReinforceProgram, advantages, compare, reinforce_step
from gpt_jax.train.state import init_state
from gpt_jax.train.tune import effective, join, split, with_adapters

A, B, END = 0, 1, 2
TOKENIZER = CharacterTokenizer("ab")
VOCAB, LENGTH, TEMPERATURE, BETA = 3, 4, 0.4, 0.4
MODEL = ModelConfig(vocab_size=5, context_length=8, num_layers=2, embed_dim=16, num_heads=2)
"""Two of its five tokens are not the tokenizer's."""
ANSWERS = [(END,), *itertools.product((A, B), (A, B, END))]
"""All there are of two tokens at most, to the prompt "a"."""
KEEP_GRADIENTS = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)
"""An optimizer that moves nothing, and whose state is the last gradient."""


def config(rows=8, mesh=None, files=(), rate=1e-9, **feedback):
    given = {"method": "reinforce", "reward": "match:^a", "group": 2, "beta": BETA}
    given |= {"temperature": TEMPERATURE, "max_new_tokens": 2} | feedback
    return Config(
        model=MODEL,
        data=DataConfig(files=files, prompt="{p}", target="{y}", sequence_length=LENGTH),
        feedback=FeedbackConfig(**given),
        optimizer=OptimizerConfig(learning_rate=rate),
        train=TrainConfig(total_tokens=64 * rows * LENGTH, batch_tokens=rows * LENGTH),
        mesh=mesh or MeshConfig(1),
    )


@functools.cache
def parameters(seed=0):
    shapes = jax.eval_shape(GPT(MODEL).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nn.unbox(shapes)["params"])
    return jax.tree.map(lambda x: jnp.asarray(0.6 * x), moved(zeros, seed))


def rows_of(answers):
    """What is learned from: the prompt, the answer, and a weight of 1 at each of its tokens."""
    rows = {
        "inputs": np.full((len(answers), LENGTH), END, np.int32),
        "targets": np.full((len(answers), LENGTH), END, np.int32),
        "weights": np.zeros((len(answers), LENGTH), np.float32),
    }
    for row, answer in enumerate(answers):
        rows["inputs"][row, : len(answer)] = [A, *answer[:-1]]
        rows["targets"][row, : len(answer)] = answer
        rows["weights"][row, : len(answer)] = 1
    return rows


class Exact:
    """What a model makes of the answers, by NumPy's model in float64."""

    def __init__(self, params, answers=ANSWERS):
        self.rows = rows_of(answers)
        self.model = NumpyGPT(jax.device_get(params), ("dense",), 0, VOCAB)
        logits = self.model.logits(self.rows["inputs"]) / TEMPERATURE
        p = np.exp(logits - logits.max(-1, keepdims=True))
        self.tokens = p / p.sum(-1, keepdims=True)
        of_target = np.take_along_axis(self.tokens, self.rows["targets"][..., None], -1)[..., 0]
        self.nats = -np.log(of_target) * self.rows["weights"]
        self.logs = -self.nats.sum(-1)

    def gradients(self, of_logs):
        """Of a function of the log p of the answers, from its derivative by each of them."""
        label = np.eye(VOCAB)[self.rows["targets"]]
        weights = of_logs[:, None, None] * self.rows["weights"][..., None]
        return self.model.gradients(weights * (label - self.tokens) / TEMPERATURE)


NOW, START = 0, 1
REWARDS = np.array([0.3, 1.0, -0.5, 2.0, 0.0, 0.7, -1.2])


@functools.cache
def exact():
    return Exact(parameters(NOW)), Exact(parameters(START))


def assert_close(ours, theirs):
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-3, atol=2e-6)


def state_of(feedback):
    state = init_state(parameters(NOW), KEEP_GRADIENTS, TuneConfig(), feedback=True)
    return state.replace(feedback=state.feedback | {"start": parameters(START)} | feedback)


def step_of(given):
    return functools.partial(
        reinforce_step, model=GPT(MODEL), tx=KEEP_GRADIENTS, config=given, vocab_size=VOCAB
    )


def compared():
    found = compare(
        parameters(NOW),
        {"start": parameters(START)},
        exact()[0].rows,
        model=GPT(MODEL),
        config=config(),
        vocab_size=VOCAB,
    )
    return [np.asarray(x) for x in found]


def batch_of(places, rewards=REWARDS):
    """The answers of these places, (A, B), as a batch."""
    ratios, kls = compared()
    ended = np.array([answer[-1] == END for answer in ANSWERS])
    found = {name: x[places] for name, x in exact()[0].rows.items()}
    for name, x in {"log_ratios": ratios, "kls": kls, "ended": ended, "rewards": rewards}.items():
        found[name] = x[places].astype(np.float32)
    return found


# --------------------------------------------------------------- exactness, by enumeration


def test_the_answers_are_all_there_are():
    assert np.exp(exact()[0].logs).sum() == pytest.approx(1)
    assert np.exp(exact()[1].logs).sum() == pytest.approx(1)


def test_both_estimates_have_the_divergence_as_their_mean():
    """KL(p || p_start) over all answers; the reported estimate is never negative."""
    now, start = exact()
    p = np.exp(now.logs)
    divergence = (p * (now.logs - start.logs)).sum()
    ratios, kls = compared()
    np.testing.assert_allclose(ratios, now.logs - start.logs, rtol=1e-4, atol=1e-5)
    assert divergence > 0.1
    assert (p * kls).sum() == pytest.approx(divergence, rel=1e-4)
    assert (kls >= 0).all()
    assert (p * kls**2).sum() < (p * ratios**2).sum()


@pytest.mark.parametrize(
    "tune",
    [TuneConfig(lora_rank=2), TuneConfig(freeze=("embedding", "*/attention/*"))],
    ids=["adapters", "frozen"],
)
def test_the_start_is_the_model_as_it_was(tune):
    """Of what was kept, the trained part alone, at first nothing is apart; then what has moved is,
    by NumPy's models of the whole of both.
    """
    learning = dataclasses.replace(config(), tune=tune)
    params = with_adapters(parameters(NOW), jax.random.key(0), tune)
    trained, frozen = split(params, tune)
    for change in (0.0, 0.2):
        now = join(jax.tree.map(lambda x, change=change: x + change * jnp.cos(x), trained), frozen)
        found = compare(
            now,
            {"start": trained},
            exact()[0].rows,
            model=GPT(MODEL),
            config=learning,
            vocab_size=VOCAB,
        )
        apart = Exact(effective(now, learning)).logs - exact()[0].logs
        assert (np.abs(apart).max() > 0.03) == (change > 0)
        np.testing.assert_allclose(found[0], apart, rtol=1e-3, atol=1e-5)
        assert (float(found[1].max()) > 1e-5) == (change > 0)


@pytest.mark.parametrize(
    ("baseline", "feedback"),
    [
        ("leave_one_out", {}),
        ("running_mean", {}),
        ("running_mean", {"reward": jnp.float32(0.7), "batches": jnp.float32(3)}),
    ],
    ids=["leave one out", "first batch", "later batch"],
)
def test_the_mean_gradient_is_that_of_what_is_expected(baseline, feedback):
    """Over all pairs of answers, by their probability: d/dtheta of E[reward] - beta KL, exactly."""
    now, start = exact()
    p, step = np.exp(now.logs), step_of(config(baseline=baseline))
    pairs = np.array([*itertools.product(range(len(ANSWERS)), repeat=2)])

    @jax.jit
    def expected(batches, weights, state):
        after, _ = jax.vmap(step, (None, 0))(state, batches)
        return jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), after.opt_state)

    found = expected(batch_of(pairs[:, None]), p[pairs].prod(-1), state_of(feedback))
    # The derivative of sum p (r - beta (log p - log p_start)) by log p, nothing left out.
    by_logs = p * (REWARDS - BETA * (now.logs - start.logs) - BETA)
    wanted = jax.tree.map(np.negative, now.gradients(by_logs))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0.01
    assert_close(found, wanted)


# --------------------------------------------------------------- one batch


def by_loop(worth, known, group, baseline, feedback):
    """The advantages, one after the other."""
    found = []
    for i in range(len(worth)):
        first = i // group * group
        others = range(first, first + group) if baseline == "leave_one_out" else range(len(worth))
        others = [worth[j] for j in others if j != i and known[j]]
        if not known[i]:
            found.append(0.0)
        elif baseline == "running_mean" and feedback["batches"]:
            found.append(worth[i] - feedback["reward"])
        else:
            found.append(worth[i] - sum(others) / len(others) if others else 0.0)
    return found


ROWS = 12


@settings(max_examples=150, deadline=None)
@given(
    rewards=st.lists(st.none() | st.floats(-100, 100, width=32), min_size=ROWS, max_size=ROWS),
    group=st.sampled_from([2, 3, 4, 12]),
    baseline=st.sampled_from(["leave_one_out", "running_mean"]),
    batches=st.integers(0, 2),
    remembered=st.floats(-10, 10, width=32),
)
def test_advantages_are_those_of_a_loop(rewards, group, baseline, batches, remembered):
    known = np.array([reward is not None for reward in rewards])
    worth = np.array([reward or 0.0 for reward in rewards], np.float32)
    feedback = {"reward": np.float32(remembered), "batches": np.float32(batches)}
    given = config(group=group, baseline=baseline)
    found = advantages(jnp.asarray(worth), jnp.asarray(known), feedback, given)
    wanted = by_loop(worth.astype(float), known, group, baseline, feedback)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_single_known_answer_of_its_group_teaches_nothing():
    """2 and 4 in one group, 7 alone in the next, by hand; where there was a mean of 3, all do."""
    nan = math.nan
    rewards = np.array([2.0, 4.0, 7.0, nan])
    known = np.isfinite(rewards)
    worth = jnp.where(known, rewards, 0.0)
    feedback = {"reward": 3.0, "batches": 1.0}
    for baseline, wanted in (
        ("leave_one_out", [-2, 2, 0, 0]),
        ("running_mean", [-1, 1, 4, 0]),
    ):
        found = advantages(worth, jnp.asarray(known), feedback, config(baseline=baseline))
        assert found.tolist() == wanted
    first = feedback | {"batches": 0.0}
    found = advantages(worth, jnp.asarray(known), first, config(baseline="running_mean"))
    assert found.tolist() == [-3.5, -0.5, 4, 0]


@pytest.mark.parametrize(
    "baseline", ["leave_one_out", pytest.param("running_mean", marks=pytest.mark.slow)]
)
def test_a_batch_is_that_of_a_loop(baseline):
    """Two micro-batches, groups of 2, and rewards that failed: gradient, metrics, what is kept."""
    places = np.array([[3, 1, 4, 1], [5, 2, 6, 0]])
    rewards, flat = REWARDS.copy(), places.reshape(-1)
    rewards[[1, 6]] = math.nan
    now, start = Exact(parameters(NOW), [ANSWERS[i] for i in flat]), exact()[1]
    known = np.isfinite(rewards[flat])
    worth = np.where(known, rewards[flat] - BETA * (now.logs - start.logs[flat]), 0)
    feedback = {"reward": jnp.float32(-0.4), "batches": jnp.float32(2)}
    step = jax.jit(step_of(config(baseline=baseline)))
    after, told = step(state_of(feedback), batch_of(places, rewards))

    advantage = np.array(by_loop(worth, known, 2, baseline, feedback))
    assert_close(after.opt_state, now.gradients(-advantage / known.sum()))
    lengths = np.array([len(ANSWERS[i]) for i in flat])
    _, kls = compared()
    assert {name: float(told[name]) for name in told if name != "gradient_norm"} == {
        "loss": pytest.approx(-worth.sum() / 5, rel=1e-5),
        "reward": pytest.approx(np.nansum(rewards[flat]) / 5, rel=1e-5),
        "kl": pytest.approx(kls[flat][known].mean(), rel=1e-5),
        "completion_tokens": lengths.mean(),
        "ended": np.mean([ANSWERS[i][-1] == END for i in flat]),
        "reward_failures": 3,
        "learning_rate": pytest.approx(1e-9),
        "skipped": 0,
        "skipped_in_row": 0,
    }
    kept = 0.9 * -0.4 + 0.1 * worth.sum() / 5
    assert float(after.feedback["reward"]) == pytest.approx(kept, rel=1e-5)
    assert (after.feedback["batches"], after.samples) == (3, 8)

    # Where nothing is known nothing changes, and it is counted.
    nothing, told = step(after, batch_of(places, np.full(7, math.nan)))
    assert (told["skipped_in_row"], told["reward_failures"]) == (1, 8)
    assert nothing.feedback["reward"] == after.feedback["reward"]
    assert nothing.feedback["batches"] == 3
    assert jax.tree.all(jax.tree.map(np.array_equal, nothing.opt_state, after.opt_state))

    # Nor does a batch whose mean is not finite become part of what later ones are compared with.
    huge, told = step(after, batch_of(places, np.full(7, 3e38)))
    assert told["skipped_in_row"] == 1
    assert huge.feedback["reward"] == after.feedback["reward"]


# --------------------------------------------------------------- what is drawn


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A file whose every record asks "a"."""
    path = tmp_path_factory.mktemp("asked") / "x.jsonl"
    path.write_text('{"p": "a", "y": "b"}\n' * 40)
    return str(path)


def drawing(asked, mesh=None, **options):
    given = config(mesh=mesh, files=(asked,), **options)
    questions = Questions(given, TOKENIZER)
    made = ReinforceProgram(given, questions, TOKENIZER, jax.devices()[: 8 if mesh else 1])
    state = made.create_state(parameters(NOW))
    # Copied, as a step frees its state.
    start = jax.tree.map(
        lambda x, like: jax.device_put(jnp.array(x), like.sharding),
        parameters(START),
        state.feedback["start"],
    )
    return made, questions, state.replace(feedback=state.feedback | {"start": start})


def asked_of(made, questions, step):
    shape = (made.num_micro, made.rows)
    first = step * made.rows * made.num_micro
    return questions.at(first + np.arange(made.rows * made.num_micro).reshape(shape))


@pytest.mark.slow
def test_answers_come_as_often_as_they_are_likely(asked):
    """Of 1,024 the means are within 4 standard errors of what all answers amount to: the model
    draws as it is trained, at the temperature, of the tokenizer's tokens, and each time anew.
    """
    now, _ = exact()
    p, (_, kls) = np.exp(now.logs), compared()
    values = {
        "reward": np.array([answer[0] == A for answer in ANSWERS], float),
        "completion_tokens": np.array([len(answer) for answer in ANSWERS], float),
        "ended": np.array([answer[-1] == END for answer in ANSWERS], float),
        "kl": kls,
    }
    made, questions, state = drawing(asked, rows=1024)
    found = []
    for step in range(2):
        state, told = made.train_step(state, asked_of(made, questions, step))
        found.append({name: float(told[name]) for name in values})
    made.close()
    for name, x in values.items():
        mean = (p * x).sum()
        error = np.sqrt((p * (x - mean) ** 2).sum() / 1024)
        assert error > 0.001
        for told in found:
            assert abs(told[name] - mean) < 4 * error, name
    assert all(
        found[0][name] != found[1][name] for name in ("reward", "completion_tokens", "ended")
    )


@pytest.mark.slow
def test_only_rewards_that_fail_all_are_what_is_to_be_mended(asked, tmp_path):
    """Every other record lacks the field. An error that follows a batch without any reward
    is told by it, and after a batch with some it is told as in all training.
    """
    path = tmp_path / "x.jsonl"
    rows = [{"p": "a", "y": "b"} | ({"z": "ab"} if i % 2 else {}) for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file, failures, mended in ((path, range(1, 16), False), (asked, [16], True)):
        made, questions, state = drawing(str(file), rows=16, reward="exact:z")
        _, told = made.train_step(state, asked_of(made, questions, 0))
        assert told["reward_failures"] in failures
        assert ("the reward has failed of " in made.remedy) == mended
        assert ("learning-rate" in made.remedy) != mended
        assert made.must_be_finite == "loss, gradients and the reward exact:z"


@pytest.mark.slow
def test_eight_devices_learn_from_rewards_as_one_does(asked):
    """The same answers, and so the same numbers, over some updates."""
    names = ("loss", "reward", "kl", "completion_tokens", "gradient_norm")
    curves = []
    for mesh in (None, MeshConfig(2, 2, 2)):
        made, questions, state = drawing(asked, mesh, rows=16, rate=3e-2, reward="length:2")
        curve = []
        for step in range(4):
            state, told = made.train_step(state, asked_of(made, questions, step))
            curve.append([float(told[name]) for name in names])
        made.close()
        curves.append(np.array(curve))
    assert (np.abs(np.diff(curves[0], axis=0)).max(0) > 0.01).all()
    np.testing.assert_allclose(curves[1][:, :-1], curves[0][:, :-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(curves[1][:, -1], curves[0][:, -1], rtol=1e-4)


def test_a_batch_is_whole_groups(asked):
    """From the first on: a ramp is refused, whatever it grows by."""
    data = dataclasses.replace(config().data, files=(asked,))
    ramp = dataclasses.replace(config().train, ramp_start_tokens=8, ramp_tokens=64)
    for changed in (config(group=3), dataclasses.replace(config(), train=ramp)):
        broken = dataclasses.replace(changed, data=data)
        with pytest.raises(InputError, match="a batch is a whole number of groups"):
            ReinforceProgram(broken, Questions(broken, TOKENIZER), TOKENIZER, jax.devices()[:1])
