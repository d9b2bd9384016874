"""Tensors that a plugin's code reads: what it raises names the plugin, and what it returns is checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from bridge_core.errors import about_tensor
from bridge_core.state import (
    Array,
    ArrayTensor,
    FileTensor,
    FlatState,
    Key,
    Region,
    StridedFileTensor,
    Tensor,
    TensorSpec,
    region_shape,
)

__all__ = ["with_guarded_tensors"]

Guard = Callable[[], AbstractContextManager[object, bool | None]]

_OWN = (ArrayTensor, FileTensor, StridedFileTensor)
"""Tensors that only code of ckptbridge reads."""


def with_guarded_tensors(state: FlatState, guard: Guard) -> FlatState:
    """Return a state that a plugin made, on the same files, whose tensors are read under a guard.

    Args:
        state: The state.
        guard: Makes the context in which the plugin's code runs.
    """
    guarded: dict[int, Tensor] = {}  # tied keys may share one tensor, and stay so
    tensors: dict[Key, Tensor] = {}
    for key, tensor in state.tensors().items():
        if not isinstance(tensor, _OWN) and id(tensor) not in guarded:
            guarded[id(tensor)] = _GuardedTensor(tensor.spec, tensor, key, guard)
        tensors[key] = guarded.get(id(tensor), tensor)
    return state.replace(tensors=tensors) if guarded else state


@dataclass(frozen=True, eq=False, slots=True)
class _GuardedTensor:
    spec: TensorSpec
    tensor: Tensor
    key: Key
    guard: Guard

    def read(self, region: Region) -> Array:
        """Return the region's values."""
        with about_tensor(self.key), self.guard():
            values = self.tensor.read(region)
            expected = TensorSpec(region_shape(region), self.spec.dtype)
            if not isinstance(values, np.ndarray):
                raise TypeError(f"expected an array {expected}, got a {type(values).__name__}")
            if values.shape != expected.shape or values.dtype != expected.dtype:
                raise TypeError(f"expected {expected}, got {values.dtype.name}{list(values.shape)}")
            return values
