"""What every op is: invertible, computable on specs, on arrays and region by region.

An op makes a tuple of tensors from a tuple of tensors. `spec` returns the shapes and dtypes of the outputs
without reading data, `apply` makes complete arrays, and `inverse` returns the op that undoes it.
`input_regions` returns which regions of the inputs a region of one output needs, and `compute` makes that
region from them: these two allow execution in blocks, and reading only a slice. For every op and region,
`compute` of `input_regions` equals the same slice of ``apply``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from bridge_core.errors import DeprecatedName, PlanError, UnsupportedFeature
from bridge_core.messages import count
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.state import Array, Region, TensorSpec, regions

__all__ = ["Arrays", "Op", "InputRegion", "Specs", "check_alike", "check_count", "only"]

Specs = tuple[TensorSpec, ...]
Arrays = tuple[Array, ...]


_MOST_ITEMS = 8
"""How many items of a list the text of an op has."""

_OLD_METHODS = {"pull": "input_regions", "assemble": "compute"}


class InputRegion(NamedTuple):
    """A region of one input: the input's index, and one slice for each of its axes."""

    input: int
    region: Region


class Op(ABC):
    """One operation on tensors. Subclasses are frozen dataclasses whose fields are plain data."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Accept the methods of a subclass under their old names."""
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

    @property
    def loss(self) -> str:
        """What it may lose, and what `inverse` gives then; empty if nothing is lost."""
        return ""

    @property
    def checks_values(self) -> bool:
        """Whether `compute` may raise because of values; `emit` cannot."""
        return False

    def outputs(self, inputs: int) -> int:
        """Return how many tensors the op makes from ``inputs`` tensors; by default as many."""
        return inputs

    @abstractmethod
    def spec(self, specs: Specs) -> Specs:
        """Return the specs of the outputs.

        Raises:
            PlanError: The number, the shapes or the dtypes of the inputs are not what the op takes.
        """

    @abstractmethod
    def inverse(self) -> Op:
        """Return the op that undoes this one."""

    @abstractmethod
    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:
        """Return the regions of the inputs that a region of an output needs."""

    @abstractmethod
    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:
        """Return a region of an output; it may be a view of ``pieces``.

        Args:
            output: Index of the output.
            region: The region of that output.
            pieces: The values of the regions that `input_regions` returned, in that order.
            specs: The specs of all inputs.
        """

    def apply(self, arrays: Sequence[Array]) -> Arrays:
        """Return the complete outputs for complete inputs; the outputs may be views of the inputs.

        Raises:
            PlanError: As `spec`; or values would be lost that the op must preserve.
        """
        specs = tuple(TensorSpec(array.shape, array.dtype) for array in arrays)
        results = []
        for output, spec in enumerate(self.spec(specs)):
            region = regions.full(spec.shape)
            pieces = tuple(arrays[p.input][p.region] for p in self.input_regions(output, region, specs))
            results.append(self.compute(output, region, pieces, specs))
        return tuple(results)

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:
        """Return the complete outputs for arrays of a framework, with the bits that `apply` gives.

        It is written in the primitives of ``ops``, and reads no value: the arrays may be traced. Where
        `compute` raises because of values, any values may be returned.

        Args:
            ops: The primitives of the framework.
            arrays: The inputs.
            specs: Their specs, which `spec` accepts.

        Raises:
            UnsupportedFeature: The op cannot be computed so; a subclass that does not define this cannot.
        """
        raise UnsupportedFeature(
            f"{type(self).__name__} does not define emit, so that it is computed only by numpy.",
            hint="Apply the plan with plan.apply, or define emit in the op.",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the op as plain data."""
        data: dict[str, Any] = {"op": type(self).__name__.lower()}
        for field in fields(self):  # type: ignore[arg-type] # subclasses are dataclasses
            data[field.name] = _plain(getattr(self, field.name))
        return data

    def __str__(self) -> str:
        """Return a short text, e.g. ``permute([1, 0])``; of long lists only the first items."""
        values = ", ".join(_short(getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__.lower()}({values})"


def _plain(value: Any) -> Any:
    if isinstance(value, Op):
        return value.to_json()
    if isinstance(value, TensorSpec):
        return {"shape": list(value.shape), "dtype": value.dtype.name}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        more = f", ... ({len(value)} in all)" if len(value) > _MOST_ITEMS else ""
        return f"[{', '.join(map(_short, value[:_MOST_ITEMS]))}{more}]"
    return str(value)


def only(op: Op, specs: Specs) -> TensorSpec:
    """Return the single spec that a one-to-one op takes.

    Raises:
        PlanError: It gets none, or more than one.
    """
    check_count(op, specs, 1)
    return specs[0]


def check_count(op: Op, specs: Sequence[object], expected: int) -> None:
    """Check how many tensors an op takes.

    Raises:
        PlanError: There are more or fewer.
    """
    if len(specs) != expected:
        raise PlanError(f"{op} takes {count(expected, 'tensor')}, got {len(specs)}.")


def check_alike(op: Op, specs: Specs) -> None:
    """Check that all tensors have one shape and one dtype.

    Raises:
        PlanError: One differs from the first.
    """
    for number, spec in enumerate(specs, 1):
        if spec != specs[0]:
            raise PlanError(
                f"{op} takes tensors of one shape and dtype: expected {specs[0]}, as the first one, got "
                f"{spec} as tensor {number} of {len(specs)}."
            )
