"""Six sizes of GPT on Python's standard library, from 56 k to 2.7 M parameters: a ladder for a CPU.

    gpt-jax scaling run experiments/scaling/stdlib_ladder.py
    gpt-jax scaling register experiments/scaling/stdlib_ladder.py
    gpt-jax scaling check experiments/scaling/stdlib_ladder.py
    gpt-jax scaling report experiments/scaling/stdlib_ladder.py

The text is bytes. Each size is trained on D = 1.6 M (N / 1.26 M)^0.37 tokens, as the best D grows
with N by Kaplan et al. 2020, table 6 (C^0.27 against C^0.73), and, but for the largest, on a third
of it as well, so that the runs tell what N does from what D does. From rung to rung compute grows
two to four times. The largest size is held out: it has 2.8 times the compute of any run before it.

The batch is 2,048 tokens for all. The learning rate falls as N^(-1/6): depth grows with width, so N
as its cube, and Muon's update, of one size in every element, then keeps its spectral norm.

Not run yet. All of it is 7.0e13 FLOPs (the dry run): 18 minutes at the 6.6e10 FLOP/s that steps of
the larger sizes take by their processor time on two cores, and some 5 more for validations.
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
from gpt_jax.scaling.study import Law, Rule, Size, Study, ladder

SIZES = (
    Size(num_layers=2, embed_dim=48, num_heads=2),
    Size(num_layers=2, embed_dim=72, num_heads=3),
    Size(num_layers=3, embed_dim=96, num_heads=4),
    Size(num_layers=4, embed_dim=120, num_heads=5),
    Size(num_layers=5, embed_dim=144, num_heads=6),
    Size(num_layers=6, embed_dim=192, num_heads=8),
)
LEARNING_RATE = Rule(5e-3, params=0.8e6, exponent=-1 / 6)


def get_config() -> Study:
    """11 runs of windows of 128 bytes, each with 10 validations on 64 KiB."""
    model = ModelConfig(
        context_length=128,
        num_layers=5,
        embed_dim=144,
        num_heads=6,
        position_encoding="rotary_halves",
    )
    base = Config(
        name="stdlib_ladder",
        model=for_cpu(model),
        data=DataConfig(tokenizer="bytes", validation_fraction=0.02),
        optimizer=OptimizerConfig(name="muon", warmup_tokens=80_000),
        train=TrainConfig(
            total_tokens=1_600_000,
            batch_tokens=16 * 128,
            eval_every=78,
            eval_tokens=65_536,
        ),
        checkpoint=CheckpointConfig(every=156),
    )
    whole, third = (Rule(tokens, params=1.26e6, exponent=0.37) for tokens in (1.6e6, 1.6e6 / 3))
    runs = ladder(base, SIZES, whole, learning_rate=LEARNING_RATE)
    runs += ladder(base, SIZES[:-1], third, learning_rate=LEARNING_RATE)
    return Study(name="stdlib_ladder", runs=runs, laws=(Law("chinchilla"), Law("kaplan_nd")))
