"""How an experiment's batch and mesh meet the eight devices of the tests."""

import dataclasses

import jax
import pytest

from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig, TrainConfig
from gpt_jax.parallel.mesh import batch_shards, make_mesh
from gpt_jax.train.step import micro_batches


@pytest.mark.parametrize(
    ("asked", "shape", "shards"),
    [
        ((-1, 1, 1), (8, 1, 1), 8),
        ((1, -1, 1), (1, 8, 1), 8),
        ((2, 2, -1), (2, 2, 2), 4),
        ((-1, 2, 2), (2, 2, 2), 4),
        ((-1, 2, 4), (1, 2, 4), 2),
        ((1, 1, 8), (1, 1, 8), 1),
    ],
)
def test_minus_one_takes_what_is_left(asked, shape, shards):
    """And the batch is split over data and fsdp, not over tensor."""
    mesh = make_mesh(MeshConfig(*asked))
    expected = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    assert dict(mesh.shape) == {"slice": 1, "pipeline": 1, "sequence": 1} | expected
    assert batch_shards(mesh) == shards


def test_each_device_is_used_once():
    devices = jax.devices()[:4]
    mesh = make_mesh(MeshConfig(2, 1, 2), devices)
    assert sorted(mesh.devices.flat, key=lambda device: device.id) == devices


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((3, 1, 1), "must divide the 8 devices present, and data=3 does not"),
        ((-1, 3, 1), "must divide the 8 devices present"),
        ((2, 2, 1), "must use all 8 devices present, and data=2 x fsdp=2 uses 4"),
        ((16, 1, 1), "must divide the 8 devices present"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(asked, message):
    with pytest.raises(InputError, match=message) as error:
        make_mesh(MeshConfig(*asked))
    assert "--mesh.tensor" in str(error.value)


def batches_of(rows, limit=0):
    """An experiment with batches of `rows` sequences of 8 tokens, `limit` to a device at a time."""
    train = TrainConfig(batch_tokens=8 * rows, device_batch_tokens=8 * limit)
    return Config(model=ModelConfig(vocab_size=128, context_length=8), train=train)


@pytest.mark.parametrize(
    ("rows", "limit", "shards", "expected"),
    [
        (8, 0, 1, (8, 1)),
        (8, 0, 8, (8, 1)),
        (8, 2, 1, (2, 4)),
        (8, 1, 4, (4, 2)),
        (8, 100, 2, (8, 1)),
        (12, 5, 1, (4, 3)),  # 5 do not divide 12, 4 do
        (7, 2, 1, (1, 7)),
        (1536, 4, 256, (768, 2)),  # 6 rows a device, 3 at a time
    ],
)
def test_micro_batches_are_as_few_as_fit(rows, limit, shards, expected):
    """(rows of one over all devices, how many): derived, never configured."""
    assert micro_batches(batches_of(rows, limit), shards) == expected


def test_a_batch_that_does_not_divide_names_what_does():
    with pytest.raises(InputError, match="6 sequences of 8 tokens do not divide") as error:
        micro_batches(batches_of(6), 4)
    assert "a multiple of 32" in str(error.value)


def test_the_batch_is_the_experiment_s_on_any_number_of_devices():
    config = batches_of(24, 3)
    for shards in (1, 2, 4, 8):
        rows, count = micro_batches(config, shards)
        assert rows * count == 24
        assert rows // shards <= 3
    smaller = dataclasses.replace(config, train=TrainConfig(batch_tokens=8))
    assert micro_batches(smaller, 1) == (1, 1)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a slice of a pod, as JAX shows it: only what laying out a mesh asks for."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0


def test_only_the_axis_slice_leads_from_one_slice_to_the_next():
    """Of two slices of four, whose devices come mixed up."""
    devices = [Chip(n, n % 2, (n // 2 % 2, n // 4, 0)) for n in range(8)]
    mesh = make_mesh(MeshConfig(-1, 2, 1, slice=2), devices)
    assert [size for size in mesh.shape.items() if size[1] > 1] == [
        ("slice", 2),
        ("data", 2),
        ("fsdp", 2),
    ]
    for index, part in enumerate(mesh.devices):
        assert {device.slice_index for device in part.flat} == {index}
    for wrong in (MeshConfig(-1), MeshConfig(1, 1, 2, slice=4)):
        with pytest.raises(InputError, match=r"there are 2 of them .* set --mesh.slice 2"):
            make_mesh(wrong, devices)


def test_hosts_of_gpus_are_no_slices_of_a_pod():
    """XLA numbers them by slice_index all the same: fsdp may join them."""
    devices = [
        Chip(n, n // 4, (0, 0, 0), platform="gpu", device_kind="NVIDIA H100") for n in range(8)
    ]
    assert make_mesh(MeshConfig(1, 8, 1), devices).shape["fsdp"] == 8


def test_an_axis_may_be_a_part_of_the_torus():
    """256 x 2 on the 8 x 8 x 8 chips of v5p, each of them once."""
    places = [(n // 64, n // 8 % 8, n % 8) for n in range(512)]
    devices = [Chip(n, 0, place, device_kind="TPU v5") for n, place in enumerate(places)]
    mesh = make_mesh(MeshConfig(1, 256, 2), devices)
    assert sorted(device.id for device in mesh.devices.flat) == list(range(512))
