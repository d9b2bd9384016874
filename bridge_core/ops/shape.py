"""Ops that move elements within one tensor: permute, flip, reshape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.state import Array, Region, TensorSpec, regions

__all__ = ["Flip", "Permute", "Reshape", "axis_groups"]


@dataclass(frozen=True)
class Permute(Op):
    """Reorder axes: output axis ``i`` is input axis ``axes[i]``.

    Raises:
        PlanError: The axes are not a permutation.
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the axes are a permutation."""
        if sorted(self.axes) != list(range(len(self.axes))):
            raise PlanError(
                f"permute takes each axis from 0 to {len(self.axes) - 1} once, got {list(self.axes)}."
            )

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if len(spec.shape) != len(self.axes):
            raise PlanError(f"{self} takes a tensor of rank {len(self.axes)}, got {spec}.")
        return (TensorSpec(tuple(spec.shape[a] for a in self.axes), spec.dtype),)

    def inverse(self) -> Permute:  # noqa: D102
        return Permute(tuple(sorted(range(len(self.axes)), key=self.axes.__getitem__)))

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        back = self.inverse().axes
        return (InputRegion(0, tuple(region[a] for a in back)),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0].transpose(self.axes)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.transpose(arrays[0], self.axes),)


@dataclass(frozen=True)
class Flip(Op):
    """Reverse the order of the elements along axes, given by their indices."""

    axes: tuple[int, ...]

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        absent = [axis for axis in self.axes if not 0 <= axis < len(spec.shape)]
        if absent:
            raise PlanError(f"{self} takes a tensor that has axis {absent[0]}, got {spec}.")
        return (spec,)

    def inverse(self) -> Flip:  # noqa: D102
        return self

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        ascending = regions.simplify(region)
        shape = specs[0].shape
        parts = list(ascending)
        for axis in self.axes:
            part = ascending[axis]
            if part.start < part.stop:
                parts[axis] = slice(shape[axis] - part.stop, shape[axis] - part.start, part.step)
        return (InputRegion(0, tuple(parts)),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        reverse = slice(None, None, -1)
        flipped: Array = pieces[0][
            tuple(reverse if a in self.axes else slice(None) for a in range(len(region)))
        ]
        return flipped

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.flip(arrays[0], self.axes),)


@dataclass(frozen=True)
class Reshape(Op):
    """Give the same elements, in row-major order, another shape.

    Args:
        source: The shape before.
        target: The shape afterwards, with as many elements.

    Raises:
        PlanError: The numbers of elements differ.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the number of elements stays the same."""
        before, after = regions.size(self.source), regions.size(self.target)
        if before != after:
            raise PlanError(
                f"{self} takes shapes with equally many elements, got {before} and {after} elements."
            )

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if spec.shape != self.source:
            raise PlanError(f"{self} takes a tensor of shape {list(self.source)}, got {spec}.")
        return (TensorSpec(self.target, spec.dtype),)

    def inverse(self) -> Reshape:  # noqa: D102
        return Reshape(self.target, self.source)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        if 0 in self.source:
            return (InputRegion(0, regions.full(self.source)),)
        parts: list[slice] = []
        for source, target in axis_groups(self.source, self.target):
            shape = self.source[source]
            if self.target[target] == shape:
                parts.extend(region[target])
            else:
                lead, rows = _rows(shape, self.target[target], region[target])
                parts.extend(slice(0, 1, 1) for _ in range(lead))
                parts.extend((rows,) if shape else ())
                parts.extend(regions.full(shape[lead + 1 :]))
        return (InputRegion(0, tuple(parts)),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        result = pieces[0]
        if 0 in self.source:
            return result.reshape(self.target)[region]
        axis = 0
        for source, target in axis_groups(self.source, self.target):
            shape, part = self.source[source], region[target]
            width = len(shape)
            if self.target[target] == shape:
                axis += width
                continue
            lead, rows = _rows(shape, self.target[target], part)
            before, after = result.shape[:axis], result.shape[axis + width :]
            flat = result.reshape((*before, regions.size(result.shape[axis : axis + width]), *after))
            offset = rows.start * regions.size(shape[lead + 1 :])
            picked = regions.region_shape(part)
            first, last = _span(self.target[target], part)
            if last - first == regions.size(picked):
                flat = flat[(slice(None),) * axis + (slice(first - offset, last - offset),)]
            else:
                index = _flat_index(self.target[target], part) - offset
                flat = np.take(flat, index.reshape(-1), axis=axis)
            result = flat.reshape((*before, *picked, *after))
            axis += len(part)
        return result

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.reshape(arrays[0], self.target),)


def axis_groups(source: tuple[int, ...], target: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Cut both shapes into the shortest runs of axes with equal products.

    Both have the same number of elements, and no size is zero.

    >>> axis_groups((2, 12), (2, 3, 4))
    [(slice(0, 1, None), slice(0, 1, None)), (slice(1, 2, None), slice(1, 3, None))]
    """
    groups: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        start_i, start_j = i, j
        left = right = 1
        if i < len(source):
            left, i = source[i], i + 1
        if j < len(target):
            right, j = target[j], j + 1
        while left != right:
            if left < right:
                left, i = left * source[i], i + 1
            else:
                right, j = right * target[j], j + 1
        groups.append((slice(start_i, i), slice(start_j, j)))
    return groups


def _rows(source: tuple[int, ...], target: tuple[int, ...], wanted: Region) -> tuple[int, slice]:
    """Return the axis of a source group to cut, and the part of it that has all elements of a target region.

    Axes before the returned one have size one; a group without axes has one element.
    """
    lead = next((i for i, n in enumerate(source) if n > 1), max(0, len(source) - 1))
    if any(s.start >= s.stop for s in wanted) or not source:
        return lead, slice(0, 0, 1) if source else slice(0, 1, 1)
    first, last = _span(target, wanted)
    inner = regions.size(source[lead + 1 :])
    return lead, slice(first // inner, (last - 1) // inner + 1, 1)


def _span(shape: tuple[int, ...], wanted: Region) -> tuple[int, int]:
    """Return the first row-major index of a region, and one past the last."""
    if any(s.start >= s.stop for s in wanted):
        return 0, 0
    strides = regions.row_major_strides(shape)
    parts = regions.simplify(wanted)
    first = sum(s.start * n for s, n in zip(parts, strides, strict=True))
    last = sum((s.stop - 1) * n for s, n in zip(parts, strides, strict=True))
    return first, last + 1


def _flat_index(shape: tuple[int, ...], wanted: Region) -> Array:
    index: Array = np.zeros((), np.int64)
    for part, stride in zip(wanted, regions.row_major_strides(shape), strict=True):
        index = np.add.outer(index, np.arange(part.start, part.stop, part.step) * stride)
    return index
