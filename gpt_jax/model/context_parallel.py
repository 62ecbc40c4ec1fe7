"""Attention by the chosen kernel, of rows, heads and sequences that are split over the mesh.

A sequence that is split along its length takes context parallelism by all-gather (Llama 3,
Grattafiori et al. 2024, section 3.3.2): each device has a part of the queries, and gathers the keys
and values of all parts. Every pattern of attention is then done as on one device. The gather's
derivative sums what each part found for a key, and hands it back to where the key is.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from gpt_jax.config import AttentionKernel, require
from gpt_jax.model.attention import attend
from gpt_jax.model.splash import attend_splash, make_kernel


def attend_over_mesh(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    *,
    kernel: AttentionKernel,
    scale: float,
    window: int | None,
    start: Array | None,
    segment_ids: tuple[Array, Array] | None,
    dropout_rate: float = 0.0,
    dropout_keys_B: Array | None = None,
) -> Array:
    """What `attend` gives, by `kernel`, whether or not B, N and T are split over a mesh.

    With a cache (`start`) the kernel is always "xla", and so is what "auto" means here: training
    has chosen before (`kernels.choose_attention`). What a layer leaves is called "attention" for
    the policies of `jax.checkpoint`. Raises InputError for what the kernel cannot do, and for
    dropout on attention with T split: its draws depend on the part.
    """
    inputs = (q_BTNH, k_BSNH, v_BSNH)
    if start is None and kernel in ("splash", "cudnn"):
        require(dropout_keys_B is None, f"{kernel} attention has no dropout: {_REMEDY}")
        if kernel == "splash":
            # The kernel names its output itself, and the softmax's normalisers with it.
            return _splash_over_mesh(*inputs, scale=scale, window=window, segment_ids=segment_ids)
        require(segment_ids is None, f"cudnn attention has no segments: {_REMEDY}")
        y_BTNH = attend_cudnn(*inputs, scale=scale, window=window)
    else:
        y_BTNH = _xla_over_mesh(
            *inputs,
            start=start,
            segment_ids=segment_ids,
            dropout_keys_B=dropout_keys_B,
            dropout_rate=dropout_rate,
            scale=scale,
            window=window,
        )
    return checkpoint_name(y_BTNH, "attention")


_REMEDY = "set --model.attention auto."


def attend_cudnn(
    q_BTNH: Array, k_BTNH: Array, v_BTNH: Array, *, scale: float, window: int | None
) -> Array:
    """What `attend` gives, by cuDNN's flash attention, which splits over a mesh by itself.

    The window is for causal attention only: without `is_causal` a query would see all after it.
    """
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )


def _xla_over_mesh(
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    *,
    start: Array | None,
    segment_ids: tuple[Array, Array] | None,
    dropout_keys_B: Array | None,
    **how: Any,
) -> Array:
    mesh = _mesh()
    axis = None if mesh is None else _split_axis(mesh, "T")
    if axis is None or start is not None:
        return attend(
            q_BTNH,
            k_BSNH,
            v_BSNH,
            start=start,
            segment_ids=segment_ids,
            dropout_keys_B=dropout_keys_B,
            **how,
        )
    require(
        dropout_keys_B is None,
        "dropout on attention is not drawn alike on parts of a sequence: set "
        "--model.attention-dropout 0, or --mesh.sequence 1.",
    )
    heads, rows = _spec("BTNH"), _spec("BT")
    ids = () if segment_ids is None else segment_ids

    def part(q: Array, k: Array, v: Array, *ids: Array) -> Array:
        begin = jax.lax.axis_index(axis) * q.shape[1]
        k, v, both = _with_all_keys(axis, k, v, ids)
        return attend(q, k, v, start=jnp.int32(begin), segment_ids=both, **how)

    return jax.shard_map(
        part,
        in_specs=(heads, heads, heads, *[rows] * len(ids)),
        out_specs=heads,
        check_vma=False,
    )(q_BTNH, k_BSNH, v_BSNH, *ids)


def _splash_over_mesh(
    q_BTNH: Array,
    k_BTNH: Array,
    v_BTNH: Array,
    *,
    scale: float,
    window: int | None,
    segment_ids: tuple[Array, Array] | None,
) -> Array:
    mesh, inputs = _mesh(), (q_BTNH, k_BTNH, v_BTNH)
    length, num_heads = q_BTNH.shape[1:3]
    if mesh is None:
        interpret = jax.default_backend() != "tpu"
        kernel = make_kernel(length, num_heads, window, interpret=interpret)
        return attend_splash(kernel, *inputs, scale=scale, segment_ids=segment_ids)
    axis, head_axis = _split_axis(mesh, "T"), _split_axis(mesh, "N")
    kernel = make_kernel(
        length,
        num_heads,
        window,
        head_parts=mesh.shape[head_axis] if head_axis else 1,
        parts=mesh.shape[axis] if axis else 1,
        # By the mesh and not by this process: `plan` compiles for TPUs that are not there.
        interpret=mesh.abstract_device.platform != "tpu",
    )
    heads, rows = _spec("BTNH"), _spec("BT")
    ids = () if segment_ids is None else segment_ids

    def part(kernel: Any, q: Array, k: Array, v: Array, *ids: Array) -> Array:
        k, v, both = _with_all_keys(axis, k, v, ids)
        return attend_splash(kernel, q, k, v, scale=scale, segment_ids=both)

    # Each device takes the rows of the mask that are its queries'.
    masks = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(head_axis, axis)))
    return jax.shard_map(
        part,
        in_specs=(masks, heads, heads, heads, *[rows] * len(ids)),
        out_specs=heads,
        check_vma=False,
    )(kernel, *inputs, *ids)


def _with_all_keys(
    axis: str | None, k_BTNH: Array, v_BTNH: Array, ids: tuple[Array, ...]
) -> tuple[Array, Array, tuple[Array, Array] | None]:
    """Keys and values of all parts of the sequence; the segments of the queries and of all keys."""

    def whole(x: Array) -> Array:
        return x if axis is None else jax.lax.all_gather(x, axis, axis=1, tiled=True)

    return whole(k_BTNH), whole(v_BTNH), (ids[0], whole(ids[1])) if ids else None


def _spec(letters: str) -> PartitionSpec:
    """Mesh axes of the logical ones, by the rules of the context."""
    return spmd.logical_to_mesh_axes(tuple(letters)) or PartitionSpec()


def _mesh() -> AbstractMesh | None:
    """The mesh of the context, where there is one and rules that map logical axes to it."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or not nn.get_logical_axis_rules() else mesh


def _split_axis(mesh: AbstractMesh, letter: str) -> str | None:
    """The mesh axis that a logical one is split over, if it is more than one device."""
    axis = _spec(letter)[0]
    assert axis is None or isinstance(axis, str)
    return axis if axis is not None and mesh.shape[axis] > 1 else None
