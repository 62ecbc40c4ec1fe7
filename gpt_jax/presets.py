"""Every published size, with its source beside it.

GPT-3: Brown et al. 2020, "Language Models are Few-Shot Learners", Table 2.1 (sizes, batch, learning
rate), section 2.1 (architecture), section 2.3 and appendix B (optimizer and schedule).
"""

from __future__ import annotations

import dataclasses

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def for_cpu(model: ModelConfig) -> ModelConfig:
    """`model` with the settings that train fastest on a CPU, as measured for the README.

    Layers laid out one after the other instead of looped over, float32 (on a CPU XLA is slower in
    bfloat16), and nothing computed twice. `parallel/platform.py` has what is set per process.
    """
    return dataclasses.replace(model, scan_unroll=model.num_layers, dtype="float32", remat="none")


def small_stdlib() -> Config:
    """A GPT for a CPU on the source of Python's standard library: 4 layers of width 256.

    The base of `experiments/quickstart.py` and `experiments/stdlib_small.py`, which hold out the
    same files and so compare. With so few tokens Muon is far ahead of AdamW.
    """
    model = ModelConfig(
        vocab_size=4096, context_length=256, num_layers=4, embed_dim=256, num_heads=4
    )
    return Config(
        model=for_cpu(model),
        data=DataConfig(validation_fraction=0.02),
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3),
        train=TrainConfig(eval_every=100, sample_prompt="def "),
        checkpoint=CheckpointConfig(every=100),
    )


GPT3_VOCAB = 50257
"""GPT-2's byte-pair vocabulary, which the paper keeps (section 2.1)."""
GPT3_CONTEXT = 2048
GPT3_WINDOW = 256
"""Our choice: the paper names locally banded layers and not their width. GPT-Neo has 256."""

# name: layers, d_model, heads, batch in sequences of 2,048, learning rate, ramp in tokens.
#
# The paper's table contradicts itself twice. XL: 24 heads of 128 make 3,072, not its width of
# 2,048; 16 heads keep the width, the head size and the 1.3 B parameters (3,072 would give 1.5 B).
# 13B: the width 5,140 is not its 40 heads of 128, which make 5,120; 5,120 it is, as every
# reimplementation has it.
#
# Batches of 0.5 M, 1 M and 2 M tokens are taken as 2^19, 2^20 and 2^21. 3.2 M is not a whole number
# of sequences: 1,536 of them (3.1 M) divide over any power of two of devices up to 512.
#
# "The first 4-12 billion tokens" of the batch ramp are not told per model: the smaller ones get 4,
# the two before the last 8, and 175B 12.
_TABLE_2_1 = {
    "125m": (12, 768, 12, 256, 6.0e-4, 4e9),
    "350m": (24, 1024, 16, 256, 3.0e-4, 4e9),
    "760m": (24, 1536, 16, 256, 2.5e-4, 4e9),
    "1_3b": (24, 2048, 16, 512, 2.0e-4, 4e9),
    "2_7b": (32, 2560, 32, 512, 1.6e-4, 4e9),
    "6_7b": (32, 4096, 32, 1024, 1.2e-4, 8e9),
    "13b": (40, 5120, 40, 1024, 1.0e-4, 8e9),
    "175b": (96, 12288, 96, 1536, 0.6e-4, 12e9),
}
GPT3_SIZES = tuple(_TABLE_2_1)


def gpt3(size: str) -> Config:
    """GPT-3 of one of GPT3_SIZES: model, batch, learning rate and schedule of the paper.

    The text is ours to choose (the standard library, until --data.files names more), and with it
    the tokenizer: a SentencePiece vocabulary of the paper's size. The state is float32 and the
    matrices are multiplied in bfloat16.
    """
    layers, width, heads, sequences, learning_rate, ramp_tokens = _TABLE_2_1[size]
    return Config(
        name=f"gpt3_{size}",
        model=ModelConfig(
            vocab_size=GPT3_VOCAB,
            context_length=GPT3_CONTEXT,
            num_layers=layers,
            embed_dim=width,
            num_heads=heads,
            attention_pattern=("dense", "banded"),
            attention_window=GPT3_WINDOW,
            dtype="bfloat16",
            remat="full",
        ),
        data=DataConfig(),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate,
            warmup_tokens=375_000_000,
            decay_tokens=260_000_000_000,
        ),
        train=TrainConfig(
            total_tokens=300_000_000_000,
            batch_tokens=sequences * GPT3_CONTEXT,
            ramp_start_tokens=16 * GPT3_CONTEXT,
            ramp_tokens=int(ramp_tokens),
            device_batch_tokens=4 * GPT3_CONTEXT,
            eval_every=1000,
            eval_tokens=10_000_000,
        ),
        checkpoint=CheckpointConfig(every=1000),
    )
