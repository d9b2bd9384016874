"""Evaluating a traced computation one operation at a time, where a rule may compute some in another way.

Functions that JAX compiles or differentiates by themselves are evaluated in place, loops and branches with
the rule inside them. What only the derivative needs is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

__all__ = ["Rule", "draws_numbers", "evaluate", "float_dtypes", "inner_jaxprs"]

_INLINE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
}


class Rule(Protocol):
    """How operations are computed."""

    def value(self, value: Any) -> Any:
        """Return a constant or an input as it enters the computation."""

    def compute(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Return the results of one operation without an inner computation."""


def evaluate(closed: ClosedJaxpr, args: Sequence[Any], rule: Rule) -> list[Any]:
    """Return the results of a traced computation.

    Args:
        closed: The computation, as of `jax.make_jaxpr`.
        args: Its inputs, flat.
        rule: How its operations are computed.
    """
    jaxpr = closed.jaxpr
    values: dict[Any, Any] = {}
    unused = _unused(jaxpr)
    last = {}
    for place, eqn in enumerate(jaxpr.eqns):
        if place in unused:
            continue
        for var in eqn.invars:
            if not isinstance(var, Literal):
                last[var] = place
    results = {var for var in jaxpr.outvars if not isinstance(var, Literal)}

    def read(var: Any) -> Any:
        return rule.value(var.val) if isinstance(var, Literal) else values[var]

    for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
        values[var] = rule.value(value)
    for var, value in zip(jaxpr.invars, args, strict=True):
        values[var] = rule.value(value)
    for place, eqn in enumerate(jaxpr.eqns):
        if place in unused:
            continue
        computed = _compute(eqn, [read(var) for var in eqn.invars], rule)
        values.update(zip(eqn.outvars, computed, strict=True))
        for var in {var for var in eqn.invars if not isinstance(var, Literal)}:
            if last[var] == place and var not in results:
                del values[var]  # as much memory as the model itself needs
    return [read(var) for var in jaxpr.outvars]


def _unused(jaxpr: Any) -> set[int]:
    """Return the places of operations whose results nobody needs, such as a seed that is not drawn from."""
    needed = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    places = set()
    for place in range(len(jaxpr.eqns) - 1, -1, -1):
        eqn = jaxpr.eqns[place]
        if eqn.effects or any(var in needed for var in eqn.outvars):
            needed.update(var for var in eqn.invars if not isinstance(var, Literal))
        else:
            places.add(place)
    return places


def _compute(eqn: Any, inputs: list[Any], rule: Rule) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in _INLINE and _INLINE[name] in params:
        return evaluate(_closed(params[_INLINE[name]]), inputs, rule)
    if name == "scan":
        return _scan(params, inputs, rule)
    if name == "while":
        return _while(params, inputs, rule)
    if name == "cond":
        index, *operands = inputs
        branches = [_function(branch, rule) for branch in params["branches"]]
        return list(jax.lax.switch(index, branches, *operands))
    return rule.compute(eqn, inputs)


def _scan(params: Any, inputs: list[Any], rule: Rule) -> list[Any]:
    consts, carry = params["num_consts"], params["num_carry"]
    step = _function(params["jaxpr"], rule)

    def body(state: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
        results = step(*inputs[:consts], *state, *rows)
        return results[:carry], results[carry:]

    initial = [rule.value(value) for value in inputs[consts : consts + carry]]
    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    final, rows = jax.lax.scan(body, initial, inputs[consts + carry :], **options)
    return [*final, *rows]


def _while(params: Any, inputs: list[Any], rule: Rule) -> list[Any]:
    of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
    cond = _function(params["cond_jaxpr"], rule)
    body = _function(params["body_jaxpr"], rule)
    for_cond, for_body = inputs[:of_cond], inputs[of_cond : of_cond + of_body]
    initial = [rule.value(value) for value in inputs[of_cond + of_body :]]
    return list(
        jax.lax.while_loop(
            lambda state: cond(*for_cond, *state)[0], lambda state: body(*for_body, *state), initial
        )
    )


def _function(closed: Any, rule: Rule) -> Any:
    return lambda *args: evaluate(closed, args, rule)


def _closed(jaxpr: Any) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def inner_jaxprs(eqn: Any) -> list[Any]:
    """Return the computations inside an operation."""
    inner = []
    for param in eqn.params.values():
        for value in param if isinstance(param, list | tuple) else (param,):
            if hasattr(value, "eqns"):
                inner.append(value)
            elif hasattr(value, "jaxpr") and hasattr(value.jaxpr, "eqns"):
                inner.append(value.jaxpr)
    return inner


def draws_numbers(jaxpr: Any) -> bool:
    """Return whether a computation draws random numbers."""
    return any(
        eqn.primitive.name in ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform")
        or any(draws_numbers(inner) for inner in inner_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


def float_dtypes(jaxpr: Any) -> set[str]:
    """Return the names of all float dtypes that the operations of a computation give."""
    names = set()
    for eqn in jaxpr.eqns:
        dtypes = (getattr(var.aval, "dtype", None) for var in eqn.outvars)
        names |= {str(dtype) for dtype in dtypes if dtype is not None and jnp.issubdtype(dtype, jnp.floating)}
        for inner in inner_jaxprs(eqn):
            names |= float_dtypes(inner)
    return names
