"""From an equation and the tensors of its left side to the ops that make those of its right side."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bridge_core.axes.compiler import compiled
from bridge_core.axes.equation import ELLIPSIS, Equation, ListAxes, Term
from bridge_core.axes.leaf_axes import Shape
from bridge_core.axes.sizes import Axis, Solver
from bridge_core.axes.structure import Axes, Structure, layouts, structure_of
from bridge_core.errors import PlanError, RuleError
from bridge_core.messages import count, nearest
from bridge_core.ops import Op, chain_specs
from bridge_core.state import TensorSpec

__all__ = ["Rearrangement", "rearrange"]

_MOST_TENSORS = 1_000_000
_MOST_COPIES = 1024


@dataclass(frozen=True)
class Rearrangement:
    """The ops of an equation for given tensors.

    Args:
        ops: The chain. It takes the left tensors and makes the right ones, each side term by term and
            row-major over a term's list axes.
        specs: The specs of the right tensors.
        sizes: The size of every axis name, list axes included.
    """

    ops: tuple[Op, ...]
    specs: tuple[TensorSpec, ...]
    sizes: Mapping[str, int]


def rearrange(
    equation: Equation,
    specs: Sequence[TensorSpec],
    *,
    sizes: Mapping[str, int] = MappingProxyType({}),
    list_axes: ListAxes | None = None,
    wanted: Sequence[Shape | None] | None = None,
    stated: Collection[str] = (),
) -> Rearrangement:
    """Return the ops of an equation for given tensors.

    Args:
        equation: The equation.
        specs: The left tensors: term by term, and row-major over a term's list axes.
        sizes: Sizes of axes. Those of the left side's list axes must be among them.
        list_axes: The list axes of every term; none if not given.
        wanted: The shapes that the right tensors must have; None where they are not known. They also
            determine sizes that are not known from the left tensors and from ``sizes``.
        stated: Names of further axes whose sizes the rule states, without a value that is known yet. An axis
            of one side only must be among them or in ``sizes``: the values are repeated along it.

    Raises:
        RuleError: The equation is inconsistent, the left tensors do not fit it, a size cannot be determined,
            or a right tensor has not the shape that it must have. The message does not name the rule.

    >>> import numpy as np
    >>> made = rearrange(Equation.parse("out in -> in out"), [TensorSpec((3, 4), np.dtype("float32"))])
    >>> print(*made.ops, *made.specs)
    permute([1, 0]) float32[4, 3]
    """
    return _rearranged(
        equation,
        tuple(specs),
        tuple(sorted(sizes.items())),
        ListAxes.none(equation) if list_axes is None else list_axes,
        None if wanted is None else tuple(None if shape is None else tuple(shape) for shape in wanted),
        frozenset(stated),
    )


@functools.lru_cache(maxsize=256)  # a rule meets the same shapes in every layer
def _rearranged(
    equation: Equation,
    specs: tuple[TensorSpec, ...],
    given: tuple[tuple[str, int], ...],
    list_axes: ListAxes,
    wanted: tuple[Shape | None, ...] | None,
    stated: frozenset[str],
) -> Rearrangement:
    sizes = dict(given)
    structure = structure_of(equation, list_axes, stated.union(sizes))
    _check_sizes(equation, list_axes, given)
    if structure.number is not None:
        sizes[structure.number] = int(structure.number)
    inputs = _inputs(equation, structure, sizes, specs)
    structure = _without_ellipsis(structure, inputs, specs)
    solver = Solver(sizes, structure.hidden)
    solver.learn(_axes_of(inputs, structure.left, specs))
    outputs = _tensors(equation.right, structure.list_axes.right, structure.number, solver.sizes)
    if wanted is not None and outputs is not None:
        solver.learn(_wanted_axes(outputs, structure.right, wanted))
    solver.finish(_names(structure))
    if structure.repeated:
        _check_repeats(structure, solver.sizes)
    outputs = _tensors(equation.right, structure.list_axes.right, structure.number, solver.sizes) or []
    ops = compiled(
        structure, solver, [(t.index, t.place) for t in inputs], [(t.index, t.place) for t in outputs]
    )
    results = _result_specs(specs, ops)
    for tensor, spec, shape in zip(outputs, results, wanted or (None,) * len(outputs), strict=True):
        if shape is not None and shape != spec.shape:
            raise _other_shape(tensor, spec.shape, shape)
    named = {name: n for name, n in solver.sizes.items() if name.isidentifier()}
    return Rearrangement(ops, results, MappingProxyType(named))


@dataclass(frozen=True)
class _Tensor:
    """A tensor of one side: its term, and its index along the term's list axes."""

    index: int
    term: Term
    place: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        place = (f", {name} = {i}" for name, i in self.place if name.isidentifier())
        return f"'{self.term}'{''.join(place)}"


