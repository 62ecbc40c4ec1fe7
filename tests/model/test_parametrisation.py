"""muP: the paper's table by hand, the model against NumPy, and the base to the bit."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
from numpy_gpt import NumpyGPT, moved
from random_model import random_params

from gpt_jax.config import Config, InputError, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.model import parametrisation
from gpt_jax.model.decode import decode_all
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.step import Program

BASE = ModelConfig(vocab_size=50, context_length=8, num_layers=2, embed_dim=16, num_heads=2)
WIDE = dataclasses.replace(
    BASE, embed_dim=64, parametrisation="mup", base_width=16, base_head_dim=8
)
"""Four widths of the base, and heads of 32 dims where it has 8."""
TOKENS = np.random.default_rng(0).integers(0, 50, (2, 8)).astype(np.int32)


def unlike(**changes):
    return dataclasses.replace(WIDE, **changes)


def logits(model, params):
    return np.asarray(jax.jit(GPT(model).apply)({"params": params}, TOKENS))


def test_the_table():
    """Tensor Programs V, table 8, at four widths of the base; Muon's by the spectral condition."""
    std = {
        name: parametrisation.init_std(WIDE, name)
        for name in ("embedding", "head", "positions", "qkv", "out", "up", "down", "weights")
    }
    assert std == pytest.approx(
        {
            "embedding": 0.02,
            "head": 0.02,
            "positions": 0.01,
            "qkv": 0.01,  # 0.02 / sqrt(4)
            "out": 0.005,  # 0.02 / sqrt(2 x 2 layers) / sqrt(4)
            "up": 0.01,
            "down": 0.005,
            "weights": 0.005,  # 0.02 / 4
        }
    )
    rates = {
        optimizer: [
            parametrisation.rate_multiplier(WIDE, optimizer, name)
            for name in ("embedding", "head", "scale", "qkv_bias", "qkv", "down", "up_a", "up_b")
        ]
        for optimizer in ("adamw", "muon")
    }
    assert rates == {
        "adamw": [1, 1, 1, 1, 1 / 4, 1 / 4, 1 / 4, 1],
        "muon": [1, 1, 1, 1, 1 / 2, 1 / 2, 1 / 4, 1],
    }
    assert parametrisation.output_multiplier(WIDE) == 1 / 4
    assert parametrisation.attention_scale(WIDE) == pytest.approx(8**0.5 / 32)
    assert parametrisation.attention_scale(unlike(scale_attention=False)) == 8 / 32
    assert parametrisation.attention_scale(unlike(base_head_dim=0)) == 32**-0.5
    assert parametrisation.embedding_multiplier(unlike(scale_embedding=True)) == 4


def test_the_table_at_the_base_is_gpt_2s():
    """All is 1 but what GPT-2 has: the paper's point of departure."""
    mup = dataclasses.replace(BASE, parametrisation="mup", base_width=16)
    for model in (BASE, mup):
        assert parametrisation.init_std(model, "qkv") == 0.02
        assert parametrisation.init_std(model, "out") == 0.02 / 4**0.5
        for name in ("qkv", "out", "up", "down", "weights", "qkv_a", "embedding"):
            assert parametrisation.rate_multiplier(model, "adamw", name) == 1
        assert parametrisation.output_multiplier(model) == 1
        assert parametrisation.attention_scale(model) == 8**-0.5


def test_what_is_drawn_has_these_deviations():
    """Of a model twice as wide as its base, whose matrices are large enough to tell."""
    model = dataclasses.replace(WIDE, embed_dim=128, base_width=64, tied_head=False)
    params = nn.unbox(GPT(model).init(jax.random.key(0), TOKENS))["params"]
    drawn = {path: float(x.std()) for path, x in named_leaves(params).items() if x.ndim > 1}
    expected = {
        "embedding": 0.02,
        "head": 0.02,
        "positions": 0.01,
        "layers/0/attention/qkv": 0.02 / 2**0.5,
        "layers/0/attention/out": 0.01 / 2**0.5,
        "layers/0/mlp/up": 0.02 / 2**0.5,
        "layers/0/mlp/down": 0.01 / 2**0.5,
    }
    assert {name: drawn[name] for name in expected} == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_at_the_base_it_is_the_standard_run_to_the_bit(optimizer):
    """Three steps from the same seed leave the same parameters; twice as wide, others."""

    def trained(model):
        config = Config(
            model=model,
            optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2),
            train=TrainConfig(total_tokens=3 * 16, batch_tokens=16),
        )
        program = Program(config, jax.devices()[:1])
        state = program.create_state()
        batch = {"inputs": TOKENS[None], "targets": TOKENS[None, ::-1]}
        batch["weights"] = np.ones((1, 2), np.float32)
        for _ in range(3):
            state, _ = program.train_step(state, batch)
        return {path: np.asarray(x) for path, x in named_leaves(state.params).items()}

    standard = trained(BASE)
    base = trained(dataclasses.replace(BASE, parametrisation="mup", base_width=16))
    assert [*base] == [*standard]
    assert all(base[path].tobytes() == standard[path].tobytes() for path in standard)
    halved = trained(dataclasses.replace(BASE, parametrisation="mup", base_width=8))
    same = [path for path in standard if np.array_equal(halved[path], standard[path])]
    assert same == []


