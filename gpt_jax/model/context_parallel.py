"""Attention of sequences that are split over the mesh along their length.

Context parallelism by all-gather (Llama 3, Grattafiori et al. 2024, section 3.3.2): each device has
a part of the queries, and gathers the keys and values of all parts. Every pattern of attention is
then done as on one device. The gather's derivative sums what each part found for a key, and hands
it back to where the key is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax import Array
from jax.sharding import PartitionSpec

from gpt_jax.config import require
from gpt_jax.model.attention import attend


def attend_over_mesh(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    *,
    start: Array | None,
    segment_ids: tuple[Array, Array] | None,
    dropout_key: Array | None,
    **how: Any,
) -> Array:
    """What `attend` gives, whether or not T is split over the mesh of the context.

    Raises InputError for dropout on attention with T split: its draws depend on the part.
    """
    axis = _axis_of_length()
    if axis is None or start is not None:
        return attend(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            start=start,
            segment_ids=segment_ids,
            dropout_key=dropout_key,
            **how,
        )
    require(
        dropout_key is None,
        "dropout on attention is not drawn alike on parts of a sequence: set "
        "--model.attention-dropout 0, or --mesh.sequence 1.",
    )
    heads, rows = _spec("BTNH"), _spec("BT")
    ids = () if segment_ids is None else segment_ids

    def part(q: Array, k: Array, v: Array, *ids: Array) -> Array:
        whole = partial(jax.lax.all_gather, axis_name=axis, axis=1, tiled=True)
        begin = jax.lax.axis_index(axis) * q.shape[1]
        both = (ids[0], whole(ids[1])) if ids else None
        return attend(q, whole(k), whole(v), start=jnp.int32(begin), segment_ids=both, **how)

    return jax.shard_map(
        part,
        in_specs=(heads, heads, heads, *[rows] * len(ids)),
        out_specs=heads,
        check_vma=False,
    )(q_BTNH, k_BSNH, v_BSNH, *ids)


def _spec(letters: str) -> PartitionSpec:
    """Mesh axes of the logical ones, by the rules of the context."""
    return spmd.logical_to_mesh_axes(tuple(letters)) or PartitionSpec()


def _axis_of_length() -> str | None:
    """The mesh axis that T is split over, if there is a mesh and it is more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not nn.get_logical_axis_rules():
        return None
    axis = _spec("T")[0]
    assert axis is None or isinstance(axis, str)
    return axis if axis is not None and mesh.shape[axis] > 1 else None
