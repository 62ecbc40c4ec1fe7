"""A run of random weights that speaks in letters, made on the fly."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from random_model import random_params

from gpt_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.run import write_run

MODEL = ModelConfig(
    vocab_size=257, context_length=160, num_layers=1, embed_dim=16, num_heads=2, head_bias=True
)


def letters_params():
    """Parameters with which every token is a small letter or a space."""
    params = random_params(MODEL)
    spoken = np.isin(np.arange(len(params["head_bias"])), [*b"abcdefghijklmnopqrstuvwxyz "])
    return params | {"head_bias": jnp.where(spoken, 0.0, -1e4)}


def write_random_run(path: Path) -> Path:
    """A run of MODEL and `letters_params` in a new folder."""
    config = Config(
        name=path.name,
        model=MODEL,
        data=DataConfig(tokenizer="bytes"),
        train=TrainConfig(batch_tokens=10 * MODEL.context_length),
    )
    with Checkpointer(path / "checkpoints", keep_last=1, keep_best=0) as checkpointer:
        meta = {"config": dataclasses.asdict(config)}
        checkpointer.save(0, letters_params(), {"step": jnp.int32(0)}, meta)
    write_run(path, config, ByteTokenizer())
    return path
