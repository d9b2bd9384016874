"""Tensors of torch as numpy arrays on the same memory, and back.

Floats that numpy does not have are exchanged as integers of the same width.
"""

from __future__ import annotations

import numpy as np
import torch

from bridge_core import Tensor
from bridge_core.state import Array, dtype_named
from bridge_core.transfer import LoadedTensor

__all__ = ["DTYPES", "NAMES", "memory_of", "to_numpy", "to_torch"]

_PLAIN = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_AS_INTEGERS = {
    "bfloat16": torch.int16,
    "float8_e4m3fn": torch.uint8,
    "float8_e4m3fnuz": torch.uint8,
    "float8_e5m2": torch.uint8,
    "float8_e5m2fnuz": torch.uint8,
    "float8_e8m0fnu": torch.uint8,
}
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in (*_PLAIN, *_AS_INTEGERS) if hasattr(torch, name)
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return a read-only array; a view of the tensor's memory where that is possible, else a copy."""
    array = memory_of(tensor.cpu().resolve_conj().resolve_neg())
    array.flags.writeable = False
    return array


def memory_of(tensor: torch.Tensor) -> Array:
    """Return the memory of a contiguous CPU tensor as a writable array."""
    name = NAMES[tensor.dtype]
    array: Array
    if name in _AS_INTEGERS:
        array = tensor.view(_AS_INTEGERS[name]).numpy().view(dtype_named(name))
    else:
        array = tensor.numpy()
    return array


def to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a tensor that shares the memory of the loaded array."""
    if not isinstance(tensor, LoadedTensor):
        raise AssertionError(f"{tensor!r} was not loaded")
    array, name = tensor.array, tensor.spec.dtype.name
    if name not in _AS_INTEGERS:
        return torch.from_numpy(array)
    integers = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(array.view(integers)).view(DTYPES[name])
