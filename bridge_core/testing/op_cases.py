"""Ops of every kind, on values whose bits show how a framework differs from numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops import (
    Cast,
    Concat,
    Duplicate,
    Fill,
    Flip,
    InsertZeros,
    Offset,
    Op,
    Pad,
    Parallel,
    Permute,
    Reorder,
    RequireEqual,
    Reshape,
    Scale,
    Select,
    Split,
    SplitSum,
    Stack,
    Sum,
    Unpad,
    Unstack,
    chain_specs,
)
from bridge_core.state import DTYPES, Array, AuxiliaryTensor, TensorSpec, is_floating
from bridge_core.testing.strategies import bit_patterns

__all__ = [
    "Case",
    "casts",
    "choices",
    "constants",
    "moves",
    "products",
    "round_trips",
    "small_shapes",
    "sums",
]

_NEAR = ("float16", "bfloat16", "float8_e4m3fn")
"""Narrow dtypes; wide values next to theirs, and in the middle of two, show how a cast rounds."""

_VECTOR = 64
"""Elements at the end of an array that fill no vector: numpy gives sums of two NaNs other bits there."""


class Case(NamedTuple):
    """Ops, and the arrays that they take."""

    chain: tuple[Op, ...]
    arrays: tuple[Array, ...]

    def __str__(self) -> str:
        """Return the ops and the specs of the arrays."""
        specs = [str(TensorSpec(array.shape, array.dtype)) for array in self.arrays]
        return f"{'  '.join(map(str, self.chain)) or 'unchanged'} of {', '.join(specs) or 'no array'}"


def _case(op: Op, *arrays: Array) -> Case:
    return Case((op,), arrays)


def moves(name: str) -> list[Case]:
    """Return ops that only move elements, on every bit pattern of a narrow dtype."""
    patterns = bit_patterns(name)
    columns = max(4, patterns.size // 4)
    grid = np.resize(patterns, (4, columns))
    cube = grid.reshape(2, 2, columns)
    other = np.ascontiguousarray(grid[::-1, ::-1])
    return [
        _case(Permute((1, 0)), grid),
        _case(Permute((2, 0, 1)), cube),
        _case(Reshape((4, columns), (columns, 4)), grid),
        _case(Flip((0,)), grid),
        _case(Flip((0, 2)), cube),
        _case(Flip(()), grid),
        _case(Split(0, (1, 3)), grid),
        _case(Split(1, (1, 0, columns - 1)), grid),
        _case(Unstack(0, 4), grid),
        _case(Unpad(1, columns, 3, 1, discard=True), grid),
        _case(Concat(0, (4, 4)), grid, other),
        _case(Concat(1, (columns, columns)), grid, other),
        _case(Stack(0, 2), grid, other),
        _case(Stack(2, 2), grid, other),
        _case(Reorder((1, 0)), grid, other),
        _case(Select((1,), 2), grid, other),
        _case(Duplicate(2), grid),
        _case(RequireEqual(2), grid, grid.copy()),
        _case(Parallel(((Permute((1, 0)),), (Flip((1,)),))), grid, other),
    ]


def constants(name: str) -> list[Case]:
    """Return ops that make tensors of a constant, signed zeros and special values among them."""
    dtype = DTYPES[name]
    has_fractions = is_floating(dtype) or dtype.kind == "c"
    values = (0, 1, -0.0, -1.5, 3.1, 1e-40, np.inf, np.nan) if has_fractions else (0, 1)
    array = np.resize(bit_patterns(name), (2, 3))
    padding = [_case(Pad(1, 3, 5, value), array) for value in (1, -1.5) if value == 1 or has_fractions]
    with np.errstate(all="ignore"):
        return [
            *(_case(Fill(value, TensorSpec((2, 3), dtype))) for value in values),
            *_possible(padding),
            _case(InsertZeros((True, False)), array),
        ]


def casts(source: str, targets: Iterable[str]) -> list[Case]:
    """Return casts of every narrow value, or of those at which a wide one is rounded."""
    values = _values(source)
    return _possible(
        _case(cast, values)
        for target in targets
        if target != source and (DTYPES[source].kind != "c" or DTYPES[target].kind == "c")
        for cast in (Cast(source, target),)
    )


def round_trips(source: str, targets: Iterable[str]) -> list[Case]:
    """Return inexact casts there and back, which a compiler may take for needless."""
    values = _below(_values(source), np.inf)
    return [
        Case(chain, arrays)
        for target in targets
        if not Cast(source, target).exact
        for there_and_back in ((Cast(source, target), Cast(target, source)),)
        for chain, arrays in (
            (there_and_back, (values,)),
            ((Sum(2), *there_and_back), (values, values[::-1].copy())),
        )
    ]


def sums(name: str) -> list[Case]:
    """Return sums of floats: in their order, near zero, with NaNs and infinities."""
    values = _values(name)
    rng = np.random.default_rng(1)
    if name == "float32":
        tiny = rng.integers(0, 1 << 32, 30_000, np.uint32) & np.uint32(0x83FFFFFF)
        values = np.concatenate([values, tiny.view(np.float32)])
    values = np.resize(values, -(-values.size // _VECTOR) * _VECTOR)
    terms = [values, rng.permutation(values), values[::-1].copy()]
    small = _below(values, min(1000.0, _largest(name) / 2))
    return _possible(
        [_case(Sum(2), *terms[:2]), _case(Sum(3), *terms), _case(Offset(1.0, rounding=True), small)]
    )


def products(name: str) -> list[Case]:
    """Return products and quotients of floats, of NaNs and denormal numbers, too."""
    small = _below(_values(name), min(1000.0, _largest(name) / 4), nans=True)
    return _possible(
        _case(Scale(value, rounding=True, divides=divides), small)
        for value in (0.3, 0.25)
        for divides in (False, True)
    )


def choices(name: str) -> list[Case]:
    """Return splits of sums with stored parts, chosen where their sum has equal bits."""
    values = _values(name)[:4000]
    parts = [values.copy(), np.random.default_rng(2).permutation(values)]
    for part in parts:
        part[:2] = 0
    with np.errstate(all="ignore"):
        total = parts[0] + parts[1]
        total[0] = -total[0]  # equal as a number, and not in its bits
        total[2::3] = parts[0][2::3]
    return _possible([_case(SplitSum(2, tuple(map(AuxiliaryTensor.of, parts))), total)])


def small_shapes(name: str, wide: str) -> list[Case]:
    """Return ops of every kind on tensors without axes and without elements.

    Args:
        name: The dtype.
        wide: Another dtype, to cast to.
    """
    dtype = DTYPES[name]
    point, empty, square = (np.ones(shape, dtype) for shape in ((), (0, 3), (3, 0)))
    cases = [
        _case(Permute(()), point),
        _case(Permute((1, 0)), empty),
        _case(Reshape((), (1, 1)), point),
        _case(Reshape((1,), ()), point.reshape(1)),
        _case(Reshape((0, 3), (5, 0)), empty),
        _case(Flip((0, 1)), empty),
        _case(Split(0, (0, 0)), empty),
        _case(Split(1, (3, 0)), empty),
        _case(Concat(0, (0, 0)), empty, empty),
        _case(Concat(1, (0,)), square),
        _case(Stack(0, 2), point, point),
        _case(Stack(1, 1), empty),
        _case(Unstack(0, 1), point.reshape(1)),
        _case(Pad(0, 0, 2, 1), empty),
        _case(Unpad(1, 3, 0, 1, discard=True), empty),
        _case(Fill(1, TensorSpec((), dtype))),
        _case(Fill(1, TensorSpec((0, 2), dtype))),
    ]
    if is_floating(dtype):
        for array in (point, empty):
            cases += [_case(Cast(name, wide), array), _case(Sum(2), array, array)]
            cases += [_case(Offset(0.5, rounding=True), array), _case(Scale(0.5, rounding=True), array)]
            cases.append(_case(SplitSum(2, (AuxiliaryTensor.of(array),) * 2), array))
    return _possible(cases)


def _possible(cases: Iterable[Case]) -> list[Case]:
    """Return the cases whose ops take the dtype."""

    def is_possible(case: Case) -> bool:
        try:
            chain_specs(tuple(TensorSpec(array.shape, array.dtype) for array in case.arrays), case.chain)
        except PlanError:
            return False
        return True

    return [case for case in cases if is_possible(case)]


def _values(name: str) -> Array:
    """Return every narrow value; of a wide dtype random ones, and those near narrow ones."""
    dtype, patterns = DTYPES[name], bit_patterns(name)
    if dtype.itemsize <= 2 or dtype.kind == "c":
        return patterns
    if dtype.kind in "iu":
        return np.concatenate([patterns, np.arange(-300, 300).astype(dtype)])
    return np.concatenate([patterns, *_rounding_values(dtype)])


def _rounding_values(dtype: np.dtype) -> Iterator[Array]:
    with np.errstate(all="ignore"):
        exact = np.concatenate([bit_patterns(narrow).astype(np.float32) for narrow in _NEAR])[::7]
        middle = (exact[1:] + exact[:-1]) / 2
        yield exact.astype(dtype)
        yield middle.astype(dtype)
        for end in (np.inf, -np.inf):
            yield np.nextafter(middle, np.float32(end)).astype(dtype)


def _below(values: Array, limit: float, *, nans: bool = False) -> Array:
    """Return the values whose magnitude is less than a limit, and NaNs where they are wanted."""
    with np.errstate(all="ignore"):
        size = np.abs(values.astype(np.float64))
    below: Array = values[(size < limit) | (np.isnan(size) & nans)]
    return below


def _largest(name: str) -> float:
    return float(ml_dtypes.finfo(DTYPES[name]).max)  # type: ignore[no-untyped-call]
