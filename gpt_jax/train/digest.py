"""A digest of every array of a tree, computed where the array lives.

A checkpoint is written through host memory, a file system and often a network, and Orbax gives back
whatever bytes it finds: a flipped bit in a saved array is a wrong value and no error. So each array
is digested on its devices before it leaves them and again after it is back.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

SEEDS = (0x9E3779B9, 0x7F4A7C15)
"""Two sums of 32 bits each, told apart by how they hash positions, make one digest of 64 bits."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path: {"opt_state/0/mu/w": leaf, ...}, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def tree_digest(tree: Any) -> dict[str, str]:
    """Path -> 16 hex digits, for every array of `tree`, of its bits, shape and dtype.

    Each element's bits are hashed together with its position, and the hashes are summed modulo
    2**32. Integer sums do not depend on their order, so neither does the digest on sharding or
    device count, and no array is copied to the host or gathered: 8 bytes per array are fetched.
    This waits for the arrays to be computed. Where they lie on several hosts, each must ask, and
    each gets the same digests.

    One changed element, hence any one flipped bit, changes the digest for certain: at a fixed
    position the hash is one-to-one. Any other damage (swapped elements, a zeroed block, a cast, an
    array of another step) goes unseen with a chance of about 2**-64. It is no protection against
    somebody who wants to deceive: the hash has no key and is easily inverted.

    Args:
      tree: jax arrays of any shape and sharding, of real or boolean dtypes of 8 to 64 bits.
    """
    leaves = named_leaves(tree)
    if not leaves:
        return {}
    digests, sums = {}, np.asarray(_sums_of(list(leaves.values())))
    for (path, leaf), pair in zip(leaves.items(), sums, strict=True):
        kind = hashlib.blake2b(f"{leaf.dtype}{leaf.shape}".encode(), digest_size=8)
        high, low = map(int, pair)
        digests[path] = f"{int(kind.hexdigest(), 16) ^ (high << 32 | low):016x}"
    return digests


def _sums_of(leaves: list[jax.Array]) -> jax.Array:
    """`_sums`, whole on every device, so that each of several hosts can read it."""
    sharding = leaves[0].sharding
    if not isinstance(sharding, NamedSharding):
        return _program(None)(leaves)
    return _program(NamedSharding(sharding.mesh, PartitionSpec()))(leaves)


@functools.cache
def _program(out: NamedSharding | None) -> Callable[[list[jax.Array]], jax.Array]:
    return jax.jit(_sums, out_shardings=out)


def _sums(leaves: list[jax.Array]) -> jax.Array:
    """(len(leaves), 2) uint32: each array's sum of hashes under either seed."""
    return jnp.stack([jnp.stack([_sum(leaf, seed) for seed in SEEDS]) for leaf in leaves])


def _sum(x: jax.Array, seed: int) -> jax.Array:
    words = jnp.atleast_1d(_words(x))
    # Rows and columns are hashed apart, as one linear index would wrap around in a stacked layer
    # of more than 2**32 elements.
    shape, row = words.shape, jnp.uint32(0)
    for axis, size in enumerate(shape[:-1]):
        row = row * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    column = lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    place = _mix(_mix(row + jnp.uint32(seed)) ^ column)
    return jnp.sum(_mix(words ^ place), dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32: zero-extended if narrower, two along a last axis if 64 wide."""
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    width = 8 * min(x.dtype.itemsize, 4)
    return lax.bitcast_convert_type(x, f"uint{width}").astype(jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
    """MurmurHash3's finaliser: one-to-one on uint32, every input bit reaches every output bit."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
