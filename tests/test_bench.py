"""The bench on a model that takes no time, on eight fake devices."""

import json

import pytest

from gpt_jax import bench
from gpt_jax.config import Config, ModelConfig, TrainConfig

LENGTH, ROWS = 16, 16
TINY = Config(
    name="tiny",
    model=ModelConfig(vocab_size=0, context_length=LENGTH, num_layers=1, embed_dim=8, num_heads=2),
    train=TrainConfig(
        batch_tokens=ROWS * LENGTH,
        ramp_start_tokens=8 * LENGTH,
        ramp_tokens=10 * ROWS * LENGTH,
        total_tokens=ROWS * LENGTH,
    ),
)
POSITIVE = {
    "compile_seconds",
    "step_seconds",
    "tokens_per_second",
    "model_gflops_per_second",
    "peak_memory_bytes",
    "input_tokens_per_second",
    "mixture_tokens_per_second",
    "decode_tokens_per_second",
}


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SECONDS", 0.1)
        return bench.measure(TINY)


@pytest.mark.slow
def test_the_figures_are_there_and_positive(figures):
    """The keys of the README; the peak of a CPU is not known, and so neither is MFU."""
    assert set(figures) == {"experiment", "device", "mfu", *POSITIVE}
    assert all(figures[name] > 0 for name in POSITIVE)
    assert figures["experiment"] == "tiny"
    assert figures["device"] == "8 x cpu"
    assert figures["mfu"] is None


@pytest.mark.slow
def test_the_figures_agree_with_each_other(figures):
    """At the full batch, past the ramp, with a byte's vocabulary where none was given.

    Training FLOPs per token by hand: 3 x (24 D^2 + 4 D T + 2 D V), one layer of D = 8.
    """
    assert figures["tokens_per_second"] * figures["step_seconds"] == pytest.approx(ROWS * LENGTH)
    per_token = 3 * (24 * 8**2 + 4 * 8 * LENGTH + 2 * 8 * 256)
    rate = figures["model_gflops_per_second"] * 1e9 / figures["tokens_per_second"]
    assert rate == pytest.approx(per_token)


@pytest.mark.slow
def test_the_figures_read_back_from_json(figures):
    """`--json` prints one object, and floats come back bit for bit."""
    assert json.loads(json.dumps(figures)) == figures


def test_the_table_has_a_line_for_each_figure():
    """By example: figures as people read them, and what is not known by that word."""
    table = bench.as_table(
        {
            "experiment": "quickstart",
            "step_seconds": 0.123456,
            "tokens_per_second": 12345.6,
            "mfu": 0.4321,
            "peak_memory_bytes": 3 * 2**29,
        }
    )
    assert [line.split() for line in table.splitlines()] == [
        ["experiment", "quickstart"],
        ["step", "seconds", "0.1235"],
        ["tokens", "per", "second", "12,346"],
        ["MFU", "43.21", "%"],
        ["peak", "memory", "1.5", "GiB"],
    ]
    assert bench.as_table({"mfu": None}).split() == ["mfu".upper(), "unknown"]
