"""The search for sums and products of recorded arrays and weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.expressions import Expression, Term
from bridge_core.proof.causes.linears import likely
from bridge_core.proof.causes.search import (
    MAX_CHAINED,
    POINTWISE,
    Search,
    accepted,
    activation,
    dropped_share,
)
from bridge_core.state import Array

__all__ = ["pairs", "sums"]

FEW = 512
"""Values by which sums are fitted."""


def _atoms(search: Search) -> list[tuple[Term, Array]]:
    """Return the terms of which a sum may consist, with their values in the observed shape."""
    shape = search.observed.shape
    atoms: list[tuple[Term, Array]] = []
    for name in search.bases:
        array = search.arrays[name]
        if array.shape == shape and array.dtype.kind == "f":
            atoms.append((Term(name), array))
            atoms += [
                (Term(name, factor=f"weight {weight}"), array * value.reshape(-1))
                for weight, value in search.weights.items()
                if value.size == shape[-1] and len(search.weights) < 8
            ]
    for name, weight in search.weights.items():
        if weight.size == shape[-1]:
            atoms.append((Term(f"weight {name}"), np.broadcast_to(weight.reshape(-1), shape)))
        elif len(shape) == 3 and weight.shape[-1:] == shape[-1:] and weight.size > shape[-1]:
            rows = weight.reshape(-1, shape[-1])
            for first in range(min(len(rows) - shape[1], 8) + 1):
                cut = rows[first : first + shape[1]]
                atoms.append((Term(f"weight {name}", rows=(first, shape[1])), np.broadcast_to(cut, shape)))
    return atoms[:40]


def sums(search: Search) -> Iterator[Expression]:
    """Yield sums of two and three terms with fitted factors, and activations of sums of two."""
    atoms = _atoms(search)
    if len(atoms) < 2 or search.observed.dtype.kind != "f":
        return
    flat = search.observed.reshape(-1)
    few = np.linspace(0, flat.size - 1, min(FEW, flat.size)).astype(np.int64)
    seen = flat[few]
    columns = [value.reshape(-1)[few] for _, value in atoms]
    scale = float(np.max(np.abs(flat)))
    positive = seen > 0
    for number in (2, 3):
        hits = 0
        for chosen in itertools.combinations(range(len(atoms)), number):
            if len(chosen) == 3 and not all(isinstance(atoms[i][0].factor, float) for i in chosen):
                continue
            if not search.work.allows(8 * FEW):
                return
            matrix = np.stack([columns[i] for i in chosen], 1)
            for rows, step in ((slice(None), None), (positive, "relu")):
                if step and (not (seen >= 0).all() or not (seen == 0).any() or positive.sum() < 8):
                    continue
                factors, *_ = np.linalg.lstsq(matrix[rows], seen[rows], rcond=None)
                if not np.max(np.abs(matrix[rows] @ factors - seen[rows])) <= 4 * search.limit * scale:
                    continue
                sizes = (search.observed.shape[-1],)
                terms = [
                    _with_factor(atoms[i][0], likely(float(f), sizes, 1e-4, search.precision))
                    for i, f in zip(chosen, factors, strict=True)
                ]
                if any(term is None for term in terms):
                    continue
                after = (("activation", {"slope": None, "activation": step}),) if step else ()
                unusual = sum(t is not None and t.factor != 1.0 for t in terms)
                yield Expression(
                    tuple(t for t in terms if t is not None), after=after, cost=number + 0.1 * unusual
                )
                hits += 1
        if hits:
            return
    yield from _activated_sums(search, atoms)
    yield from _dropped_sums(search, atoms)


def _with_factor(term: Term, factor: float) -> Term | None:
    if factor == 0.0:
        return None
    if isinstance(term.factor, str):
        return term if factor == 1.0 else None
    return replace(term, factor=factor)


def _activated_sums(search: Search, atoms: list[tuple[Term, Array]]) -> Iterator[Expression]:
    """Yield f(x + y), and x + f(y)."""
    for (place, (one, first)), (after, (other, second)) in itertools.permutations(enumerate(atoms[:8]), 2):
        left, right = search.at_few(first), search.at_few(second)
        for name in POINTWISE:
            if not search.work.allows(16 * left.size):
                return
            compute = ACTIVATIONS[name]
            with np.errstate(all="ignore"):
                if place < after and search.promises(compute(left + right)):
                    outer = Expression((one, other), after=(activation(name),), cost=3)
                    yield from accepted(search, compute(first + second), outer)
                inner = replace(other, steps=(*other.steps, activation(name)))
                if search.promises(left + compute(right)):
                    yield from accepted(search, first + compute(second), Expression((one, inner), cost=3))
                elif isinstance(other.factor, float):
                    yield from _scaled_branch(search, (one, inner), left, compute(right))


def _scaled_branch(
    search: Search, terms: tuple[Term, Term], first: Array, second: Array
) -> Iterator[Expression]:
    """Yield x + factor * f(y): a number, or a weight of one value or one for each feature."""
    rest, scale = search.seen - first, float(np.max(np.abs(search.seen)))
    squares = float(np.dot(second, second))
    if not squares or not np.isfinite(squares):
        return
    columns = search.few % search.observed.shape[-1]
    for name, weight in search.weights.items():
        flat = weight.reshape(-1)
        if flat.size in (1, search.observed.shape[-1]):
            factors = flat[columns % flat.size]
            if np.max(np.abs(factors * second - rest)) <= 2 * search.limit * scale:
                yield Expression((terms[0], replace(terms[1], factor=f"weight {name}")), cost=3)
    factor = float(np.dot(second, rest)) / squares
    if factor and np.max(np.abs(factor * second - rest)) <= 2 * search.limit * scale:
        exact = likely(factor, (search.observed.shape[-1],), 1e-4, search.precision)
        yield Expression((terms[0], replace(terms[1], factor=exact)), cost=3.2)


def _dropped_sums(search: Search, atoms: list[tuple[Term, Array]]) -> Iterator[Expression]:
    """Yield x + dropout(y): what is not x is y over 1 - p, or nothing."""
    scale = float(np.max(np.abs(search.observed)))
    for (one, first), (other, second) in itertools.permutations(atoms[:8], 2):
        if not search.work.allows(8 * first.size):
            return
        rest = search.observed - first
        rest = np.where(np.abs(rest) <= search.limit * scale, 0.0, rest)
        share = dropped_share(
            second, rest, search.limit * 4 * scale / max(float(np.max(np.abs(rest))), 1e-30)
        )
        if share is not None:
            yield Expression((one, replace(other, dropout=share)), cost=3)


def _product(search: Search, value: Array, expression: Expression) -> Iterator[Expression]:
    """Yield a product that is the observed array, or is it but for a factor."""
    found = list(accepted(search, value, expression))
    yield from found
    squares = float(np.sum(value * value))
    if found or not squares or not np.isfinite(squares):
        return
    factor = likely(
        float(np.sum(value * search.observed)) / squares, (value.shape[-1],), 1e-4, search.precision
    )
    first, *others = expression.terms
    scaled = replace(expression, terms=(replace(first, factor=factor), *others), cost=expression.cost + 1)
    yield from accepted(search, factor * value, scaled)


def pairs(search: Search) -> Iterator[Expression]:
    """Yield products of two arrays or halves, one of them activated."""
    halves = [
        (Term(name, (("part", {"part": part, "parts": 2, "interleaved": interleaved}),)), value)
        for name in search.bases[:MAX_CHAINED]
        for interleaved, part in itertools.product((False, True), (0, 1))
        if (array := search.arrays[name]).ndim
        and array.shape[-1] == 2 * search.observed.shape[-1]
        and array.dtype.kind == "f"
        for value in [array[..., part::2] if interleaved else np.split(array, 2, axis=-1)[part]]
    ]
    whole = [
        (Term(name), search.arrays[name])
        for name in search.bases
        if search.arrays[name].shape == search.observed.shape and search.arrays[name].dtype.kind == "f"
    ]
    for (one, first), (other, second) in itertools.combinations([*halves, *whole], 2):
        if first.shape != search.observed.shape:
            continue
        left, right = search.at_few(first), search.at_few(second)
        if search.promises(left * right):
            yield from _product(search, first * second, Expression((one, other), "product", cost=1))
        for name, compute in ACTIVATIONS.items():
            whole_axis = name in ("softmax", "log_softmax")
            if not search.work.allows(8 * (first.size if whole_axis else left.size)):
                return
            for term, value, plain, factor in ((one, first, other, second), (other, second, one, first)):
                with np.errstate(all="ignore"):
                    if not whole_axis:
                        ours, theirs = (left, right) if term is one else (right, left)
                        if not search.promises(compute(ours) * theirs):
                            continue
                    product = compute(value) * factor
                gated = replace(term, steps=(*term.steps, activation(name)))
                terms = (gated, plain) if term is one else (plain, gated)
                yield from _product(search, product, Expression(terms, "product", cost=1.1))
