"""Adding tensors up, and taking a sum apart again with what was kept of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from bridge_core.dtypes import is_floating
from bridge_core.errors import PlanError
from bridge_core.metadata import Residual
from bridge_core.ops.base import Arrays, Op, Pull, Specs, only
from bridge_core.regions import Region, region_shape
from bridge_core.tensors import Array

__all__ = ["NOTHING", "Pick", "Sum", "Unsum", "WithZeros"]

NOTHING = -0.0
"""The number that changes no other when it is added, whatever its sign."""


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

    def inverse(self) -> Unsum:  # noqa: D102
        return Unsum(self.count)

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return tuple(Pull(i, region) for i in range(self.count))

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return _added(pieces)


@dataclass(frozen=True)
class Unsum(Op):
    """Take a sum apart: each element into what was kept, where that still adds up; else it is all the first.

    Args:
        count: How many parts.
        kept: The parts as they were; empty where nothing was kept.
    """

    count: int
    kept: tuple[Residual, ...] = ()

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return self.count

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        spec = only(self, specs)
        if self.kept and any((r.shape, r.dtype) != (spec.shape, spec.dtype.name) for r in self.kept):
            raise PlanError(f"the parts that were kept do not fit {spec}.")
        return (spec,) * self.count

    def inverse(self) -> Sum:  # noqa: D102
        return Sum(self.count)

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(0, region),)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        total = pieces[0]
        alone = total if output == 0 else _nothing(total.shape, total.dtype)
        if not self.kept:
            return alone
        parts = tuple(part.array()[region] for part in self.kept)
        bits = np.dtype(f"u{total.dtype.itemsize}")
        unchanged = np.asarray(_added(parts), order="C").view(bits) == np.asarray(total, order="C").view(bits)
        chosen: Array = np.where(unchanged, parts[output], alone)
        return chosen

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data, without the values."""
        return {"op": "unsum", "count": self.count, "kept": bool(self.kept)}

    def __str__(self) -> str:
        """Return a short text, without the values."""
        return f"unsum({self.count}{', kept' if self.kept else ''})"


@dataclass(frozen=True)
class Pick(Op):
    """Take some of several tensors, in an order, and leave the others."""

    indices: tuple[int, ...]
    count: int

    @property
    def exact(self) -> bool:
        """Whether none is left."""
        return len(set(self.indices)) == self.count

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return len(self.indices)

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if len(specs) != self.count:
            raise PlanError(f"{self} does not fit {len(specs)} tensors.")
        return tuple(specs[i] for i in self.indices)

    def inverse(self) -> Op:  # noqa: D102
        raise PlanError(f"{self} cannot be undone.")

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(self.indices[output], region),)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]


@dataclass(frozen=True)
class WithZeros(Op):
    """Put zeros of the first tensor's shape and dtype where a tensor of a row is missing.

    Args:
        present: For each tensor of the row, whether it is given.
    """

    present: tuple[bool, ...]

    def __post_init__(self) -> None:
        """Check."""
        if not any(self.present):
            raise PlanError(f"{self} takes one tensor or more.")

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return len(self.present)

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if len(specs) != sum(self.present):
            raise PlanError(f"{self} does not fit {len(specs)} tensors.")
        given = iter(specs)
        return tuple(next(given) if there else specs[0] for there in self.present)

    def inverse(self) -> Pick:  # noqa: D102
        return Pick(tuple(i for i, there in enumerate(self.present) if there), len(self.present))

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(sum(self.present[:output]), region),) if self.present[output] else ()

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0] if pieces else _nothing(region_shape(region), specs[0].dtype)


def _nothing(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what changes no sum: negative zeros, since -0.0 + 0.0 is 0.0."""
    return np.full(shape, NOTHING, dtype)


def _added(parts: Arrays) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return reduce(np.add, parts)
