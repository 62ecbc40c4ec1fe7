"""The runs of ladders, by numbers that are reckoned here by hand."""

import dataclasses

import pytest

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    InputError,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from gpt_jax.scaling.study import (
    Law,
    Rule,
    Size,
    Study,
    compute,
    iso_flop,
    ladder,
    model_flops,
    params_of,
    params_total_of,
    to_convergence,
    tokens_of,
    tokens_per_parameter,
)

BASE = Config(
    name="base",
    model=ModelConfig(
        vocab_size=100,
        context_length=16,
        num_layers=2,
        embed_dim=8,
        num_heads=2,
        mlp_width=16,
        scan_unroll=2,
    ),
    data=DataConfig(tokenizer="bytes"),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_tokens=1_000, decay_tokens=9_000),
    train=TrainConfig(
        total_tokens=10_240,
        batch_tokens=64,
        ramp_start_tokens=32,
        ramp_tokens=2_000,
        eval_every=40,
    ),
    checkpoint=CheckpointConfig(every=20),
)
SMALL, LARGE = Size(1, 8, 2), Size(4, 16, 2)
# Without embeddings. A layer of width 8: queries, keys, values 3 (64 + 8), their output 64 + 8, the
# MLP 8 x 16 + 16 and 16 x 8 + 8, two norms of 16: 600; a norm of 16 at the end.
SMALL_N = 600 + 16
# Of width 16, with an MLP of 32: 4 (256 + 16), 512 + 32, 512 + 16, two norms of 32.
LARGE_N = 4 * (1088 + 544 + 528 + 64) + 32


def test_a_size_keeps_the_bases_proportions():
    """The MLP is twice as wide as the model, and layers are laid out as they were."""
    model = LARGE.of(BASE.model)
    assert (model.num_layers, model.embed_dim, model.num_heads) == (4, 16, 2)
    assert (model.mlp_dim, model.scan_unroll) == (32, 4)
    looped = dataclasses.replace(BASE.model, scan_unroll=1)
    assert LARGE.of(looped).scan_unroll == 1


def test_the_formulas_of_a_run():
    (run,) = ladder(BASE, [SMALL], Rule(6_400))
    assert params_of(run) == SMALL_N
    assert params_total_of(run) == SMALL_N + 100 * 8 + 16 * 8
    assert tokens_of(run) == 6_400
    assert compute(run) == 6 * SMALL_N * 6_400
    # Per token forward: 2 for each element of the matrices, 4 x 8 x 16 in attention, and the head.
    forward = 2 * (4 * 64 + 2 * 128) + 4 * 8 * 16 + 2 * 8 * 100
    assert model_flops(run) == 3 * forward * 6_400


def test_a_line_of_tokens_per_parameter():
    """20 tokens for each, to the next whole batch of 64."""
    small, large = ladder(BASE, [SMALL, LARGE], tokens_per_parameter(20))
    assert (params_of(small), params_of(large)) == (SMALL_N, LARGE_N)
    assert small.train.total_tokens == 192 * 64  # of 12,320
    assert large.train.total_tokens == 2_790 * 64  # of 178,560, whole
    assert small.name == "base-n616-d12.3k"
    assert large.name == "base-n8.93k-d179k"


def test_what_is_counted_in_tokens_and_steps_keeps_its_share_of_the_run():
    """Half as many tokens: half the warm-up, decay, ramp, and half the steps between two looks."""
    (run,) = ladder(BASE, [SMALL], Rule(5_120))
    assert run.optimizer.warmup_tokens == 500
    assert run.optimizer.decay_tokens == 4_500
    assert (run.train.ramp_start_tokens, run.train.ramp_tokens) == (32, 1_000)
    assert (run.train.eval_every, run.checkpoint.every) == (20, 10)


def test_learning_rate_and_batch_follow_their_rules():
    """1e-3 at 616 parameters, falling as the root; batches near 3.2 and 12.2 sequences."""
    rate, batch = Rule(1e-3, SMALL_N, -0.5), Rule(3.2 * 16, SMALL_N, 0.5)
    small, large = ladder(BASE, [SMALL, LARGE], Rule(10_240), learning_rate=rate, batch=batch)
    assert small.optimizer.learning_rate == pytest.approx(1e-3)
    assert large.optimizer.learning_rate == pytest.approx(1e-3 * (SMALL_N / LARGE_N) ** 0.5)
    assert (small.train.batch_tokens, large.train.batch_tokens) == (4 * 16, 16 * 16)
    assert large.train.eval_every == 10  # a quarter of the steps of four times the size
    assert str(rate) == "0.001 (N / 616)^-0.5"


def test_iso_flop_runs_have_the_same_compute():
    """Within half a batch; and the larger the model, the fewer its tokens."""
    runs = iso_flop(BASE, [SMALL, LARGE], [1e8, 4e8])
    assert len(runs) == 4
    for run, budget in zip(runs, [1e8, 1e8, 4e8, 4e8], strict=True):
        assert abs(compute(run) - budget) <= 6 * params_of(run) * 32
    assert runs[0].train.total_tokens > 10 * runs[1].train.total_tokens


def test_to_convergence_gives_patience_and_the_same_tokens():
    runs = to_convergence(BASE, [SMALL, LARGE], 20_480, patience=3)
    assert [run.train.patience for run in runs] == [3, 3]
    assert [run.train.total_tokens for run in runs] == [20_480, 20_480]


def test_seeds_are_runs_of_their_own():
    runs = ladder(BASE, [SMALL], Rule(640), seeds=(0, 1))
    assert [run.train.seed for run in runs] == [0, 1]
    assert [run.name for run in runs] == ["base-n616-d640-s0", "base-n616-d640-s1"]


def test_the_largest_is_held_out_with_what_is_as_large():
    """By compute, whatever the size: both runs of the larger budget."""
    runs = iso_flop(BASE, [SMALL, LARGE], [1e8, 4e8])
    study = Study("base", runs)
    assert study.held_out_names == tuple(run.name for run in runs[2:])
    assert study.fitted == runs[:2]
    named = Study("base", runs, held_out=(runs[0].name,))
    assert named.held_out_names == (runs[0].name,)
    assert Study("base", runs, held_out=()).fitted == runs


def _changed(run, **parts):
    return dataclasses.replace(run, **parts)


OPEN = ModelConfig(context_length=16)
RUN, OTHER = ladder(BASE, [SMALL, LARGE], Rule(640))


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Study("x", ()), "a study has runs, each with a name of its own"),
        (lambda: Study("x", (RUN, RUN)), "each with a name of its own"),
        (lambda: Study("x", (RUN, OTHER), laws=()), "for at least one law"),
        (lambda: Law("power_m"), "there is no law 'power_m'"),
        (
            lambda: Study("x", (RUN, OTHER), held_out=("base-n616-d641",)),
            "no run 'base-n616-d641' to hold out: did you mean 'base-n616-d640'?",
        ),
        (lambda: Study("x", (RUN,)), "a law is fitted to runs, and all 1 are held out"),
        (
            lambda: Study("x", (RUN, _changed(OTHER, init_from="runs/x"))),
            "base-n8.93k-d640 has init_from",
        ),
        (
            lambda: Study("x", (RUN, _changed(OTHER, data=DataConfig(files=("x.txt",))))),
            "losses compare on the same tokens, and data.files is ()",
        ),
        (
            lambda: Study("x", (_changed(RUN, data=DataConfig(), model=OPEN),)),
            "model.vocab_size of base-n616-d640 is open",
        ),
    ],
)
def test_what_is_no_study(make, rule):
    with pytest.raises(InputError) as error:
        make()
    assert rule in str(error.value)
