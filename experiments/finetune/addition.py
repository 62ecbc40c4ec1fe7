r"""Two-digit addition by full fine-tuning, from a model that has read sums in other forms.

    gpt-jax train experiments/stdlib_arithmetic.py --workdir runs/stdlib_arithmetic
    gpt-jax train experiments/finetune/addition.py --workdir runs/addition

The question is the paper's, "Q: What is 98 plus 45?\n\nA:", and the 8,000 problems that are learned
are none of the test's, whose exact match the run tells as addition_2/exact_match.

Two CPU cores, 4 minutes beside other work: 1,980 of the 1,981 questions of the test are
answered (gpt-jax evaluate runs/addition --tasks addition_2). notebooks/fine_tuning.ipynb has the
curves.
"""

from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import Config, DataConfig, OptimizerConfig, TrainConfig
from gpt_jax.data.tasks.arithmetic import examples


def problems() -> Iterator[dict[str, str]]:
    """All that may be learned, as {"prompt", "target"}."""
    yield from examples("addition_2")


def get_config() -> Config:
    """Batches of 16 sequences of 4 problems; the best checkpoint is that of the best match."""
    return Config(
        name="addition",
        init_from="runs/stdlib_arithmetic",
        data=DataConfig(
            files=(f"python:{Path(__file__).absolute()}:problems",),
            prompt="{prompt}",
            target="{target}",
            sequence_length=128,
            validation_fraction=0.02,
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=3e-3, warmup_tokens=50_000),
        train=TrainConfig(
            total_tokens=1_700_000,
            batch_tokens=16 * 128,
            eval_every=100,
            tasks=("addition_2",),
            task_examples=500,
            best="addition_2/exact_match",
            sample_prompt="Q: What is 98 plus 45?\n\nA:",
            sample_tokens=8,
        ),
    )
