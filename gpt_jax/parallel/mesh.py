"""The mesh of devices that an experiment asks for, over the devices that are there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from gpt_jax.config import MeshConfig, require


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor over `devices` (None: all of them).

    Raises InputError where the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = dataclasses.asdict(config)
    fixed = math.prod(size for size in sizes.values() if size > 0)
    asked = " x ".join(f"{name}={size}" for name, size in sizes.items())
    remedy = "set --mesh.data, --mesh.fsdp and --mesh.tensor (-1 for one of them: what is left)."
    require(
        len(devices) % fixed == 0,
        f"the mesh axes must divide the {len(devices)} devices present, and {asked} does not: "
        + remedy,
    )
    shape = {name: size if size > 0 else len(devices) // fixed for name, size in sizes.items()}
    require(
        math.prod(shape.values()) == len(devices),
        f"the mesh must use all {len(devices)} devices present, and {asked} uses {fixed}: {remedy}",
    )
    # Auto axes: shardings come from the table in sharding.py, and XLA propagates the rest.
    axis_types = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types, devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Parts that the batch is split in."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
