"""Keys name tensors; this module is all that the bridge knows about names.

A key is a tuple of parts. Formats with flat names join the parts; trees nest them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge_core.errors import KeyConflict, UsageError

__all__ = [
    "Key",
    "LeafKey",
    "as_key",
    "flat_names",
    "flatten_tree",
    "is_unicode",
    "join_key",
    "leaf_path",
    "module_path",
    "natural_order",
    "separator_of",
    "split_name",
    "unflatten_tree",
]

Key = tuple[str, ...]

LeafKey = tuple[Key, str]
"""A key as the path of a layer, and the leaf's name there: the parts below that path, joined with dots."""

_ESCAPE = "\\"


def leaf_path(layer: Key, leaf: str) -> Key:
    """Return the key of a layer's leaf.

    >>> leaf_path(("attn",), "query.kernel")
    ('attn', 'query', 'kernel')
    """
    return (*layer, *leaf.split("."))


def module_path(key: Key) -> Key:
    """Return the path of the module that holds a tensor, whatever layer the tensor is a leaf of."""
    return key[:-1]


def as_key(name: str | int | Iterable[str | int]) -> Key:
    """Return a key from a dotted name or from parts; integers become their decimal strings.

    >>> as_key("layers.0.weight")
    ('layers', '0', 'weight')
    >>> as_key(("layers", 0, "weight"))
    ('layers', '0', 'weight')

    Raises:
        UsageError: It is neither, or a part is neither a string nor an integer.
    """
    if isinstance(name, str):
        return tuple(name.split("."))
    if isinstance(name, bytes | Mapping) or not isinstance(name, Iterable):
        return (_part(name, name),)
    return tuple([part if type(part) is str else _part(part, name) for part in name])


def _part(part: object, name: object) -> str:
    if isinstance(part, str):
        return str(part)
    try:
        if not isinstance(part, bool):
            return str(operator.index(part))  # type: ignore[arg-type]
    except TypeError:
        pass
    raise UsageError(
        f"{name!r} is not a key: expected a dotted name or a tuple of strings and integers, "
        f"got {type(part).__name__}{'' if part is name else ' as a part'}."
    )


def separator_of(names: Iterable[str]) -> str:
    """Return what joins the parts of a whole set of flat names: a slash, or as a rule a dot.

    Flax's ``flatten_dict(sep="/")`` joins with slashes. A name with dots can hold a slash within a part, and
    empty parts are not what it writes; so one of either sort, and the names are joined by dots.

    >>> separator_of(["params/Dense_0/kernel", "step"]), separator_of(["a.Dense_0/kernel/scale", "b/c"])
    ('/', '.')
    """
    found = "."
    for name in names:
        if "." in name:
            return "."
        if "/" in name:
            if "//" in name or name[0] == "/" or name[-1] == "/":
                return "."
            found = "/"
    return found


def join_key(key: Key, separator: str = ".", *, escape: bool = False) -> str:
    r"""Join a key into a flat name.

    >>> join_key(("a", "b.c"), escape=True)
    'a.b\\.c'
    """
    if not escape:
        return separator.join(key)
    return separator.join(
        part.replace(_ESCAPE, _ESCAPE * 2).replace(separator, _ESCAPE + separator) for part in key
    )


def split_name(name: str, separator: str = ".", *, escaped: bool = False) -> Key:
    r"""Split a flat name into a key; the inverse of `join_key`.

    >>> split_name("a.b\\.c", escaped=True)
    ('a', 'b.c')
    """
    if not escaped or _ESCAPE not in name:
        return tuple(name.split(separator))
    parts: list[str] = []
    part = ""
    characters = iter(name)
    for character in characters:
        if character == _ESCAPE:
            part += next(characters, _ESCAPE)
        elif character == separator:
            parts.append(part)
            part = ""
        else:
            part += character
    return (*parts, part)


def flat_names(keys: Iterable[Key], separator: str = ".") -> tuple[dict[Key, str], bool]:
    """Give every key a flat name.

    Returns:
        The names, and whether they had to be escaped because a part holds the separator.

    Raises:
        KeyConflict: Two keys join to one name.
    """
    keys = tuple(keys)
    names = {key: separator.join(key) for key in keys}
    owners: dict[str, Key] = {}
    for key, name in names.items():
        if name in owners:
            raise KeyConflict(
                f"the keys {owners[name]!r} and {key!r} both flatten to {name!r}.",
                key=key,
                hint="Rename one of them, or write a format that keeps nested names.",
            )
        owners[name] = key
    if not any(separator in part for key in keys for part in key):
        return names, False
    return {key: join_key(key, separator, escape=True) for key in keys}, True


def is_unicode(text: str) -> bool:
    r"""Return whether a text has a UTF-8 form, so that it holds no lone surrogate.

    >>> is_unicode("\ud800")
    False
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_DIGITS = re.compile(r"(\d{1,4000})")  # Python refuses to read longer numbers


def natural_order(key: Key) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Sort key that puts ``layers.2`` before ``layers.10``.

    >>> sorted([("l", "10"), ("l", "2")], key=natural_order)
    [('l', '2'), ('l', '10')]
    """
    return tuple(
        tuple(
            (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
            for piece in _DIGITS.split(part)
            if piece
        )
        for part in key
    )


def flatten_tree(
    tree: Mapping[Any, Any], is_leaf: Callable[[Any], bool] | None = None
) -> tuple[dict[Key, Any], tuple[Key, ...]]:
    """Flatten nested mappings to ``{key: leaf}``, and list the empty nodes.

    Args:
        tree: Nested mappings; integer names become strings.
        is_leaf: Says which mappings are leaves; by default none is.

    Raises:
        KeyConflict: A name is not a string or an integer, or two names are equal as strings.
    """
    leaves: dict[Key, Any] = {}
    empty: list[Key] = []
    pending: list[tuple[Key, Mapping[Any, Any]]] = [((), tree)]
    while pending:
        prefix, node = pending.pop()
        if not node:
            empty.append(prefix)
        nested: list[tuple[Key, Mapping[Any, Any]]] = []
        seen: set[str] = set()
        for name, child in node.items():
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise KeyConflict(f"{name!r} is no name; a string was expected.", key=prefix)
            part = str(name)
            if part in seen:
                raise KeyConflict(f"two children are both named {part!r}.", key=prefix)
            seen.add(part)
            if isinstance(child, Mapping) and not (is_leaf and is_leaf(child)):
                nested.append(((*prefix, part), child))
            else:
                leaves[(*prefix, part)] = child
        pending.extend(reversed(nested))
    if empty == [()]:
        empty = []
    return leaves, tuple(empty)


def unflatten_tree(leaves: Mapping[Key, Any], empty: Iterable[Key] = ()) -> dict[str, Any]:
    """Nest ``{key: leaf}`` again; the inverse of `flatten_tree`.

    Raises:
        KeyConflict: One key is a prefix of another.
    """
    root: dict[str, Any] = {}
    nodes: dict[Key, dict[str, Any]] = {(): root}

    def node_at(path: Key) -> dict[str, Any]:
        found = nodes.get(path)
        if found is None:
            parent = node_at(path[:-1])
            if path[-1] in parent:
                raise KeyConflict("a tensor stands where others need a folder.", key=path)
            found = parent[path[-1]] = nodes[path] = {}
        return found

    for key, leaf in leaves.items():
        if not key:
            raise KeyConflict("a tensor has an empty key.", key=key)
        node = node_at(key[:-1])
        if key[-1] in node:
            raise KeyConflict("a tensor stands where others need a folder.", key=key)
        node[key[-1]] = leaf
    for path in empty:
        node_at(path)
    return root
