"""A function's first line from what it is for: 6,000 examples from Python's own standard library.

    gpt-jax train experiments/name_functions.py

Each documented function is an example: its description, as a comment, is the prompt, and its first
line the target. The loss is of the target alone.

Two CPU cores with other work beside it, 12 minutes: validation loss 2.10, 1.27 bits per byte of the
targets. At --temperature 0 "# Close the connection." is def close(self), and "# Set the value of
the option." is def set(self, value).
"""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from gpt_jax.data.sources import documents
from gpt_jax.presets import for_cpu


def functions() -> Iterator[dict[str, str]]:
    """The functions that say what they are for, each description once."""
    seen = set()
    for document in documents(DataConfig()):  # the library's sources
        with warnings.catch_warnings(action="ignore"):  # of old escapes in strings
            tree = ast.parse(document.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                paragraph, _, _ = (ast.get_docstring(node) or "").partition("\n\n")
                description = " ".join(paragraph.split())
                if description and description not in seen:
                    seen.add(description)
                    arguments = ast.unparse(node.args)
                    yield {"for": description, "line": f"def {node.name}({arguments}):"}


def get_config() -> Config:
    """4 layers of width 256, three epochs in batches of 16 sequences of 128 tokens."""
    model = ModelConfig(
        vocab_size=2048, context_length=128, num_layers=4, embed_dim=256, num_heads=4
    )
    return Config(
        name="name_functions",
        model=for_cpu(model),
        data=DataConfig(
            files=(f"python:{Path(__file__).absolute()}:functions",),
            prompt="# {for}\n",
            target="{line}",
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup_tokens=50_000),
        train=TrainConfig(
            total_tokens=600_000,
            batch_tokens=16 * 128,
            eval_every=50,
            sample_prompt="# Return True if the path is absolute.\n",
            sample_tokens=32,
        ),
    )
