"""Programs compiled for TPUs that are not here, by the TPU's own compiler."""

import dataclasses
import importlib.util
import json

import pytest

from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.plan import compile as compiler
from gpt_jax.plan.arithmetic import Candidate, estimate
from gpt_jax.plan.compile import compile_candidate
from gpt_jax.plan.search import Effort, Found, for_planning, plan
from gpt_jax.plan.target import find_target
from gpt_jax.presets import gpt3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed: pip install -e '.[tpu]'",
    ),
]
SMALL = Config(
    model=ModelConfig(
        vocab_size=512,
        context_length=512,
        num_layers=4,
        embed_dim=256,
        num_heads=4,
        attention_pattern=("dense", "banded"),
        attention_window=128,
        dtype="bfloat16",
    ),
    train=TrainConfig(batch_tokens=16 * 512),
    compiler_options=("xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",),
)
FOUR = find_target("v5e-4")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


def test_the_two_passes_agree(kept):
    """Memory to 0.1 GiB, and the same collectives, gathers and sums among them."""
    config = Candidate(MeshConfig(2, 2, 1), "full", 4 * 512, False).applied(SMALL)
    early = compile_candidate(config, FOUR, kept, full=False)
    whole = compile_candidate(config, FOUR, kept, full=True)
    assert abs(early.hbm_bytes - whole.hbm_bytes) < 0.1 * 2**30
    assert not early.full
    assert whole.full
    assert whole.product_cycles > whole.other_cycles / 3 > early.product_cycles == 0
    assert whole.compile_seconds > early.compile_seconds
    assert {one["operation"] for one in early.collectives} >= {"all-gather", "all-reduce"}
    for one, other in zip(early.collectives, whole.collectives, strict=True):
        assert one == other


def test_an_answer_is_kept_until_the_program_changes(kept, monkeypatch):
    config = Candidate(MeshConfig(2, 2, 1), "full", 4 * 512, False).applied(SMALL)
    first = compile_candidate(config, FOUR, kept, full=False)
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compile_candidate(config, FOUR, kept, full=False) == first
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, z_loss=1e-4))
    with pytest.raises(pytest.fail.Exception):
        compile_candidate(other, FOUR, kept, full=False)


def test_what_is_too_large_is_refused_with_both_numbers(tmp_path):
    """GPT-3 6.7B on four v5e: 16 bytes of 6.7 B parameters over 4 chips are 25 GiB of 15.75."""
    config = for_planning(gpt3("6_7b"))
    candidate = Candidate(MeshConfig(1, 4, 1), "full", 2048, False)
    found = Found(
        candidate,
        estimate(candidate.applied(config), FOUR),
        compile_candidate(candidate.applied(config), FOUR, tmp_path, full=False),
        FOUR,
    )
    assert found.compiled.too_large
    assert not found.fits
    assert 15.75 * 2**30 < found.hbm_bytes < 60 * 2**30


def test_a_compiler_that_takes_too_much_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "MEMORY_LIMIT", 100 * 2**20)
    config = Candidate(MeshConfig(4), "full", 512, False).applied(SMALL)
    with pytest.raises(InputError, match=r"may take 0 GiB of this machine's memory"):
        compile_candidate(config, FOUR, tmp_path, full=True)
    assert not list(tmp_path.iterdir())


def test_an_option_that_the_compiler_does_not_have_is_told(tmp_path):
    options = ("xla_tpu_no_such_thing=true",)
    config = Candidate(MeshConfig(4), "full", 512, False).applied(
        dataclasses.replace(SMALL, compiler_options=options)
    )
    with pytest.raises(InputError, match="xla_tpu_no_such_thing"):
        compile_candidate(config, FOUR, tmp_path, full=True)


@pytest.mark.parametrize("slices", [1, 2])
def test_a_plan_compiles_its_best(tmp_path, slices):
    """Of four chips, and of two slices of four: only sums of gradients go from one to the other."""
    said = []
    target = find_target("v5e-4", slices)
    found = plan(SMALL, target, Effort(2, 1, 2), tmp_path, said.append)
    assert found[0].compiled.full
    assert found[0].fits
    assert [one.compiled is not None for one in found[:3]] == [True, True, False]
    assert len(said) == 3
    assert len(list(tmp_path.glob("*.json"))) == 3
    across = [one for one in found[0].compiled.collectives if "slice" in one["axes"]]
    assert bool(across) == (slices > 1)
    assert {one["operation"] for one in across} <= {"all-reduce", "reduce-scatter"}


def test_gpt_3_fits_512_chips_of_v5p(tmp_path):
    """175 B parameters, 1,536 sequences of 2,048 tokens, compiled to the end."""
    config = for_planning(gpt3("175b"))
    target = find_target("v5p:8x8x8")
    candidate = Candidate(MeshConfig(1, 256, 2), "dots", 3 * 2048, True)
    applied = candidate.applied(config)
    compiled = compile_candidate(applied, target, tmp_path, full=True)
    found = Found(candidate, estimate(applied, target), compiled, target)
    assert found.fits
    # A 512th of parameters and two moments in float32.
    assert compiled.argument_bytes == pytest.approx(12 * 174.6e9 / 512, rel=0.05)
    assert compiled.hbm_bytes < 95.73 * 2**30
    assert 14 < found.step_seconds < 25
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["full"]
