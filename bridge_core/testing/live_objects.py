"""What the contracts see of live objects without their framework: plain containers, and numpy's arrays."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge_core.state import Array, FlatState, Key

__all__ = [
    "FOREIGN",
    "Place",
    "answers_yes",
    "arrays_in",
    "containers_of",
    "copied",
    "empty_paths",
    "leaves_of",
    "native_bits",
    "numpy_leaves",
    "shown_key",
    "structure_difference",
]

_DEEPEST = 64


class _Raises:
    """An object whose attributes cannot be read, as a proxy of something that is gone."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"this object has no {name}")

    def __repr__(self) -> str:
        return "<an object whose attributes raise>"


class _Unreadable(dict[str, Any]):
    """A mapping whose entries cannot be read."""

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("these entries cannot be read")

    items = values = keys = __iter__  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<a dict whose entries cannot be read>"


class _Text(str):
    __slots__ = ()


class _Number(int):
    pass


class _Names(dict[str, str]):
    pass


FOREIGN: tuple[Any, ...] = (
    *(None, True, 3, 2.5, 1j, "text", b"bytes", object(), ..., range(3), Path("weights.bin")),
    *([], (), {}, set(), OrderedDict(), [1, 2], ("a", "b"), {"a"}),
    *({"a": "b"}, {"a": None}, {"a": object()}, {"a": {}}, {"a": {"b": "text"}}, {1: "a"}, {None: None}),
    *(_Text("text"), _Number(3), _Names(a="b"), _Unreadable(a=1), _Raises()),
    *(len, lambda x: x, types, dict, int, object, np.ndarray, types.SimpleNamespace(), ValueError("text")),
    FlatState({("a",): np.zeros(2)}),
)
"""Objects that hold no weights of any framework."""


def answers_yes(question: Callable[[Any], Any], value: Any) -> bool:
    """Return what a question of an adapter answers; raising means no."""
    try:
        return bool(question(value))
    except Exception:
        return False


def shown_key(key: Key) -> str:
    """Return a key for a message."""
    return repr(".".join(key))


@dataclass(frozen=True)
class Place:
    """Where a leaf is in an object.

    Args:
        path: The names on the way.
        leaf: What is there.
        put: Puts something else there; None where that is not possible.
    """

    path: Key
    leaf: Any
    put: Callable[[Any], None] | None


def leaves_of(value: Any) -> list[Place] | None:
    """Return the leaves of nested mappings, lists and tuples, in their order; None for any other object."""
    return list(_walk(value, (), (), attributes=False)) if _children(value) is not None else None


def numpy_leaves(value: Any) -> list[Place] | None:
    """Return the leaves of plain containers that hold arrays of numpy and nothing else; else None."""
    leaves = leaves_of(value)
    return leaves if leaves and all(isinstance(place.leaf, np.ndarray) for place in leaves) else None


def arrays_in(value: Any) -> list[Place]:
    """Return numpy's arrays in containers and in attributes of objects."""
    return [place for place in _walk(value, (), (), attributes=True) if isinstance(place.leaf, np.ndarray)]


def copied(value: Any) -> Any:
    """Return a deep copy of an object; None where it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return None


def empty_paths(value: Any, path: Key = ()) -> list[Key]:
    """Return the paths of empty containers inside plain containers."""
    children = _children(value)
    if children is None:
        return []
    if not children:
        return [path] if path else []
    return [empty for name, child, _ in children for empty in empty_paths(child, (*path, name))]


def containers_of(value: Any, path: Key = ()) -> dict[Key, int]:
    """Return the identities of the containers in an object that can be changed, by path."""
    identities: dict[Key, int] = {}
    for name, child, _ in _children(value) or ():
        identities |= containers_of(child, (*path, name))
        if isinstance(child, dict | list):
            identities[(*path, name)] = id(child)
    return identities


def structure_difference(one: Any, other: Any, path: Key = ()) -> str:
    """Return the first difference in containers, by type and names; empty if there is none.

    Neither the order of names, nor empty containers, nor the types of leaves are compared.
    """
    ours, others = _children(one), _children(other)
    where = shown_key(path) if path else "the object itself"
    if (ours is None) != (others is None):
        return f"{where}: expected a {type(one).__name__}, got a {type(other).__name__}"
    if ours is None or others is None:
        return ""
    if type(one) is not type(other):
        return f"{where}: expected a {type(one).__name__}, got a {type(other).__name__}"
    first = {name: child for name, child, _ in ours if not _is_empty(child)}
    second = {name: child for name, child, _ in others if not _is_empty(child)}
    for name in (name for name in first if name in second):  # other names are the keys' matter
        found = structure_difference(first[name], second[name], (*path, name))
        if found:
            return found
    return ""


def _is_empty(value: Any) -> bool:
    return value is None or _children(value) == []


def _walk(value: Any, path: Key, above: tuple[int, ...], *, attributes: bool) -> Iterator[Place]:
    children = _children(value)
    if children is None and attributes:
        children = _attributes(value)
    for name, child, put in children or ():
        if id(child) in above or len(path) > _DEEPEST:
            continue
        is_node = _children(child) is not None or (attributes and _attributes(child) is not None)
        if is_node:
            yield from _walk(child, (*path, name), (*above, id(value)), attributes=attributes)
        else:
            yield Place((*path, name), child, put)


def _children(value: Any) -> list[tuple[str, Any, Callable[[Any], None] | None]] | None:
    """Return the entries of a plain container; None for anything else."""
    if isinstance(value, FlatState):
        return None
    if isinstance(value, Mapping):
        can_put = isinstance(value, MutableMapping)
        return [
            (str(name), child, _putter(value, name) if can_put else None) for name, child in value.items()
        ]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(str(name), child, None) for name, child in zip(value._fields, value, strict=True)]
    if isinstance(value, list | tuple):
        can_put = isinstance(value, list)
        return [(str(i), child, _putter(value, i) if can_put else None) for i, child in enumerate(value)]
    return None


def _attributes(value: Any) -> list[tuple[str, Any, Callable[[Any], None] | None]] | None:
    if isinstance(value, type | types.ModuleType | types.FunctionType | np.ndarray):
        return None
    found = getattr(value, "__dict__", None)
    if not isinstance(found, dict):
        return None
    return [(name, child, lambda new, name=name: _set(value, name, new)) for name, child in found.items()]  # type: ignore[misc]


def _putter(container: Any, name: Any) -> Callable[[Any], None]:
    def put(new: Any) -> None:
        container[name] = new

    return put


def _set(value: Any, name: str, new: Any) -> None:
    object.__setattr__(value, name, new)


def native_bits(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """Return dtype, shape and bytes in native order: what two equal leaves have in common."""
    plain = array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array
    return plain.dtype.name, plain.shape, np.ascontiguousarray(plain).tobytes()
