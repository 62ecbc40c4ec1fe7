"""A model of the maximal update parametrisation goes out as a standard one that says the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from random_model import random_params

from gpt_jax.config import Config, ModelConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.interop.convert import export
from gpt_jax.interop.load import load_hf
from gpt_jax.model.decoder import GPT
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.run import write_run

MODEL = ModelConfig(
    vocab_size=257,
    context_length=8,
    num_layers=2,
    embed_dim=32,
    num_heads=2,
    parametrisation="mup",
    base_width=8,
    base_head_dim=4,
)


def test_the_exported_model_says_what_the_run_says(tmp_path):
    """Read back, it is a plain GPT-2 with the logits of the run."""
    config, params = Config(name="run", model=MODEL), random_params(MODEL)
    (tmp_path / "run").mkdir()
    with Checkpointer(tmp_path / "run" / "checkpoints", keep_last=1, keep_best=0) as checkpointer:
        meta = {"config": dataclasses.asdict(config)}
        checkpointer.save(0, params, {"step": jnp.int32(0)}, meta)
    write_run(tmp_path / "run", config, ByteTokenizer())
    assert export(tmp_path / "run", tmp_path / "hf") == "gpt2"
    back, theirs, _ = load_hf(tmp_path / "hf")
    assert (back.model.parametrisation, back.model.base_width) == ("standard", 0)
    tokens = np.random.default_rng(0).integers(0, 257, (2, 8)).astype(np.int32)
    expected = jax.jit(GPT(MODEL).apply)({"params": params}, tokens)
    found = jax.jit(GPT(back.model).apply)({"params": theirs}, tokens)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert not np.array_equal(theirs["norm_final"]["scale"], params["norm_final"]["scale"])
