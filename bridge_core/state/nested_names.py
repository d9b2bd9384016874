"""Keys of a plain mapping with dotted names, tuples, nested mappings or lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.errors import KeyConflict
from bridge_core.state.keys import Key, as_key, join_key, separator_of, split_name

__all__ = ["flatten_mapping"]


def flatten_mapping(tree: Mapping[Any, Any]) -> tuple[dict[Key, Any], tuple[Key, ...]]:
    """Return ``{key: leaf}`` and the paths of empty nodes.

    A string is a dotted name at any depth, and an item of a tuple is one part of a key. If all names are
    strings that are joined with slashes (see `separator_of`), they are split at these. The positions in a
    list or tuple of tensors or mappings are names; a list of plain numbers is a tensor.

    >>> flatten_mapping({"encoder.layers": [{"weight": 1}, {"weight": 2}], ("a", "b.c"): 3})[0]
    {('encoder', 'layers', '0', 'weight'): 1, ('encoder', 'layers', '1', 'weight'): 2, ('a', 'b.c'): 3}

    Args:
        tree: The mapping.

    Raises:
        KeyConflict: Two names are the same key.
        UsageError: A name is neither a string, an integer nor a tuple of them.
    """
    leaves: dict[Key, Any] = {}
    origins: dict[Key, str] = {}
    empty: list[Key] = []
    shared: dict[str, str] = {}  # one string for parts that are equal, as in `split_names`
    flat = all(isinstance(name, str) and not _is_node(child) for name, child in tree.items())
    separator = separator_of(tree) if flat else "."
    pending: list[tuple[Key, Any]] = [((), tree)]
    while pending:
        path, node = pending.pop()
        if not _is_node(node):
            leaves[path] = node
            continue
        if path and not len(node):
            empty.append(path)
        lazy = getattr(node, "tensors", None)
        mapping = lazy() if callable(lazy) else node
        children = mapping.items() if isinstance(mapping, Mapping) else enumerate(node)
        nested: list[tuple[Key, Any]] = []
        for name, child in children:
            parts = split_name(name, separator) if isinstance(name, str) else as_key(name)
            key = (*path, *[shared.setdefault(part, part) for part in parts])
            if not _is_node(child) or not len(child):
                origin = f"{name!r} in {join_key(path)!r}" if path else repr(name)
                if key in origins:
                    raise KeyConflict(
                        f"{origins[key]} and {origin} name the same tensor.",
                        key=key,
                        hint="Rename one of them.",
                    )
                origins[key] = origin
            nested.append((key, child))
        pending.extend(reversed(nested))
    return leaves, tuple(empty)


def _is_node(value: Any) -> bool:
    """Return whether a value holds tensors; a list of plain numbers is a tensor itself."""
    if isinstance(value, Mapping):
        return True
    return type(value) in (list, tuple) and any(
        _is_node(child) or bool(getattr(child, "shape", ())) or hasattr(child, "spec") for child in value
    )
