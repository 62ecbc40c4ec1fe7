"""The search and the command, by arithmetic alone; what is compiled is in test_compile.py."""

import dataclasses
import json

import pytest

from gpt_jax.chips import CHIPS
from gpt_jax.cli import main
from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.parallel.mesh import batch_parts
from gpt_jax.plan.search import Effort, candidates, for_planning, meshes, ordered, rank, smallest
from gpt_jax.plan.target import find_target
from gpt_jax.presets import gpt3
from gpt_jax.train.step import micro_batches

ARITHMETIC = Effort(candidates=0, full=0, jobs=1)
XL = for_planning(gpt3("1_3b"))


@pytest.mark.parametrize(("target", "slices"), [("v5e-16", 1), ("v4-64", 1), ("v5e-16", 2)])
def test_every_mesh_uses_all_chips_and_divides_the_experiment(target, slices):
    target = find_target(target, slices)
    found = list(meshes(XL, target))
    assert len(set(found)) == len(found) > 5
    for mesh in found:
        sizes = dataclasses.asdict(mesh)
        assert mesh.slice == slices
        assert 512 % batch_parts(sizes) == 0
        assert 16 % mesh.tensor == 0 == 2048 % mesh.fsdp
        product = 1
        for size in sizes.values():
            product *= size
        assert product == target.chips


def test_every_candidate_trains_the_whole_batch():
    target = find_target("v5e-16")
    found = list(candidates(XL, target))
    assert len(set(found)) == len(found)
    kinds = {(one.remat, one.split_residual) for one in found}
    remats = {"full", "attention", "qkv_attention", "dots", "offload"}
    assert kinds == {(remat, split) for remat in remats for split in (False, True)}
    for one in found:
        rows, count = micro_batches(one.applied(XL), batch_parts(dataclasses.asdict(one.mesh)))
        assert rows * count == 512


def test_those_that_fit_come_first_and_the_fastest_of_them():
    found = rank(for_planning(gpt3("6_7b")), find_target("v5e-16"))
    fits = [one.fits for one in found]
    assert fits == sorted(fits, reverse=True)
    assert set(fits) == {True, False}
    times = [one.step_seconds for one in found if one.fits]
    assert times == sorted(times)
    assert ordered(reversed(found))[0].step_seconds == times[0]


def test_the_smallest_slice_holds_it_and_the_next_smaller_does_not():
    """175b in float32 with Adam: 16 bytes a parameter are 2.6 TiB, and more than 128 v5e hold."""
    config = for_planning(gpt3("175b"))
    found = smallest(config, find_target("v5e-16"), ARITHMETIC, None, print)
    assert found is not None
    size, verified = found
    assert not verified
    assert size.chips * CHIPS["v5e"].hbm_bytes > 16 * 174.6e9 > 128 * CHIPS["v5e"].hbm_bytes
    assert size.name == "v5e-256"
    tiny = dataclasses.replace(config, model=gpt3("125m").model)
    assert smallest(tiny, find_target("v4-8"), ARITHMETIC, None, print)[0].name == "v4-8"


def test_what_cannot_be_divided_is_said():
    """7 sequences over 16 chips, with 3 heads and a width that is odd but for the 3."""
    model = ModelConfig(vocab_size=128, context_length=512, embed_dim=9, num_heads=3)
    config = Config(model=model, train=TrainConfig(batch_tokens=7 * 512))
    with pytest.raises(InputError, match="none of 16 devices does for 7 sequences"):
        rank(config, find_target("v5e-16"))
    with pytest.raises(InputError, match="vocab_size=0 leaves it to the tokenizer"):
        for_planning(Config())


@pytest.fixture
def said(capsys, root, tmp_path):
    def run(*words, experiment="gpt3_1_3b"):
        path = root / f"experiments/{experiment}.py"
        status = main(["plan", str(path), "--data.cache-dir", str(tmp_path), *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


NEEDED = {"fits", "mesh", "remat", "hbm_bytes", "hbm_limit_bytes", "step_seconds", "mfu"}


def test_json_is_a_list_of_candidates(said):
    """Sums by hand: hours from tokens and rate, chip-hours, energy, cost, MFU."""
    words = ["--target", "v5p-512", "--no-compile", "--json", "--price", "2"]
    status, out, err = said(*words)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert len(found) > 100
    assert all(NEEDED | {"verified"} <= set(one) for one in found)
    best = found[0]
    assert best["chips"] == 256
    assert best["topology"] == "4x8x8"
    assert best["verified"] is False
    assert best["tokens_per_second"] == pytest.approx(512 * 2048 / best["step_seconds"])
    hours = 300e9 / best["tokens_per_second"] / 3600
    assert best["days"] == pytest.approx(hours / 24)
    assert best["chip_hours"] == pytest.approx(256 * hours)
    assert best["cost"] == pytest.approx(2 * best["chip_hours"])
    assert best["energy_kwh"] == pytest.approx(best["chip_hours"] * 284 * 1.09 / 1000)
    assert best["hbm_margin_bytes"] == best["hbm_limit_bytes"] - best["hbm_bytes"] > 0
    assert best["overrides"][2:4] == ["--mesh.data", str(best["mesh"]["data"])]


def test_the_table_says_what_is_an_estimate(said):
    status, out, _ = said("--target", "v5e-16", "--no-compile")
    assert status == 0
    assert out.startswith("gpt3_1_3b on v5e-16: 16 chips, topology 4x4\n")
    assert "smallest  v5e-" in out
    assert "The time is an estimate, no measurement. Its assumptions:" in out
    assert "gpt-jax train" in out
    assert "arithmetic" in out


def test_several_targets_make_a_table(said):
    status, out, err = said("--target", "v5e-1", "--target", "v5e-16", "--no-compile")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "| | v5e-1 (1 chips) | v5e-16 (16 chips) |"
    assert lines[2].startswith("| gpt3_1_3b | no: ")
    assert "*" in lines[2]
    assert "gpt3_1_3b on v5e-16: " in err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ([], "a plan is for a slice, and none is named"),
        (["--target", "v5p-500"], "the nearest are v5p-512"),
        (["--target", "v5e-16", "--slices", "0"], "there must be a slice at least"),
        (["--target", "v5e-16", "--price", "-1"], "--price is -1.0"),
        (["--target", "v5e-16", "--candidates", "-1"], "must not be negative"),
        (["--target", "local", "--slices", "2"], "are no slices: leave out --slices"),
    ],
)
def test_bad_input_is_one_paragraph(said, words, rule):
    status, out, err = said(*words)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert rule in err


