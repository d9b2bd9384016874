"""Values that are given to a registry by themselves, in place of a plugin whose hooks return them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

from bridge_core.errors import PluginError
from bridge_core.messages import shown
from bridge_core.plugins.hookspecs import hookimpl
from bridge_core.plugins.provided_values import TABLES

__all__ = ["as_plugins"]

_MARK = "ckptbridge_impl"
"""What `hookimpl` adds to a function."""
_OWN_METHODS = {
    "frameworks": ("accepts", "build", "owns"),
    "formats": ("sniff", "open", "sniff_folder", "open_folder"),
    "libraries": ("guide",),
    "filesystems": ("entries", "pinned"),
}
"""Methods by which an object is known, of which the first that it has decides what it was meant to be."""
_WHAT_TO_PASS = (
    "Pass a layer from custom_layer(...), a LayerKind, a LayerTransform, a format, a framework, a library, a "
    "file system, a recipe, or a module or object with functions marked by @hookimpl."
)


def as_plugins(given: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Yield each plugin with its name; values that belong to no plugin are one plugin together.

    Args:
        given: Plugins, values that hooks return, and lists and tuples of them.

    Raises:
        PluginError: One is neither.
    """
    values: dict[str, list[Any]] = {}
    names: list[str] = []
    for one in _flattened(given):
        table = _table_of(one)
        if table is None:
            yield one, getattr(one, "__name__", None) or type(one).__name__
        else:
            values.setdefault(table, []).append(one)
            names.append(str(getattr(one, "name", type(one).__name__)))
    if values:
        hooks = {TABLES[table].hook: _hook(tuple(own)) for table, own in values.items()}
        yield SimpleNamespace(**hooks), names[0]


def _hook(values: tuple[Any, ...]) -> Any:
    def hook() -> tuple[Any, ...]:
        return values

    return hookimpl(hook)


def _flattened(given: Iterable[Any]) -> Iterator[Any]:
    for one in given:
        if isinstance(one, list | tuple):
            if not one:
                raise PluginError("expected something to register, got an empty list.", hint=_WHAT_TO_PASS)
            yield from _flattened(one)
        else:
            yield one


def _table_of(value: Any) -> str | None:
    """Return the table that a value belongs to; None for a plugin.

    Raises:
        PluginError: It is neither.
    """
    if isinstance(value, ModuleType) or _has_hooks(value):
        return None
    if isinstance(value, type):
        means = _known_by_methods(value)
        hint = f"Pass an object of it: {value.__name__}()." if means else _WHAT_TO_PASS
        raise PluginError(f"expected an object to register, got the class {value.__name__}.", hint=hint)
    for table in ("kinds", "transforms", "recipes"):
        module, _, name = TABLES[table].type_name.partition(":")
        if isinstance(value, getattr(importlib.import_module(module), name)):
            return table
    meant = _known_by_methods(value)
    if meant is None:
        raise PluginError(f"{shown(value)} is not something that can be registered.", hint=_WHAT_TO_PASS)
    return meant


def _known_by_methods(value: Any) -> str | None:
    return next(
        (table for table, names in _OWN_METHODS.items() if any(hasattr(value, name) for name in names)), None
    )


def _has_hooks(value: Any) -> bool:
    """Return whether an object has functions that are marked as hooks, or are called like them."""
    return any(
        name.startswith("bridge_") or hasattr(inspect.getattr_static(value, name, None), _MARK)
        for name in dir(value)
        if not name.startswith("__")
    )
