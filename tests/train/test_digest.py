"""The digest against a NumPy one written here, and against the faults it is meant to see."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.train.digest import tree_digest

DTYPES = ("float32", "int32", "uint32", "bfloat16", "float16", "int16", "int8", "uint8", "bool")
RNG = np.random.default_rng(0)


def random_array(shape, dtype, rng=RNG):
    dtype = jnp.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def digest(array):
    return tree_digest({"x": jnp.asarray(array)})["x"]


def numpy_mix(h):
    h = h & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def numpy_digest(array):
    """The same sum, element by element in Python's unbounded integers."""
    width = array.dtype.itemsize
    columns = array.shape[-1] if array.ndim else 1
    words = array.reshape(-1).view(f"uint{8 * width}").tolist()
    result = int(
        hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=8).hexdigest(), 16
    )
    for shift, seed in ((32, 0x9E3779B9), (0, 0x7F4A7C15)):
        total = 0
        for index, word in enumerate(words):
            row, column = divmod(index, columns)
            total += numpy_mix(word ^ numpy_mix(numpy_mix(row + seed) ^ column))
        result ^= (total & 0xFFFFFFFF) << shift
    return f"{result:016x}"


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
)
def test_agrees_with_numpy(dtype, shape, seed):
    array = random_array(shape, dtype, np.random.default_rng(seed))
    assert digest(array) == numpy_digest(array)


def test_wide_types_are_read_as_two_words():
    with jax.enable_x64(True):
        array = jnp.array([1.0, -2.5, 3e300], "float64")
        flipped = np.array(array)
        flipped.view("uint64")[1] ^= np.uint64(1) << np.uint64(40)
        assert digest(array) == digest(np.array(array)) != digest(flipped)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_single_bit_flip_is_seen(dtype):
    array = random_array((3, 4), dtype)
    seen = {digest(array)}
    for index in range(array.size):
        for bit in range(8 * array.dtype.itemsize):
            flipped = array.copy()
            words = flipped.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
            words[index] ^= words.dtype.type(1 << bit)
            seen.add(digest(flipped))
    assert len(seen) == 1 + array.size * 8 * array.dtype.itemsize


def test_flips_that_would_cancel_in_a_plain_sum_are_seen():
    """The same bit of two equal neighbours, for every bit and every pair of 16 zeros."""
    zeros = np.zeros(16, "uint32")
    seen = {digest(zeros)}
    pairs = [(i, j) for i in range(16) for j in range(i)]
    for i, j in pairs:
        for bit in range(0, 32, 5):
            flipped = zeros.copy()
            flipped[[i, j]] ^= np.uint32(1 << bit)
            seen.add(digest(flipped))
    assert len(seen) == 1 + len(pairs) * 7


def test_swapped_elements_are_seen():
    array = np.arange(12, dtype="float32").reshape(3, 4)
    seen = {digest(array)}
    for i in range(12):
        for j in range(i):
            swapped = array.copy().reshape(-1)
            swapped[[i, j]] = swapped[[j, i]]
            seen.add(digest(swapped.reshape(3, 4)))
    assert len(seen) == 1 + 12 * 11 // 2


def test_shape_and_dtype_count():
    array = np.zeros((2, 3), "float32")
    others = [array, array.T, array.reshape(6), array.reshape(1, 2, 3), array.astype("int32")]
    assert len({digest(other) for other in others}) == len(others)


def test_nan_payloads_and_the_sign_of_zero_count():
    words = np.array([0, 0x80000000, 0x7FC00000, 0x7FC00001, 1], "uint32").view("float32")
    assert len({digest(words[i : i + 1]) for i in range(5)}) == 5


@pytest.mark.parametrize(
    ("shape", "spec"),
    [((8, 6), ("x",)), ((4, 8), (None, "x")), ((4, 6), ("a", "b")), ((8, 4, 2), (("a", "b"),))],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
def test_same_on_eight_devices(shape, spec, dtype):
    array = random_array(shape, dtype)
    devices = np.array(jax.devices())
    assert devices.size == 8
    one_axis = spec in (("x",), (None, "x"))
    mesh = Mesh(devices, "x") if one_axis else Mesh(devices.reshape(4, 2), ("a", "b"))
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert len(sharded.sharding.device_set) == 8
    assert digest(sharded) == digest(array) == numpy_digest(np.asarray(array))


def test_paths_and_an_empty_tree():
    tree = {"layer": [jnp.zeros(2), {"bias": jnp.ones(())}], "none": None}
    assert list(tree_digest(tree)) == ["layer/0", "layer/1/bias"]
    assert all(len(value) == 16 for value in tree_digest(tree).values())
    assert tree_digest({"none": None}) == {}