def test_without_the_compiler_it_says_how_to_get_it(said, monkeypatch):
    import importlib.metadata

    inner = importlib.metadata.version

    def version(name):
        if name == "libtpu":
            raise importlib.metadata.PackageNotFoundError
        return inner(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    status, _, err = said("--target", "v5e-16")
    assert status == 1
    assert "pip install 'gpt_jax[tpu]'" in err
    assert "--no-compile" in err


def test_a_candidate_that_fails_does_not_take_the_others_with_it(said, monkeypatch):
    """The first to be compiled fails; the second is compiled, and is the best that is known."""
    from gpt_jax.plan import search
    from gpt_jax.plan.compile import Compiled

    tried = []

    def compile_candidate(config, target, cache, full):
        tried.append(config)
        if len(tried) == 1:
            raise InputError("the compiler must not fail, and it did")
        return Compiled(2**30, None, None, False, (), 0, 0, 1.0, full)

    monkeypatch.setattr(search, "compile_candidate", compile_candidate)
    monkeypatch.setattr(search, "compiler_version", lambda _: "1")
    words = ["--target", "v5e-16", "--candidates", "2", "--full", "0", "--jobs", "1", "--json"]
    status, out, err = said(*words, "--train.batch-tokens", "262144")
    assert status == 0
    assert err.startswith("failed v5e-16 ")
    found = json.loads(out)
    assert [one["verified"] for one in found].count(True) == 1
    # The user's own options come with those of the candidate.
    assert found[0]["overrides"][2:4] == ["--train.batch-tokens", "262144"]


def test_the_most_frugal_are_tried_before_it_is_said_that_none_fits(tmp_path, monkeypatch):
    """Whatever is fast takes too much; of the two of least memory the second fits."""
    from gpt_jax.plan import search
    from gpt_jax.plan.compile import Compiled

    target, tried = find_target("v5e-16"), []

    def compile_candidate(config, target, cache, full):
        tried.append(config)
        size = 2**30 if len(tried) == 4 else 2**35
        return Compiled(size, None, None, False, (), 0, 0, 1.0, full)

    monkeypatch.setattr(search, "compile_candidate", compile_candidate)
    monkeypatch.setattr(search, "compiler_version", lambda _: "1")
    found = search.plan(XL, target, Effort(2, 0, 1), tmp_path, lambda _: None)
    assert len(tried) == 4
    least = sorted(rank(XL, target), key=lambda one: one.estimate.hbm_bytes)[:2]
    assert tried[2:] == [one.candidate.applied(XL) for one in least]
    assert found[0].candidate == least[1].candidate
    assert found[0].fits


def test_offloading_costs_the_way_to_the_host_and_back():
    """175b: 4 arrays of width D a layer, halved by tensor, N sums of 4 bytes, there and back."""
    config = for_planning(gpt3("175b"))
    found = rank(config, find_target("v5p:8x8x8"))
    one = next(
        f
        for f in found
        if f.candidate.remat == "offload" and f.candidate.mesh == MeshConfig(1, 256, 2)
    )
    tokens = 1536 * 2048 / 256
    moved = 2 * 96 * tokens * (2 * 4 * 12288 / 2 + 4 * 96 / 2)
    assert one.seconds["host beside"] == pytest.approx(moved / 16e9)


def test_the_devices_that_are_here(said):
    """Compiled for them: the eight fake ones of the tests."""
    words = ["--target", "local", "--json", "--candidates", "1", "--full", "1"]
    small = ["--model.embed-dim", "32", "--model.num-heads", "2", "--model.num-layers", "2"]
    small += ["--model.vocab-size", "256", "--train.batch-tokens", "512"]
    status, out, err = said(*words, *small, experiment="local_text")
    assert status == 0, err
    best = json.loads(out)[0]
    assert best["chips"] == 8
    assert best["verified"] is best["fits"] is best["compiled_to_the_end"] is True
    # Parameters and moments of all 8 devices are 1 MB; what a step computes is more.
    assert best["argument_bytes"] < best["temporary_bytes"] < best["hbm_bytes"] < 1e8
    assert best["energy_kwh"] is None


def test_meshes_are_of_all_axes_that_a_candidate_has():
    assert isinstance(next(meshes(XL, find_target("v5e-4"))), MeshConfig)
