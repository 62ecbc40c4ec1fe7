"""Every published size, with its source beside it.

GPT-3: Brown et al. 2020, "Language Models are Few-Shot Learners", Table 2.1 (sizes, batch, learning
rate), section 2.1 (architecture), section 2.3 and appendix B (optimizer and schedule).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    require,
)

Row = TypeVar("Row")


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


def fine_tuning(name: str, data: DataConfig) -> Config:
    """GPT-1's way to a task (Radford et al. 2018, section 4.1): three epochs in batches of 32
    sequences of 512 tokens, with a peak learning rate of 6.25e-5.

    Of the model nothing is said: it is that of `init_from`, with its tokenizer. The cosine takes
    the place of the paper's linear decay, and there is no warm-up, of which the paper has 0.2 %.
    The best step by validation loss is kept.
    """
    return Config(
        name=name,
        data=data,
        optimizer=OptimizerConfig(learning_rate=6.25e-5, weight_decay=0.01),
        train=TrainConfig(epochs=3.0, batch_tokens=32 * 512),
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

# XLA for TPUs would turn products with a gathered parameter into loops of permutes and small
# products; gathered at once, beside other work, they cost a third of the time.
_TPU_OPTIONS = ("xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",)


def gpt3(size: str) -> Config:
    """GPT-3 of one of GPT3_SIZES: model, batch, learning rate and schedule of the paper.

    The text is ours to choose (the standard library, until --data.files names more), and with it
    the tokenizer: a SentencePiece vocabulary of the paper's size. The state is float32 and the
    matrices are multiplied in bfloat16.
    """
    layers, width, heads, sequences, learning_rate, ramp_tokens = _row(_TABLE_2_1, size)
    return Config(
        name=f"gpt3_{size}",
        compiler_options=_TPU_OPTIONS,
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


# The models that others published. Each is what its config.json says, in our words, and the tests
# hold its count of parameters; sources stand beside each table. Dropout is the published one: set
# the three rates to 0 to go on without.


def _dropout(rate: float) -> dict[str, Any]:
    names = ("embedding_dropout", "attention_dropout", "residual_dropout")
    return dict.fromkeys(names, rate)


def _row(table: Mapping[str, Row], size: str) -> Row:
    """What a table says of a size; raises InputError where it has none such."""
    require(size in table, f"there is no published size {size!r}: there are {', '.join(table)}.")
    return table[size]


def _of(table: Mapping[str, tuple[int, int, int]], size: str, **what: Any) -> ModelConfig:
    """A model of the layers, width and heads that a table gives."""
    layers, width, heads = _row(table, size)
    return ModelConfig(num_layers=layers, embed_dim=width, num_heads=heads, **what)


def gpt1(size: str) -> ModelConfig:
    """GPT-1 (Radford et al. 2018, section 4.1): norms after each sum, and none at the end."""
    return _of(
        _GPT1,
        size,
        vocab_size=40478,
        context_length=512,
        norm_position="after",
        final_norm=False,
        **_dropout(0.1),
    )


# openai-community/openai-gpt, config.json.
_GPT1 = {"117m": (12, 768, 12)}


def gpt2(size: str) -> ModelConfig:
    """GPT-2 (Radford et al. 2019, Table 2), by the sizes of the files."""
    return _of(
        _GPT2,
        size,
        vocab_size=GPT3_VOCAB,
        context_length=1024,
        **_dropout(0.1),
    )


# openai-community/gpt2, -medium, -large and -xl, config.json. The paper gives the counts of its
# Table 2 without some of the parameters: 117M, 345M, 762M and 1542M.
_GPT2 = {
    "124m": (12, 768, 12),
    "355m": (24, 1024, 16),
    "774m": (36, 1280, 20),
    "1558m": (48, 1600, 25),
}


def gpt_neo(size: str) -> ModelConfig:
    """GPT-Neo (Black et al. 2021): layers of global and local attention in turn, not scaled."""
    return _of(
        _GPT_NEO,
        size,
        vocab_size=GPT3_VOCAB,
        context_length=2048,
        attention_pattern=("dense", "banded"),
        attention_window=256,
        scale_attention=False,
        qkv_bias=False,
    )


# EleutherAI/gpt-neo, configs/GPT3_XL_pretrained.json and GPT3_2-7B_pretrained.json, and config.json
# of EleutherAI/gpt-neo-125m. 350M was withdrawn; its shape is that of configs/gpt3_medium_256.json.
_GPT_NEO = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "1.3b": (24, 2048, 16),
    "2.7b": (32, 2560, 20),
}


def gptj(size: str) -> ModelConfig:
    """GPT-J (Wang and Komatsuzaki 2021): a quarter of each head rotated, one norm a layer."""
    return _of(
        _GPTJ,
        size,
        vocab_size=50400,
        context_length=2048,
        position_encoding="rotary_interleaved",
        rotary_dim=64,
        residual="parallel_one_norm",
        qkv_bias=False,
        out_bias=False,
        tied_head=False,
        head_bias=True,
    )


# kingoflolz/mesh-transformer-jax, README. It counts 6,053,381,344 parameters, as each of 8 shards
# has its own copy of biases and norms.
_GPTJ = {"6b": (28, 4096, 16)}


def gpt_neox(size: str) -> ModelConfig:
    """GPT-NeoX-20B (Black et al. 2022, section 2)."""
    layers, width, heads, vocabulary = _row(_GPT_NEOX, size)
    model = _neox(layers, width, heads, vocabulary)
    return dataclasses.replace(model, activation="gelu_tanh")


def pythia(size: str) -> ModelConfig:
    """Pythia (Biderman et al. 2023, Table 1), deduplicated or not.

    With exact GELU, as the config.json files say; the models were trained with its tanh form
    (bias-gelu-fusion in the training configs).
    """
    return _neox(*_row(_PYTHIA, size))


def _neox(layers: int, width: int, heads: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        context_length=2048,
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
        position_encoding="rotary_halves",
        rotary_dim=width // heads // 4,
        residual="parallel",
        activation="gelu",
        tied_head=False,
    )


# EleutherAI/gpt-neox, configs/20B.yml, and config.json of EleutherAI/gpt-neox-20b.
_GPT_NEOX = {"20b": (44, 6144, 64, 50432)}
# EleutherAI/pythia, models/SIZE/pythia-SIZE.yml, and config.json; counts in the model cards.
_PYTHIA = {
    "14m": (6, 128, 4, 50304),
    "31m": (6, 256, 8, 50304),
    "70m": (6, 512, 8, 50304),
    "160m": (12, 768, 12, 50304),
    "410m": (24, 1024, 16, 50304),
    "1b": (16, 2048, 8, 50304),
    "1.4b": (24, 2048, 16, 50304),
    "2.8b": (32, 2560, 32, 50304),
    "6.9b": (32, 4096, 32, 50432),
    "12b": (36, 5120, 40, 50688),
}


def opt(size: str) -> ModelConfig:
    """OPT (Zhang et al. 2022, Table 1); 350m is GPT-1's order with a projected embedding."""
    narrow = size == "350m"
    return _of(
        _OPT,
        size,
        vocab_size=50272,
        context_length=2048,
        embedding_width=512 if narrow else 0,
        position_offset=2,
        norm_position="after" if narrow else "before",
        final_norm=not narrow,
        activation="relu",
        residual_dropout=0.1,
    )


