"""Ops on each element: casts and offsets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.ops.constants import check_finite, constant_of, element_bytes
from bridge_core.ops.overflow import count_overflow
from bridge_core.state import Array, Region, TensorSpec, cast_is_exact, dtype_named, is_floating

__all__ = ["Cast", "Offset"]


@dataclass(frozen=True)
class Offset(Op):
    """Add a constant to every value, in the dtype that the tensor is stored in.

    Args:
        value: The constant; it is rounded to the tensor's dtype.
        rounding: Whether values may be rounded. Where they may not, a value is refused that subtracting the
            constant would not give back bit for bit.
    """

    value: float
    rounding: bool = False

    def __post_init__(self) -> None:
        """Check."""
        check_finite(self, self.value)

    @property
    def exact(self) -> bool:
        """Whether rounding is refused."""
        return not self.rounding

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if not is_floating(spec.dtype):
            raise PlanError(f"{self} takes floating-point numbers, not {spec}.")
        for value in (self.value, -self.value):  # the way back needs the other one
            constant_of(self, value, spec.dtype)
        return (spec,)

    def inverse(self) -> Offset:  # noqa: D102
        return Offset(-self.value, self.rounding)

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
                        f"adding {self.value} leaves the range of {dtype.name}.",
                        hint="Cast to a wider dtype first.",
                    )
                return moved
            back: Array = np.asarray(moved - constant, dtype)
        if not np.array_equal(element_bytes(back), element_bytes(given)):
            raise PlanError(
                f"adding {self.value} in {dtype.name} rounds: subtracting it does not give every value back.",
                hint="Cast to a wider dtype first, or allow rounding: offset(number, rounding).",
            )
        return moved


@dataclass(frozen=True)
class Cast(Op):
    """Change the dtype, by names; exact where every value survives."""

    source: str
    target: str

    def __post_init__(self) -> None:
        """Check."""
        source, target = dtype_named(self.source), dtype_named(self.target)
        if source.kind == "c" and target.kind != "c":
            raise PlanError(f"{self} would drop imaginary parts.")

    @property
    def exact(self) -> bool:
        """Whether every value of the source dtype survives."""
        return cast_is_exact(dtype_named(self.source), dtype_named(self.target))

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if spec.dtype.name != self.source:
            raise PlanError(f"{self} does not fit {spec}.")
        return (TensorSpec(spec.shape, dtype_named(self.target)),)

    def inverse(self) -> Cast:  # noqa: D102
        return Cast(self.target, self.source)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        source, target = pieces[0].dtype, dtype_named(self.target)
        # Casts between two of ml_dtypes' types are not all there; float32 holds every value of both.
        foreign = source.isbuiltin != 1 and target.isbuiltin != 1
        wide = is_floating(target) and target.itemsize == 1 and source.itemsize == 8
        with np.errstate(over="ignore", invalid="ignore"):
            cast = pieces[0].astype(np.float32) if foreign or wide else pieces[0]
            cast = cast.astype(target)
        count_overflow(pieces[0], cast)
        return cast
