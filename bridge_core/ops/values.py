"""Ops about values and their number: cast, fill and drop, copy and same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge_core import regions
from bridge_core.dtypes import cast_is_exact, dtype_named, is_floating
from bridge_core.errors import PlanError
from bridge_core.ops.base import Arrays, Op, Pull, Specs, only
from bridge_core.regions import Region
from bridge_core.tensors import Array, TensorSpec

__all__ = ["Cast", "Copy", "Drop", "Fill", "Same"]


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

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(0, region),)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        source, target = pieces[0].dtype, dtype_named(self.target)
        # Casts between two of ml_dtypes' types are not all there; float32 holds every value of both.
        foreign = source.isbuiltin != 1 and target.isbuiltin != 1
        wide = is_floating(target) and target.itemsize == 1 and source.itemsize == 8
        with np.errstate(over="ignore", invalid="ignore"):
            if foreign or wide:
                return pieces[0].astype(np.float32).astype(target)
            return pieces[0].astype(target)


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

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return ()

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
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

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        raise PlanError(f"{self} has no output.")

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        raise PlanError(f"{self} has no output.")


@dataclass(frozen=True)
class Copy(Op):
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

    def inverse(self) -> Same:  # noqa: D102
        return Same(self.count)

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(0, region),)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        return pieces[0]


@dataclass(frozen=True)
class Same(Op):
    """Take one of several tensors that must hold the same values; raises where they differ."""

    count: int

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

    def inverse(self) -> Copy:  # noqa: D102
        return Copy(self.count)

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return tuple(Pull(i, region) for i in range(self.count))

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        first = np.ascontiguousarray(pieces[0]).tobytes()
        if any(np.ascontiguousarray(piece).tobytes() != first for piece in pieces[1:]):
            raise PlanError("tensors that should be tied hold different values.")
        return pieces[0]
