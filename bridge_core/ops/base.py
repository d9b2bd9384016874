"""What every op is: invertible, computable on specs, on arrays and region by region.

An op takes a tuple of tensors to a tuple of tensors. `spec` tells shapes and dtypes without data, `apply`
moves whole arrays, `inverse` undoes it. `input_regions` says which regions of the inputs a region of one
output needs, and `compute` makes that region from them: from these two follow chunked execution and reading
only a slice. For every op and region, `compute` of `input_regions` equals the same slice of ``apply``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from bridge_core.errors import DeprecatedName, PlanError
from bridge_core.state import Array, Region, TensorSpec, regions

__all__ = ["Arrays", "Op", "InputRegion", "Specs", "only"]

Specs = tuple[TensorSpec, ...]
Arrays = tuple[Array, ...]


_OLD_METHODS = {"pull": "input_regions", "assemble": "compute"}


class InputRegion(NamedTuple):
    """A region of one input."""

    input: int
    region: Region


class Op(ABC):
    """One move. Subclasses are frozen dataclasses whose fields are plain data."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let ops that define the methods under their old names work on."""
        super().__init_subclass__(**kwargs)
        for old, new in _OLD_METHODS.items():
            if old in vars(cls):
                warnings.warn(
                    f"{cls.__name__}.{old} is deprecated; define {new}.", DeprecatedName, stacklevel=2
                )
                setattr(cls, new, vars(cls)[old])

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:
        """Return `input_regions`; deprecated."""
        warnings.warn("Op.pull is deprecated; use input_regions.", DeprecatedName, stacklevel=2)
        return self.input_regions(output, region, specs)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:
        """Return `compute`; deprecated."""
        warnings.warn("Op.assemble is deprecated; use compute.", DeprecatedName, stacklevel=2)
        return self.compute(output, region, pieces, specs)

    @property
    def exact(self) -> bool:
        """Whether `inverse` gives every input back bit for bit."""
        return True

    def outputs(self, inputs: int) -> int:
        """Return how many tensors it makes of so many; as many, if it says nothing else."""
        return inputs

    @abstractmethod
    def spec(self, specs: Specs) -> Specs:
        """Return the outputs' specs.

        Raises:
            PlanError: The op does not fit these inputs.
        """

    @abstractmethod
    def inverse(self) -> Op:
        """Return the op that undoes this one."""

    @abstractmethod
    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:
        """Return the regions of the inputs that a region of an output needs."""

    @abstractmethod
    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:
        """Make a region of an output from what `input_regions` named, in its order."""

    def apply(self, arrays: Sequence[Array]) -> Arrays:
        """Move whole arrays.

        Raises:
            PlanError: The op does not fit these inputs.
        """
        specs = tuple(TensorSpec(array.shape, array.dtype) for array in arrays)
        results = []
        for output, spec in enumerate(self.spec(specs)):
            region = regions.full(spec.shape)
            pieces = tuple(arrays[p.input][p.region] for p in self.input_regions(output, region, specs))
            results.append(self.compute(output, region, pieces, specs))
        return tuple(results)

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data."""
        data: dict[str, Any] = {"op": type(self).__name__.lower()}
        for field in fields(self):  # type: ignore[arg-type] # subclasses are dataclasses
            data[field.name] = _plain(getattr(self, field.name))
        return data

    def __str__(self) -> str:
        """Return a short text, e.g. ``permute(1, 0)``."""
        values = ", ".join(str(_plain(getattr(self, f.name))) for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__.lower()}({values})"


def _plain(value: Any) -> Any:
    if isinstance(value, Op):
        return value.to_json()
    if isinstance(value, TensorSpec):
        return {"shape": list(value.shape), "dtype": value.dtype.name}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def only(op: Op, specs: Specs) -> TensorSpec:
    """Return the single spec that a one-to-one op takes."""
    if len(specs) != 1:
        raise PlanError(f"{op} takes one tensor, not {len(specs)}.")
    return specs[0]
