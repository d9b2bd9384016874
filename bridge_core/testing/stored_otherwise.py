"""Copies of plain containers whose arrays are stored in another way, or share their memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bridge_core.state import DTYPES, Array, TensorSpec
from bridge_core.testing.framework_harness import fresh_array
from bridge_core.testing.live_objects import Place, copied, numpy_leaves

__all__ = ["rearrangements", "sharing_memory"]


def rearrangements(sample: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of an object with each of its arrays stored in another way."""
    ways: dict[str, Callable[[Array], Array]] = {
        "in Fortran order": lambda a: np.asfortranarray(a).reshape(a.shape, order="F"),
        "with negative steps": lambda a: np.ascontiguousarray(a[::-1])[::-1] if a.ndim else a,
        "with gaps": lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a,
        "in the other byte order": lambda a: (
            a.astype(a.dtype.newbyteorder(">")) if a.dtype.isbuiltin == 1 else a
        ),
        "that is read-only": _read_only,
        "without axes": lambda a: fresh_array(TensorSpec((), a.dtype), 1),
        "without elements": lambda a: np.zeros((0, *a.shape[1:]), a.dtype),
    }
    for name in ("bool", "int8", "uint16", "int64", "bfloat16", "float16", "float64", "float8_e4m3fn"):
        ways[f"of dtype {name}"] = lambda a, name=name: fresh_array(TensorSpec(a.shape, DTYPES[name]), 2)  # type: ignore[misc]
    for name, way in ways.items():
        value = copied(sample)
        places = numpy_leaves(value) if value is not None else None
        if places is None or any(place.put is None for place in places):
            return
        new = {id(place.leaf): way(place.leaf) for place in places}
        for place in places:
            if place.put is not None:
                place.put(new[id(place.leaf)])
        yield name, value


def sharing_memory(sample: Any) -> Iterator[tuple[str, Any]]:
    """Yield copies of an object with different arrays that lie in the same memory, and are not ties."""
    for name in ("parts of one buffer", "one array and its transpose"):
        value = copied(sample)
        places = numpy_leaves(value) if value is not None else None
        if places is None or any(place.put is None for place in places):
            return
        new = _parts(places) if "buffer" in name else _transposes(places)
        for place in places:
            if place.put is not None and id(place.leaf) in new:
                place.put(new[id(place.leaf)])
        if new:
            yield name, value


def _parts(places: list[Place]) -> dict[int, Array]:
    """Return arrays of the same values, those of one dtype in one buffer."""
    arrays = {id(place.leaf): place.leaf for place in places}
    new: dict[int, Array] = {}
    for dtype in {array.dtype for array in arrays.values()}:
        alike = {number: array for number, array in arrays.items() if array.dtype == dtype}
        buffer = np.concatenate([array.reshape(-1) for array in alike.values()])
        start = 0
        for number, array in alike.items():
            new[number] = buffer[start : start + array.size].reshape(array.shape)
            start += array.size
    return new


def _transposes(places: list[Place]) -> dict[int, Array]:
    """Return, for the second of two square arrays of one dtype, the transpose of the first."""
    first: dict[Any, Array] = {}
    for place in places:
        shape = place.leaf.shape
        if len(shape) == 2 and shape[0] == shape[1] > 1:
            one = first.setdefault((shape, place.leaf.dtype), place.leaf)
            if one is not place.leaf and not np.array_equal(one, one.T):
                return {id(place.leaf): one.T}
    return {}


def _read_only(array: Array) -> Array:
    other = array.copy()
    other.flags.writeable = False
    return other
