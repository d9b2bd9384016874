"""Ops that pad an axis with a constant, and cut such a padding off again.

Cutting off raises while values are read: whether they are the constant is not known from shapes. Only where
the caller asks to discard the end of an axis, its values are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.ops.constants import check_finite, constant_of, element_bytes, first_difference
from bridge_core.state import Array, Region, TensorSpec, regions

__all__ = ["Pad", "Unpad"]


@dataclass(frozen=True)
class _Resize(Op):
    """Change the size of an axis at its end."""

    axis: int
    source: int
    target: int
    value: float = 0
    discard: bool = False

    def spec(self, specs: Specs) -> Specs:
        spec = only(self, specs)
        resized = _resized(self, spec, self.axis, self.source, self.target)
        constant_of(self, self.value, spec.dtype)
        return (resized,)


@dataclass(frozen=True)
class Pad(_Resize):
    """Lengthen an axis with a constant at its end.

    Args:
        axis: The axis.
        source: Its size before.
        target: Its size afterwards, as long or longer.
        value: The constant; it is rounded to the tensor's dtype.
        discard: Whether the way back cuts the end off whatever it holds.

    Raises:
        PlanError: A size is negative, the target is shorter, or the constant is not finite.
    """

    def __post_init__(self) -> None:
        """Check the sizes and the constant."""
        if not 0 <= self.source <= self.target:
            raise PlanError(
                f"{self} takes sizes with 0 <= before <= after, got {self.source} before and {self.target} "
                "after."
            )
        check_finite(self, self.value)

    def inverse(self) -> Unpad:  # noqa: D102
        return Unpad(self.axis, self.target, self.source, self.value, self.discard)

    def __str__(self) -> str:
        """Return a short text, ``pad(0, 7, 10, 0)``."""
        discard = ", discard" if self.discard else ""
        return f"pad({self.axis}, {self.source}, {self.target}, {self.value}{discard})"

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        part = _cut(region[self.axis], self.source)
        return (InputRegion(0, _replaced(region, self.axis, part)),) if part is not None else ()

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        shape = regions.region_shape(region)
        if pieces and pieces[0].shape == shape:
            return pieces[0]
        dtype = specs[0].dtype
        padded = np.full(shape, constant_of(self, self.value, dtype), dtype)
        if pieces:
            taken = slice(0, pieces[0].shape[self.axis])
            padded[_replaced(regions.full(shape), self.axis, taken)] = pieces[0]
        return padded

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        if self.source == self.target:
            return arrays
        spec = specs[0]
        shape = (*spec.shape[: self.axis], self.target - self.source, *spec.shape[self.axis + 1 :])
        padding = ops.full(shape, constant_of(self, self.value, spec.dtype))
        return (ops.concatenate((arrays[0], padding), self.axis),)


@dataclass(frozen=True)
class Unpad(_Resize):
    """Cut off the end of an axis, which must hold only a constant, or is discarded.

    The constant is compared bit for bit. Other values could not be restored, so the op is not exact, and
    `compute` raises for them. A region with the last element along the axis also reads and checks the padding
    after it; so reading all regions, in any parts, checks the entire padding. What is discarded is neither
    read nor checked.

    Args:
        axis: The axis.
        source: Its size before.
        target: Its size afterwards, as long or shorter.
        value: The constant; it is rounded to the tensor's dtype.
        discard: Whether the end is cut off whatever it holds. The way back fills in the constant.

    Raises:
        PlanError: A size is negative, the target is longer, or the constant is not finite.
    """

    def __post_init__(self) -> None:
        """Check the sizes and the constant."""
        if not 0 <= self.target <= self.source:
            raise PlanError(
                f"{self} takes sizes with 0 <= after <= before, got {self.source} before and {self.target} "
                "after."
            )
        check_finite(self, self.value)

    @property
    def exact(self) -> bool:
        """False: only the constant can be restored."""
        return False

    @property
    def checks_values(self) -> bool:
        """Whether what is cut off must hold the constant."""
        return not self.discard and self.source != self.target

    def inverse(self) -> Pad:  # noqa: D102
        return Pad(self.axis, self.target, self.source, self.value, self.discard)

    @property
    def loss(self) -> str:
        """What is discarded, and what the way back gives."""
        lost = self.source - self.target
        if not (self.discard and lost):
            return ""
        filled = "zeros" if self.value == 0 else f"{self.value}"
        return f"discards {lost} of {self.source} along axis {self.axis}; the way back fills {filled}"

    def __str__(self) -> str:
        """Return a short text, ``unpad(0, 10, 7, 0)``; ``cut(0, 10, 7)`` if the end is discarded."""
        text = f"{self.axis}, {self.source}, {self.target}"
        return f"cut({text})" if self.discard else f"unpad({text}, {self.value})"

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        if self.discard or not self._ends(region):
            return (InputRegion(0, region),)
        padding = slice(self.target, self.source, 1)
        return (InputRegion(0, region), InputRegion(0, _replaced(region, self.axis, padding)))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        dtype = specs[0].dtype
        constant = constant_of(self, self.value, dtype)
        for padding in pieces[1:]:
            if not _all_equal(padding, constant, dtype):
                cut = _replaced(region, self.axis, slice(self.target, self.source, 1))
                index, _, value = first_difference(padding.astype(dtype, copy=False), constant, cut)
                raise PlanError(
                    f"axis {self.axis} cannot be cut from size {self.source} to {self.target}: expected only "
                    f"{self.value} in what is cut off, got {value} at {index}.",
                    hint="Write a larger size in the rule's pad or unpad, or remove the call from the rule. "
                    f"To discard the values, write {replace(self, discard=True)}, or unpad with the word "
                    "discard, or pass allow_inexact=True (--allow-inexact).",
                )
        return pieces[0]

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.part(arrays[0], self.axis, 0, self.target),)

    def _ends(self, region: Region) -> bool:
        """Return whether there is a padding, and the region has the last element before it."""
        taken = _taken(region[self.axis])
        if self.source == self.target:
            return False
        return self.target == 0 or (len(taken) > 0 and taken[-1] == self.target - 1)


def _resized(op: Op, spec: TensorSpec, axis: int, source: int, target: int) -> TensorSpec:
    if not 0 <= axis < len(spec.shape) or spec.shape[axis] != source:
        raise PlanError(f"{op} takes a tensor whose axis {axis} has size {source}, got {spec}.")
    return TensorSpec((*spec.shape[:axis], target, *spec.shape[axis + 1 :]), spec.dtype)


def _all_equal(array: Array, constant: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether every element has the constant's bits."""
    return bool((element_bytes(array.astype(dtype, copy=False)) == element_bytes(constant)).all())


def _taken(part: slice) -> range:
    return range(part.start, part.stop, part.step)


def _cut(part: slice, size: int) -> slice | None:
    """Return the elements of a part that lie before ``size``, or None if there are none."""
    stop = min(part.stop, size)
    return slice(part.start, stop, part.step) if part.start < stop else None


def _replaced(region: Region, axis: int, part: slice) -> Region:
    return (*region[:axis], part, *region[axis + 1 :])