def _other_shape(tensor: _Tensor, shape: Shape, expected: Shape) -> RuleError:
    """Return the error for a result of another shape, with the order of axes that has the expected one."""
    axis_of = dict(zip(shape, tensor.term.axes, strict=False))
    hint = None
    if len(axis_of) == len(tensor.term.axes) and sorted(shape) == sorted(expected):
        hint = f"Write '{' '.join(str(axis_of[n]) for n in expected)}' in place of '{tensor.term}'."
    return RuleError(
        f"{tensor}: expected the target's shape {list(expected)}, got {list(shape)} from the equation.",
        hint=hint,
    )


def _check_sizes(equation: Equation, list_axes: ListAxes, given: tuple[tuple[str, int], ...]) -> None:
    known = equation.axes.union(*list_axes.left, *list_axes.right)
    for name, n in given:
        if name not in known:
            raise RuleError(
                f"sizes.{name}: '{equation}' has no axis {name!r}.", hint=nearest(name, sorted(known))
            )
        if n < 0:
            raise RuleError(f"sizes.{name}: expected a size of 0 or more, got {n}.")


def _check_repeats(structure: Structure, sizes: Mapping[str, int]) -> None:
    empty = next((name for name in sorted(structure.repeated) if not sizes[name]), None)
    if empty is not None:
        raise RuleError(
            f"expected one or more copies along the repeated axis {empty!r}, got none: its size is 0.",
            hint=f"State a size of 1 or more, such as sizes = {{ {empty} = 2 }}.",
        )
    copies = math.prod(sizes[name] for name in structure.repeated)
    if copies > _MOST_COPIES:
        names = ", ".join(sorted(structure.repeated))
        raise RuleError(f"expected at most {_MOST_COPIES} copies along {names}, got {copies}.")


def _tensors(
    terms: tuple[Term, ...],
    list_axes: tuple[tuple[str, ...], ...],
    number: str | None,
    sizes: Mapping[str, int],
) -> list[_Tensor] | None:
    """Return the tensors of a side in their order, or None if the length of a list is not known."""
    listed = list(itertools.chain.from_iterable(list_axes))
    if any(name not in sizes for name in listed):
        return None
    empty = next((name for name in listed if not sizes[name]), None)
    if empty is not None:
        raise RuleError(
            f"expected one tensor or more along the list axis {empty!r}, got none: its size is 0."
        )
    for term, own in zip(terms, list_axes, strict=True):
        total = math.prod(sizes[name] for name in own)
        if total > _MOST_TENSORS:
            raise RuleError(f"expected at most {_MOST_TENSORS} tensors for '{term}', got {total}.")
    return [
        _Tensor(index, term, tuple(zip(own, place, strict=True)))
        for index, (term, own) in enumerate(zip(terms, list_axes, strict=True))
        for place in itertools.product(*((index,) if name == number else range(sizes[name]) for name in own))
    ]


