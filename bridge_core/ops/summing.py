"""Adding tensors up, and taking a sum apart again with what was kept of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.ops.constants import negative_zeros
from bridge_core.state import Array, AuxiliaryTensor, Region, is_floating

__all__ = ["Sum", "SplitSum"]


@dataclass(frozen=True)
class Sum(Op):
    """Add tensors of one shape and dtype, in their dtype. Nothing tells the parts from the sum alone."""

    count: int

    def __post_init__(self) -> None:
        """Check."""
        if self.count < 2:
            raise PlanError(f"{self} takes two tensors or more.")

    @property
    def exact(self) -> bool:
        """False: many parts have one sum."""
        return False

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        alike = len(specs) == self.count and all(spec == specs[0] for spec in specs)
        if not alike or not is_floating(specs[0].dtype):
            raise PlanError(f"{self} does not fit {', '.join(map(str, specs))}.")
        return (specs[0],)

    def inverse(self) -> SplitSum:  # noqa: D102
        return SplitSum(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return tuple(InputRegion(i, region) for i in range(self.count))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return _added(pieces)


@dataclass(frozen=True)
class SplitSum(Op):
    """Take a sum apart: each element into what was kept, where that still adds up; else it is all the first.

    Args:
        count: How many parts.
        kept: The parts as they were; empty where nothing was kept.
    """

    count: int
    kept: tuple[AuxiliaryTensor, ...] = ()

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return self.count

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if self.kept and any((r.shape, r.dtype) != (spec.shape, spec.dtype.name) for r in self.kept):
            raise PlanError(f"the parts that were kept do not fit {spec}.")
        return (spec,) * self.count

    def inverse(self) -> Sum:  # noqa: D102
        return Sum(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        total = pieces[0]
        alone = total if output == 0 else negative_zeros(total.shape, total.dtype)
        if not self.kept:
            return alone
        parts = tuple(part.array()[region] for part in self.kept)
        bits = np.dtype(f"u{total.dtype.itemsize}")
        unchanged = np.asarray(_added(parts), order="C").view(bits) == np.asarray(total, order="C").view(bits)
        chosen: Array = np.where(unchanged, parts[output], alone)
        return chosen

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data, without the values."""
        return {"op": "splitsum", "count": self.count, "kept": bool(self.kept)}

    def __str__(self) -> str:
        """Return a short text, without the values."""
        return f"splitsum({self.count}{', kept' if self.kept else ''})"


def _added(parts: Arrays) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return reduce(np.add, parts)
