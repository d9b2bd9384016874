"""Ops about which tensors there are: reorder, select, fill, drop, duplicate, and require to be equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, check_alike, check_count, only
from bridge_core.ops.constants import first_difference, negative_zeros
from bridge_core.state import Array, Region, TensorSpec, region_shape, regions

__all__ = ["Duplicate", "Drop", "Fill", "Reorder", "Select", "RequireEqual", "InsertZeros"]


@dataclass(frozen=True)
class Reorder(Op):
    """Reorder the tensors of a tuple: output ``i`` is input ``indices[i]``.

    Raises:
        PlanError: The indices are not a permutation.
    """

    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the indices are a permutation."""
        if sorted(self.indices) != list(range(len(self.indices))):
            last = len(self.indices) - 1
            raise PlanError(f"reorder takes each index from 0 to {last} once, got {list(self.indices)}.")

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, len(self.indices))
        return tuple(specs[i] for i in self.indices)

    def inverse(self) -> Reorder:  # noqa: D102
        return Reorder(tuple(sorted(range(len(self.indices)), key=self.indices.__getitem__)))

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(self.indices[output], region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return [arrays[i] for i in self.indices]


@dataclass(frozen=True)
class Select(Op):
    """Take some of several tensors, and leave out the others.

    Args:
        indices: Index of each tensor to take, in the order of the outputs.
        count: How many tensors there are.
    """

    indices: tuple[int, ...]
    count: int

    @property
    def exact(self) -> bool:
        """Whether no tensor is left out."""
        return len(set(self.indices)) == self.count

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return len(self.indices)

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, self.count)
        return tuple(specs[i] for i in self.indices)

    def inverse(self) -> Op:  # noqa: D102
        raise PlanError(f"{self} has no inverse: the tensors that it leaves out cannot be restored.")

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(self.indices[output], region),)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return [arrays[i] for i in self.indices]


@dataclass(frozen=True)
class InsertZeros(Op):
    """Insert tensors of zeros where tensors are missing.

    The zeros have the first tensor's shape and dtype.

    Args:
        present: For each output, whether it is an input; the others are made of zeros.

    Raises:
        PlanError: No output is an input.
    """

    present: tuple[bool, ...]

    def __post_init__(self) -> None:
        """Check that one tensor is present."""
        if not any(self.present):
            raise PlanError(f"{self} takes one present tensor or more, got none.")

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return len(self.present)

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, sum(self.present))
        given = iter(specs)
        return tuple(next(given) if there else specs[0] for there in self.present)

    def inverse(self) -> Select:  # noqa: D102
        return Select(tuple(i for i, there in enumerate(self.present) if there), len(self.present))

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return (InputRegion(sum(self.present[:output]), region),) if self.present[output] else ()

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0] if pieces else negative_zeros(region_shape(region), specs[0].dtype)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        given = iter(arrays)
        zero = negative_zeros((), specs[0].dtype)
        return [next(given) if there else ops.full(specs[0].shape, zero) for there in self.present]


@dataclass(frozen=True)
class Fill(Op):
    """Make one tensor that is filled with a constant, without an input."""

    value: float
    tensor: TensorSpec

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, 0)
        return (self.tensor,)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Drop:  # noqa: D102
        return Drop(self.value, self.tensor)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return ()

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return np.full(regions.region_shape(region), self.value, self.tensor.dtype)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (ops.full(self.tensor.shape, np.full((), self.value, self.tensor.dtype)),)


@dataclass(frozen=True)
class Drop(Op):
    """Leave out one tensor. The inverse fills a constant, so the op is not exact."""

    value: float
    tensor: TensorSpec

    @property
    def exact(self) -> bool:
        """False: the values are lost."""
        return False

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if only(self, specs) != self.tensor:
            raise PlanError(f"drop takes a tensor {self.tensor}, got {specs[0]}.")
        return ()

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 0

    def inverse(self) -> Fill:  # noqa: D102
        return Fill(self.value, self.tensor)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        raise PlanError(f"{self} has no output.")

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        raise PlanError(f"{self} has no output.")

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return ()


@dataclass(frozen=True)
class Duplicate(Op):
    """Give the same tensor to several targets.

    Args:
        count: How many.

    Raises:
        PlanError: The count is less than 1.
    """

    count: int

    def __post_init__(self) -> None:
        """Check that the op can be undone."""
        if self.count < 1:
            raise PlanError(f"duplicate takes a count of 1 or more, got {self.count}.")

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

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return [arrays[0]] * self.count


@dataclass(frozen=True)
class RequireEqual(Op):
    """Take one of several tensors that must hold the same values.

    `compute` raises where they differ.

    Args:
        count: How many.
        names: Their names for the error; may be empty.
        target: The name of the tensor that they make, for the error; may be empty.

    Raises:
        PlanError: The count is less than 1.
    """

    count: int
    names: tuple[str, ...] = field(default=(), compare=False)
    target: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check that the op can be undone."""
        if self.count < 1:
            raise PlanError(f"{self} takes a count of 1 or more, got {self.count}.")

    @property
    def checks_values(self) -> bool:
        """Whether there are several tensors to compare."""
        return self.count > 1

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        check_count(self, specs, self.count)
        check_alike(self, specs)
        return (specs[0],)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return 1

    def inverse(self) -> Duplicate:  # noqa: D102
        return Duplicate(self.count)

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        return tuple(InputRegion(i, region) for i in range(self.count))

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        first = np.ascontiguousarray(pieces[0]).tobytes()
        for number, piece in enumerate(pieces[1:], 1):
            if np.ascontiguousarray(piece).tobytes() != first:
                one, other = (
                    (self.names[0], self.names[number])
                    if self.names
                    else (f"tensor 1 of {self.count}", f"tensor {number + 1} of {self.count}")
                )
                index, value, other_value = first_difference(piece, pieces[0], region)
                raise PlanError(
                    f"{one} and {other} must hold the same values to become one tensor, but differ at "
                    f"{index}: {value} and {other_value}.",
                    key=self.target or None,
                    hint='Make them equal in the source, or pass like="model.safetensors" (--like) with a '
                    "target that does not tie them."
                    if self.names
                    else "Make them equal in the source, or write a rule for each.",
                )
        return pieces[0]

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        return (arrays[0],)

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data, without the names for errors."""
        return {"op": "requireequal", "count": self.count}

    def __str__(self) -> str:
        """Return a short text."""
        return f"requireequal({self.count})"
