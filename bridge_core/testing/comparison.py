"""Comparing what was read with what was written, in words that say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bridge_core.messages import shown
from bridge_core.state import Array, FlatState, Key, Tensor, TensorSpec, as_tensor, full
from bridge_core.testing.strategies import same_bits

__all__ = ["difference", "snapshot", "value_difference"]


def snapshot(tensors: Mapping[Key, Any]) -> dict[Key, Array]:
    """Return copies of all values, C-contiguous and of native byte order, that nothing can change."""
    copies = {}
    for key in tensors:
        tensor = tensors.tensor(key) if isinstance(tensors, FlatState) else as_tensor(tensors[key])
        copies[key] = np.array(tensor.read(full(tensor.spec.shape)), order="C", copy=True)
    return copies


def difference(found: FlatState, expected: Mapping[Key, Array]) -> str:
    """Return what is wrong with a state that was read, in one sentence; empty if nothing is.

    The order of the keys does not matter.

    Args:
        found: The state.
        expected: Key -> the value that was written, C-contiguous and of native byte order.
    """
    if lost := [key for key in expected if key not in found.tensors()]:
        return f"The keys {shown(lost)} were written, but were not there when the state was read."
    if new := [key for key in found if key not in expected]:
        return f"The keys {shown(new)} were read, but nobody wrote them."
    for key, array in expected.items():
        if problem := value_difference(key, found.tensor(key), array):
            return problem
    return ""


def value_difference(key: Key, tensor: Tensor, expected: Array) -> str:
    """Return what is wrong with one tensor that was read; empty if nothing is.

    Args:
        key: The key.
        tensor: The tensor.
        expected: The value that was written.
    """
    spec, given = TensorSpec(expected.shape, expected.dtype), tensor.spec
    if given != spec:
        return f"{key}: {spec} was written, but the state that was read has {given}."
    array = tensor.read(full(spec.shape))
    if not isinstance(array, np.ndarray):
        return f"{key}: reading {spec} gave a {type(array).__name__}, not a numpy array."
    if array.dtype != spec.dtype or array.shape != spec.shape:
        return f"{key}: the spec is {spec}, but reading gave {array.dtype.str} {list(array.shape)}."
    if same_bits(array, expected):
        return ""
    width = spec.dtype.itemsize
    got, right = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (array, expected))
    wrong = np.flatnonzero((got != right).reshape(-1, width).any(axis=1))
    at = int(wrong[0])
    bits = [part[at * width : (at + 1) * width].tobytes()[::-1].hex() for part in (got, right)]
    return (
        f"{key}: {wrong.size} of {spec.size} values of {spec} differ; the first, at the flat index {at}, "
        f"was written as the bits 0x{bits[1]} and read as 0x{bits[0]}."
    )
