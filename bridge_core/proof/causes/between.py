"""The search for the expression that computes an observed array from those that were recorded before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.expressions import STEPS, Expression, Step, Term, evaluate
from bridge_core.proof.causes.forms import Form, Task, identify, near_best
from bridge_core.proof.causes.linears import likely
from bridge_core.proof.causes.measures import fits, relative_error, typical_error
from bridge_core.proof.causes.pools import fitted_slope, pool_settings
from bridge_core.proof.causes.sides import Side
from bridge_core.state import Array

__all__ = ["Expressions", "bases_of", "expressions_of"]

MAX_BASES = 16
MAX_CHAINED = 6
"""Arrays on which chains of steps are tried; of two equal arrays one is tried."""

FEW = 512
"""Values by which sums are fitted."""

POINTWISE = (
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "tanh",
    "sigmoid",
    "quick_gelu",
    "relu6",
    "leaky_relu",
    "elu",
    "softplus",
    "mish",
    "hard_swish",
    "hard_sigmoid",
    "hard_tanh",
    "selu",
    "relu_squared",
    "exp",
)
"""Activations that are tried inside of chains."""

Expressions = list[tuple[Expression, Form]]


@dataclass(frozen=True, eq=False)
class Search:
    """What one side's search sees.

    Args:
        arrays: Common name -> array, cut to one sample where that is enough.
        observed: The array to explain, cut alike.
        bases: Names of the arrays that may be used, the likeliest first; of equal ones one.
        limit: Relative error up to which an expression is accepted.
        precision: Step of the observed dtype at 1.
    """

    arrays: Mapping[str, Array]
    observed: Array
    bases: tuple[str, ...]
    limit: float
    precision: float

    @property
    def weights(self) -> dict[str, Array]:
        """The weights by name."""
        return {n.removeprefix("weight "): a for n, a in self.arrays.items() if n.startswith("weight ")}

    def task(self, x: Array) -> Task:
        """Return a task for a family of steps."""
        return Task(x, self.observed, self.weights, (), self.limit, precision=self.precision)


def bases_of(side: Side) -> tuple[str, ...]:
    """Return the names of the arrays from which a side may compute, the latest outputs first.

    Of arrays that are equal only the first is named.
    """
    names = [name for name in side.arrays if not name.startswith("weight ")]
    outputs = [n for n in names if " output" in n]
    order = [
        *reversed(outputs),
        *(n for n in names if n.startswith("input ")),
        *(n for n in names if " input" in n),
    ]
    chosen: list[str] = []
    for name in dict.fromkeys(order):
        array = side.arrays[name]
        if not array.size or array.ndim == 0:
            continue
        if any(
            array.shape == side.arrays[one].shape and relative_error(side.arrays[one], array) < 1e-7
            for one in chosen
        ):
            continue
        chosen.append(name)
    return tuple(chosen[:MAX_BASES])


def expressions_of(side: Side, bases: tuple[str, ...], limit: float, precision: float) -> Expressions:
    """Return the expressions that reproduce a side's observed array, the likeliest first.

    Simple ones are tried first, and where one fits, longer ones are not tried.
    """
    search = _cut(Search(side.arrays, side.observed, bases, limit, precision))
    for level in (_single, _sums, _pairs, _chains):
        accepted: Expressions = []
        for expression in itertools.islice(level(search), 200):
            form = _judged(expression, side, limit)
            if form is not None:
                accepted.append((expression, form))
        if accepted:
            best = near_best([form for _, form in accepted], precision)
            return sorted(
                (pair for pair in accepted if any(pair[1] is form for form in best)),
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
            value = evaluate(expression, side.arrays, side.observed == 0)
        except (ValueError, KeyError, IndexError):
            return None
    if not fits(value, side.observed, limit):
        return None
    error, typical = relative_error(side.observed, value), typical_error(side.observed, value)
    return Form(expression.slots(), expression.cost, error, typical)


def _accepted(search: Search, value: Array, expression: Expression) -> Iterator[Expression]:
    """Yield the expression if its value is the observed array, with or without dropped values."""
    if value.shape != search.observed.shape:
        return
    if fits(value, search.observed, search.limit):
        yield expression
        return
    share = dropped_share(value, search.observed, search.limit)
    if share is not None:
        yield replace(expression, dropout=share, cost=expression.cost + 1)


def dropped_share(value: Array, observed: Array, limit: float) -> float | None:
    """Return the share p if the observed array is a value of which p was dropped, the rest over 1 - p."""
    dropped = (observed == 0) & (value != 0)
    share = float(np.mean(dropped)) / max(float(np.mean(value != 0)), 1e-9)
    if observed.size < 16 or not 0.01 < share < 0.99:
        return None
    kept, seen = value[~dropped], observed[~dropped]
    with np.errstate(all="ignore"):
        factor = float(np.sum(kept * seen) / np.sum(kept * kept))
        if not factor > 1 or not fits(factor * kept, seen, limit):
            return None
    rate = 1 - 1 / factor
    return float(f"{rate:.4g}") if abs(rate - share) < 0.25 else None


def _single(search: Search) -> Iterator[Expression]:
    """Yield an array unchanged or scaled, and one step on an array."""
    for place, name in enumerate(search.bases):
        array, cost = search.arrays[name], 0.01 * place
        yield from _accepted(search, array, Expression((Term(name),), cost=cost))
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
        factor = likely(factor, (array.shape[-1],), 1e-5)
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


def _sums(search: Search) -> Iterator[Expression]:
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
            matrix = np.stack([columns[i] for i in chosen], 1)
            for rows, step in ((slice(None), None), (positive, "relu")):
                if step and (not (seen >= 0).all() or not (seen == 0).any() or positive.sum() < 8):
                    continue
                factors, *_ = np.linalg.lstsq(matrix[rows], seen[rows], rcond=None)
                if not np.max(np.abs(matrix[rows] @ factors - seen[rows])) <= 4 * search.limit * scale:
                    continue
                sizes = (search.observed.shape[-1],)
                terms = [
                    _with_factor(atoms[i][0], likely(float(f), sizes, 1e-4))
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
    for (one, first), (other, second) in itertools.combinations(atoms[:10], 2):
        total = first + second
        for name in POINTWISE:
            value = ACTIVATIONS[name](total)
            expression = Expression((one, other), after=(_activation(name),), cost=3)
            yield from _accepted(search, value, expression)


def _dropped_sums(search: Search, atoms: list[tuple[Term, Array]]) -> Iterator[Expression]:
    """Yield x + dropout(y): what is not x is y over 1 - p, or nothing."""
    scale = float(np.max(np.abs(search.observed)))
    for (one, first), (other, second) in itertools.permutations(atoms[:8], 2):
        rest = search.observed - first
        rest = np.where(np.abs(rest) <= search.limit * scale, 0.0, rest)
        share = dropped_share(
            second, rest, search.limit * 4 * scale / max(float(np.max(np.abs(rest))), 1e-30)
        )
        if share is not None:
            yield Expression((one, other), dropout=share, cost=3)


def _activation(name: str) -> Step:
    return ("activation", {"slope": None, "activation": name})


def _pairs(search: Search) -> Iterator[Expression]:
    """Yield products of two arrays or halves, one of them activated, and concatenations."""
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
        yield from _accepted(search, first * second, Expression((one, other), "product", cost=1))
        for name in ACTIVATIONS:
            for term, value, plain, factor in ((one, first, other, second), (other, second, one, first)):
                gated = replace(term, steps=(*term.steps, _activation(name)))
                terms = (gated, plain) if term is one else (plain, gated)
                with np.errstate(all="ignore"):
                    product = ACTIVATIONS[name](value) * factor
                yield from _accepted(search, product, Expression(terms, "product", cost=1.1))
    yield from _concatenations(search)


def _concatenations(search: Search) -> Iterator[Expression]:
    shape = search.observed.shape
    names = [*search.bases, *(f"weight {name}" for name in search.weights)]
    usable = [n for n in names if search.arrays[n].ndim and search.arrays[n].shape[-1] <= shape[-1]]
    for number in (2, 3):
        for chosen in itertools.permutations(usable[:10], number):
            if all(name.startswith("weight ") for name in chosen):
                continue
            for axis in range(-1, -len(shape), -1):
                expression = Expression(
                    tuple(Term(name) for name in chosen), "concat", axis=axis, cost=number
                )
                if sum(_length(search.arrays[name], axis) for name in chosen) != shape[axis]:
                    continue
                try:
                    value = evaluate(expression, search.arrays)
                except (ValueError, IndexError):
                    continue
                yield from _accepted(search, value, expression)


def _length(array: Array, axis: int) -> int:
    return array.shape[axis] if -axis <= array.ndim else 1


def _chains(search: Search) -> Iterator[Expression]:
    """Yield chains of an activation, a pool, and a change of shape; on arrays and on sums of two."""
    for terms, value in _starts(search):
        for first, activated in _activated(value, search.observed):
            yield from _shaped(search, terms, first, activated)


def _starts(search: Search) -> Iterator[tuple[tuple[Term, ...], Array]]:
    bases = [(n, search.arrays[n]) for n in search.bases if search.arrays[n].dtype.kind == "f"][:MAX_CHAINED]
    for name, value in bases:
        yield (Term(name),), value
    for (one, first), (other, second) in itertools.combinations(bases[:5], 2):
        if first.shape == second.shape:
            yield (Term(one), Term(other)), first + second


def _activated(value: Array, observed: Array) -> Iterator[tuple[tuple[Step, ...], Array]]:
    yield (), value
    for name in POINTWISE:
        with np.errstate(all="ignore"):
            yield (_activation(name),), ACTIVATIONS[name](value)
    if value.shape == observed.shape:
        slope = fitted_slope(value, observed)
        if slope is not None:
            yield (_activation(f"leaky_relu({slope:g})"),), np.where(value > 0, value, slope * value)


def _shaped(
    search: Search, terms: tuple[Term, ...], steps: tuple[Step, ...], value: Array
) -> Iterator[Expression]:
    cost = len(terms) + len(steps)
    if value.shape == search.observed.shape:
        yield from _accepted(search, value, Expression(terms, after=steps, cost=cost))
        return
    for name in ("tokens", "pool"):
        for form in identify(STEPS[name], search.task(value))[:4]:
            yield Expression(terms, after=(*steps, (name, form.settings)), cost=cost + form.cost)
    yield from _reordered(search, terms, steps, value, cost)
    if value.ndim > 2 and search.observed.ndim == 2 and value.size > search.observed.size:
        for settings, pooled in _pools_to(search, value):
            yield from _reordered(search, terms, (*steps, ("pool", settings)), pooled, cost + 1)


def _reordered(
    search: Search, terms: tuple[Term, ...], steps: tuple[Step, ...], value: Array, cost: float
) -> Iterator[Expression]:
    family = STEPS["rearrange"]
    for settings, more in family.candidates(search.task(value)):
        moved = family.compute(value, {}, settings)
        expression = Expression(terms, after=(*steps, ("rearrange", settings)), cost=cost + more)
        yield from _accepted(search, moved, expression)


def _pools_to(search: Search, value: Array) -> Iterator[tuple[Mapping[str, object], Array]]:
    """Yield pooled arrays with as many values as the observed one."""
    count = search.observed.size // (value.shape[0] * value.shape[-1])
    if count * value.shape[0] * value.shape[-1] != search.observed.size:
        return
    task = search.task(value)
    for outputs in _areas(count, value.shape[1:-1]):
        for settings, _ in pool_settings(task, outputs):
            pooled = STEPS["pool"].compute(value, {}, settings)
            if _alike(pooled, search.observed, search.limit):
                yield settings, pooled


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
    if np.mean(observed == 0) > 0.01:
        return True
    with np.errstate(all="ignore"):
        sums = abs(float(np.sum(pooled)) - float(np.sum(observed)))
    return sums <= 10 * limit * float(np.sum(np.abs(observed)))
