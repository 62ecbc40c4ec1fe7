"""addition.py with adapters alone trained: LoRA of rank 16 beside every matrix of the layers.

gpt-jax train experiments/stdlib_arithmetic.py --workdir runs/stdlib_arithmetic
gpt-jax train experiments/finetune/addition_lora.py --workdir runs/addition_lora

131,072 parameters are trained, of 826,240 in the model. Two CPU cores, 7 minutes beside other
work: 1,980 of the 1,981 questions of the test are answered, as by full fine-tuning.
"""

import dataclasses
from pathlib import Path

from gpt_jax.config import Config, TuneConfig
from gpt_jax.experiment import defined


def get_config() -> Config:
    """The data, batches and length of addition.py."""
    base = defined(Path(__file__).with_name("addition.py"))
    return dataclasses.replace(
        base,
        name="addition_lora",
        tune=TuneConfig(lora_rank=16, lora_alpha=32.0),
        optimizer=dataclasses.replace(base.optimizer, learning_rate=5e-3),
    )
