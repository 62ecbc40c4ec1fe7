"""Where the best learning rate stands: three widths, by the standard parametrisation and by muP.

    gpt-jax scaling sweep experiments/scaling/mup_sweep.py

One CPU core, 7 minutes of its time. From width 32 to 128 the best rate falls from 0.0059 to 0.0012
in the standard parametrisation, and is 0.0063 in muP: notebooks/mup.ipynb. More widths or rates in
this file add to what was run; nothing is run twice.
"""

from gpt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.scaling.sweep import Sweep


def get_config() -> Sweep:
    """2 layers, widths of 32 to 128, 128 steps of 512 bytes of Python's standard library."""
    base = Config(
        name="mup_sweep",
        model=ModelConfig(context_length=64, num_layers=2, embed_dim=32, num_heads=2),
        data=DataConfig(tokenizer="bytes", validation_fraction=0.02),
        optimizer=OptimizerConfig(
            warmup_tokens=10 * 512, final_learning_rate_fraction=0.0, weight_decay=0.0
        ),
        train=TrainConfig(total_tokens=128 * 512, batch_tokens=512, eval_tokens=16_384),
    )
    return Sweep(
        name="mup_sweep",
        base=base,
        widths=(32, 64, 128),
        learning_rates=tuple(2.0**power for power in range(-11, -4)),
    )
