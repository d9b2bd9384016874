"""What all plugins provide of one sort: the values by name, their plugins, and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from bridge_core.errors import PluginConflict, PluginError
from bridge_core.plugins.loading import LoadedPlugin, PluginFailure
from bridge_core.plugins.provided_values import TABLES, check_values

__all__ = ["Conflict", "Table", "values_of"]

_TWO_INSTALLED = "Uninstall one of them, or disable it: --disable-plugin NAME."
_RUN_AGAIN = "Extend a registry that does not have it: default_registry().extend(...)."
"""For a notebook whose cell ran twice."""
_ANOTHER_NAME = "Give it another name: what ckptbridge itself provides cannot be replaced."


@dataclass(frozen=True)
class Conflict:
    """A name that several installed plugins provide, so that none of them is used for it.

    Args:
        what: What it is the name of: ``"format"``.
        name: The name.
        plugins: The plugins.
    """

    what: str
    name: str
    plugins: tuple[LoadedPlugin, ...]

    def __str__(self) -> str:
        """Return what is wrong and what to do, as one line."""
        return f"{self.problem} {self.way_on}".rstrip()

    @property
    def problem(self) -> str:
        """What is wrong, as a sentence."""
        origins = " and by ".join(plugin.origin for plugin in self.plugins)
        return f"{self.what} {self.name!r} is provided by {origins}, so neither is used."

    @property
    def way_on(self) -> str:
        """What to do, as a sentence; empty if nothing can be done."""
        ways = [plugin.way_without for plugin in self.plugins if plugin.way_without]
        return f"To use one of them, disable the other: {ways[-1]}." if ways else ""


@dataclass(frozen=True, eq=False)
class Table:
    """What all plugins provide of one sort.

    Args:
        values: Name -> value.
        owners: Name -> its plugin.
        failures: What was left out.
        conflicts: Name that several plugins provide -> these; it has no value.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    owners: Mapping[str, LoadedPlugin] = field(default_factory=dict)
    failures: tuple[PluginFailure, ...] = ()
    conflicts: Mapping[str, Conflict] = field(default_factory=dict)

    def extended(self, plugin: LoadedPlugin, values: Iterable[Any], what: str) -> Table:
        """Return the table with what one more plugin provides, which the caller asked for.

        Raises:
            PluginConflict: Another plugin provides one of the names.
        """
        merged, owners = dict(self.values), dict(self.owners)
        for value in values:
            others = [owners[value.name]] if value.name in owners else []
            if value.name in self.conflicts:
                others = list(self.conflicts[value.name].plugins)
            if value.name in merged or others:
                by = " and by ".join(other.origin for other in others) or "another plugin"
                raise PluginConflict(
                    f"{what} {value.name!r} is provided by {plugin.origin}, and already by {by}.",
                    plugin=plugin.name,
                    hint=_way_out(plugin, others),
                )
            merged[value.name], owners[value.name] = value, plugin
        return replace(self, values=MappingProxyType(merged), owners=owners)

    def joined(self, plugin: LoadedPlugin, values: Iterable[Any], what: str) -> Table:
        """Return the table with what one more installed plugin provides.

        Of a name that ckptbridge itself provides, its own value is used; of one that two other plugins
        provide, neither is used, since it is not known which was meant.
        """
        merged, owners = dict(self.values), dict(self.owners)
        failures, conflicts = list(self.failures), dict(self.conflicts)
        hook = next(sort.hook for sort in TABLES.values() if sort.what == what)
        for value in values:
            name = value.name
            if name in conflicts:
                before = conflicts[name].plugins
                conflicts[name] = Conflict(what, name, (*before, plugin))
            elif name not in merged:
                merged[name], owners[name] = value, plugin
            elif owners[name].is_built_in:
                error = PluginConflict(
                    f"the {what} {name!r} is a part of ckptbridge itself, and cannot be replaced."
                )
                failures.append(plugin.failure(hook, error))
            else:
                conflicts[name] = Conflict(what, name, (owners.pop(name), plugin))
                del merged[name]
        return Table(MappingProxyType(merged), owners, tuple(failures), conflicts)

    def without(self, failure: PluginFailure) -> Table:
        """Return the table with the note that a plugin's hook failed."""
        return replace(self, failures=(*self.failures, failure))


def _way_out(plugin: LoadedPlugin, others: Iterable[LoadedPlugin]) -> str:
    """Return what to do about a name that a plugin provides, and others do already."""
    others = tuple(others)
    if any(other.is_built_in for other in others):
        return _ANOTHER_NAME
    in_process = others and not any(other.way_without for other in (plugin, *others))
    return _RUN_AGAIN if in_process else _TWO_INSTALLED


def values_of(plugin: LoadedPlugin, table: str) -> tuple[Any, ...]:
    """Call a plugin's hook; return what it provides for a table.

    Raises:
        PluginError: It returned something else.
    """
    hook = plugin.hooks.get(TABLES[table].hook)
    if hook is None:
        return ()
    try:
        return check_values(hook(), table)
    except PluginError as err:
        err.plugin = err.plugin or plugin.name
        raise
