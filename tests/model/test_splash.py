"""The TPU's kernel, interpreted on the CPU, against loops; what a band costs; how it is split."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_loops import loops
from jax.sharding import NamedSharding, PartitionSpec

from gpt_jax.config import InputError, MeshConfig
from gpt_jax.model import splash
from gpt_jax.model.context_parallel import attend_over_mesh
from gpt_jax.model.splash import block_sizes, make_kernel
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import rules

HEADS = 2
OPERATIONS = r"\b(?:all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)\b"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 128, the smallest, so that short sequences have several."""
    monkeypatch.setattr(splash, "MAX_BLOCK", 128)


def attention(q, k, v, window, segments):
    """As the decoder calls it."""
    return attend_over_mesh(
        q,
        k,
        v,
        kernel="splash",
        scale=q.shape[-1] ** -0.5,
        window=window,
        start=None,
        segment_ids=segments,
    )


def attended(length, head_dim, window, segmented, mesh=None, batch=1):
    """What the kernel gives and its gradients, and what loops in float64 give."""
    rng = np.random.default_rng(head_dim)
    shape = (batch, length, HEADS, head_dim)
    q, k, v, direction = rng.standard_normal((4, *shape)).astype("float32")
    segments = None
    if segmented:
        # Documents of many lengths, whose borders lie in and between blocks, and between parts.
        ids = np.searchsorted([100, 128, 131, 257], np.arange(length), side="right")
        segments = (np.stack([ids + row for row in range(batch)]).astype("int32"),) * 2

    @jax.jit
    def both(q, k, v):
        out, backward = jax.vjp(lambda *qkv: attention(*qkv, window, segments), q, k, v)
        return out, backward(direction)

    if mesh is None:
        ours = both(q, k, v)
    else:
        with jax.set_mesh(mesh), rules():
            ours = both(q, k, v)
    return ours, loops(q, k, v, window, None, segments, direction)


def assert_equal(ours, theirs):
    """To the rounding of float32: numbers of order 1, summed over up to 512 keys."""
    np.testing.assert_allclose(ours[0], theirs[0], atol=5e-6)
    for grad, expected in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(grad, expected, atol=2e-5)


# head dim, window, documents apart. The head dims are those of GPT-3's eight sizes.
PATTERNS = {
    "dense-64": (64, None, False),
    "dense-80": (80, None, False),
    "dense-96": (96, None, False),
    "dense-128": (128, None, False),
    "banded-64": (64, 150, False),
    "banded-80": (80, 150, False),
    "segments-64": (64, None, True),
    "segments-96": (96, None, True),
    "banded-segments-64": (64, 150, True),
    "banded-segments-128": (128, 1, True),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_kernel_and_its_gradients_are_those_of_a_loop(small_blocks, pattern):
    assert_equal(*attended(384, *PATTERNS[pattern]))


def test_two_kernels_give_the_gradients_that_one_does(small_blocks, monkeypatch):
    """The backward pass of a dense layer of many blocks."""
    monkeypatch.setattr(splash, "MAX_FUSED", 2)
    assert not block_sizes(384, None, 1).use_fused_bwd_kernel
    assert_equal(*attended(384, 64, None, False))


@pytest.mark.parametrize("pattern", ["dense-80", "banded-64", "segments-64", "banded-segments-64"])
def test_rows_heads_and_sequences_can_be_split_over_a_mesh(small_blocks, pattern):
    """Over data, tensor and sequence: each device has a row, a head and half of the queries."""
    mesh = make_mesh(MeshConfig(2, 1, 2, sequence=2))
    assert_equal(*attended(512, *PATTERNS[pattern], mesh, batch=2))


@pytest.mark.parametrize(
    ("mesh", "crossing"),
    [
        (MeshConfig(2, 2, 2), set()),
        (MeshConfig(2, 2, 1, sequence=2), {"all-gather", "reduce-scatter"}),
    ],
)
def test_nothing_crosses_but_the_keys_of_a_split_sequence(mesh, crossing):
    """Rows and heads are attended to where they are; XLA left alone would gather them all."""
    mesh = make_mesh(mesh)
    placed = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "sequence", "tensor"))
    inputs = [jax.ShapeDtypeStruct((4, 256, HEADS, 64), "float32", sharding=placed)] * 3

    def total(q, k, v):
        return jnp.square(attention(q, k, v, None, None)).sum()

    with jax.set_mesh(mesh), rules():
        text = jax.jit(jax.grad(total, (0, 1, 2))).lower(*inputs).compile().as_text()
    assert set(re.findall(OPERATIONS, text)) == crossing


