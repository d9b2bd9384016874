"""Adding tensors up, and splitting a sum again with the parts that the metadata stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, check_alike, check_count, only
from bridge_core.ops.constants import negative_zeros
from bridge_core.state import Array, AuxiliaryTensor, Region, is_floating

__all__ = ["Sum", "SplitSum"]


@dataclass(frozen=True)
class Sum(Op):
    """Add tensors of one shape and dtype, in their dtype.

    Args:
        count: How many.

    Raises:
        PlanError: The count is less than 2.
    """

    count: int

    def __post_init__(self) -> None:
        """Check that there is something to add."""
        if self.count < 2:
            raise PlanError(f"{self} takes a count of 2 or more, got {self.count}.")

    @property
    def exact(self) -> bool:
        """False: the parts cannot be computed from their sum."""
        return False

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, self.count)
        check_alike(self, specs)
        if not is_floating(specs[0].dtype):
            raise PlanError(f"{self} takes tensors of a floating-point dtype, got {specs[0]}.")
        return (specs[0],)

    def inverse(self) -> SplitSum:  # noqa: D102
        return SplitSum(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return tuple(InputRegion(i, region) for i in range(self.count))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return _added(pieces)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (reduce(ops.add, arrays),)


@dataclass(frozen=True)
class SplitSum(Op):
    """Split a sum into its parts.

    An element is restored from the stored parts where these still add up to it. Else the first part gets the
    entire element, and the others get -0.0, which changes no sum.

    Args:
        count: How many parts.
        kept: The parts from before the sum, which the metadata stores; empty if it stores none.
    """

    count: int
    kept: tuple[AuxiliaryTensor, ...] = ()

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return self.count

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if self.kept and any((r.shape, r.dtype) != (spec.shape, spec.dtype.name) for r in self.kept):
            first = self.kept[0]
            raise PlanError(
                f"{self} takes stored parts of the sum's shape and dtype: expected {spec}, got "
                f"{first.dtype}{list(first.shape)}."
            )
        return (spec,) * self.count

    def inverse(self) -> Sum:  # noqa: D102
        return Sum(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        total = pieces[0]
        default = total if output == 0 else negative_zeros(total.shape, total.dtype)
        if not self.kept:
            return default
        parts = tuple(part.array()[region] for part in self.kept)
        bits = np.dtype(f"u{total.dtype.itemsize}")
        unchanged = np.asarray(_added(parts), order="C").view(bits) == np.asarray(total, order="C").view(bits)
        chosen: Array = np.where(unchanged, parts[output], default)
        return chosen

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        total, spec = arrays[0], specs[0]
        zeros = ops.full(spec.shape, negative_zeros((), spec.dtype))
        defaults = [total, *[zeros] * (self.count - 1)]
        if not self.kept:
            return defaults
        parts = [ops.constant(part.array()) for part in self.kept]
        stored = ops.constant(_added(tuple(part.array() for part in self.kept)))
        return [ops.choose(stored, total, part, other) for part, other in zip(parts, defaults, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data, without the values."""
        return {"op": "splitsum", "count": self.count, "kept": bool(self.kept)}

    def __str__(self) -> str:
        """Return a short text, without the values."""
        return f"splitsum({self.count}{', with stored parts' if self.kept else ''})"


def _added(parts: Arrays) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return reduce(np.add, parts)
