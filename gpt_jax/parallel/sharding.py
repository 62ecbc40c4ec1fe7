"""The one table from logical axes to mesh axes, and the shardings that follow from it.

The logical axes are the letters of the shape names (see `model/__init__`). A mesh axis is used
once per array, in the order of the table: an activation BTD is split over fsdp along B, so its D
stays whole, while a parameter DF, which has no B, is split over fsdp along D.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.linen import spmd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax.config import require
from gpt_jax.parallel.mesh import AXES

RULES: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    # Within the layers, where stages have the pipeline for themselves, B is split over the rest.
    ("B", ("slice", "pipeline", "data", "fsdp")),
    ("L", ("pipeline",)),
    ("N", ("tensor",)),
    ("F", ("tensor",)),
    ("V", ("tensor",)),
    ("D", ("fsdp",)),
    ("E", ("fsdp",)),
    ("T", ("sequence",)),
    # R is T between layers, where every position stands by itself and tensor is free.
    ("R", ("sequence", "tensor")),
    # Keys and head dimensions stay whole.
    ("S", None),
    ("H", None),
)


def rules() -> AbstractContextManager[None]:
    """Within it, the logical constraints of the model mean something; use while tracing."""
    return nn.logical_axis_rules(RULES)


def shardings(boxed: Any, mesh: Mesh) -> Any:
    """NamedShardings of an abstract tree whose leaves are boxed with their logical axes.

    Leaves without a box (counters) are replicated. Raises InputError naming a parameter whose
    axis the mesh cannot divide, or two of whose axes claim the same axis of the mesh.
    """
    missing = set(AXES) - set(mesh.axis_names)
    require(
        not missing,
        f"a mesh must have the axes {', '.join(AXES)}, of size 1 where they are not used, and "
        f"this one has {', '.join(mesh.axis_names)}: make it with parallel.mesh.make_mesh.",
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed):
        _check_claims(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
    logical = jax.tree.map(_axes, boxed, is_leaf=_is_boxed)
    tree = spmd.logical_to_mesh_sharding(logical, mesh, RULES)
    leaves = jax.tree_util.tree_leaves_with_path(nn.unbox(boxed))
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(tree), strict=True):
        _check_divides(jax.tree_util.keystr(path, simple=True, separator="/"), leaf, sharding)
    return tree


def _is_boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _axes(leaf: Any) -> Any:
    """Logical axes of a leaf; an optimizer may leave a box empty, and then so is this."""
    if not _is_boxed(leaf):
        return PartitionSpec()
    return jax.tree.map(lambda _: leaf.get_partition_spec(), leaf.value)


def _check_claims(name: str, leaf: Any) -> None:
    if not _is_boxed(leaf):
        return
    over = dict(RULES)
    for axis in AXES:
        letters = [letter for letter in leaf.names if letter and axis in (over[letter] or ())]
        require(
            len(letters) <= 1,
            f"a mesh axis splits one axis of a parameter, and {' and '.join(letters)} of {name} "
            f"both claim {axis}: change RULES, or leave one of them without a name.",
        )


def _check_divides(name: str, leaf: Any, sharding: NamedSharding) -> None:
    for size, entry in zip(leaf.shape, sharding.spec, strict=False):
        over = (entry,) if isinstance(entry, str) else entry or ()
        parts = math.prod(sharding.mesh.shape[axis] for axis in over)
        require(
            size % parts == 0,
            f"the mesh must divide what it splits, and {name} of shape {leaf.shape} has an axis of "
            f"{size} that does not divide over {' x '.join(over)} = {parts} devices: change the "
            f"mesh ({', '.join('--mesh.' + axis for axis in over)}) or the size.",
        )


def batch_sharding(mesh: Mesh, stacked: bool) -> NamedSharding:
    """Rows as B is split; `stacked`: a leading axis of micro-batches, kept whole."""
    rows = dict(RULES)["B"]
    return NamedSharding(mesh, PartitionSpec(None, rows) if stacked else PartitionSpec(rows))


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """The rows of a batch of `rows` that this host's devices hold, (R,) ascending.

    Hosts between which only other axes than the batch's are split hold the same rows.
    """
    places = batch_sharding(mesh, stacked=False).addressable_devices_indices_map((rows,))
    spans = [np.arange(*index[0].indices(rows)) for index in places.values() if index]
    return np.unique(np.concatenate(spans))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())
