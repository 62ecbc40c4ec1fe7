"""The coordinate check: what it measures adds up, slopes by hand, muP's against the standard's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_model import random_params

from gpt_jax.config import Config, InputError, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.model.decoder import GPT
from gpt_jax.scaling.coordinates import KINDS, Coordinate, activations, coordinate_check, slopes
from gpt_jax.scaling.widths import widened

BASE = ModelConfig(vocab_size=64, context_length=16, num_layers=2, embed_dim=32, num_heads=2)


def test_what_is_measured_adds_up():
    """The last layer leaves the embedding and all that attention and MLPs have added to it."""
    model = ModelConfig(
        **{"vocab_size": 64, "context_length": 16, "num_layers": 4, "embed_dim": 32},
        num_heads=2,
        attention_pattern=("dense", "banded"),
    )
    params, tokens = random_params(model), jnp.arange(32).reshape(2, 16)
    found = jax.jit(activations, static_argnums=0)(GPT(model), params, tokens)
    assert set(found) == set(KINDS)
    assert found["queries"].shape == (4, 2, 16, 2, 16)
    total = found["embedded"] + found["attention"].sum(0) + found["mlp"].sum(0)
    # By slot of the pattern: layers 0 and 2, then 1 and 3.
    np.testing.assert_allclose(found["residual"][3], total, rtol=1e-4, atol=1e-4)
    expected = jax.jit(GPT(model).apply)({"params": params}, tokens)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)


def test_slopes_by_hand():
    """Sizes 3, 6, 12 at widths 8, 16, 32 grow with the first power; changes of 5 with none."""
    coordinates = [
        Coordinate("mup", width, 1, "mlp", size, 5.0)
        for width, size in ((8, 3.0), (16, 6.0), (32, 12.0))
    ]
    coordinates += [Coordinate("mup", width, 0, "mlp", 1.0, 0.0) for width in (8, 16, 32)]
    assert slopes(coordinates, "size") == pytest.approx(
        {("mup", 1, "mlp"): 1.0, ("mup", 0, "mlp"): 0.0}
    )
    assert slopes(coordinates, "change") == pytest.approx({("mup", 1, "mlp"): 0.0})


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "grows"), [("adamw", 0.8), ("muon", 0.4)])
def test_mup_stands_still_where_the_standard_grows(optimizer, grows):
    """Over eight times the width, after 4 steps (Tensor Programs V, figure 5): powers near 0, where
    the standard's residual stream grows with the width by Adam, with its root by Muon.
    """
    config = Config(
        model=BASE,
        optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2, weight_decay=0.0),
        train=TrainConfig(total_tokens=10**6, batch_tokens=8 * 16),
    )
    found = coordinate_check(config, [32, 256], 4)
    at_base = {
        p: [c.size for c in found if (c.parametrisation, c.width) == (p, 32)]
        for p in ("standard", "mup")
    }
    assert at_base["standard"] == at_base["mup"]
    power = slopes(found)
    for kind in KINDS:
        assert abs(power["mup", 4, kind]) < 0.3, kind
        if kind != "embedded":
            assert power["standard", 4, kind] > 0.3, kind
    assert power["standard", 4, "residual"] > grows


def test_a_vocabulary_that_is_not_known_is_asked_for():
    with pytest.raises(InputError, match=r"vocab_size=0 .* set model\.vocab_size"):
        coordinate_check(Config(model=ModelConfig(embed_dim=32, num_heads=2)), [32], 1)


def test_a_width_has_whole_heads_and_the_base_s_proportions():
    """Heads of 16 dims, an MLP of three times the width."""
    base = ModelConfig(embed_dim=32, num_heads=2, mlp_width=96)
    wide = widened(base, 64, "mup")
    assert (wide.num_heads, wide.head_dim, wide.mlp_dim, wide.base_width) == (4, 16, 192, 32)
    assert widened(base, 64, "standard").base_width == 0
    assert widened(BASE, 64, "standard").mlp_width == 0
    with pytest.raises(InputError, match=r"heads of 16 dims.*40 is none.*follows 32"):
        widened(base, 40, "mup")
    with pytest.raises(InputError, match="leave it out of the base"):
        widened(wide, 128, "mup")
