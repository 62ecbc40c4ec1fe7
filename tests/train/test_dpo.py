"""Learning from pairs: loss and gradient in NumPy's float64, and what becomes of them in a run."""

import contextlib
import functools
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy_gpt import NumpyGPT, moved
from tiny_run import metrics, saved, saved_steps

from gpt_jax.cli import main
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
from gpt_jax.train.dpo import PreferenceProgram, dpo_step
from gpt_jax.train.state import init_state

VOCAB, LENGTH, ROWS, BETA = 40, 8, 8, 0.3
MODEL = ModelConfig(
    vocab_size=VOCAB, context_length=LENGTH, num_layers=2, embed_dim=16, num_heads=2
)
ALL = TuneConfig()
"""Everything is trained."""
KEEP_GRADIENTS = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda grads, _, params=None: (jax.tree.map(jnp.zeros_like, grads), grads),
)
"""An optimizer that moves nothing, and whose state is the last gradient."""


def config(tune=ALL, mesh=None, **train):
    sizes = {"total_tokens": 6 * ROWS * LENGTH, "batch_tokens": ROWS * LENGTH}
    return Config(
        model=MODEL,
        tune=tune,
        data=DataConfig(prompt="{p}", target="{y}", rejected="{n}"),
        feedback=FeedbackConfig(method="dpo", beta=BETA),
        optimizer=OptimizerConfig(learning_rate=3e-2),
        train=TrainConfig(**(sizes | train)),
        mesh=mesh or MeshConfig(1),
    )


@functools.cache
def program(tune=ALL, mesh=None, **train):
    return PreferenceProgram(config(tune, mesh, **train), jax.devices()[: 8 if mesh else 1])


def parameters(seed=0):
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program().plain)
    return jax.tree.map(lambda x: 0.5 * x, moved(zeros, seed))


