"""Values that go into modules and come out: arguments made of arrays, arrays named by their place."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from bridge_core import UnsupportedFeature, UsageError
from bridge_core.messages import shown
from bridge_core.state import Array
from bridge_torch.torch_objects.arrays import to_numpy

__all__ = ["as_argument", "named_arrays", "named_plain"]

_PLAIN = (bool, int, float, complex, str)
_DEEPEST = 64


def as_argument(value: Any, floats: torch.dtype) -> Any:
    """Return a value as a module takes it: arrays as new CPU tensors, everything else copied.

    Args:
        value: A numpy array, a torch tensor, an array of another framework, a container of them (a dict,
            list, tuple, dataclass), or any other value.
        floats: The dtype of real floats; complex ones get the dtype of the same precision. Integers become
            int64.

    Raises:
        UsageError: An array has a dtype that torch does not have, or an integer beyond int64.
    """
    if isinstance(value, torch.Tensor):
        return _with_dtype(value.detach().cpu(), floats)
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, type) and all(hasattr(value, name) for name in ("__array__", "shape", "dtype")):
        return _with_dtype(_from_array(np.asarray(value)), floats)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(as_argument(child, floats) for child in value))
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(as_argument(child, floats) for child in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        changes = {name: as_argument(getattr(value, name), floats) for name in names}
        return dataclasses.replace(value, **changes)
    if isinstance(value, Mapping):
        return {name: as_argument(child, floats) for name, child in value.items()}
    with contextlib.suppress(Exception):  # what cannot be copied is passed on itself
        return copy.deepcopy(value)
    return value


def named_arrays(value: Any, problems: list[str] | None = None) -> dict[str, Array]:
    """Return copies of all arrays in a value, by name.

    A single array is named ``""``; in containers names are dict keys, field names, indexes and names of
    public attributes, joined by dots. None and plain values are left out.

    Args:
        value: A tensor, or any nesting of containers and objects with tensors.
        problems: Where to add what cannot be copied; None to raise it.

    Raises:
        UnsupportedFeature: A tensor has no equivalent in numpy.
        UsageError: A tensor has no values.
    """
    result: dict[str, Array] = {}
    for name, leaf in _leaves(value):
        if not isinstance(leaf, torch.Tensor | np.ndarray):
            continue
        try:
            array = _copied(leaf, name)
        except (UnsupportedFeature, UsageError) as err:
            if problems is None:
                raise
            problems.append(err.message)
            continue
        result[_unused(name, result)] = array
    return result


def named_plain(value: Any) -> dict[str, Any]:
    """Return the plain values (numbers, texts, flags) in containers, named as by `named_arrays`."""
    return {name: leaf for name, leaf in _leaves(value, objects=False) if isinstance(leaf, _PLAIN)}


def _leaves(
    value: Any,
    name: str = "",
    *,
    objects: bool = True,
    above: tuple[int, ...] = (),
    searched: set[int] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yield arrays and plain values with their names; objects are searched for arrays, each one once."""
    if isinstance(value, (torch.Tensor, np.ndarray, *_PLAIN)):
        yield name, value
        return
    if value is None or id(value) in above or len(above) > _DEEPEST:
        return
    searched = set() if searched is None else searched
    children: Iterator[tuple[Any, Any]]
    is_object = False
    if isinstance(value, Mapping):
        children = iter([*value.items()])
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        children = zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple | deque):
        children = enumerate(value)
    elif isinstance(value, type | torch.nn.Module | torch.dtype | torch.device) or callable(value):
        return
    elif dataclasses.is_dataclass(value):
        children = ((f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value))
    elif objects and hasattr(value, "__dict__") and id(value) not in searched:
        searched.add(id(value))
        is_object = True
        children = ((n, child) for n, child in [*vars(value).items()] if not n.startswith("_"))
    else:
        return
    for part, child in children:
        if is_object and isinstance(child, _PLAIN):
            continue
        inner = f"{name}.{part}" if name else str(part)
        yield from _leaves(child, inner, objects=objects, above=(*above, id(value)), searched=searched)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number if a container has two entries of this name (``"a.b"`` and ``a: b``)."""
    number, result = 2, name
    while result in taken:
        result, number = f"{name}#{number}", number + 1
    return result


def _copied(leaf: Any, name: str) -> Array:
    where = f"the array {name!r}" if name else "the array"
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    tensor = leaf.detach()
    if tensor.is_nested:
        raise UnsupportedFeature(f"{where} is a nested tensor, which numpy does not have.")
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.device.type == "meta":
        raise UsageError(f"{where} is on the meta device and has no values.")
    try:
        return to_numpy(tensor.clone())
    except (KeyError, TypeError, RuntimeError) as err:
        raise UnsupportedFeature(f"{where} ({tensor.dtype}) cannot be copied into numpy.") from err


def _from_array(array: Array) -> torch.Tensor:
    if array.dtype.name == "bfloat16" or array.dtype.name.startswith("float8"):
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise UsageError(f"an input holds {int(array.max())}, which int64 cannot hold.")
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind not in "bfc":
        raise UsageError(
            f"expected an input of numbers or flags, got an array of dtype {array.dtype}: {shown(array)}."
        )
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except TypeError as err:
        raise UsageError(f"torch has no dtype {array.dtype}, which an input has.") from err


def _with_dtype(tensor: torch.Tensor, floats: torch.dtype) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128 if floats == torch.float64 else torch.complex64, copy=True)
    if tensor.is_floating_point():
        return tensor.to(floats, copy=True)
    return tensor.to(tensor.dtype if tensor.dtype == torch.bool else torch.int64, copy=True)
