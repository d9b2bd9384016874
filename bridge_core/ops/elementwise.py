"""Ops on each element: casts, offsets and scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.ops.constants import check_finite, constant_of, element_bytes
from bridge_core.ops.overflow import OverflowCount, count_overflow
from bridge_core.state import Array, Region, TensorSpec, cast_is_exact, dtype_named, is_floating

__all__ = ["Cast", "Offset", "Scale"]


@dataclass(frozen=True)
class Offset(Op):
    """Add a constant to every value, in the dtype that the tensor is stored in.

    Args:
        value: The constant; it is rounded to the tensor's dtype.
        rounding: Whether values may be rounded. If not, `compute` raises for a value that subtracting the
            constant would not restore bit for bit.

    Raises:
        PlanError: The constant is not finite.
    """

    value: float
    rounding: bool = False

    def __post_init__(self) -> None:
        """Check that the constant is finite."""
        check_finite(self, self.value)

    @property
    def exact(self) -> bool:
        """Whether rounding is refused."""
        return not self.rounding

    @property
    def checks_values(self) -> bool:
        """True: values may be rounded, or leave the range of the dtype."""
        return True

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if not is_floating(spec.dtype):
            raise PlanError(f"{self} takes a tensor of a floating-point dtype, got {spec}.")
        for value in (self.value, -self.value):  # the way back needs the other one
            constant_of(self, value, spec.dtype)
        return (spec,)

    def inverse(self) -> Offset:  # noqa: D102
        return Offset(-self.value, self.rounding)

    @property
    def loss(self) -> str:
        """That values may be rounded, and that the way back rounds too."""
        return "may round; the way back subtracts the same number and rounds" if self.rounding else ""

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        dtype = specs[0].dtype
        given = pieces[0].astype(dtype, copy=False)
        constant = constant_of(self, self.value, dtype)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            moved: Array = np.asarray(given + constant, dtype)
            if self.rounding:
                lost = np.isfinite(given) & ~np.isfinite(moved)
                if lost.any():
                    raise PlanError(
                        f"adding {self.value} to {dtype.name} values exceeds the range of {dtype.name}.",
                        hint=_wider(dtype),
                    )
                return moved
            back: Array = np.asarray(moved - constant, dtype)
        if not np.array_equal(element_bytes(back), element_bytes(given)):
            raise PlanError(
                f"adding {self.value} to {dtype.name} values rounds some of them, so that subtracting it "
                "would not restore them.",
                hint=f"{_wider(dtype)[:-1]}, or allow rounding: offset({self.value}, rounding), or "
                "allow_inexact=True (--allow-inexact).",
            )
        return moved

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        dtype = specs[0].dtype
        constant = ops.full(specs[0].shape, constant_of(self, self.value, dtype))
        return (ops.add(arrays[0], constant),)


@dataclass(frozen=True)
class Scale(Op):
    """Multiply every value by a constant, or divide it; the inverse does the other.

    Tensors of 8-bit and 16-bit dtypes are computed in float32, with the constant in float32, and rounded
    once. A power of two changes no digit, so that it rounds only where values leave the range of the dtype.

    Args:
        value: The constant; it is rounded to the dtype in which is computed.
        rounding: Whether values may be rounded. If not, `compute` raises for a value that the inverse would
            not restore bit for bit.
        divides: Whether to divide by the constant.

    Raises:
        PlanError: The constant is not finite, or 0.
    """

    value: float
    rounding: bool = False
    divides: bool = False

    def __post_init__(self) -> None:
        """Check that the constant is finite, and not 0."""
        check_finite(self, self.value)
        if self.value == 0:
            raise PlanError(f"{self} takes a number that is not 0.")

    @property
    def exact(self) -> bool:
        """Whether rounding is refused."""
        return not self.rounding

    @property
    def loss(self) -> str:
        """That values may be rounded, and that the way back rounds too."""
        way = "multiplies" if self.divides else "divides"
        return f"may round; the way back {way} by the same number and rounds" if self.rounding else ""

    @property
    def checks_values(self) -> bool:
        """True: values may be rounded, or leave the range of the dtype."""
        return True

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if not is_floating(spec.dtype):
            raise PlanError(f"{self} takes a tensor of a floating-point dtype, got {spec}.")
        working = _working(spec.dtype)
        if constant_of(self, self.value, working) == 0:
            raise PlanError(f"{self} cannot use {self.value}: {working.name} rounds it to 0.")
        return (spec,)

    def inverse(self) -> Scale:  # noqa: D102
        return replace(self, divides=not self.divides)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        dtype = specs[0].dtype
        given = pieces[0].astype(dtype, copy=False)
        doing = f"{'dividing' if self.divides else 'multiplying'} {dtype.name} values by {self.value}"
        with np.errstate(all="ignore"):
            result = self._times(given, divides=self.divides)
            scaled: Array = result.astype(dtype)
            if self.rounding:
                with OverflowCount() as overflow:
                    count_overflow(result, scaled)
                if overflow.values or (np.isfinite(given) & ~np.isfinite(result)).any():
                    raise PlanError(f"{doing} exceeds the range of {dtype.name}.", hint=_wider(dtype))
                return scaled
            back: Array = self._times(scaled, divides=not self.divides).astype(dtype)
        if not np.array_equal(element_bytes(back), element_bytes(given)):
            back_by = "multiplying" if self.divides else "dividing"
            allowed = (
                f"llow rounding: {replace(self, rounding=True)}, or allow_inexact=True (--allow-inexact)."
            )
            helps = abs(math.frexp(self.value)[0]) == 0.5 and dtype.itemsize < 8  # its digits stay
            raise PlanError(
                f"{doing} rounds some of them, so that {back_by} would not restore them.",
                hint=f"{_wider(dtype)[:-1]}, or a{allowed}" if helps else f"A{allowed}",
            )
        return scaled

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        dtype = specs[0].dtype
        working = _working(dtype)
        values = arrays[0] if working == dtype else ops.cast(arrays[0], working)
        scaled = ops.scale(values, constant_of(self, self.value, working), divides=self.divides)
        return (scaled if working == dtype else ops.cast(scaled, dtype),)

    def _times(self, values: Array, *, divides: bool) -> Array:
        """Return the products or quotients in the dtype in which is computed."""
        dtype = _working(values.dtype)
        constant, wide = constant_of(self, self.value, dtype), values.astype(dtype, copy=False)
        return np.asarray(wide / constant if divides else wide * constant, dtype)

    def __str__(self) -> str:
        """Return a short text, ``scale(0.5)``; ``scale(1 / 0.5)`` where it divides."""
        value = f"1 / {self.value}" if self.divides else str(self.value)
        return f"scale({value}{', rounding' if self.rounding else ''})"


def _working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def _wider(dtype: np.dtype[Any]) -> str:
    wider = "float32" if dtype.itemsize < 4 else "float64"
    return f"Cast to a wider dtype first: cast({dtype.name}, {wider})."


@dataclass(frozen=True)
class Cast(Op):
    """Change the dtype; exact if the target's dtype holds every value of the source's.

    Args:
        source: Name of the dtype before.
        target: Name of the dtype afterwards.

    Raises:
        PlanError: The source is complex, and the target is not.
    """

    source: str
    target: str

    def __post_init__(self) -> None:
        """Check that no imaginary part is lost."""
        source, target = dtype_named(self.source), dtype_named(self.target)
        if source.kind == "c" and target.kind != "c":
            raise PlanError(f"{self} would lose imaginary parts.", hint="Cast to complex64 or complex128.")

    @property
    def exact(self) -> bool:
        """Whether the target's dtype holds every value of the source's."""
        return cast_is_exact(dtype_named(self.source), dtype_named(self.target))

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if spec.dtype.name != self.source:
            raise PlanError(f"{self} takes a tensor of the dtype {self.source}, got {spec}.")
        return (TensorSpec(spec.shape, dtype_named(self.target)),)

    def inverse(self) -> Cast:  # noqa: D102
        return Cast(self.target, self.source)

    @property
    def loss(self) -> str:
        """That values may be rounded, where the target's dtype does not hold all."""
        return "" if self.exact else "may round; the way back gives the rounded values"

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        source, target = pieces[0].dtype, dtype_named(self.target)
        # ml_dtypes has not every cast between two of its dtypes; float32 holds every value of both.
        foreign = source.isbuiltin != 1 and target.isbuiltin != 1
        wide = is_floating(target) and target.itemsize == 1 and source.itemsize == 8
        with np.errstate(over="ignore", invalid="ignore"):
            cast = pieces[0].astype(np.float32) if foreign or wide else pieces[0]
            cast = cast.astype(target)
        count_overflow(pieces[0], cast)
        return cast

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.cast(arrays[0], dtype_named(self.target)),)
