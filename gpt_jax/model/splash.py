"""Attention on TPUs: JAX's Pallas kernel "splash", which skips what its mask leaves empty.

Dense and banded layers are each a mask, so that a band costs its band; the scores never leave the
chip. GSPMD cannot split a kernel, so over a mesh it runs in `shard_map`: rows over the batch axes,
heads over tensor, and over sequence each part's queries, with the mask of that part, meet the
keys of all parts (`context_parallel` says why). On devices other than TPUs Pallas interprets the
kernel, which is slow and for tests; `kernels.choose_attention` does not choose it there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from gpt_jax.config import require

LANES = 128
"""Width of a TPU's vector registers: blocks, and so the lengths, are multiples of it."""
MAX_BLOCK = 512
"""Of queries and of keys. Each step of the kernel has a fixed cost, and small ones waste the matrix
unit; but a block on the diagonal is computed whole: at 2,048 tokens blocks of 512 compute 1.25
times the causal triangle, and blocks of 1,024 would 1.5 times."""
MAX_FUSED = 4
"""Blocks of keys up to which the backward pass of a dense layer is one kernel. It multiplies 5
times where two kernels do 7, but each block of keys leaves its own part of the queries' gradients
in memory, to be summed, and visits empty blocks: a long sequence pays in space, a band in time."""


def attend_splash(
    kernel: Any,
    q_BTNH: Array,
    k_BSNH: Array,
    v_BSNH: Array,
    *,
    scale: float,
    segment_ids: tuple[Array, Array] | None,
) -> Array:
    """softmax(scale q k^T) v over the keys that the mask of `kernel` shows, (B, T, N, H).

    Shapes are those of one device; `segment_ids`: (B, T) and (B, S) int32, as in `attend`. The
    softmax is float32. For the backward pass it keeps its output and the softmax's normalisers,
    both under the name "attention" for policies of `jax.checkpoint`.
    """
    q_BNTH, k_BNSH, v_BNSH = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH * scale, k_BSNH, v_BSNH))
    if segment_ids is None:
        y_BNTH = jax.vmap(kernel)(q_BNTH, k_BNSH, v_BNSH)
    else:
        y_BNTH = jax.vmap(kernel)(q_BNTH, k_BNSH, v_BNSH, splash.SegmentIds(*segment_ids))
    return jnp.swapaxes(y_BNTH, 1, 2).astype(q_BTNH.dtype)


def make_kernel(
    length: int,
    num_heads: int,
    window: int | None,
    *,
    head_parts: int = 1,
    parts: int = 1,
    interpret: bool = False,
) -> Any:
    """The kernel for (N, T, H) queries and (N, S, H) keys, all of `length`, causal and no more than
    `window` keys back; `head_parts` and `parts`: devices that N and T are split over.

    Raises InputError where a part of the sequence is not a multiple of LANES.
    """
    require(length % (LANES * parts) == 0, f"splash attention needs {length_rule(length, parts)}.")
    mask = splash.CausalMask((length, length))
    if window is not None:
        mask = splash.LocalMask((length, length), (window - 1, 0), offset=0)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * num_heads),
        block_sizes=block_sizes(length, window, parts),
        head_shards=head_parts,
        q_seq_shards=parts,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )


def length_rule(length: int, parts: int) -> str:
    """What a sequence must be, and is not, in words."""
    split = f" over sequence = {parts} devices" if parts > 1 else ""
    return f"sequences of a multiple of {LANES} tokens on each device, and {length}{split} are not"


def block_sizes(length: int, window: int | None, parts: int) -> splash.BlockSizes:
    """Blocks that divide a part of the sequence, no wider than the band where there is one: two
    blocks of its width hold a query's window, and wider ones would be mostly masked.
    """
    most = MAX_BLOCK if window is None else min(MAX_BLOCK, max(LANES, window))
    units = length // parts // LANES
    block = LANES * max(n for n in range(1, most // LANES + 1) if units % n == 0)
    fused = window is None and length // block <= MAX_FUSED
    return splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=None if fused else block,
        block_kv_dq=None if fused else block,
        use_fused_bwd_kernel=fused,
    )
