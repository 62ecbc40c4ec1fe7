"""Slices as Cloud TPU names them, against its tables; peaks against the data sheets."""

import pytest

from gpt_jax.chips import CHIPS, find_slice, peak_flops, slices
from gpt_jax.config import InputError


@pytest.mark.parametrize(
    ("name", "accelerator_type", "topology", "chips", "hosts"),
    [
        # cloud.google.com/tpu/docs: v4, v5p (cores, chips, hosts), v5e, v6e.
        ("v4-8", "v4-8", "2x2x1", 4, 1),
        ("v4-64", "v4-64", "2x4x4", 32, 8),
        ("v4-4096", "v4-4096", "8x16x16", 2048, 512),
        ("v5p-8", "v5p-8", "2x2x1", 4, 1),
        ("v5p-512", "v5p-512", "4x8x8", 256, 64),
        ("v5p-1024", "v5p-1024", "8x8x8", 512, 128),
        ("v5p-12288", "v5p-12288", "16x16x24", 6144, 1536),
        ("v5e-1", "v5litepod-1", "1x1", 1, 1),
        ("v5e-8", "v5litepod-8", "2x4", 8, 1),
        ("v5litepod-16", "v5litepod-16", "4x4", 16, 4),
        ("v5e-256", "v5litepod-256", "16x16", 256, 64),
        ("v6e-64", "v6e-64", "8x8", 64, 16),
        ("V5P:8x8x8", "v5p-1024", "8x8x8", 512, 128),
    ],
)
def test_a_slice_is_what_cloud_tpu_rents(name, accelerator_type, topology, chips, hosts):
    found = find_slice(name)
    assert found.accelerator_type == accelerator_type
    assert found.topology == topology
    assert (found.chips, found.hosts) == (chips, hosts)


@pytest.mark.parametrize("name", ["v5p-500", "v7-8", "v5e:3x3", "tpu", ""])
def test_a_slice_that_does_not_exist_names_its_neighbours(name):
    with pytest.raises(InputError, match=r"there is no .*: the nearest are v\d"):
        find_slice(name)


def test_the_neighbours_are_near():
    with pytest.raises(InputError, match="v5p-512"):
        find_slice("v5p-500")


@pytest.mark.parametrize("generation", CHIPS)
def test_slices_grow(generation):
    sizes = [part.chips for part in slices(generation)]
    assert sizes == sorted(set(sizes))
    assert all(len(part.shape) == CHIPS[generation].dimensions for part in slices(generation))


@pytest.mark.parametrize(
    ("kind", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H200", "float32", 494e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
        ("TPU v4", "bfloat16", 275e12),
        # The longest name that fits, and not TPU v5, which is another chip.
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("TPU v6 lite", "float32", 918e12),
        ("cpu", "float32", None),
        ("NVIDIA GeForce RTX 4090", "bfloat16", None),
    ],
)
def test_the_peak_is_the_chip_s_own_or_unknown(kind, dtype, peak):
    assert peak_flops(kind, dtype) == peak
