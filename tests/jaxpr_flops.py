"""Floating-point operations counted in what JAX has traced, with no formula of ours."""

import math

import jax
from jax.extend.core import jaxprs_in_params


def dot_flops(function, *args):
    """FLOPs, two per multiply-add, of the matrix products of one call; loops by their length."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(eqn.outvars[0].aval.shape)
        assert eqn.primitive.name != "while", "a loop of unknown length cannot be counted"
        inner = sum(_count(sub) for sub in jaxprs_in_params(eqn.params))
        total += eqn.params.get("length", 1) * inner if eqn.primitive.name == "scan" else inner
    return total