# facebookresearch/metaseq, metaseq/launcher/opt_job_constants.py.
_OPT = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "1.3b": (24, 2048, 32),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "66b": (64, 9216, 72),
    "175b": (96, 12288, 96),
}


def cerebras_gpt(size: str) -> ModelConfig:
    """Cerebras-GPT (Dey et al. 2023, Table 1) in its standard parametrisation."""
    return _of(
        _CEREBRAS,
        size,
        vocab_size=GPT3_VOCAB,
        context_length=2048,
        activation="gelu",
    )


# Cerebras/modelzoo, gpt3/configs/Cerebras_GPT/*.yaml. Its README gives 2.7B 20 heads of 128; the
# configuration, and config.json of cerebras/Cerebras-GPT-2.7B, 32 of 80.
_CEREBRAS = {
    "111m": (10, 768, 12),
    "256m": (14, 1088, 17),
    "590m": (18, 1536, 12),
    "1.3b": (24, 2048, 16),
    "2.7b": (32, 2560, 32),
    "6.7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
}


def gpt2_chinese(size: str) -> ModelConfig:
    """GPT-2 with a vocabulary of Chinese characters: Du's GPT2-Chinese and UER's models."""
    layers, width, heads, vocabulary = _row(_GPT2_CHINESE, size)
    return ModelConfig(
        vocab_size=vocabulary,
        context_length=1024,
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
        activation="gelu" if size == "xlarge" else "gelu_tanh",
        **_dropout(0.1),
    )


# Morizeyao/GPT2-Chinese, config/model_config_small.json (small) and model_config.json (12 layers);
# dbiir/UER-py, models/gpt2/*.json (uer/gpt2-chinese-cluecorpussmall and its like); config.json of
# uer/gpt2-chinese-poem and -ancient.
_GPT2_CHINESE = {
    "small": (10, 768, 12, 13317),
    "distil": (6, 768, 12, 21128),
    "base": (12, 768, 12, 21128),
    "medium": (24, 1024, 16, 21128),
    "large": (36, 1280, 20, 21128),
    "xlarge": (48, 1600, 25, 21128),
    "poem": (12, 768, 12, 22557),
    "ancient": (12, 768, 12, 25370),
}


def ctrl(size: str) -> ModelConfig:
    """CTRL (Keskar et al. 2019, section 3.2), trained on sequences of 256 or 512 tokens."""
    layers, width, heads, mlp = _row(_CTRL, size)
    return ModelConfig(
        vocab_size=246534,
        context_length=50000,
        num_layers=layers,
        embed_dim=width,
        num_heads=heads,
        mlp_width=mlp,
        position_encoding="sinusoidal",
        scale_embedding=True,
        norm_epsilon=1e-6,
        activation="relu",
        head_bias=True,
        embedding_dropout=0.1,
        residual_dropout=0.1,
    )


# salesforce/ctrl, transformer.py, and config.json of Salesforce/ctrl, with positions for 50,000.
_CTRL = {"1.6b": (48, 1280, 16, 8192)}


def _sizes(make: Callable[[str], ModelConfig], table: Iterable[str]) -> dict[str, ModelConfig]:
    return {size: make(size) for size in table}


def family() -> dict[str, dict[str, ModelConfig]]:
    """Every model, by its name and then its size."""
    return {
        "GPT-1": _sizes(gpt1, _GPT1),
        "GPT-2": _sizes(gpt2, _GPT2),
        "GPT-3": _sizes(lambda size: gpt3(size).model, _TABLE_2_1),
        "GPT-Neo": _sizes(gpt_neo, _GPT_NEO),
        "GPT-J": _sizes(gptj, _GPTJ),
        "GPT-NeoX": _sizes(gpt_neox, _GPT_NEOX),
        "Pythia": _sizes(pythia, _PYTHIA),
        "OPT": _sizes(opt, _OPT),
        "Cerebras-GPT": _sizes(cerebras_gpt, _CEREBRAS),
        "GPT2-Chinese": _sizes(gpt2_chinese, _GPT2_CHINESE),
        "CTRL": _sizes(ctrl, _CTRL),
    }
