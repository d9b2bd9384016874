"""Checks what a plugin's hook returned, before anything uses it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import PluginConflict, PluginError
from bridge_core.io import scheme_of

__all__ = ["TABLES", "TableSort", "check_values", "is_of_folders"]


@dataclass(frozen=True)
class TableSort:
    """One sort of thing that plugins provide.

    Args:
        hook: The hook that returns it.
        what: What one is called in messages.
        type_name: ``"module:class"`` of its type or protocol.
    """

    hook: str
    what: str
    type_name: str


TABLES = {
    "formats": TableSort("bridge_formats", "format", "bridge_core.formats:Format"),
    "frameworks": TableSort("bridge_frameworks", "framework", "bridge_core.plugins:Framework"),
    "kinds": TableSort("bridge_layer_kinds", "kind", "bridge_core.layers:LayerKind"),
    "transforms": TableSort("bridge_layer_transforms", "transform", "bridge_core.layers:LayerTransform"),
    "libraries": TableSort("bridge_libraries", "library", "bridge_core.plugins:Library"),
    "recipes": TableSort("bridge_recipes", "recipe", "bridge_core.plugins:Recipe"),
    "filesystems": TableSort("bridge_filesystems", "file system", "bridge_core.io:FileSystem"),
}
"""Table of the registry -> what it holds."""

_METHODS = {
    "formats": ("sniff", "open", "write"),
    "frameworks": ("owns", "accepts", "state", "build"),
    "libraries": ("guide",),
    "filesystems": ("pinned", "entry", "entries", "read"),
}
_FOLDER_METHODS = ("sniff_folder", "contents", "open_folder", "write_folder")
_OWN_KINDS = ("parameter", "undecided")
"""What plans and metadata call tensors that belong to no kind."""
_LONGEST = 200
"""Characters of a wrong value that are shown."""
_MOST = 10_000
"""Values that one hook may return: some code returns them one by one and never ends."""


def check_values(results: Iterable[Any], table: str) -> tuple[Any, ...]:
    """Return the values in what the implementations of a hook returned.

    Args:
        results: What each implementation returned.
        table: The table that the values are for.

    Raises:
        PluginError: A value is not what the hook has to return; code of the plugin may raise anything else.
    """
    sort = TABLES[table]
    module, _, attribute = sort.type_name.partition(":")
    expected: type[Any] = getattr(importlib.import_module(module), attribute)
    values: list[Any] = []
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(f"{sort.hook}: expected a list of {expected.__name__}, got {_shown(result)}.")
        values += itertools.islice(result, _MOST + 1)
        if len(values) > _MOST:
            raise PluginError(
                f"{sort.hook}: expected a list of {expected.__name__}, got more than {_MOST} values."
            )
    value: Any
    for value in values:
        of_folders = table == "formats" and is_of_folders(value)
        interface = _folder_format() if of_folders else expected
        if isinstance(value, type) or not isinstance(value, interface):
            raise PluginError(
                f"{sort.hook}: expected a list of {expected.__name__}, got {_shown(value)} in it"
                f"{_what_is_missing(value, interface, table)}."
            )
        _check_name(value.name, sort.what)
        for method in _FOLDER_METHODS if of_folders else _METHODS.get(table, ()):
            _need(value, sort.what, method, callable(getattr(value, method)), "a method")
        if table == "formats":
            _check_format(value)
        elif table == "frameworks":
            _check_framework(value)
        elif table == "kinds":
            _check_kind(value)
        elif table == "transforms":
            _check_transform(value)
        elif table == "filesystems":
            _need(value, "file system", "schemes", _schemes(value.schemes), 'a tuple such as ("s3",)')
    names = [value.name for value in values]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PluginConflict(f"{sort.hook}: expected each name once, got the {sort.what} {twice!r} twice.")
    return tuple(values)


def is_of_folders(value: object) -> bool:
    """Return whether a format's checkpoints are folders, before its interface is checked."""
    return hasattr(value, "open_folder")


def _folder_format() -> type[Any]:
    from bridge_core.formats import FolderFormat

    return FolderFormat


def _what_is_missing(value: Any, expected: type[Any], table: str) -> str:
    """Return what an object does not have of its protocol; empty where that is not the cause."""
    methods = _FOLDER_METHODS if is_of_folders(value) else _METHODS.get(table, ())
    if isinstance(value, type) or not any(hasattr(value, name) for name in ("name", *methods)):
        return ""
    names = (*expected.__annotations__, *methods)
    missing = [name for name in names if not hasattr(value, name)]
    return f", which does not have {', '.join(missing)}" if missing else ""


