"""What ops need of a framework to be computed on its live arrays, traced ones included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from bridge_core.state import Array, TensorSpec

__all__ = ["ArrayOps"]


class ArrayOps(Protocol):
    """The primitives that `Op.emit` is written in, on the arrays of one framework.

    An array is a framework's own, on any device; it may be traced, so that it has a shape and a dtype but
    no values. Every primitive is pure and gives the bits that numpy gives, or raises. Shapes are static.
    """

    @property
    def framework(self) -> str:
        """Name of the framework, for messages."""
        ...

    def opened(self, value: Any) -> Any:
        """Return the children of a container as a mapping, or the array that a box holds.

        Names are those that the framework's adapter gives the tensors. Other values are returned unchanged.
        """
        ...

    def taken(self, array: Any) -> Any:
        """Return an array that `spec` accepts in the form that the other primitives take.

        Raises:
            UnsupportedFeature: The framework has no arrays of its dtype.
        """
        ...

    def spec(self, array: Any) -> TensorSpec:
        """Return an array's shape and dtype.

        Raises:
            UsageError: It is not an array of the framework.
            UnsupportedFeature: The bridge does not have its dtype.
        """
        ...

    def traced(
        self, function: Callable[[ArrayOps, tuple[Any, ...]], Sequence[Any]], specs: Sequence[TensorSpec]
    ) -> tuple[TensorSpec, ...]:
        """Return the specs of what a function returns for arrays without values.

        Args:
            function: Takes primitives and arrays; errors that it raises are passed on.
            specs: The specs of its arrays.

        Raises:
            UnsupportedFeature: The framework has no arrays of a spec.
        """
        ...

    def near(self, arrays: Sequence[Any]) -> ArrayOps:
        """Return primitives that make new arrays on the device of the given ones."""
        ...

    def transpose(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array whose axis ``i`` is axis ``axes[i]`` of the given one."""
        ...

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Return the elements, in row-major order, in another shape."""
        ...

    def flip(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array with the order of elements reversed along axes."""
        ...

    def part(self, array: Any, axis: int, start: int, stop: int) -> Any:
        """Return the elements of an axis from ``start`` to before ``stop``."""
        ...

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        """Return one array of at least one array of the same dtype."""
        ...

    def full(self, shape: tuple[int, ...], value: Array) -> Any:
        """Return an array filled with a numpy scalar array, with its bits."""
        ...

    def constant(self, values: Array) -> Any:
        """Return the values of a numpy array."""
        ...

    def cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return the values in another dtype, rounded as `Cast` rounds.

        Raises:
            UnsupportedFeature: The framework's own cast gives other bits for some values.
        """
        ...

    def add(self, first: Any, second: Any) -> Any:
        """Return the sum of two arrays of one shape and floating-point dtype.

        Where both elements are NaNs, numpy itself takes the bits of either, by their place in the array.

        Raises:
            UnsupportedFeature: The framework's sum gives other bits for some values.
        """
        ...

    def scale(self, array: Any, constant: Array, *, divides: bool) -> Any:
        """Return the products with a scalar, or the quotients, in float32 or float64.

        Raises:
            UnsupportedFeature: The framework's product gives other bits for some values.
        """
        ...

    def choose(self, first: Any, second: Any, equal: Any, other: Any) -> Any:
        """Return elements of ``equal`` where the first two have the same bits, else of ``other``."""
        ...
