"""Every published size against its paper's table, and the models that they build."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jaxpr_flops import dot_flops

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.flops import forward_flops_per_token, num_non_embedding_params, num_params
from gpt_jax.model.decoder import GPT
from gpt_jax.presets import GPT3_SIZES, family, gpt2, gpt3

# Brown et al. 2020, Table 2.1, as printed: layers, d_model, heads, d_head, batch, learning rate.
PAPER = {
    "125m": (12, 768, 12, 64, 0.5e6, 6.0e-4),
    "350m": (24, 1024, 16, 64, 0.5e6, 3.0e-4),
    "760m": (24, 1536, 16, 96, 0.5e6, 2.5e-4),
    "1_3b": (24, 2048, 24, 128, 1e6, 2.0e-4),
    "2_7b": (32, 2560, 32, 80, 1e6, 1.6e-4),
    "6_7b": (32, 4096, 32, 128, 2e6, 1.2e-4),
    "13b": (40, 5140, 40, 128, 2e6, 1.0e-4),
    "175b": (96, 12288, 96, 128, 3.2e6, 0.6e-4),
}
# Where the table contradicts itself, what is built: heads of XL, width of 13B.
DEPARTURES = {"1_3b": {"heads": 16}, "13b": {"width": 5120}}

# (V + T) D + L (12 D^2 + 13 D) + 2 D with T = 2,048, and V = 50,257 tokens or 50,304 rows.
PARAMETERS = {
    "125m": (125_226_240, 125_262_336),
    "350m": (355_871_744, 355_919_872),
    "760m": (760_300_032, 760_372_224),
    "1_3b": (1_315_723_264, 1_315_819_520),
    "2_7b": (2_651_553_280, 2_651_673_600),
    "6_7b": (6_658_404_352, 6_658_596_864),
    "13b": (12_853_386_240, 12_853_626_880),
    "175b": (174_604_259_328, 174_604_836_864),
}
NAMED = {  # "Total parameters" of the table
    "125m": 125e6,
    "350m": 350e6,
    "760m": 760e6,
    "1_3b": 1.3e9,
    "2_7b": 2.7e9,
    "6_7b": 6.7e9,
    "13b": 13.0e9,
    "175b": 175.0e9,
}


def test_all_of_the_table_is_there():
    """Eight sizes, in the paper's order, each an experiment of its own name."""
    assert tuple(PAPER) == GPT3_SIZES
    assert [gpt3(size).name for size in PAPER] == [f"gpt3_{size}" for size in PAPER]


@pytest.mark.parametrize("size", PAPER)
def test_a_size_is_the_papers(size):
    """Depth, width, heads and learning rate as printed, but where the table contradicts itself."""
    layers, width, heads, head_dim, _, learning_rate = PAPER[size]
    config, changed = gpt3(size), DEPARTURES.get(size, {})
    assert config.model.num_layers == layers
    assert config.model.embed_dim == changed.get("width", width)
    assert config.model.num_heads == changed.get("heads", heads)
    assert config.model.head_dim == head_dim
    assert config.model.mlp_dim == 4 * config.model.embed_dim
    assert config.optimizer.learning_rate == pytest.approx(learning_rate, rel=1e-12)


def test_only_two_rows_of_the_table_contradict_themselves():
    """Heads times head size is the width in the others: no departure is there without need."""
    wrong = [size for size, (_, d, n, h, *_) in PAPER.items() if n * h != d]
    assert wrong == list(DEPARTURES)


@pytest.mark.parametrize("size", PAPER)
def test_a_batch_is_the_papers_in_whole_sequences(size):
    """Within 5 % of the printed millions, a power of two of sequences, or three times one."""
    batch = gpt3(size).train.batch_tokens
    assert batch == pytest.approx(PAPER[size][4], rel=0.05)
    sequences, rest = divmod(batch, 2048)
    assert rest == 0
    assert math.gcd(sequences, 512) in (256, 512)


