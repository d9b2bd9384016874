"""States that a plugin's code opens: what it raises names the plugin, and what it returns is checked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from bridge_core.errors import UsageError, about_tensor
from bridge_core.io import SourceFile
from bridge_core.state import (
    Array,
    ArrayTensor,
    FileTensor,
    FlatState,
    Key,
    Region,
    StateMetadata,
    StridedFileTensor,
    Tensor,
    TensorSpec,
    check_given,
    join_key,
    region_shape,
)

__all__ = ["closed_with", "guarded_state"]

Guard = Callable[[], AbstractContextManager[object, bool | None]]

_OWN = (ArrayTensor, FileTensor, StridedFileTensor)
"""Tensors that only code of ckptbridge reads."""


def guarded_state(state: FlatState, guard: Guard) -> FlatState:
    """Return a plugin's state, on the same files, whose tensors are read under a guard.

    Args:
        state: The state.
        guard: Makes the context in which the plugin's code runs.

    Raises:
        TypeError: Its layout, its metadata or the spec of a tensor is not what it has to be.
    """
    if not (state.layout is None or (isinstance(state.layout, str) and state.layout)):
        raise TypeError(f"expected a name or None as its layout, got {state.layout!r}")
    if not isinstance(state.metadata, StateMetadata):
        raise TypeError(f"expected StateMetadata as its metadata, got {type(state.metadata).__name__}")
    try:
        check_given(state.metadata)
    except UsageError as err:
        raise TypeError(err.message.rstrip(".")) from err
    guarded: dict[int, Tensor] = {}  # tied keys may share one tensor, and stay so
    tensors: dict[Key, Tensor] = {}
    for key, tensor in state.tensors().items():
        if not isinstance(tensor, _OWN) and id(tensor) not in guarded:
            spec = _checked_spec(tensor.spec, key)
            guarded[id(tensor)] = _GuardedTensor(spec, tensor, key, guard, _checked_chunk(tensor, spec, key))
        tensors[key] = guarded.get(id(tensor), tensor)
    # Without the metadata, ties would be left out whose tensors are stored one by one.
    return state.replace(tensors=tensors, metadata=state.metadata) if guarded else state


def closed_with(state: FlatState, file: SourceFile, guard: Guard) -> FlatState:
    """Return a plugin's state that closes the file whatever the plugin's code does.

    Args:
        state: The state.
        file: The file that it was opened from.
        guard: Makes the context in which the plugin's code closes the state.
    """
    close = _GuardedClose(state, file, guard)
    return FlatState(state.tensors(), layout=state.layout, metadata=state.metadata, close=close)


def _checked_spec(spec: object, key: Key) -> TensorSpec:
    if not isinstance(spec, TensorSpec):
        raise TypeError(f"expected a TensorSpec as the spec of {join_key(key)!r}, got {type(spec).__name__}")
    if not all(isinstance(size, int | np.integer) and size >= 0 for size in spec.shape):
        raise TypeError(
            f"expected integers from zero up as the shape of {join_key(key)!r}, got {list(spec.shape)}"
        )
    return spec


def _checked_chunk(tensor: Tensor, spec: TensorSpec, key: Key) -> tuple[int, ...]:
    chunk = getattr(tensor, "chunk_shape", ())
    if isinstance(chunk, tuple) and not chunk:
        return ()
    sizes = isinstance(chunk, tuple) and all(isinstance(n, int | np.integer) and n > 0 for n in chunk)
    if not sizes or len(chunk) != len(spec.shape):
        raise TypeError(
            f"expected an integer from one up for each of the {len(spec.shape)} axes as the chunk shape of "
            f"{join_key(key)!r}, got {chunk!r}"
        )
    return tuple(map(int, chunk))


class _GuardedClose:
    """Closes what a plugin opened, and the file whatever the plugin's code does."""

    def __init__(self, state: FlatState, file: SourceFile, guard: Guard) -> None:
        self._state = state
        self._file = file
        self._guard = guard

    def __call__(self) -> None:
        try:
            with self._guard():
                self._state.close()
        finally:
            self._file.close()

    def check_unchanged(self) -> None:
        self._state.check_unchanged()


@dataclass(frozen=True, eq=False, slots=True)
class _GuardedTensor:
    spec: TensorSpec
    tensor: Tensor
    key: Key
    guard: Guard
    chunk_shape: tuple[int, ...] = ()

    def read(self, region: Region) -> Array:
        """Return the region's values."""
        with about_tensor(self.key), self.guard():
            values = self.tensor.read(region)
            expected = TensorSpec(region_shape(region), self.spec.dtype)
            if not isinstance(values, np.ndarray):
                raise TypeError(f"expected an array {expected}, got a {type(values).__name__}")
            if values.shape != expected.shape or values.dtype != expected.dtype:
                order = " in another byte order" if values.dtype.name == expected.dtype.name else ""
                raise TypeError(f"expected {expected}, got {values.dtype.name}{list(values.shape)}{order}")
            return values

    def read_into(self, region: Region, out: Array) -> None:
        """Read the region into an array of its shape."""
        fill = getattr(self.tensor, "read_into", None)
        if fill is None:
            out[...] = self.read(region)
            return
        with about_tensor(self.key), self.guard():
            fill(region, out)
