"""Keys, the names of tensors: tuples of parts, which flat formats join and trees nest."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from bridge_core.errors import KeyConflict, UnknownKey, UsageError
from bridge_core.messages import count, listed, shown

__all__ = [
    "Key",
    "LeafKey",
    "as_key",
    "flat_names",
    "flatten_tree",
    "is_unicode",
    "join_key",
    "key_family",
    "leaf_path",
    "module_path",
    "natural_order",
    "separator_of",
    "split_name",
    "split_names",
    "unflatten_tree",
    "unknown_key",
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
    """Return the path of the module that holds a tensor: the key without its last part."""
    return key[:-1]


def key_family(key: Key) -> Key:
    """Return a key with ``0`` for every number, which the entries of a list have in common.

    >>> key_family(("layers", "12", "mlp", "w1"))
    ('layers', '0', 'mlp', 'w1')
    """
    return tuple(["0" if part.isdecimal() else part for part in key])


def as_key(name: str | int | Iterable[str | int]) -> Key:
    """Return a key from a dotted name or from parts; integers become their decimal strings.

    >>> as_key("layers.0.weight")
    ('layers', '0', 'weight')
    >>> as_key(("layers", 0, "weight"))
    ('layers', '0', 'weight')

    Raises:
        UsageError: The argument is neither a string nor an iterable of strings and integers.
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
        f"expected a dotted name or a tuple of strings and integers as a key, got {shown(name)}"
        f"{'' if part is name else f', with a part of type {type(part).__name__}'}."
    )


_MOST_COMPARED = 500
"""Keys that are compared letter by letter with an unknown one: some 10 ms."""


def unknown_key(key: Key, keys: Collection[Key]) -> UnknownKey:
    """Return the error for an unknown key, with the nearest of some keys as its hint.

    >>> unknown_key(("fc", "wieght"), [("fc", "weight"), ("fc", "bias")]).hint
    "Did you mean 'fc.weight'?"
    """
    import difflib  # only errors need these
    import heapq

    parts = set(key)
    candidates = heapq.nlargest(_MOST_COMPARED, keys, key=lambda other: len(parts.intersection(other)))
    names = [join_key(candidate)[:200] for candidate in candidates]
    near = difflib.get_close_matches(join_key(key)[:200], names, n=1)
    hint: str | None = "List the keys with list(state)."
    if near:
        hint = f"Did you mean {near[0]!r}?"
    elif len(keys) <= _MOST_COMPARED:
        hint = f"The keys are: {listed(map(join_key, keys))}." if keys else None
    return UnknownKey(
        f"the state of {count(len(keys), 'tensor')} does not have this key.", key=key, hint=hint
    )


def separator_of(names: Iterable[str]) -> str:
    """Return the separator of a complete set of flat names: a slash, or usually a dot.

    Flax's ``flatten_dict(sep="/")`` joins with slashes. A name with dots can hold a slash within a part, and
    Flax writes no empty parts; so names are joined by dots if one of them has a dot or an empty part.

    >>> separator_of(["params/Dense_0/kernel", "step"]), separator_of(["a.Dense_0/kernel/scale", "b/c"])
    ('/', '.')
    """
    separator = "."
    for name in names:
        if "." in name:
            return "."
        if "/" in name:
            if "//" in name or name[0] == "/" or name[-1] == "/":
                return "."
            separator = "/"
    return separator


def join_key(key: Key, separator: str = ".", *, escape: bool = False) -> str:
    r"""Join a key into a flat name.

    Args:
        key: The key.
        separator: What joins the parts.
        escape: Whether separators and backslashes within a part get a backslash in front.

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

    Args:
        name: The flat name.
        separator: What joins the parts.
        escaped: Whether a backslash takes the next character literally.

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


def split_names(names: Iterable[str], separator: str = ".", *, escaped: bool = False) -> Iterator[Key]:
    """Split many flat names as `split_name` does; parts that are equal share one string.

    With names of a hundred thousand tensors, the strings that they do not share take more memory than the
    processor's cache has, and each search for a key waits for them.
    """
    parts: dict[str, str] = {}
    for name in names:
        yield tuple([parts.setdefault(part, part) for part in split_name(name, separator, escaped=escaped)])


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
                hint='Rename one of them, or write nested names with format="msgpack" (--format).',
            )
        owners[name] = key
    if not any(separator in part for key in keys for part in key):
        return names, False
    return {key: join_key(key, separator, escape=True) for key in keys}, True


def is_unicode(text: str) -> bool:
    r"""Return whether a text can be encoded as UTF-8; one with a lone surrogate cannot.

    >>> is_unicode("\ud800")
    False
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_DIGITS = re.compile(r"(\d{1,4000})")  # int() refuses texts of more than 4300 digits


def natural_order(key: Key) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Return a sort key that puts ``layers.2`` before ``layers.10``.

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
        is_leaf: Returns whether a mapping is a leaf; None if no mapping is.

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
                raise KeyConflict(
                    f"expected strings or integers as names in a dict, got {shown(name)}.",
                    key=prefix or None,
                )
            part = str(name)
            if part in seen:
                raise KeyConflict(
                    f"a dict has the name {part!r} twice, as a string and as an integer.", key=prefix or None
                )
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
        KeyConflict: One key is the beginning of another, or is empty.
    """
    root: dict[str, Any] = {}
    nodes: dict[Key, dict[str, Any]] = {(): root}

    def node_at(path: Key, below: Key) -> dict[str, Any]:
        node = nodes.get(path)
        if node is None:
            parent = node_at(path[:-1], below)
            if path[-1] in parent:
                raise _conflict(path, below)
            node = parent[path[-1]] = nodes[path] = {}
        return node

    for key, leaf in leaves.items():
        if not key:
            raise KeyConflict(
                "a tensor has the empty key (); a tree needs a name.", hint="Rename the tensor."
            )
        node = node_at(key[:-1], key)
        if key[-1] in node:
            raise _conflict(key, next(k for k in leaves if len(k) > len(key) and k[: len(key)] == key))
        node[key[-1]] = leaf
    for path in empty:
        node_at(path, path)
    return root


def _conflict(key: Key, below: Key) -> KeyConflict:
    """Return the error for a tensor where another key, or an empty node, needs a dict."""
    name, longer = join_key(key), join_key(below)
    if key == below:
        return KeyConflict(
            "the key is that of a tensor and of an empty dict.", key=key, hint="Rename the tensor."
        )
    return KeyConflict(
        f"the key conflicts with {longer!r}: {name!r} is a tensor, and {longer!r} needs it to be a dict.",
        key=key,
        hint="Rename one of them: this format stores nested dicts.",
    )
