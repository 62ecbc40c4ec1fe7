"""The loss and every gradient against NumPy with a backward pass written by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_gpt import NumpyGPT, moved

from gpt_jax.config import ModelConfig, TrainConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.train import loss
from gpt_jax.train.loss import batch_loss, num_loss_chunks, token_losses

VOCAB = 50
CONFIG = ModelConfig(
    vocab_size=VOCAB,
    context_length=8,
    num_layers=2,
    embed_dim=8,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=3,
)
OPTIONS = TrainConfig(label_smoothing=0.1, z_loss=0.01)
RNG = np.random.default_rng(0)
BATCH = {
    "inputs": RNG.integers(0, VOCAB, (3, 6)).astype("int32"),
    "targets": RNG.integers(0, VOCAB, (3, 6)).astype("int32"),
    # Tokens that do not count, one row of them among the rest, and one that counts half.
    "weights": np.array([[1, 1, 0, 1, 1, 1], [0] * 6, [1, 0.5, 1, 1, 0, 0]], "float32"),
}


def numpy_losses(logits, targets, config):
    """Objective and nats of each token, and the objective's gradient in the logits."""
    top = logits.max(-1, keepdims=True)
    log_z = np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top
    log_p = logits - log_z
    label = np.eye(logits.shape[-1])[targets]
    nats = -(label * log_p).sum(-1)
    s, z = config.label_smoothing, config.z_loss
    smooth = (1 - s) * label + s / logits.shape[-1]
    objective = -(smooth * log_p).sum(-1) + z * log_z[..., 0] ** 2
    return objective, nats, np.exp(log_p) * (1 + 2 * z * log_z) - smooth


@pytest.fixture(scope="module")
def params():
    shapes = nn.unbox(jax.eval_shape(GPT(CONFIG).init, jax.random.key(0), BATCH["inputs"]))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes["params"])
    return jax.tree.map(jnp.asarray, moved(zeros))


@pytest.fixture(scope="module")
def expected(params):
    """Sums of objective, nats and weight, and the gradient of the first, in float64."""
    model = NumpyGPT(params, CONFIG.attention_pattern, CONFIG.attention_window, VOCAB)
    logits = model.logits(BATCH["inputs"])
    objective, nats, slope = numpy_losses(logits, BATCH["targets"], OPTIONS)
    weights = BATCH["weights"].astype(float)
    sums = [(objective * weights).sum(), (nats * weights).sum(), weights.sum()]
    return sums, model.gradients(slope * weights[..., None])


# Two tokens' logits at a time, with more rows than that, make a chunk of each of the six places.
@pytest.mark.parametrize("max_logits", [2**24, 2 * 128], ids=["whole", "chunked"])
def test_loss_and_every_gradient_are_numpy_s(monkeypatch, params, expected, max_logits):
    """Dense and banded layers, tied embedding, positions and norms, in chunks or not.

    Gradients in float32 agree to 1e-5 of the largest entry of each array.
    """
    monkeypatch.setattr(loss, "MAX_LOGITS", max_logits)

    def objective(params):
        sums = batch_loss(GPT(CONFIG), params, BATCH, OPTIONS)
        return sums.objective, sums

    (_, sums), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    values, expected_grads = expected
    np.testing.assert_allclose([sums.objective, sums.nats, sums.weight], values, rtol=1e-6)
    assert jax.tree.structure(grads) == jax.tree.structure(expected_grads)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected_grads), strict=True
    ):
        # The bias of the keys moves all scores of a query alike: its gradient is 0, and noise.
        largest = max(np.abs(theirs).max(), 1e-2)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest, err_msg=str(path))
    assert not np.asarray(grads["embedding"])[VOCAB:].any()


@pytest.mark.parametrize("z_loss", [0, 0.01])
@pytest.mark.parametrize("label_smoothing", [0, 0.1])
def test_objective_and_nats_of_a_token(label_smoothing, z_loss):
    """Over a vocabulary of 5 padded to 8, whose padding counts in none of the terms."""
    config = TrainConfig(label_smoothing=label_smoothing, z_loss=z_loss)
    logits = np.random.default_rng(1).normal(0, 3, (2, 3, 5))
    targets = np.array([[0, 4, 2], [1, 1, 3]])
    padded = np.concatenate([logits, np.full((2, 3, 3), -1e30)], -1).astype("float32")
    objective, nats = token_losses(padded, targets, 5, z_loss, label_smoothing)
    expected = numpy_losses(logits, targets, config)
    np.testing.assert_allclose(objective, expected[0], rtol=1e-5)
    np.testing.assert_allclose(nats, expected[1], rtol=1e-5)


def test_a_uniform_guess_costs_the_log_of_the_vocabulary():
    logits = np.array([[[7.0] * 5 + [-1e30] * 3]], "float32")
    objective, nats = token_losses(logits, np.array([[2]]), 5, 0.0, 0.3)
    assert float(nats[0, 0]) == pytest.approx(np.log(5))
    assert float(objective[0, 0]) == pytest.approx(np.log(5))


def test_logits_too_large_for_a_plain_exponential():
    logits = np.array([[[1000.0, 1001.0]]], "float32")
    _, nats = token_losses(logits, np.array([[0]]), 2, 0.0, 0.0)
    assert float(nats[0, 0]) == pytest.approx(np.log(1 + np.e), rel=1e-4)


def test_a_weight_per_row_is_that_of_each_of_its_tokens(params):
    rows = np.array([1, 0, 0.5], "float32")
    sums = jax.jit(lambda batch: batch_loss(GPT(CONFIG), params, batch, TrainConfig()))(
        BATCH | {"weights": rows}
    )
    model = NumpyGPT(params, CONFIG.attention_pattern, CONFIG.attention_window, VOCAB)
    _, nats, _ = numpy_losses(model.logits(BATCH["inputs"]), BATCH["targets"], TrainConfig())
    assert float(sums.weight) == 9
    assert float(sums.nats) == pytest.approx(nats[0].sum() + nats[2].sum() / 2, rel=1e-5)
    assert float(sums.objective) == float(sums.nats)


@pytest.mark.parametrize(
    ("length", "vocab", "chunks"),
    [
        (1024, 256, 1),  # 2^18 logits
        (2048, 8192, 1),  # 2^24: just what may be
        (2048, 8320, 2),  # 65 x 128 is a little more
        (2048, 50304, 8),  # 6.14 x 2^24, and 7 does not divide 2,048
        (1000, 131072, 8),  # 7.8 x 2^24: 8 parts of 125
        (7, 2**23, 7),  # two fit, but 7 has no divisor but itself
        (4, 2**25, 4),  # one is too many already, and one at a time it is
    ],
)
def test_a_sequence_is_cut_in_the_fewest_equal_parts_that_fit(length, vocab, chunks):
    """Length, vocabulary and parts by hand; half as long and twice the rows come to the same."""
    assert num_loss_chunks(length, vocab) == chunks


@pytest.mark.parametrize(("rows", "chunks"), [(1, 1), (16, 1), (17, 2), (512, 32), (10**6, 256)])
def test_every_row_of_a_device_counts(rows, chunks):
    """16 rows of 256 x 4,096 logits are 2^24; at the worst it is one place at a time."""
    assert num_loss_chunks(256, 4096, rows) == chunks