def batch(seed=0, pairs=ROWS // 2):
    """Pairs of a prompt of one to three tokens and two answers; the rows after them weigh 0."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = np.zeros((ROWS, LENGTH), np.float32)
    for row in range(2 * pairs):
        prompt = 1 + row // 2 % 3
        tokens[row, :prompt] = tokens[row // 2 * 2, :prompt]
        weights[row, prompt - 1 : prompt + rng.integers(1, LENGTH - prompt)] = 1
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def in_parts(rows, count=1):
    return {name: x.reshape(count, -1, LENGTH) for name, x in rows.items()}


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def numpy_model(params):
    return NumpyGPT(jax.device_get(params), MODEL.attention_pattern, 0, VOCAB)


def log_probs(model, rows):
    """(log p of the answer of each row, the probabilities of all tokens), float64."""
    p = softmax(model.logits(rows["inputs"]))
    of_target = np.take_along_axis(p, rows["targets"][..., None], -1)[..., 0]
    return (np.log(of_target) * rows["weights"]).sum(-1), p


def by_the_paper(params, start, rows, pairs):
    """(loss, margin, accuracy, gradients): equations 7 and 8 of Rafailov et al., pair by pair."""
    (start_logs, _), model = log_probs(numpy_model(start), rows), numpy_model(params)
    logs, p = log_probs(model, rows)
    losses, margins, dlogits = [], [], np.zeros(p.shape)
    for pair in range(pairs):
        good, bad = 2 * pair, 2 * pair + 1
        margin = BETA * (logs[good] - start_logs[good]) - BETA * (logs[bad] - start_logs[bad])
        losses.append(np.log1p(np.exp(-margin)))
        margins.append(margin)
        pull = BETA / (1 + np.exp(margin)) / pairs
        for row, sign in ((good, -1), (bad, 1)):
            of_logits = np.eye(VOCAB)[rows["targets"][row]] - p[row]
            dlogits[row] = sign * pull * of_logits * rows["weights"][row][:, None]
    accuracy = np.mean(np.array(margins) > 0)
    return np.mean(losses), np.mean(margins), accuracy, model.gradients(dlogits)


@functools.cache
def gradient_step(micro=1):
    """Metrics and gradient of `dpo_step`, on parameters that have left their start."""
    model = program().model

    @jax.jit
    def step(params, start, rows):
        state = init_state(params, KEEP_GRADIENTS, TuneConfig(), feedback=True)
        state = state.replace(feedback=state.feedback | {"start": start})
        state, found = dpo_step(
            state, in_parts(rows, micro), model=model, tx=KEEP_GRADIENTS, config=config()
        )
        return found, state.opt_state, state.samples

    return functools.partial(step, parameters(), parameters(1))


@pytest.mark.parametrize(
    ("micro", "pairs"), [(1, 4), (1, 3), pytest.param(2, 3, marks=pytest.mark.slow), (2, 2)]
)
def test_loss_and_gradient_are_numpys(micro, pairs):
    """Also where pairs are missing at the end of the batch, or all of a micro-batch."""
    rows = batch(pairs=pairs)
    found, grads, samples = gradient_step(micro)(rows)
    loss, margin, accuracy, expected = by_the_paper(parameters(), parameters(1), rows, pairs)
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(found["reward_margin"]) == pytest.approx(margin, rel=1e-4)
    assert float(found["preference_accuracy"]) == pytest.approx(accuracy)
    assert 0 < accuracy < 1
    assert samples == 2 * pairs
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_what_fills_the_batch_up_does_not_matter():
    """Other tokens in rows of weight 0: the same bits."""
    rows = batch(pairs=2)
    others = {name: x.copy() for name, x in rows.items()}
    for name in ("inputs", "targets"):
        others[name][4:] = (others[name][4:] + 7) % VOCAB
    found, grads, _ = gradient_step()(rows)
    again, same, _ = gradient_step()(others)
    assert found == again
    assert jax.tree.all(jax.tree.map(np.array_equal, grads, same))


@pytest.mark.parametrize(
    "tune",
    [
        TuneConfig(),
        TuneConfig(lora_rank=2, lora_matrices=("qkv", "down")),
        TuneConfig(freeze=("embedding", "*/mlp/*")),
    ],
    ids=["all", "adapters", "frozen"],
)
def test_the_start_is_the_model_as_it_was(tune):
    """At first the margin is 0 and the loss log 2. After steps the margins are those of the model
    that it has become against the one that was given, both by NumPy.
    """
    made = program(tune)
    state = made.create_state(parameters())
    found = made.validate(state, [batch(), batch(1, pairs=1)])
    assert found == {
        "val_loss": pytest.approx(np.log(2), rel=1e-6),
        "val_reward_margin": 0,
        "val_preference_accuracy": 0,
    }
    losses = []
    for _ in range(3):
        state, told = made.train_step(state, in_parts(batch()))
        losses.append(float(told["loss"]))
    assert losses[0] == pytest.approx(np.log(2), rel=1e-6)
    assert losses[-1] < losses[0] - 0.02
    found, whole = made.validate(state, [batch(), batch(1, pairs=1)]), made.effective(state.params)
    parts = [
        (pairs, by_the_paper(whole, parameters(), batch(seed, pairs), pairs))
        for seed, pairs in ((0, 4), (1, 1))
    ]
    for place, name in enumerate(("loss", "reward_margin", "preference_accuracy")):
        expected = sum(pairs * part[place] for pairs, part in parts) / 5
        assert found[f"val_{name}"] == pytest.approx(expected, rel=1e-4), name


@pytest.mark.slow
def test_eight_devices_learn_pairs_as_one_does():
    """With both rows of a pair on one device, and each on its own; two micro-batches or one."""
    curves = []
    for made in (
        program(device_batch_tokens=ROWS // 2 * LENGTH),
        program(mesh=MeshConfig(2, 2, 2)),
        program(mesh=MeshConfig(2, 4)),
    ):
        state, curve = made.create_state(parameters()), []
        for step in range(4):
            state, told = made.train_step(state, in_parts(batch(step % 2), made.num_micro))
            curve.append([float(told[name]) for name in ("loss", "reward_margin")])
        curves.append(np.array(curve))
    assert curves[0][-1, 0] < curves[0][0, 0] - 0.05
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "train",
    [
        {"batch_tokens": 3 * LENGTH},
        {"device_batch_tokens": LENGTH},
        {"ramp_start_tokens": LENGTH, "ramp_tokens": 8 * LENGTH},
    ],
    ids=["batch", "micro-batch", "ramp"],
)
def test_no_pair_is_torn_apart(train):
    """Or one answer would be compared with that of another prompt."""
    with pytest.raises(InputError, match="the two answers of a pair are in one micro-batch"):
        PreferenceProgram(config(**train), jax.devices()[:1])


PAIRS = """
from gpt_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(context_length=16, num_layers=1, embed_dim=32, num_heads=2),
        data=DataConfig(
            files=({files!r},), tokenizer="bytes", prompt="{{p}}", target="{{chosen}}",
            rejected="{{rejected}}", validation_fraction=0.2, cache_dir={cache!r},
        ),
        feedback=FeedbackConfig(method="dpo"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            total_tokens=16 * 256, batch_tokens=256, log_every=1, eval_every=4,
            best="val_preference_accuracy",
        ),
        checkpoint=CheckpointConfig(every=8),
    )
