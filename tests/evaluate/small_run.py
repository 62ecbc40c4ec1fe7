"""The folder of a run whose model says more than one thing, made without training."""

from pathlib import Path

import jax.numpy as jnp
from random_model import random_params

from gpt_jax.config import Config, ModelConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.run import write_run

MODEL = ModelConfig(vocab_size=257, context_length=128, num_layers=1, embed_dim=16, num_heads=2)


def make_run(folder: Path, config: Config | None = None) -> Path:
    """A run of 7 steps, of a model of bytes."""
    write_run(folder, config or Config(name="small", model=MODEL), ByteTokenizer())
    with Checkpointer(folder / "checkpoints", 1, 0) as checkpointer:
        checkpointer.save(7, random_params(MODEL), {"step": jnp.int32(7)}, {})
    return folder
