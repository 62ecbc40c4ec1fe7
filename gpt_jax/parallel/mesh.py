"""The mesh of devices that an experiment asks for, over the devices that are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from gpt_jax.config import MeshConfig, require

AXES = ("slice", "pipeline", "data", "fsdp", "sequence", "tensor")
"""From the slowest network to the fastest: neighbours along the last are nearest to each other.

Slices sum gradients once a micro-batch; stages of a pipeline hand on one activation for several
layers; then come gradients, parameters, keys and activations of every layer.
"""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes AXES over `devices` (None: all of them).

    Neighbours along an axis are near each other in the devices' own network. Where the devices are
    in several slices, the axis `slice` leads from one to the next, and no other axis does.

    Raises InputError where the axes do not multiply to the number of devices, or `slice` is not the
    number of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    # Auto axes: shardings come from the table in sharding.py, and XLA propagates the rest.
    axis_types = (AxisType.Auto,) * len(shape)
    array = _in_order(devices, shape)
    return Mesh(array, tuple(shape), axis_types)


def _in_order(devices: list[Any], shape: dict[str, int]) -> np.ndarray:
    """The devices as an array of a shape, with neighbours near each other."""
    # GPUs have a slice_index too, which numbers their hosts.
    of_a_pod = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", None) for device in devices if of_a_pod}) or 1
    # An axis need not be a whole dimension of the torus: 256 x 2 lie on 8 x 8 x 8.
    split = {"allow_split_physical_axes": True}
    if slices == 1:
        return mesh_utils.create_device_mesh(tuple(shape.values()), devices, **split)
    require(
        shape["slice"] == slices,
        f"the axis slice joins the slices of a pod, and there are {slices} of them where "
        f"mesh.slice={shape['slice']}: set --mesh.slice {slices}.",
    )
    within = [1 if axis == "slice" else size for axis, size in shape.items()]
    across = [size if axis == "slice" else 1 for axis, size in shape.items()]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, **split)


def mesh_shape(config: MeshConfig, count: int) -> dict[str, int]:
    """Devices along each of AXES, of `count` in all; raises InputError where that cannot be."""
    sizes = {axis: getattr(config, axis) for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size > 0)
    asked = " x ".join(f"{name}={size}" for name, size in sizes.items() if size != 1)
    remedy = "set --mesh.data, --mesh.fsdp and --mesh.tensor (-1 for one of them: what is left)."
    require(
        count % fixed == 0,
        f"the mesh axes must divide the {count} devices present, and {asked} does not: " + remedy,
    )
    shape = {name: size if size > 0 else count // fixed for name, size in sizes.items()}
    require(
        math.prod(shape.values()) == count,
        f"the mesh must use all {count} devices present, and {asked} uses {fixed}: {remedy}",
    )
    return shape


def batch_shards(mesh: Mesh) -> int:
    """Parts that the batch is split in."""
    return batch_parts(mesh.shape)


def batch_parts(shape: Mapping[str, int]) -> int:
    """`batch_shards` of a mesh that is only known by its shape."""
    return math.prod(shape[axis] for axis in ("slice", "pipeline", "data", "fsdp"))
