"""Ops about values and their number: cast, fill and drop, copy and same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, only
from bridge_core.ops.constants import negative_zeros
from bridge_core.state import Array, Region, TensorSpec, region_shape, regions

__all__ = ["Duplicate", "Drop", "Fill", "Reorder", "Select", "RequireEqual", "InsertZeros"]


@dataclass(frozen=True)
class Reorder(Op):
    """Reorder the tensors of a tuple: output ``i`` is input ``indices[i]``."""

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check."""
        if sorted(self.indices) != list(range(len(self.indices))):
            raise PlanError(f"{self} is no permutation.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if len(specs) != len(self.indices):
            raise PlanError(f"{self} takes {len(self.indices)} tensors, not {len(specs)}.")
        return tuple(specs[i] for i in self.indices)

    def inverse(self) -> Reorder:  # noqa: D102
        return Reorder(tuple(sorted(range(len(self.indices)), key=self.indices.__getitem__)))

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(self.indices[output], region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]


@dataclass(frozen=True)
class Select(Op):
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

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(self.indices[output], region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]


@dataclass(frozen=True)
class InsertZeros(Op):
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

    def inverse(self) -> Select:  # noqa: D102
        return Select(tuple(i for i, there in enumerate(self.present) if there), len(self.present))

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(sum(self.present[:output]), region),) if self.present[output] else ()

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0] if pieces else negative_zeros(region_shape(region), specs[0].dtype)


@dataclass(frozen=True)
class Fill(Op):
    """Make one tensor of a constant, from nothing."""

    value: float
    tensor: TensorSpec

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if specs:
            raise PlanError(f"{self} takes no tensor.")
        return (self.tensor,)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Drop:  # noqa: D102
        return Drop(self.value, self.tensor)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return ()

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return np.full(regions.region_shape(region), self.value, self.tensor.dtype)


@dataclass(frozen=True)
class Drop(Op):
    """Let one tensor go. The inverse fills a constant, so it is not exact."""

    value: float
    tensor: TensorSpec

    @property
    def exact(self) -> bool:
        """False: the values are lost."""
        return False

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if only(self, specs) != self.tensor:
            raise PlanError(f"{self} does not fit {specs[0]}.")
        return ()

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 0

    def inverse(self) -> Fill:  # noqa: D102
        return Fill(self.value, self.tensor)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        raise PlanError(f"{self} has no output.")

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        raise PlanError(f"{self} has no output.")


@dataclass(frozen=True)
class Duplicate(Op):
    """Give the same tensor to several targets."""

    count: int

    def __post_init__(self) -> None:
        """Check."""
        if self.count < 1:
            raise PlanError(f"{self} cannot be undone; there must be one tensor or more.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        return (only(self, specs),) * self.count

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return self.count

    def inverse(self) -> RequireEqual:  # noqa: D102
        return RequireEqual(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(0, region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]


@dataclass(frozen=True)
class RequireEqual(Op):
    """Take one of several tensors that must hold the same values; raises where they differ.

    Args:
        count: How many.
        names: What the error calls them; may be empty.
        target: What the error calls the tensor that they are to make; may be empty.
    """

    count: int
    names: tuple[str, ...] = field(default=(), compare=False)
    target: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check."""
        if self.count < 1:
            raise PlanError(f"{self} cannot be undone; there must be one tensor or more.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if len(specs) != self.count or any(spec != specs[0] for spec in specs):
            raise PlanError(f"{self} does not fit {', '.join(map(str, specs))}.")
        return (specs[0],)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Duplicate:  # noqa: D102
        return Duplicate(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return tuple(InputRegion(i, region) for i in range(self.count))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        first = np.ascontiguousarray(pieces[0]).tobytes()
        if any(np.ascontiguousarray(piece).tobytes() != first for piece in pieces[1:]):
            which = f": {' and '.join(self.names)}" if self.names else ""
            raise PlanError(
                f"tensors that should be tied hold different values{which}.",
                key=self.target or None,
                hint="Make them equal in the source, or give a template that does not tie them."
                if self.names
                else "",
            )
        return pieces[0]

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data, without the names for errors."""
        return {"op": "requireequal", "count": self.count}

    def __str__(self) -> str:
        """Return a short text."""
        return f"requireequal({self.count})"
