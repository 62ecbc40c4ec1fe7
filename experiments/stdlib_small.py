"""Python's standard library for longer than the quickstart, to well below gzip -9.

    gpt-jax train experiments/stdlib_small.py

The model, the text and the held-out files are the quickstart's, so that the two runs compare.
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
    """4 layers of width 256 over 256 tokens, a vocabulary of 4,096, 2 M tokens."""
    return Config(
        name="stdlib_small",
        model=for_cpu(
            ModelConfig(
                vocab_size=4096, context_length=256, num_layers=4, embed_dim=256, num_heads=4
            )
        ),
        data=DataConfig(validation_fraction=0.02),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup_tokens=100_000),
        train=TrainConfig(
            total_tokens=2_000_000, batch_tokens=16 * 256, eval_every=100, sample_prompt="def "
        ),
        checkpoint=CheckpointConfig(every=100),
    )