@pytest.mark.parametrize("size", PAPER)
def test_parameter_counts(size):
    """The model itself, by its shapes alone, against numbers written down."""
    config = gpt3(size).model
    tokens, rows = PARAMETERS[size]
    abstract = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    leaves = jax.tree.leaves(abstract["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == rows
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert num_params(config) == tokens
    assert rows - tokens == (50304 - 50257) * config.embed_dim
    assert tokens == pytest.approx(NAMED[size], rel=0.02)


def test_a_count_from_the_ground_up():
    """GPT-2 small, 124,439,808 parameters as published, is the 125m with 1,024 positions."""
    small = dataclasses.replace(gpt3("125m").model, context_length=1024)
    assert num_params(small) == 124_439_808
    assert num_params(ModelConfig(1, 1, 1, 1, 1)) == (1 + 1) + (12 + 13) + 2


@pytest.mark.parametrize("size", PAPER)
def test_the_recipe_is_the_papers(size):
    """Section 2.3 and appendix B: the same schedule in tokens for every size."""
    config = gpt3(size)
    assert config.model.vocab_size == 50257
    assert config.model.context_length == config.sequence_length == 2048
    assert config.model.attention_pattern == ("dense", "banded")
    assert config.model.residual_dropout == 0
    optimizer = config.optimizer
    assert optimizer.name == "adamw"
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.95, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.1, 1.0)
    assert optimizer.warmup_tokens == 375e6
    assert optimizer.decay_tokens == config.decay_tokens == 260e9
    assert optimizer.final_learning_rate_fraction == 0.1
    assert config.train.total_tokens == 300e9
    assert config.train.ramp_start_tokens == 32 * 1024
    assert 4e9 <= config.train.ramp_tokens <= 12e9


def test_larger_models_ramp_longer():
    """4 to 12 billion tokens "depending on the model size": never shorter for a larger model."""
    ramps = [gpt3(size).train.ramp_tokens for size in PAPER]
    assert ramps == sorted(ramps)
    assert (ramps[0], ramps[-1]) == (4e9, 12e9)


@pytest.mark.parametrize("size", PAPER)
def test_the_batch_grows_to_its_size(size):
    """The schedule that follows: from 16 sequences to all, in steps that never shrink."""
    config = gpt3(size)
    schedule = BatchSchedule.of(config)
    ramp = len(schedule.ramp_starts) - 1
    sizes = [schedule.size(step) for step in range(0, ramp + 1, 100)]
    assert schedule.size(0) * 2048 == 32 * 1024
    assert sizes == sorted(sizes)
    assert schedule.size(ramp) * 2048 == config.train.batch_tokens
    assert schedule.start(ramp) * 2048 == pytest.approx(config.train.ramp_tokens, rel=0.01)


# Counted here by hand or published: Pythia's model cards, GPT-NeoX's, and the sizes of the files of
# OPT (250,478,592, 662,392,832 and 2,631,516,160 bytes of float16). The rest is transformers' own
# count of the published configs.
PUBLISHED = {
    "GPT-1": {"117m": 116_534_784},
    "GPT-2": {
        "124m": 124_439_808,
        "355m": 354_823_168,
        "774m": 774_030_080,
        "1558m": 1_557_611_200,
    },
    "GPT-3": {
        "125m": 125_226_240,
        "350m": 355_871_744,
        "760m": 760_300_032,
        "1_3b": 1_315_723_264,
        "2_7b": 2_651_553_280,
        "6_7b": 6_658_404_352,
        "13b": 12_853_386_240,
        "175b": 174_604_259_328,
    },
    "GPT-Neo": {
        "125m": 125_198_592,
        "350m": 355_798_016,
        "1.3b": 1_315_575_808,
        "2.7b": 2_651_307_520,
    },
    "GPT-J": {"6b": 6_050_882_784},
    "GPT-NeoX": {"20b": 20_554_567_680},
    "Pythia": {
        "14m": 14_067_712,
        "31m": 30_494_720,
        "70m": 70_426_624,
        "160m": 162_322_944,
        "410m": 405_334_016,
        "1b": 1_011_781_632,
        "1.4b": 1_414_647_808,
        "2.8b": 2_775_208_960,
        "6.9b": 6_857_302_016,
        "12b": 11_846_072_320,
    },
    "OPT": {
        "125m": 125_239_296,
        "350m": 331_196_416,
        "1.3b": 1_315_758_080,
        "2.7b": 2_651_596_800,
        "6.7b": 6_658_473_984,
        "13b": 12_853_473_280,
        "30b": 29_974_540_288,
        "66b": 65_719_701_504,
        "175b": 174_604_468_224,
    },
    "Cerebras-GPT": {
        "111m": 111_050_496,
        "256m": 255_977_024,
        "590m": 590_310_912,
        "1.3b": 1_315_723_264,
        "2.7b": 2_651_553_280,
        "6.7b": 6_658_404_352,
        "13b": 12_853_386_240,
    },
    "GPT2-Chinese": {
        "small": 81_894_144,
        "distil": 59_541_504,
        "base": 102_068_736,
        "medium": 324_995_072,
        "large": 736_744_960,
        "xlarge": 1_511_004_800,
        "poem": 103_166_208,
        "ancient": 105_326_592,
    },
    "CTRL": {"1.6b": 1_637_964_550},
}
# The model cards of Pythia: all but the two tables of tokens.
PYTHIA_NON_EMBEDDING = {
    "14m": 1_189_888,
    "31m": 4_739_072,
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
}


def test_a_size_that_is_not_there_names_those_that_are():
    with pytest.raises(InputError, match="no published size 'small': there are 124m, 355m, 774m"):
        gpt2("small")


def test_every_published_size_has_its_parameters():
    """By the formula; no size is missing and none is added."""
    counts = {
        name: {size: num_params(model) for size, model in sizes.items()}
        for name, sizes in family().items()
    }
    assert counts == PUBLISHED
    for size, model in family()["Pythia"].items():
        assert num_non_embedding_params(model) == PYTHIA_NON_EMBEDDING[size]


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, next(iter(sizes))) for name, sizes in PUBLISHED.items()), ("OPT", "350m")],
)
def test_the_formula_counts_what_the_decoder_has(name, size):
    """By `eval_shape` of each layout, less the rows that pad the vocabulary."""
    model = family()[name][size]
    shapes = jax.eval_shape(GPT(model).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nn.unbox(shapes)["params"]))
    tables = 1 if model.tied_head else 2
    row = tables * model.token_dim + model.head_bias
    assert count - (model.padded_vocab_size - model.vocab_size) * row == num_params(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [(name, size) for name, sizes in PUBLISHED.items() for size in sizes]
)
def test_a_forward_pass_costs_what_is_traced(name, size):
    """By the matrix products of the jaxpr, at 16 tokens, which every band lets through."""
    model = family()[name][size]
    tokens = jnp.zeros((1, 16), jnp.int32)
    shapes = nn.unbox(jax.eval_shape(GPT(model).init, jax.random.key(0), tokens))
    traced = dot_flops(GPT(model).apply, shapes, tokens) / 16
    padding = 2 * model.token_dim * (model.padded_vocab_size - model.vocab_size)
    assert traced - padding == forward_flops_per_token(model, 16)