@pytest.fixture(scope="module")
def wide_params():
    zeros = jax.eval_shape(GPT(WIDE).init, jax.random.key(0), TOKENS)["params"]
    return moved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, "float32"), nn.unbox(zeros)))


def test_the_model_is_numpys_with_the_multipliers_by_hand(wide_params):
    """A quarter of the logits, and queries sqrt(8) / 32 x sqrt(32) = 1/2 times as large."""
    reference = NumpyGPT(wide_params, WIDE.attention_pattern, WIDE.attention_window, 50)
    attention = reference.params["layers"]["0"]["attention"]
    attention["qkv"][:, :, 0] /= 2
    attention["qkv_bias"][:, 0] /= 2
    expected = reference.logits(TOKENS) / 4
    found = logits(WIDE, wide_params)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_head": False, "head_bias": True},
        {"embedding_width": 24},
        {"scale_embedding": True, "position_encoding": "sinusoidal"},
        {"scale_embedding": True, "embedding_width": 24},
        {"qkv_bias": False, "position_encoding": "rotary_halves", "scale_attention": False},
        {"tied_head": False, "final_norm": False, "norm_position": "after"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_merged_parameters_say_the_same_in_the_standard_form(changes):
    """Multipliers of powers of two, so that not a bit of a weight is lost."""
    model = unlike(**changes, base_head_dim=8)
    params = random_params(model)
    plain = parametrisation.standard_form(model)
    assert (plain.parametrisation, plain.base_width, plain.base_head_dim) == ("standard", 0, 0)
    found = logits(plain, parametrisation.merged(model, params))
    np.testing.assert_allclose(found, logits(model, params), rtol=2e-5, atol=2e-5)
    assert np.abs(found - logits(plain, params)).max() > 0.1  # or nothing had to be merged


def test_what_cannot_be_merged_is_refused():
    """GPT-1's layout: before its tied embedding stands a norm of the layers' stack, not its own."""
    model = unlike(norm_position="after", final_norm=False)
    with pytest.raises(InputError, match=r"no final norm.*--model.tied-head False"):
        parametrisation.standard_form(model)
    at_base = dataclasses.replace(model, base_width=64)
    assert parametrisation.standard_form(at_base).base_width == 0


def test_with_a_cache_it_says_what_it_says_without():
    """Greedy tokens, by the cache and by the whole model anew for each."""
    params = random_params(WIDE)
    prompt = TOKENS[0, :3]
    static = {"vocab_size": 50, "seed": 0}
    found = decode_all(WIDE, params, [prompt], 5, Sampling(temperature=0), **static).tokens_BN[0]
    tokens = np.zeros((1, 8), np.int32)
    tokens[0, :3] = prompt
    apply = jax.jit(GPT(WIDE).apply)
    for place in range(3, 8):
        tokens[0, place] = np.asarray(apply({"params": params}, tokens))[0, place - 1].argmax()
    assert tokens[0, 3:].tolist() == found.tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parametrisation": "mup"}, "base_width.*positive with it.*it is 0.*--model.base-width"),
        ({"base_width": 16}, "0 without, and it is 16 with 'standard'"),
        ({"base_head_dim": 8}, "0 without it, and it is 8"),
        ({"parametrisation": "mup", "base_width": 16, "base_head_dim": -1}, "it is -1"),
    ],
)
def test_a_base_goes_with_mup_alone(changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(BASE, **changes)


def test_the_same_model_said_in_two_ways_is_one():
    """At its base mup is the standard model: a run of the one can start from the other's."""
    mup = dataclasses.replace(BASE, parametrisation="mup", base_width=16)
    assert mup.architecture == BASE.architecture
    assert dataclasses.replace(mup, base_head_dim=8).architecture == BASE.architecture
    other_heads = dataclasses.replace(mup, base_head_dim=4).architecture
    assert other_heads.parametrisation == "mup"
    assert (other_heads.base_width, other_heads.base_head_dim) == (16, 4)
    assert unlike(base_head_dim=32).architecture == unlike(base_head_dim=0).architecture
