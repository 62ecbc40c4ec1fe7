"""A study that trains in seconds: three widths that a law of compute is fitted to, and a fourth."""

from pathlib import Path

STUDY = """
from gpt_jax.config import (
    CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
)
from gpt_jax.scaling.study import Law, Rule, Size, Study, ladder

def get_config():
    base = Config(
        name="toy",
        model=ModelConfig(context_length=16, num_layers=1, embed_dim=8, num_heads=1),
        data=DataConfig(
            files=({files!r},), tokenizer="bytes", split="position", cache_dir={cache!r},
            validation_fraction=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        train=TrainConfig(total_tokens=16 * 128, batch_tokens=128, log_every=2, eval_every=8),
        checkpoint=CheckpointConfig(every=4),
    )
    sizes = [Size(1, width, 1) for width in (8, 12, 16, 24)]
    return Study(
        name="toy",
        runs=ladder(base, sizes, Rule(16 * 128, 1000, 0.5)),
        laws=(Law("power_c"),),
    )
"""
TEXT = "".join(f"{n} bottles stand here, and {n - 1} of them are green.\n" for n in range(60))
NAMES = ["toy-n888-d1.92k", "toy-n1.91k-d2.82k", "toy-n3.31k-d3.71k", "toy-n7.27k-d5.5k"]


def write_study(folder: Path) -> Path:
    """toy.py in `folder`, with its text beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(TEXT)
    path = folder / "toy.py"
    path.write_text(STUDY.format(files=str(folder / "text.txt"), cache=str(folder / "cache")))
    return path
