"""What is trained of a parameter tree: adapters and how they are merged, and what is frozen.

A run's parameters are one tree, {**base, "adapters": {...}} where there are adapters, so that a
checkpoint of it is whole without the model that it started from. The adapters of the matrix
layers/0/attention/qkv are adapters/layers/0/attention/qkv_a and qkv_b. Gradients and the
optimizer's state are of the trained leaves alone.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from gpt_jax.config import Config, TuneConfig, nearest, require

ADAPTERS = "adapters"
CLASSIFIER = "classifier"
BESIDE = (ADAPTERS, CLASSIFIER)
"""What lies beside the model's own parameters in the tree of a run."""
INPUT_AXES = {"qkv": 1, "out": 2, "up": 1, "down": 1}
"""Axes of each matrix, after that of the layers, that are its input; the others are its output."""


def with_adapters(params: Any, key: Array, tune: TuneConfig) -> Any:
    """`params` with adapters that change nothing yet: A is drawn, B is zero.

    Of a matrix (L, in, out), A is (L, in, r) and B (L, r, out), `in` and `out` being one axis or
    several; A's elements have the variance 1 / in. Where `params` are boxed with their logical
    axes, A has those of the input and B those of the output, and r is whole.
    """
    if tune.lora_rank == 0:
        return params
    adapters = {}
    for index, (name, leaf) in enumerate(sorted(_flat(params).items())):
        path = name.split("/")
        if path[0] != "layers" or path[-1] not in tune.lora_matrices:
            continue
        boxed = isinstance(leaf, nn.LogicallyPartitioned)
        value, axes = (leaf.value, leaf.names) if boxed else (leaf, None)
        cut = 1 + INPUT_AXES[path[-1]]
        shape_a = (*value.shape[:cut], tune.lora_rank)
        shape_b = (value.shape[0], tune.lora_rank, *value.shape[cut:])
        draw = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=range(1, cut), out_axis=cut, batch_axis=0
        )
        a, b = draw(jax.random.fold_in(key, index), shape_a), jnp.zeros(shape_b)
        if axes is not None:
            a = nn.LogicallyPartitioned(a, (*axes[:cut], None))
            b = nn.LogicallyPartitioned(b, (axes[0], None, *axes[cut:]))
        adapters[f"{name}_a"], adapters[f"{name}_b"] = a, b
    return {**params, ADAPTERS: _tree(adapters)}


def effective(params: Any, config: Config) -> Any:
    """The plain tree that `GPT(config.model).apply` takes: adapters are merged into the matrices,
    and a classifier is left out.

    W + lora_alpha / lora_rank A B, the product in float32, the sum in W's dtype.
    """
    plain = {name: leaf for name, leaf in params.items() if name not in BESIDE}
    if ADAPTERS not in params:
        return plain if CLASSIFIER in params else params
    merged = _flat(plain)
    adapters, scale = _flat(params[ADAPTERS]), config.tune.lora_alpha / config.tune.lora_rank
    for name in [name.removesuffix("_a") for name in adapters if name.endswith("_a")]:
        change = scale * _product(adapters[f"{name}_a"], adapters[f"{name}_b"])
        merged[name] = (merged[name] + change).astype(merged[name].dtype)
    return _tree(merged)


def _product(a: Array, b: Array) -> Array:
    """A B of each layer: (L, in, r) and (L, r, out) to (L, in, out)."""
    axes = (((a.ndim - 1,), (1,)), ((0,), (0,)))
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(a, b, axes, precision=jax.lax.Precision.HIGHEST)


def split(params: Any, tune: TuneConfig) -> tuple[Any, Any]:
    """(the trained leaves, the frozen ones), two trees of dicts without empty branches.

    Raises InputError where a pattern of `tune.freeze` matches no parameter, or nothing is trained.
    """
    if tune.lora_rank == 0 and not tune.freeze:
        return params, {}
    flat = _flat(params)
    trained = _trained(flat, tune)
    return (
        _tree({name: leaf for name, leaf in flat.items() if name in trained}),
        _tree({name: leaf for name, leaf in flat.items() if name not in trained}),
    )


def join(trained: Any, frozen: Any) -> Any:
    """The tree of which `split` made two."""
    return _tree(_flat(trained) | _flat(frozen)) if frozen else trained


def _trained(names: Iterable[str], tune: TuneConfig) -> set[str]:
    """Those of the names that are trained."""
    names = set(names)
    kept = {name for name in names if tune.lora_rank == 0 or name.split("/")[0] in BESIDE}
    for pattern in tune.freeze:
        matched = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        require(
            bool(matched),
            f"tune.freeze must match a parameter, and {pattern!r} matches none: "
            f"{nearest(pattern, names)}",
        )
        kept -= matched
    require(
        bool(kept),
        f"something must be trained, and tune.freeze matches all of it: {', '.join(tune.freeze)}.",
    )
    return kept


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def _tree(flat: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(flat, sep="/")