def _inputs(
    equation: Equation, structure: Structure, sizes: Mapping[str, int], specs: tuple[TensorSpec, ...]
) -> list[_Tensor]:
    list_axes = structure.list_axes.left
    inputs = _tensors(equation.left, list_axes, structure.number, sizes)
    if inputs is None:
        unknown = next(name for own in list_axes for name in own if name not in sizes)
        raise RuleError(
            f"the number of tensors along the list axis {unknown!r} cannot be determined.",
            hint=f"Add its size to the rule, such as sizes = {{ {unknown} = 12 }}.",
        )
    if len(inputs) != len(specs):
        raise RuleError(
            f"the left side of '{equation}' takes {count(len(inputs), 'tensor')}, got {len(specs)}."
        )
    return inputs


def _without_ellipsis(
    structure: Structure, inputs: list[_Tensor], specs: tuple[TensorSpec, ...]
) -> Structure:
    """Return the structure with names for the axes of `...`, after checking the rank of every tensor."""
    spare: int | None = None
    for tensor, spec in zip(inputs, specs, strict=True):
        rank, named = len(spec.shape), len(tensor.term.axes)
        if ELLIPSIS in tensor.term.axes:
            spare = rank - named + 1 if spare is None else spare
            named += spare - 1
        if rank != named or (spare or 0) < 0:
            least = " or more" if ELLIPSIS in tensor.term.axes else ""
            expected = len(tensor.term.axes) - 1 if least and (spare or 0) < 0 else named
            raise RuleError(f"{tensor}: expected a tensor of rank {expected}{least}, got {spec}.")

    def expanded(axes: Axes) -> Axes:
        names = [[(f"{ELLIPSIS}{i}",) for i in range(spare or 0)] if a == (ELLIPSIS,) else [a] for a in axes]
        return tuple(itertools.chain.from_iterable(names))

    return replace(
        structure, left=tuple(map(expanded, structure.left)), right=tuple(map(expanded, structure.right))
    )


def _axes_of(inputs: list[_Tensor], terms: tuple[Axes, ...], specs: tuple[TensorSpec, ...]) -> Iterator[Axis]:
    seen = set()
    for tensor, spec in zip(inputs, specs, strict=True):
        if (tensor.index, spec.shape) not in seen:
            seen.add((tensor.index, spec.shape))
            for factors, n in zip(terms[tensor.index], spec.shape, strict=True):
                yield Axis(factors, n, f"{tensor} ({spec})")


def _wanted_axes(
    outputs: list[_Tensor], terms: tuple[Axes, ...], wanted: tuple[Shape | None, ...]
) -> Iterator[Axis]:
    if len(outputs) != len(wanted):
        raise RuleError(
            f"the rule's targets are {count(len(wanted), 'tensor')}, but the right side of the equation "
            f"makes {len(outputs)}."
        )
    for tensor, shape in zip(outputs, wanted, strict=True):
        if shape is None:
            continue
        axes = terms[tensor.index]
        if len(axes) != len(shape):
            raise RuleError(
                f"{tensor}: expected {len(shape)} axes for the target's shape {list(shape)}, got {len(axes)} "
                "in the equation."
            )
        for factors, n in zip(axes, shape, strict=True):
            yield Axis(factors, n, f"{tensor} (the target's shape {list(shape)})", wanted=True)


def _names(structure: Structure) -> list[str]:
    """Return every axis name once, in the order of the left side."""
    names = [name for axes in structure.left for layout in layouts(axes) for run in layout for name in run]
    listed = itertools.chain.from_iterable((*structure.list_axes.left, *structure.list_axes.right))
    return list(dict.fromkeys((*names, *listed, *sorted(structure.repeated))))


def _result_specs(specs: tuple[TensorSpec, ...], ops: tuple[Op, ...]) -> tuple[TensorSpec, ...]:
    try:
        return chain_specs(specs, ops)
    except PlanError as error:
        dtypes = sorted({spec.dtype.name for spec in specs})
        if len(dtypes) == 1:
            raise
        raise RuleError(
            f"expected tensors of one dtype, got {', '.join(dtypes)}.",
            hint=f"Add a cast before the equation, such as 'cast({dtypes[0]}, {dtypes[-1]})'.",
        ) from error
