"""The gradient noise scale while the loss falls: notebooks/batch_size.ipynb makes a ramp of it.

gpt-jax train experiments/scaling/batch_size.py
"""

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

STEPS, BATCH = 400, 64 * 64


def get_config() -> Config:
    """2 layers of width 64 on bytes of Python's library: 64 sequences of 64, 8 at a time."""
    return Config(
        name="batch_size",
        model=ModelConfig(context_length=64, num_layers=2, embed_dim=64, num_heads=4),
        data=DataConfig(tokenizer="bytes", validation_fraction=0.02),
        optimizer=OptimizerConfig(learning_rate=6e-3, warmup_tokens=20 * BATCH),
        train=TrainConfig(
            total_tokens=STEPS * BATCH,
            batch_tokens=BATCH,
            device_batch_tokens=BATCH // 8,
            noise_scale=True,
            log_every=5,
            eval_every=200,
            eval_tokens=65_536,
            sample_tokens=0,
        ),
        checkpoint=CheckpointConfig(every=200, keep_best=0),
    )