"""


@pytest.fixture(scope="module")
def preferred(tmp_path_factory):
    """(experiment, run, what it printed): of two answers the one with small letters is better."""
    folder = tmp_path_factory.mktemp("pairs")
    rng, lines = np.random.default_rng(0), []
    for number in range(120):
        word = "".join(rng.choice([*"abcdefgh"], 4))
        lines.append(json.dumps({"p": f"{number}:", "chosen": word, "rejected": word.upper()}))
    (folder / "x.jsonl").write_text("\n".join(lines))
    path, run = folder / "x.py", folder / "run"
    path.write_text(PAIRS.format(files=str(folder / "x.jsonl"), cache=str(folder / "cache")))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["train", str(path), "--workdir", str(run)]) == 0
    return path, run, said.getvalue()


@pytest.mark.slow
def test_a_run_learns_what_is_preferred(preferred):
    """Of pairs that were held out. Its first loss is log 2; at its end it says what it found."""
    _, run, said = preferred
    lines = metrics(run)
    assert lines[0]["loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert lines[0]["reward_margin"] == 0
    told = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in told] == [4, 8, 12, 16]
    assert told[-1]["val_preference_accuracy"] == 1
    assert told[-1]["val_loss"] < told[0]["val_loss"] < np.log(2)
    assert told[-1]["val_reward_margin"] > told[0]["val_reward_margin"] > 0
    assert "val_perplexity" not in told[-1]
    loss = f"validation loss {told[-1]['val_loss']:.4f}, preference accuracy 1.0000"
    assert [line for line in said.splitlines() if loss in line] == [f"step 16: {loss}", loss]


@pytest.mark.slow
def test_stopped_and_resumed_it_is_the_same(preferred, tmp_path):
    """Bit for bit, the start that it is compared with too."""
    path, undisturbed, _ = preferred
    run = shutil.copytree(undisturbed, tmp_path / "run")
    assert saved_steps(run) == [8, 16]
    shutil.rmtree(run / "checkpoints" / "16")
    assert main(["train", str(path), "--workdir", str(run)]) == 0
    assert metrics(run) == metrics(undisturbed)
    ours, theirs = saved(run, 16), saved(undisturbed, 16)
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    name = "rest['feedback']['start']['embedding']"
    assert theirs[name].tobytes() == saved(undisturbed, 8)[name].tobytes()
    assert theirs[name].tobytes() != theirs["params['embedding']"].tobytes()
