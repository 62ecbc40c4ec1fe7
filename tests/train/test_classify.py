"""GPT-1's classifier: its loss in NumPy's float64, and what becomes of it in a run."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_model import random_params

import gpt_jax
from gpt_jax.cli import main
from gpt_jax.config import (
    Config,
    DataConfig,
    InputError,
    MeshConfig,
    ModelConfig,
    TrainConfig,
    TuneConfig,
)
from gpt_jax.data.corpus import prepare
from gpt_jax.data.shards import ShardIndex, TokenShards
from gpt_jax.data.supervised import Packed
from gpt_jax.model.decoder import GPT
from gpt_jax.train.checkpoint import load_params
from gpt_jax.train.classify import class_sums, with_classifier
from gpt_jax.train.loss import batch_loss
from gpt_jax.train.state import boxed_params
from gpt_jax.train.step import Program
from gpt_jax.train.tune import effective, split

LENGTH, ROWS = 12, 8
MODEL = ModelConfig(
    vocab_size=60, context_length=LENGTH, num_layers=1, embed_dim=16, num_heads=2, dtype="float32"
)
TUNE = TuneConfig(classes=("a", "b", "c"), lm_weight=0.25)
WORDS = ((7,), (8, 9), (8,))
"""The tokens of the classes."""


def config(tune=TUNE, mesh=None, micro=1):
    shards = 8 if mesh else 1
    return Config(
        model=MODEL,
        tune=tune,
        data=DataConfig(prompt="{t}", target="{y}"),
        train=TrainConfig(
            total_tokens=6 * ROWS * LENGTH,
            batch_tokens=ROWS * LENGTH,
            device_batch_tokens=ROWS // micro // shards * LENGTH,
        ),
        mesh=mesh or MeshConfig(1),
    )


def batch():
    """Four rows of packed examples and as many that fill the batch up."""
    rng = np.random.default_rng(0)
    tokens = []
    for i in range(12):
        tokens += [*rng.integers(10, 60, 2 + i % 3), 0, *WORDS[i % 3], 0]
    index = ShardIndex(1, 24, len(tokens), 0, "uint16", 0, 60, "", "", 0.0, ())
    shards = TokenShards(Path("fake"), index, (np.array(tokens, np.uint16),))
    packed = Packed(shards, LENGTH, 0, "drop", classes=WORDS)
    found = packed.at(np.arange(ROWS) % packed.num_samples)
    real = np.arange(ROWS) < packed.num_samples
    return found | {"weights": found["weights"] * real[:, None]}, packed.num_examples


def test_the_loss_is_numpys():
    """Of every example once, rows of weight 0 left out; by the formula, in float64."""
    rows, number = batch()
    params = with_classifier(random_params(MODEL), jax.random.key(1), TUNE, MODEL)
    layer = {name: np.asarray(x, np.float64) for name, x in params["classifier"].items()}
    layer["biases"] += [0.1, -0.2, 0.3]
    plain = effective(params, config())
    x_BTD, _ = GPT(MODEL).apply(
        {"params": plain},
        rows["inputs"],
        positions_BT=rows["positions"],
        segment_ids_BT=rows["segment_ids"],
        method="hidden",
    )
    logits = np.asarray(x_BTD, np.float64) @ layer["weights"] + layer["biases"]
    expected, right = [], 0
    for row, place in np.argwhere((rows["labels"] >= 0) & (rows["weights"] > 0)):
        scores, label = logits[row, place], rows["labels"][row, place]
        expected.append(np.log(np.exp(scores).sum()) - scores[label])
        right += scores.argmax() == label
    sums = batch_loss(GPT(MODEL), plain, rows, TrainConfig(), classifier=layer)
    assert len(expected) == number == sums.classes.examples
    assert float(sums.classes.nats) == pytest.approx(sum(expected), rel=1e-5)
    assert 0 < right < number
    assert sums.classes.right == right
    alone = batch_loss(GPT(MODEL), plain, rows, TrainConfig())
    assert alone.classes is None
    assert float(sums.objective) == float(alone.objective)


def test_a_label_is_of_its_own_place():
    """Hidden states 1 and -1, and one weight: the classes' logits are known."""
    x_BTD = jnp.array([[[1.0], [-1.0], [1.0]]])
    layer = {"weights": jnp.array([[2.0, 0.0]]), "biases": jnp.zeros(2)}
    sums = class_sums(layer, x_BTD, jnp.array([[0, 0, -1]]))
    assert float(sums.nats) == pytest.approx(np.log1p(np.exp(-2)) + np.log1p(np.exp(2)))
    assert (float(sums.right), float(sums.examples)) == (1, 2)


