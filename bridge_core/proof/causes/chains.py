"""The search for chains: an activation, a pool and a change of shape, on an array or a sum of two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.expressions import STEPS, Expression, Step, Term
from bridge_core.proof.causes.forms import identify
from bridge_core.proof.causes.pools import fitted_slope, pool_settings
from bridge_core.proof.causes.search import MAX_CHAINED, POINTWISE, Search, accepted, activation
from bridge_core.state import Array

__all__ = ["chains"]


def chains(search: Search) -> Iterator[Expression]:
    """Yield chains of an activation, a pool, and a change of shape; on arrays and on sums of two.

    After the first activation that fits, the others are tried with the same steps after them only.
    """
    for terms, value in _starts(search):
        if not _reachable(value.shape, search.observed.shape):
            continue
        for first, activated in _activated(search, value):
            hits = list(_shaped(search, terms, first, activated))
            yield from hits
            if hits:
                yield from _others(search, terms, value, hits[0].after[len(first) :])
                return


def _others(
    search: Search, terms: tuple[Term, ...], value: Array, rest: tuple[Step, ...]
) -> Iterator[Expression]:
    for step, activated in _activated(search, value):
        moved = activated
        for family, settings in rest:
            moved = STEPS[family].compute(moved, search.weights, settings)
        expression = Expression(terms, after=(*step, *rest), cost=len(terms) + 1.5)
        yield from accepted(search, moved, expression)


def _starts(search: Search) -> Iterator[tuple[tuple[Term, ...], Array]]:
    bases = [(n, search.arrays[n]) for n in search.bases if search.arrays[n].dtype.kind == "f"][:MAX_CHAINED]
    for name, value in bases:
        yield (Term(name),), value
    for (one, first), (other, second) in itertools.combinations(bases[:3], 2):
        if first.shape == second.shape:
            yield (Term(one), Term(other)), first + second


def _reachable(shape: tuple[int, ...], observed: tuple[int, ...]) -> bool:
    """Return whether pooling and reordering can turn one shape into another."""
    if not shape or not observed or shape[0] != observed[0]:
        return False
    if math.prod(shape) == math.prod(observed):
        return True
    pooled = len(shape) > 2 and math.prod(shape) > math.prod(observed)
    return pooled and math.prod(observed) % (shape[0] * shape[-1]) == 0


def _activated(search: Search, value: Array) -> Iterator[tuple[tuple[Step, ...], Array]]:
    yield (), value
    alike = value.shape == search.observed.shape
    few = search.at_few(value) if alike else value
    for name in POINTWISE:
        if not search.work.allows(8 * few.size):
            return
        compute = ACTIVATIONS[name]
        with np.errstate(all="ignore"):
            if not alike or search.promises(compute(few)):
                yield (activation(name),), compute(value)
    if alike:
        slope = fitted_slope(value, search.observed)
        if slope is not None:
            yield (activation(f"leaky_relu({slope:g})"),), np.where(value > 0, value, slope * value)


def _shaped(
    search: Search, terms: tuple[Term, ...], steps: tuple[Step, ...], value: Array
) -> Iterator[Expression]:
    cost = len(terms) + len(steps)
    if value.shape == search.observed.shape:
        yield from accepted(search, value, Expression(terms, after=steps, cost=cost))
        return
    if not search.work.allows(8 * value.size):
        return
    how = _possible(value, search.observed, search.limit)
    for name in ("tokens", "pool"):
        task = replace(search.task(value), stated=({"how": how},))
        for form in identify(STEPS[name], task)[:4]:
            yield Expression(terms, after=(*steps, (name, form.settings)), cost=cost + form.cost)
    if how != "average":
        yield from _reordered(search, terms, steps, value, cost)
    if value.ndim > 3 and search.observed.ndim == 2 and value.size > search.observed.size:
        for settings, pooled in _pools_to(search, value):
            yield from _reordered(search, terms, (*steps, ("pool", settings)), pooled, cost + 1)


def _reordered(
    search: Search, terms: tuple[Term, ...], steps: tuple[Step, ...], value: Array, cost: float
) -> Iterator[Expression]:
    family = STEPS["rearrange"]
    for settings, more in family.candidates(search.task(value)):
        if not search.work.allows(2 * value.size):
            return
        moved = family.compute(value, {}, settings)
        expression = Expression(terms, after=(*steps, ("rearrange", settings)), cost=cost + more)
        yield from accepted(search, moved, expression)


def _pools_to(search: Search, value: Array) -> Iterator[tuple[Mapping[str, object], Array]]:
    """Yield pooled arrays with as many values as the observed one."""
    count = search.observed.size // (value.shape[0] * value.shape[-1])
    if count * value.shape[0] * value.shape[-1] != search.observed.size:
        return
    how = _possible(value, search.observed, search.limit)
    task = replace(search.task(value), stated=({"how": how},))
    for outputs in _areas(count, value.shape[1:-1]):
        strides = [length / size for length, size in zip(value.shape[1:-1], outputs, strict=True)]
        if max(strides) > 4 or max(strides) - min(strides) > 1.5:
            continue
        for settings, _ in pool_settings(task, outputs, (2, 3)):
            if not search.work.allows(4 * search.observed.size * math.prod(settings["window"])):
                return
            pooled = STEPS["pool"].compute(value, {}, settings)
            if _alike(pooled, search.observed, search.limit):
                yield settings, pooled


def _possible(value: Array, observed: Array, limit: float) -> str:
    """Return what kind of pool may lie between two arrays: max pools only return values that they got."""
    flat = observed.reshape(-1)
    few = flat[flat != 0][:: max(1, flat.size // 32)]
    values = np.sort(value.reshape(-1))
    if not few.size or np.mean(flat == 0) > np.mean(values == 0) + 0.1:
        return "any"
    place = np.clip(np.searchsorted(values, few), 1, values.size - 1)
    off = np.minimum(np.abs(values[place] - few), np.abs(values[place - 1] - few))
    return "max" if np.max(off) <= limit * np.max(np.abs(flat)) else "average"


def _areas(count: int, lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield sizes of axes of space, smaller than the lengths, that multiply to a count."""
    if len(lengths) == 1:
        if count <= lengths[0]:
            yield (count,)
        return
    for first in range(1, lengths[0] + 1):
        if count % first == 0:
            for rest in _areas(count // first, lengths[1:]):
                yield (first, *rest)


def _alike(pooled: Array, observed: Array, limit: float) -> bool:
    """Return whether two arrays may hold the same values in some order, or one with dropped values."""
    with np.errstate(all="ignore"):
        if float(np.mean(observed == 0)) > float(np.mean(pooled == 0)) + 0.01:
            return float(np.max(np.abs(pooled))) <= 1.001 * float(np.max(np.abs(observed)))
        sums = abs(float(np.sum(pooled)) - float(np.sum(observed)))
    return sums <= 10 * limit * float(np.sum(np.abs(observed)))
