"""From an equation and the tensors of its left side to the ops that it stands for."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bridge_core.axes.compiler import compiled
from bridge_core.axes.equation import ELLIPSIS, Equation, ListAxes, Term
from bridge_core.axes.leaf_axes import Shape
from bridge_core.axes.sizes import Axis, Solver
from bridge_core.axes.structure import Axes, Structure, layouts, structure_of
from bridge_core.errors import PlanError, RuleError
from bridge_core.ops import Op, chain_specs
from bridge_core.state import TensorSpec

__all__ = ["Rearrangement", "rearrange"]

_MOST_TENSORS = 1_000_000


@dataclass(frozen=True)
class Rearrangement:
    """What an equation comes to for given tensors.

    Args:
        ops: The chain. It takes the left tensors and makes the right ones, each side term by term and
            row-major over a term's list axes.
        specs: What it makes.
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
) -> Rearrangement:
    """Return the ops that an equation stands for.

    Args:
        equation: The equation.
        specs: The left tensors: term by term, and row-major over a term's list axes.
        sizes: Sizes of axes. Those of the left side's list axes must be among them.
        list_axes: The list axes of every term; none if not given.
        wanted: The shapes that the right tensors must have, as far as they are known. They also settle sizes
            that nothing else does.

    Raises:
        RuleError: The equation makes no sense, the tensors do not fit it, a size is not settled, or the
            result is not what is wanted. The text does not say which rule it is.

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
    )


@functools.lru_cache(maxsize=256)  # a rule meets the same shapes in every layer
def _rearranged(
    equation: Equation,
    specs: tuple[TensorSpec, ...],
    given: tuple[tuple[str, int], ...],
    list_axes: ListAxes,
    wanted: tuple[Shape | None, ...] | None,
) -> Rearrangement:
    structure = structure_of(equation, list_axes)
    _check_sizes(equation, list_axes, given)
    inputs = _inputs(equation, list_axes, dict(given), specs)
    structure = _without_ellipsis(structure, equation, inputs, specs)
    solver = Solver(dict(given))
    solver.learn(_axes_of(inputs, structure.left, specs))
    outputs = _tensors(equation.right, list_axes.right, solver.sizes)
    if wanted is not None and outputs is not None:
        solver.learn(_wanted_axes(outputs, structure.right, wanted))
    solver.finish(_names(structure))
    outputs = _tensors(equation.right, list_axes.right, solver.sizes) or []
    ops = compiled(
        structure, solver, [(t.index, t.place) for t in inputs], [(t.index, t.place) for t in outputs]
    )
    made = _made(specs, ops)
    for tensor, spec, shape in zip(outputs, made, wanted or (None,) * len(outputs), strict=True):
        if shape is not None and shape != spec.shape:
            raise RuleError(f"{tensor} makes the shape {list(spec.shape)}; the target has {list(shape)}.")
    named = {name: n for name, n in solver.sizes.items() if not name.startswith(ELLIPSIS)}
    return Rearrangement(ops, made, MappingProxyType(named))


@dataclass(frozen=True)
class _Tensor:
    """A tensor of one side: its term, and its index along the term's list axes."""

    index: int
    term: Term
    place: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return f"'{self.term}'" + "".join(f", {name} = {i}" for name, i in self.place)


def _check_sizes(equation: Equation, list_axes: ListAxes, given: tuple[tuple[str, int], ...]) -> None:
    known = equation.axes.union(*list_axes.left, *list_axes.right)
    for name, n in given:
        if name not in known:
            raise RuleError(f"a size is given for {name!r}, and '{equation}' has no such axis.")
        if n < 0:
            raise RuleError(f"the size {n} of axis {name!r} is negative.")


def _tensors(
    terms: tuple[Term, ...], list_axes: tuple[tuple[str, ...], ...], sizes: Mapping[str, int]
) -> list[_Tensor] | None:
    """Return the tensors of a side in their order, or None if the length of a list is not known."""
    listed = list(itertools.chain.from_iterable(list_axes))
    if any(name not in sizes for name in listed):
        return None
    empty = next((name for name in listed if not sizes[name]), None)
    if empty is not None:
        raise RuleError(f"there are no tensors along {empty!r}.")
    for term, own in zip(terms, list_axes, strict=True):
        count = math.prod(sizes[name] for name in own)
        if count > _MOST_TENSORS:
            raise RuleError(f"'{term}' stands for {count} tensors; {_MOST_TENSORS} are the most.")
    return [
        _Tensor(index, term, tuple(zip(own, place, strict=True)))
        for index, (term, own) in enumerate(zip(terms, list_axes, strict=True))
        for place in itertools.product(*(range(sizes[name]) for name in own))
    ]


def _inputs(
    equation: Equation, list_axes: ListAxes, sizes: Mapping[str, int], specs: tuple[TensorSpec, ...]
) -> list[_Tensor]:
    inputs = _tensors(equation.left, list_axes.left, sizes)
    if inputs is None:
        unknown = next(name for own in list_axes.left for name in own if name not in sizes)
        raise RuleError(f"nothing tells how many tensors there are along {unknown!r}.")
    if len(inputs) != len(specs):
        raise RuleError(f"'{equation}' takes {len(inputs)} tensors; there are {len(specs)}.")
    return inputs


def _without_ellipsis(
    structure: Structure, equation: Equation, inputs: list[_Tensor], specs: tuple[TensorSpec, ...]
) -> Structure:
    """Name the axes that `...` stands for, after checking the rank of every tensor."""
    spare: int | None = None
    for tensor, spec in zip(inputs, specs, strict=True):
        rank, named = len(spec.shape), len(tensor.term.axes)
        if ELLIPSIS in tensor.term.axes:
            spare = rank - named + 1 if spare is None else spare
            named += spare - 1
        if rank != named or (spare or 0) < 0:
            least = " or more" if ELLIPSIS in tensor.term.axes else ""
            found = len(tensor.term.axes) - 1 if least and (spare or 0) < 0 else named
            raise RuleError(f"{tensor} has {found}{least} axes; the tensor {spec} has {rank}.")

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
        raise RuleError(f"{len(outputs)} tensors are made; the target has {len(wanted)}.")
    for tensor, shape in zip(outputs, wanted, strict=True):
        if shape is None:
            continue
        axes = terms[tensor.index]
        if len(axes) != len(shape):
            raise RuleError(f"{tensor} makes {len(axes)} axes; the target has {len(shape)}: {list(shape)}.")
        for factors, n in zip(axes, shape, strict=True):
            yield Axis(factors, n, f"{tensor} (target {list(shape)})", wanted=True)


def _names(structure: Structure) -> list[str]:
    """Return every axis name once, in the order of the left side."""
    names = [name for axes in structure.left for layout in layouts(axes) for run in layout for name in run]
    listed = itertools.chain.from_iterable((*structure.list_axes.left, *structure.list_axes.right))
    return list(dict.fromkeys((*names, *listed)))


def _made(specs: tuple[TensorSpec, ...], ops: tuple[Op, ...]) -> tuple[TensorSpec, ...]:
    try:
        return chain_specs(specs, ops)
    except PlanError as error:
        dtypes = sorted({spec.dtype.name for spec in specs})
        if len(dtypes) == 1:
            raise
        raise RuleError(
            f"tensors of different dtypes ({', '.join(dtypes)}) cannot become one.", hint="Cast them first."
        ) from error
