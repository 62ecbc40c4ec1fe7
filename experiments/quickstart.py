"""A small GPT on the sources of Python's standard library, from nothing to a sample in minutes.

    gpt-jax train experiments/quickstart.py

Two CPU cores, 7 minutes: validation loss 3.71, 1.64 bits per byte, where gzip -9 needs 2.13.
"""

import dataclasses

from gpt_jax.config import Config
from gpt_jax.presets import small_stdlib


def get_config() -> Config:
    """4 layers of width 256, 0.7 M tokens in batches of 2,048."""
    base = small_stdlib()
    return dataclasses.replace(
        base,
        name="quickstart",
        optimizer=dataclasses.replace(base.optimizer, warmup_tokens=50_000),
        train=dataclasses.replace(base.train, total_tokens=700_000, batch_tokens=8 * 256),
    )
