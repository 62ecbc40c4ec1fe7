"""A small GPT on the sources of Python's standard library, from nothing to a sample in minutes.

gpt-jax train experiments/quickstart.py
"""

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.presets import for_cpu


def get_config() -> Config:
    """4 layers of width 256 over 256 tokens, a vocabulary of 4,096."""
    return Config(
        name="quickstart",
        model=for_cpu(
            ModelConfig(
                vocab_size=4096, context_length=256, num_layers=4, embed_dim=256, num_heads=4
            )
        ),
        data=DataConfig(validation_fraction=0.02),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup_tokens=50_000),
        train=TrainConfig(
            total_tokens=700_000,
            batch_tokens=8 * 256,
            eval_every=100,
            sample_prompt="def ",
        ),
        checkpoint=CheckpointConfig(every=100),
    )
