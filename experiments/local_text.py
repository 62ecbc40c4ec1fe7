"""A character-level GPT on your own text: any files, by glob.

    gpt-jax train experiments/local_text.py --data.files 'x/*.txt'

The last tenth of every file is held out. The model and its 1.5 M tokens are those of nanoGPT's CPU
example on Tiny Shakespeare (4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps), where
it ends with a validation loss of 1.77 after some 6 minutes on two CPU cores (nanoGPT: 1.88).

--data.tokenizer bytes takes any text, also what was not seen in training; --data.tokenizer
sentencepiece --model.vocab-size 4096 suits more than a few MB.
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
    """The text files of the working directory, until --data.files names others."""
    return Config(
        name="local_text",
        model=for_cpu(ModelConfig(context_length=64, num_layers=4, embed_dim=128, num_heads=4)),
        data=DataConfig(
            files=("*.txt",), tokenizer="characters", split="position", validation_fraction=0.1
        ),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_tokens=76_800),
        train=TrainConfig(
            total_tokens=2000 * 12 * 64, batch_tokens=12 * 64, log_every=50, eval_every=250
        ),
        checkpoint=CheckpointConfig(every=500),
    )
