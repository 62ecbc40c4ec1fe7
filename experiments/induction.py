"""A GPT of two layers in which an induction head forms, for `gpt-jax inspect` to find.

    gpt-jax train experiments/induction.py --workdir runs/induction
    gpt-jax inspect runs/induction --step all --text jumpingfoxjumpingfox

Every document is a few random letters, said twice, so that nothing but what stood before can tell
what comes. The first layer sees a token and the one before it alone: it can mark each with the
other, and a head of the second can look for the place after the same letter (Olsson et al. 2022).
Where both layers see everything, such a model was found to count places back instead. Attention is
GPT-Neo's, so that `gpt-jax export` can state the model.

0.10 M parameters; two CPU cores, one minute beside other work. Between steps 160 and 260 the
induction score of two heads goes from 0.1 to 0.7 (notebooks/inspect.ipynb).
"""

import random
import string
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.presets import for_cpu

DOCUMENTS, LENGTH = 300_000, (4, 17)
LETTERS = string.ascii_lowercase


def lines() -> Iterator[str]:
    """Random lines, each said twice."""
    draw = random.Random(0)
    for _ in range(DOCUMENTS):
        line = "".join(draw.choices(LETTERS, k=draw.randint(*LENGTH)))
        yield line + line


def get_config() -> Config:
    """Checkpoints of all steps that are saved are kept."""
    model = ModelConfig(
        context_length=32,
        num_layers=2,
        embed_dim=64,
        num_heads=4,
        attention_pattern=("banded", "dense"),
        attention_window=2,
        scale_attention=False,
        qkv_bias=False,
    )
    return Config(
        name="induction",
        model=for_cpu(model),
        data=DataConfig(
            files=(f"python:{Path(__file__).absolute()}:lines",),
            tokenizer="characters",
            validation_fraction=0.02,
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup_tokens=100_000),
        train=TrainConfig(
            total_tokens=1_000_000,
            batch_tokens=64 * 32,
            eval_every=200,
            eval_tokens=50_000,
            sample_prompt="saidtwicesa",
            sample_tokens=8,
        ),
        checkpoint=CheckpointConfig(every=20, keep_last=100),
    )
