"""The search for the expression that computes an observed array from those that were recorded before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.chains import chains
from bridge_core.proof.causes.concatenations import concatenations
from bridge_core.proof.causes.expressions import STEPS, Expression, Step, Term, evaluate
from bridge_core.proof.causes.forms import Form, identify, near_best
from bridge_core.proof.causes.gates import gates
from bridge_core.proof.causes.linears import likely
from bridge_core.proof.causes.measures import fits, relative_error, typical_error
from bridge_core.proof.causes.remainders import remainders
from bridge_core.proof.causes.search import MAX_CHAINED, Search, accepted
from bridge_core.proof.causes.side_parts import SIDES
from bridge_core.proof.causes.sides import Side
from bridge_core.proof.causes.sums import pairs, sums
from bridge_core.proof.causes.work import Work
from bridge_core.state import Array

__all__ = ["Expressions", "bases_of", "expressions_of"]

MAX_BASES = 16

LEVEL = 150_000_000
"""Values that each level of a search may compute: half a second, about."""

Expressions = list[tuple[Expression, Form]]


def bases_of(side: Side) -> tuple[str, ...]:
    """Return the names of the arrays from which a side may compute, the latest outputs first.

    Of arrays that are equal only the first is named.
    """
    names = [name for name in side.arrays if not name.startswith("weight ")]
    own = [n for n in names if n.startswith(SIDES)]
    shared = [n for n in names if n not in own]
    order = [
        *(n for n in reversed(shared) if " output" in n),
        *(n for n in shared if n.startswith("input ")),
        *(n for n in shared if " input" in n),
        *reversed(own),
    ]
    chosen: list[str] = []
    for name in dict.fromkeys(order):
        array = side.arrays[name]
        if not array.size or array.ndim == 0:
            continue
        if any(fits(array, side.arrays[one], 1e-7) for one in chosen):
            continue
        chosen.append(name)
    return tuple(chosen[:MAX_BASES])


def expressions_of(side: Side, bases: tuple[str, ...], limit: float, precision: float) -> Expressions:
    """Return the expressions that reproduce a side's observed array, the likeliest first.

    Simple ones are tried first, and where one fits, longer ones are not tried.
    """
    search = _cut(Search(side.arrays, side.observed, bases, limit, precision))
    for level in (_single, sums, pairs, concatenations, gates, chains, remainders):
        reproducing: Expressions = []
        for expression in itertools.islice(level(replace(search, work=Work(LEVEL))), 200):
            form = _judged(expression, side, limit)
            if form is not None:
                reproducing.append((expression, form))
        if reproducing:
            best = near_best([form for _, form in reproducing], precision)
            return sorted(
                (pair for pair in reproducing if any(pair[1] is form for form in best)),
                key=lambda pair: pair[1].cost,
            )
    return []


def _cut(search: Search) -> Search:
    """Return the search on the first sample, if all arrays have as many samples as the observed one."""
    count = search.observed.shape[0] if search.observed.ndim > 1 else 0
    used = [search.arrays[name] for name in search.bases]
    if count < 2 or search.observed.size < 4096 or any(array.shape[:1] != (count,) for array in used):
        return search
    arrays = {n: a if n.startswith("weight ") else a[:1] for n, a in search.arrays.items()}
    return replace(search, arrays=arrays, observed=search.observed[:1])


def _judged(expression: Expression, side: Side, limit: float) -> Form | None:
    with np.errstate(all="ignore"):
        try:
            value = evaluate(expression, side.arrays, side.observed)
        except (ValueError, KeyError, IndexError):
            return None
    if not fits(value, side.observed, limit):
        return None
    error, typical = relative_error(side.observed, value), typical_error(side.observed, value)
    return Form(expression.slots(), expression.cost, error, typical)


def _single(search: Search) -> Iterator[Expression]:
    """Yield an array unchanged or scaled, and one step on an array."""
    for place, name in enumerate(search.bases):
        array, cost = search.arrays[name], 0.01 * place
        yield from accepted(search, array, Expression((Term(name),), cost=cost))
        if array.shape == search.observed.shape and array.dtype.kind == "f":
            yield from _scaled(search, name, array, cost)
        for family in STEPS.values():
            if family.name in ("norm", "linear") and place >= MAX_CHAINED:
                continue
            for form in identify(family, search.task(array))[:8]:
                yield Expression((Term(name),), after=((family.name, form.settings),), cost=cost + form.cost)


def _scaled(search: Search, name: str, array: Array, cost: float) -> Iterator[Expression]:
    squares = float(np.sum(array * array))
    if squares:
        factor = float(np.sum(array * search.observed)) / squares
        factor = likely(factor, (array.shape[-1],), 1e-5, search.precision)
        if factor and fits(factor * array, search.observed, search.limit):
            yield Expression((Term(name, factor=factor),), cost=cost + 0.2)
        for cap in _caps(array, search.observed):
            step: Step = ("activation", {"slope": None, "activation": f"softcap({cap:g})"})
            yield Expression((Term(name),), after=(step,), cost=cost + 0.3)
    for weight, value in search.weights.items():
        if value.size == array.shape[-1] and fits(array * value.reshape(-1), search.observed, search.limit):
            yield Expression((Term(name, factor=f"weight {weight}"),), cost=cost + 0.2)


def _caps(x: Array, observed: Array) -> Iterator[float]:
    """Yield c of ``c * tanh(x / c)``, found at the largest value."""
    place = np.unravel_index(int(np.argmax(np.abs(x))), x.shape)
    value, seen = abs(float(x[place])), abs(float(observed[place]))
    if not 0 < seen < value:
        return
    low, high = seen, 1e6
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if middle * np.tanh(value / middle) < seen else (low, middle)
    yield float(f"{low:.4g}")
    yield low