@pytest.mark.parametrize("split", [False, True])
def test_a_policy_keeps_attention_by_its_name(capsys, split):
    """The kernel's output and the softmax's normalisers, which its backward pass reads: with both
    kept it is not run forward again. So it is within a mesh.
    """
    keep = jax.checkpoint_policies.save_only_these_names("attention")
    kept = jax.checkpoint(lambda *qkv: jnp.sin(attention(*qkv, None, None)).sum(), policy=keep)
    inputs = [jax.ShapeDtypeStruct((2, 128, HEADS, 64), "float32")] * 3
    if split:
        with jax.set_mesh(make_mesh(MeshConfig(2, 1, 1), jax.devices()[:2])), rules():
            jax.ad_checkpoint.print_saved_residuals(kept, *inputs)
    else:
        jax.ad_checkpoint.print_saved_residuals(kept, *inputs)
    lines = capsys.readouterr().out.splitlines()
    computed = [line.split()[0] for line in lines if " output of " in line]
    assert sorted(computed) == ["f32[2,2,128,64]", "f32[2,2,128]"]


def blocks(length, window, parts=1):
    """(side of a block, blocks computed forward, blocks of the grid, and both again backward)."""
    kernel = make_kernel(length, HEADS, window, parts=parts)
    forward, backward = kernel.fwd_mask_info.block_mask, kernel.dkv_mask_info.block_mask
    sizes = kernel.kwargs["block_sizes"]
    assert sizes.block_q == sizes.block_kv == sizes.block_q_dkv == sizes.block_kv_dkv
    counts = [n for mask in (forward, backward) for n in (int((mask > 0).sum()), mask.size)]
    return sizes.block_q, *counts


def test_a_band_costs_its_band():
    """A query's window of 256 lies in two blocks, its own and the one before, whatever the length;
    the first has none before it. The grid holds hardly more, so that nothing else is visited.
    """
    assert blocks(2048, 256) == (256, 15, 16, 15, 16)
    assert blocks(4096, 256) == (256, 31, 32, 31, 32)
    # A window of no more than a block's width takes the smallest blocks there are.
    assert blocks(2048, 100) == (128, 31, 32, 31, 32)
    # Without a window: the triangle of 4 x 4 blocks, and of 8 x 8.
    assert blocks(2048, None) == (512, 10, 16, 10, 16)
    assert blocks(4096, None) == (512, 36, 64, 36, 64)


def test_a_part_of_a_sequence_costs_what_it_sees():
    """Four parts of 512 queries compute the same blocks between them as one device does; backward
    the grid has all keys, each with the two blocks of queries of the part.
    """
    assert blocks(2048, 256, parts=4) == (256, 15, 16, 15, 64)
    assert blocks(2048, None, parts=4) == (512, 10, 16, 10, 16)


@pytest.mark.parametrize(
    ("length", "window", "parts", "expected"),
    [
        (2048, None, 1, 512),
        (1024, None, 4, 256),
        (1152, None, 1, 384),
        (640, None, 1, 128),
        (128, None, 1, 128),
        (2048, 256, 1, 256),
        (2048, 300, 1, 256),
        (2048, 1, 1, 128),
    ],
)
def test_blocks_divide_a_part_and_are_no_wider_than_the_band(length, window, parts, expected):
    assert block_sizes(length, window, parts).block_q == expected


def test_a_length_that_is_not_of_whole_blocks_is_refused():
    with pytest.raises(InputError, match=r"multiple of 128 tokens on each device, and 200 are not"):
        make_kernel(200, HEADS, None)
    with pytest.raises(InputError, match=r"and 384 over sequence = 2 devices are not"):
        make_kernel(384, HEADS, None, parts=2)


@pytest.mark.slow
def test_a_step_with_the_kernel_compiles_for_a_tpu(root):
    """For four v5e chips, by libtpu: dense and banded layers in bfloat16, split over tensor and
    sequence, and over fsdp and in stages, with the head dims that are not the registers' width.
    None of it has run on one.
    """
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install -e '.[tpu]'")
    done = subprocess.run(
        [sys.executable, root / "tests" / "tpu_steps.py"],
        env=os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    plain, saved, full = [json.loads(line) for line in done.stdout.splitlines()]
    said = "splash for dense layers, splash for banded layers"
    assert {step["attention"] for step in (plain, saved, full)} == {said}
    # Once forward for each kind of layer; backward one kernel for the dense, and two for the band.
    forward, dq, dkv = (f"splash_mha_{name}_residuals" for name in ("fwd{}", "dq{}_no", "dkv{}_no"))
    names = [dkv, dkv, dq, forward, forward]
    assert plain["kernels"] == [name.format("") for name in names]
    # With documents apart, and attention saved: no kernel runs forward a second time,
    assert saved["kernels"] == [name.format("_segmented") for name in names]
    # as both do where nothing is.
    assert full["kernels"] == [name.format("") for name in [*names, forward, forward]]
