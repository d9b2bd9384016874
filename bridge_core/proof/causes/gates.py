"""The search for gates: an array times an activation of another one, which may be spread over space."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.expressions import Expression, Step, Term, spread_over
from bridge_core.proof.causes.search import MAX_CHAINED, POINTWISE, Search, accepted, activation
from bridge_core.state import Array

__all__ = ["gates"]

GATES = (None, "sigmoid", "hard_sigmoid", "tanh", "hard_sigmoid_keras", "relu", "silu", "gelu", "softmax")
POOLED: tuple[Step, ...] = (
    ("tokens", {"take": "mean"}),
    ("tokens", {"take": "max"}),
    ("tokens", {"take": "sum"}),
)


def gates(search: Search) -> Iterator[Expression]:
    """Yield gated arrays: of the observed shape, or pooled over space to it; and x + gate * (y - x)."""
    bases = [(n, a) for n in search.bases if (a := search.arrays[n]).dtype.kind == "f"][:MAX_CHAINED]
    shape = search.observed.shape
    for (one, first), (other, second) in itertools.permutations(bases, 2):
        gate = spread_over(second, first)
        if gate is None or (gate.shape == first.shape and first.shape == shape):
            continue
        if first.shape == shape:
            afters: tuple[tuple[Step, ...], ...] = ((),)
        elif len(first.shape) > 2 and shape == (first.shape[0], first.shape[-1]):
            afters = tuple((step,) for step in POOLED)
        else:
            continue
        for name, function in itertools.product(GATES, (None, *POINTWISE)):
            if not search.work.allows(8 * first.size):
                return
            value = _activated(first, function) * _activated(gate, name)
            terms = (_term(one, function), _term(other, name))
            cost = 2.0 + 0.1 * (name not in (None, "sigmoid"))
            for after in afters:
                yield from accepted(
                    search, _pooled(value, after), Expression(terms, "product", after, cost=cost)
                )
    yield from _mixtures(search)


def _mixtures(search: Search) -> Iterator[Expression]:
    """Yield gate * y + (1 - gate) * x."""
    shape = search.observed.shape
    bases = [(n, a) for n in search.bases if (a := search.arrays[n]).shape == shape and a.dtype.kind == "f"][
        :4
    ]
    few = {name: search.at_few(array) for name, array in bases}
    for (gate, g), (one, x), (other, y) in itertools.permutations(bases, 3):
        for name, function, second in itertools.product(
            ("sigmoid", "tanh", "hard_sigmoid"), FUNCTIONS, FUNCTIONS
        ):
            if not search.work.allows(16 * len(few[gate])):
                return
            share = _activated(few[gate], name)
            mixed = share * _activated(few[one], function) + (1 - share) * _activated(few[other], second)
            if search.promises(mixed):
                share = _activated(g, name)
                value = share * _activated(x, function) + (1 - share) * _activated(y, second)
                terms = (_term(gate, name), _term(one, function), _term(other, second))
                yield from accepted(search, value, Expression(terms, "mixture", cost=3))


FUNCTIONS = (None, "relu", "tanh", "gelu", "gelu_tanh", "silu", "sigmoid")


def _term(name: str, function: str | None) -> Term:
    return Term(name, () if function is None else (activation(function),))


def _activated(array: Array, function: str | None) -> Array:
    with np.errstate(all="ignore"):
        return array if function is None else ACTIVATIONS[function](array)


def _pooled(value: Array, after: tuple[Step, ...]) -> Array:
    for _, settings in after:
        axes = tuple(range(1, value.ndim - 1))
        take = settings["take"]
        if take == "max":
            value = np.asarray(np.max(value, axis=axes))
        else:
            value = np.asarray(np.mean(value, axis=axes) if take == "mean" else np.sum(value, axis=axes))
    return value