def test_the_layer_lies_beside_the_model():
    """As wide as the model, drawn as in the paper; trained beside adapters, and no part of it."""
    tune = dataclasses.replace(TUNE, lora_rank=2)
    boxed = boxed_params(MODEL, tune)
    shapes = jax.tree.map(lambda x: x.shape, nn.unbox(boxed)["classifier"])
    assert shapes == {"weights": (16, 3), "biases": (3,)}
    assert boxed["classifier"]["weights"].names == ("D", None)
    trained, _ = split(nn.unbox(boxed), tune)
    assert {*trained} == {"adapters", "classifier"}
    wide, model = {"embedding": jnp.zeros((1, 4096))}, ModelConfig(embed_dim=4096)
    drawn = with_classifier(wide, jax.random.key(0), TUNE, model)["classifier"]
    assert float(drawn["weights"].std()) == pytest.approx(0.02, rel=0.05)
    assert not drawn["biases"].any()
    assert {*effective(drawn | wide | {"classifier": drawn}, config())} >= {"embedding"}
    assert with_classifier(wide, jax.random.key(0), TuneConfig(), model) is wide


@pytest.mark.slow
def test_a_step_follows_the_means_of_both_losses_on_one_device_and_on_eight():
    """The mean of the classes' over examples and a quarter of the tokens' over tokens, however the
    batch is split.
    """
    rows, number = batch()
    updated = []
    alone = Program(config(micro=2), jax.devices()[:1])
    for some in (alone, Program(config(mesh=MeshConfig(2, 2, 2)))):
        state = some.create_state()
        stacked = {name: x.reshape(some.num_micro, some.rows, LENGTH) for name, x in rows.items()}
        state, metrics = some.train_step(state, stacked)
        updated.append((jax.device_get(state.params), float(metrics["gradient_norm"])))
    (one, norm), (eight, norm_8) = updated
    assert norm == pytest.approx(norm_8, rel=1e-4)

    def objective(params):
        plain, layer = effective(params, config()), params["classifier"]
        sums = batch_loss(GPT(MODEL), plain, rows, TrainConfig(), classifier=layer)
        return sums.classes.nats / number + 0.25 * sums.objective / sums.weight

    start = jax.device_get(Program(config(), jax.devices()[:1]).create_state().params)
    assert norm == pytest.approx(float(optax.tree.norm(jax.grad(objective)(start))), rel=1e-4)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    assert one["classifier"]["weights"].any()


@pytest.mark.slow
def test_a_run_learns_classes_and_keeps_the_layer(tmp_path):
    """Texts of two kinds, told apart in a few steps; what is loaded from the run is the model."""
    rows = [{"t": "ab"[i % 2] * (1 + i % 5) + str(i), "y": i % 2} for i in range(200)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "x.py").write_text(f"""
from gpt_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(context_length=32, num_layers=1, embed_dim=32, num_heads=2),
        tune=TuneConfig(classes=(":no", ":yes")),
        data=DataConfig(
            files=({str(tmp_path / "x.jsonl")!r},), tokenizer="bytes", prompt="{{t}}",
            target=":{{y}}", labels=("0=no", "1=yes"), validation_fraction=0.2,
            cache_dir={str(tmp_path / "cache")!r},
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(
            total_tokens=21 * 256, batch_tokens=256, eval_every=3, best="val_accuracy"
        ),
    )
""")
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "x.py"), "--workdir", str(run)]) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(r["val_accuracy"], r["val_class_loss"]) for r in records if "val_accuracy" in r]
    assert found[-1][0] == 1
    assert found[-1][1] < 0.1 < found[0][1]
    assert "val_loss/text" not in records[-1]
    loaded, params, tokenizer = gpt_jax.load(run)
    assert "classifier" not in params
    tokens = jnp.asarray(tokenizer.encode("aa1"))[None]
    assert GPT(loaded.model).apply({"params": params}, tokens).shape == (1, 3, 257)
    _, saved, _ = load_params(run / "checkpoints")
    assert saved["classifier"]["weights"].shape == (32, 2)


def test_a_target_that_is_no_class_names_file_and_line(tmp_path):
    """Before anything is tokenised; one without a target is left out, as in other examples."""
    path, lines = tmp_path / "x.jsonl", [{"t": str(n), "y": "ab"[n % 2]} for n in range(20)]
    data = DataConfig(
        files=(str(path),),
        tokenizer="bytes",
        prompt="{t}",
        target="{y}",
        validation_fraction=0.5,
        cache_dir=str(tmp_path / "cache"),
    )
    asked = Config(data=data, tune=TuneConfig(classes=("a", "b")))
    lines[4]["y"] = ""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert prepare(asked, lambda _: None)
    lines[7]["y"] = "c"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"classes, 'a', 'b', and that of .*x\.jsonl:8 is 'c'"):
        prepare(asked, lambda _: None)


def test_classes_are_targets_of_examples():
    with pytest.raises(InputError, match="classes are the targets of examples, and there are none"):
        Config(tune=TUNE)
    with pytest.raises(InputError, match="two texts or more, each of them once"):
        TuneConfig(classes=("a", "a"))
    with pytest.raises(InputError, match=r"lm_weight is negative: -0\.5"):
        TuneConfig(lm_weight=-0.5)
