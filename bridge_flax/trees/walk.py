"""Walking and rebuilding the containers in which Flax stores weights.

`walk` and `rebuild` use the same key for every leaf, so what one reads the other can replace.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict, meta

from bridge_core import Key, KeyConflict, LimitExceeded
from bridge_flax.trees.arrays import first_key, is_key_array

__all__ = ["as_part", "children_or_array", "is_empty", "is_struct", "rebuild", "walk"]

_DEEPEST = 256


def as_part(name: Any, path: Key) -> str:
    """Return one part of a key: integers in decimal, tuples (NNX has them) joined by a slash.

    Args:
        name: A name in the tree.
        path: Where in the tree it is, for errors.

    Raises:
        KeyConflict: The name is not a string, an integer, or a tuple of these.
    """
    if isinstance(name, str):
        return name
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        return str(int(name))
    if isinstance(name, tuple) and name:
        return "/".join(as_part(part, path) for part in name)
    raise KeyConflict(
        f"expected a string or an integer as the name of an entry, got {name!r}.",
        key=path or None,
        hint="Rename the entry.",
    )


def is_empty(leaf: Any) -> bool:
    """Return whether a leaf of `walk` is an empty node: None, or a container without entries."""
    return leaf is None or (isinstance(leaf, Mapping | list | tuple) and not len(leaf))


def walk(node: Any, path: Key = (), variable: Any = None) -> Iterator[tuple[Key, Any, Any]]:
    """Yield ``(key, leaf, the NNX Variable around it or None)``, empty nodes included.

    Boxes are opened; random state (`nnx.RngState`) is passed over.

    Raises:
        KeyConflict: Two children have one name.
        LimitExceeded: The tree is deeper than 256 levels, or contains itself.
    """
    if len(path) > _DEEPEST:
        raise LimitExceeded(
            f"the tree is deeper than {_DEEPEST} levels; it may contain itself.", key=path[:8]
        )
    if isinstance(node, nnx.Variable):
        if not isinstance(node, nnx.RngState):
            yield from walk(_value(node), path, node)
        return
    if isinstance(node, meta.AxisMetadata):
        yield from walk(_unbox(node), path, variable)
        return
    children = None if is_empty(node) else _children(node, path)
    if children is None:
        yield path, node, variable
        return
    for part, child in children:
        yield from walk(child, (*path, part), variable)


def children_or_array(node: Any) -> Any:
    """Return the children of a container, by the names of `walk`, or what the boxes around a leaf hold.

    Random state and empty nodes have no children.

    Raises:
        KeyConflict: Two children have one name.
    """
    while isinstance(node, nnx.Variable | meta.AxisMetadata):
        if isinstance(node, nnx.RngState):
            return {}
        node = _value(node) if isinstance(node, nnx.Variable) else _unbox(node)
    if isinstance(node, Mapping) and not isinstance(node, nnx.State):
        return node
    children = [] if is_empty(node) else _children(node, ())
    return node if children is None else dict(children)


def rebuild(node: Any, leaf_at: Callable[[Key, Any], Any], path: Key = (), *, abstract: bool = False) -> Any:
    """Return the same structure with every leaf replaced; nothing of the old one is changed.

    Args:
        node: What `walk` can walk.
        leaf_at: Gives the new leaf for a key and the old leaf.
        path: Where the node is in the tree.
        abstract: Whether the new leaves are shapes without values; random state then stays unchanged.
    """
    if node is None:
        return None
    if isinstance(node, nnx.Variable):
        if isinstance(node, nnx.RngState):
            return node if abstract else _random(node)
        value = rebuild(_value(node), leaf_at, path, abstract=abstract)
        if abstract:
            # `copy` would make a live reference of a shape.
            return type(node).from_metadata(value, node.get_metadata())
        return node.copy(value)
    if isinstance(node, meta.AxisMetadata):
        return node.replace_boxed(rebuild(_unbox(node), leaf_at, path, abstract=abstract))
    children = _children(node, path)
    if children is None:
        return leaf_at(path, node)
    new = [rebuild(child, leaf_at, (*path, part), abstract=abstract) for part, child in children]
    return _contain(node, new)


def is_struct(node: Any) -> bool:
    """Return whether a node is an instance of a `flax.struct` dataclass, such as a train state."""
    return getattr(type(node), "_flax_dataclass", False) is True


def _fields(node: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(node) if f.metadata.get("pytree_node", True)]


def _value(variable: Any) -> Any:
    value = variable.get_raw_value()
    return value[...] if isinstance(value, jax.Ref) else value


def _unbox(box: Any) -> Any:
    # `unbox` of a Partitioned would also apply its sharding.
    return box.value if isinstance(box, meta.Partitioned) else box.unbox()


def _random(variable: Any) -> Any:
    value = _value(variable)
    if not isinstance(value, jax.ShapeDtypeStruct):
        return variable.copy()
    return variable.copy(first_key(value) if is_key_array(value) else jnp.zeros(value.shape, value.dtype))


def _children(node: Any, path: Key) -> list[tuple[str, Any]] | None:
    if isinstance(node, nnx.GraphState | nnx.State):
        node = node.raw_mapping
    if isinstance(node, Mapping):
        children = [(as_part(name, path), child) for name, child in node.items()]
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        children = list(zip(node._fields, node, strict=True))
    elif isinstance(node, list | tuple):
        children = [(str(i), child) for i, child in enumerate(node)]
    elif is_struct(node):
        children = [(name, getattr(node, name)) for name in _fields(node)]
    else:
        return None
    seen: set[str] = set()
    for part, _ in children:
        if part in seen:
            raise KeyConflict(
                f"two entries are named {part!r}; an integer counts as its decimal text.",
                key=path or None,
                hint="Rename one of them.",
            )
        seen.add(part)
    return children


def _contain(node: Any, children: list[Any]) -> Any:
    if isinstance(node, nnx.GraphState):
        return nnx.GraphState(node._graphdef, _contain(node._state, children))
    if isinstance(node, nnx.State):
        return type(node)(dict(zip(node.raw_mapping, children, strict=True)))
    if isinstance(node, Mapping):
        items = zip(node, children, strict=True)
        if isinstance(node, FrozenDict):
            return FrozenDict(items)
        return OrderedDict(items) if isinstance(node, OrderedDict) else dict(items)
    if is_struct(node):
        return dataclasses.replace(node, **dict(zip(_fields(node), children, strict=True)))
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*children)
    return list(children) if isinstance(node, list) else tuple(children)