def _check_name(name: Any, what: str) -> None:
    """Refuse a name that cannot be written in commands, in lists with commas, and in files.

    A class of the plugin's own that extends `str` is refused, since it may compare as it likes.
    """
    if type(name) is not str:
        raise PluginError(f"expected a text as the name of a {what}, got {_shown(name)}.")
    if not name or not name.isprintable() or any(c.isspace() or c in ",'\"" for c in name):
        raise PluginError(
            f"expected the name of a {what} without spaces, commas, quotes and control characters, got "
            f"{_shown(name)}."
        )


def _check_format(value: Any) -> None:
    from bridge_core.formats import Capabilities, ShardNames

    extensions, capabilities = value.extensions, value.capabilities
    names = getattr(value, "names", None)  # a format of folders has none
    good = _texts(extensions) and all(len(e) > 1 and e[0] == "." and "/" not in e for e in extensions)
    _need(value, "format", "extensions", good, 'a tuple of suffixes such as ".acme"')
    _need(value, "format", "layout", value.layout is None or _text(value.layout), "a name, or None")
    good = isinstance(capabilities, Capabilities) and _texts(capabilities.dtypes)
    _need(value, "format", "capabilities", good, "Capabilities with a set of dtype names")
    _need(value, "format", "names", names is None or isinstance(names, ShardNames), "ShardNames, or None")
    if names is not None:
        texts = (names.single, names.shard, names.index, names.separator)
        _need(value, "format", "names", all(map(_text, texts)), "ShardNames that holds texts")
        names.shard.format(index=1, count=1)


def _check_framework(value: Any) -> None:
    name, collections, channels = value.name, value.collections, getattr(value, "channels", None)
    good = "." not in name and name != "neutral"
    _need(value, "framework", "name", good, 'a name without dots, and not "neutral"')
    good = isinstance(collections, Mapping) and all(
        isinstance(collection, str) and _texts(roles) for collection, roles in collections.items()
    )
    _need(value, "framework", "collections", good, "a mapping from names to tuples of roles")
    _need(value, "framework", "default_format", _text(value.default_format), "the name of a format")
    _need(value, "framework", "channels", channels in (None, "first", "last"), '"first" or "last"')


def _check_kind(value: Any) -> None:
    from bridge_core.state import TensorSpec

    _need(value, "kind", "name", value.name not in _OWN_KINDS, "a name that ckptbridge does not use itself")
    _need(value, "kind", "leaves", _texts(tuple(value.leaves)), "a mapping from names to axes")
    specs = value.auxiliary_tensors
    good = isinstance(specs, Mapping) and all(isinstance(spec, TensorSpec) for spec in specs.values())
    _need(value, "kind", "auxiliary_tensors", good, "a mapping from leaf names to TensorSpec")
    _need(value, "kind", "zeros", _texts(value.zeros), "a tuple of leaf names")


def _check_transform(value: Any) -> None:
    """Refuse options of a transform that are of other types; its leaves are checked where they are made."""
    for option in ("settings", "axis_sizes", "axis_splits", "unsupported_leaves"):
        mapping = getattr(value, option)
        good = isinstance(mapping, Mapping) and _texts(tuple(mapping))
        _need(value, "transform", option, good, "a mapping from names")
    for option in ("hints", "independent_axes"):
        _need(value, "transform", option, _texts(getattr(value, option)), "a tuple of names")
    leaves, pairs = value.identifying_leaves, value.equal_axes
    good = leaves is None or _texts(leaves)
    _need(value, "transform", "identifying_leaves", good, "a tuple of names, or None")
    good = isinstance(pairs, Collection) and all(_texts(pair) and len(pair) == 2 for pair in pairs)
    _need(value, "transform", "equal_axes", good, "a tuple of pairs of names")
    _need(value, "transform", "unsupported", isinstance(value.unsupported, str), "a text")


def _need(value: Any, what: str, attribute: str, good: bool, expected: str) -> None:
    if not good:
        got = _shown(getattr(value, attribute))
        raise PluginError(f"{what} {value.name!r}: expected {attribute} to be {expected}, got {got}.")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: Any) -> bool:
    """Return whether a value is a collection of texts, and not one text."""
    return isinstance(value, Collection) and not isinstance(value, str) and all(map(_text, value))


def _schemes(value: Any) -> bool:
    return _texts(value) and bool(value) and all(scheme_of(f"{name}://") == name for name in value)


def _shown(value: Any) -> str:
    """Return a value as messages show it, on one line and cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
