"""Ops between one tensor and several: split and concatenate, unstack and stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, check_alike, check_count, only
from bridge_core.state import Array, Region, TensorSpec, regions

__all__ = ["Concat", "Split", "Stack", "Unstack"]


@dataclass(frozen=True)
class Split(Op):
    """Split one tensor along an axis into parts.

    Args:
        axis: Index of the axis.
        sizes: The size of each part along the axis.

    Raises:
        PlanError: There are no sizes, or one is negative.
    """

    axis: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that there are sizes, and none is negative."""
        if not self.sizes or any(n < 0 for n in self.sizes):
            raise PlanError(f"split takes one size or more, each 0 or more, got {list(self.sizes)}.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if not 0 <= self.axis < len(spec.shape) or spec.shape[self.axis] != sum(self.sizes):
            raise PlanError(
                f"{self} takes a tensor whose axis {self.axis} has size {sum(self.sizes)}, got {spec}."
            )
        return tuple(
            TensorSpec((*spec.shape[: self.axis], n, *spec.shape[self.axis + 1 :]), spec.dtype)
            for n in self.sizes
        )

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return len(self.sizes)

    def inverse(self) -> Concat:  # noqa: D102
        return Concat(self.axis, self.sizes)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        moved = regions.shift(region[self.axis], sum(self.sizes[:output]))
        return (InputRegion(0, (*region[: self.axis], moved, *region[self.axis + 1 :])),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        ends = list(accumulate(self.sizes))
        return [
            ops.part(arrays[0], self.axis, end - size, end)
            for size, end in zip(self.sizes, ends, strict=True)
        ]


@dataclass(frozen=True)
class Concat(Op):
    """Concatenate tensors along an axis.

    The sizes of the tensors are part of the op, so that it can be undone.

    Args:
        axis: Index of the axis.
        sizes: The size of each tensor along the axis.

    Raises:
        PlanError: There are no sizes, or one is negative.
    """

    axis: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that there are sizes, and none is negative."""
        if not self.sizes or any(n < 0 for n in self.sizes):
            raise PlanError(f"concat takes one size or more, each 0 or more, got {list(self.sizes)}.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, len(self.sizes))
        first = specs[0]
        if not 0 <= self.axis < len(first.shape):
            raise PlanError(f"{self} takes tensors that have axis {self.axis}, got {first}.")
        for number, (spec, n) in enumerate(zip(specs, self.sizes, strict=True), 1):
            shape = (*first.shape[: self.axis], n, *first.shape[self.axis + 1 :])
            expected = TensorSpec(shape, first.dtype)
            if spec != expected:
                raise PlanError(f"{self} takes {expected} as tensor {number} of {len(specs)}, got {spec}.")
        joined = (*first.shape[: self.axis], sum(self.sizes), *first.shape[self.axis + 1 :])
        return (TensorSpec(joined, first.dtype),)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Split:  # noqa: D102
        return Split(self.axis, self.sizes)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        pulls = []
        offset = 0
        for i, n in enumerate(self.sizes):
            part = _overlap(region[self.axis], offset, n)
            if part is not None:
                pulls.append(InputRegion(i, (*region[: self.axis], part, *region[self.axis + 1 :])))
            offset += n
        return tuple(pulls)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        if not pieces:
            return np.empty(regions.region_shape(region), specs[0].dtype)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, self.axis)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.concatenate(arrays, self.axis),)


def _overlap(part: slice, offset: int, n: int) -> slice | None:
    """Return the part's elements within [offset, offset + n), counted from ``offset``."""
    start = part.start
    if start < offset:
        start += -((start - offset) // part.step) * part.step
    stop = min(part.stop, offset + n)
    return slice(start - offset, stop - offset, part.step) if start < stop else None


@dataclass(frozen=True)
class Stack(Op):
    """Stack tensors of one shape along a new axis.

    Args:
        axis: Index of the new axis in the result.
        count: How many tensors.

    Raises:
        PlanError: The count is less than 1.
    """

    axis: int
    count: int

    def __post_init__(self) -> None:
        """Check that the op can be undone."""
        if self.count < 1:
            raise PlanError(f"stack takes a count of 1 or more, got {self.count}.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, self.count)
        check_alike(self, specs)
        first = specs[0]
        if not 0 <= self.axis <= len(first.shape):
            raise PlanError(f"{self} takes tensors of rank {self.axis} or more, got {first}.")
        shape = (*first.shape[: self.axis], self.count, *first.shape[self.axis :])
        return (TensorSpec(shape, first.dtype),)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Unstack:  # noqa: D102
        return Unstack(self.axis, self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        rest = (*region[: self.axis], *region[self.axis + 1 :])
        part = region[self.axis]
        return tuple(InputRegion(i, rest) for i in range(part.start, part.stop, part.step))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        if not pieces:
            return np.empty(regions.region_shape(region), specs[0].dtype)
        if len(pieces) == 1:
            return np.expand_dims(pieces[0], self.axis)
        return np.stack(pieces, self.axis)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        shape = list(specs[0].shape)
        shape.insert(self.axis, 1)
        return (ops.concatenate([ops.reshape(array, tuple(shape)) for array in arrays], self.axis),)


@dataclass(frozen=True)
class Unstack(Op):
    """Split one tensor along an axis into tensors without that axis.

    Args:
        axis: Index of the axis.
        count: Its size, which is how many tensors there are afterwards.

    Raises:
        PlanError: The count is less than 1.
    """

    axis: int
    count: int

    def __post_init__(self) -> None:
        """Check that the op can be undone."""
        if self.count < 1:
            raise PlanError(f"unstack takes a count of 1 or more, got {self.count}.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if not 0 <= self.axis < len(spec.shape) or spec.shape[self.axis] != self.count:
            raise PlanError(
                f"{self} takes a tensor whose axis {self.axis} has size {self.count}, got {spec}."
            )
        shape = (*spec.shape[: self.axis], *spec.shape[self.axis + 1 :])
        return (TensorSpec(shape, spec.dtype),) * self.count

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return self.count

    def inverse(self) -> Stack:  # noqa: D102
        return Stack(self.axis, self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        only = slice(output, output + 1, 1)
        return (InputRegion(0, (*region[: self.axis], only, *region[self.axis :])),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0].reshape(regions.region_shape(region))

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        shape = (*specs[0].shape[: self.axis], *specs[0].shape[self.axis + 1 :])
        return [ops.reshape(ops.part(arrays[0], self.axis, i, i + 1), shape) for i in range(self.count)]
