"""The registry: everything that plugins provide, found by name, immutable.

A plugin's module is imported when the registry is made, and each of its hooks is called when something of
its kind is first asked for: opening a file needs no layers, and a plan needs no formats.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bridge_core.errors import SystemFailure, UsageError
from bridge_core.plugins import hookspecs
from bridge_core.plugins.entry_points import entry_points
from bridge_core.plugins.loading import (
    ADDED,
    BUILTIN,
    FailureLog,
    LoadedPlugin,
    PluginFailure,
    PluginInfo,
    import_plugin,
    load_plugins,
    names_in_environment,
    normalised,
    refuse_unknown,
    registered,
)
from bridge_core.plugins.plugin_errors import is_interrupt, plugin_failures
from bridge_core.plugins.provided_values import TABLES
from bridge_core.plugins.table import Conflict, Table, values_of
from bridge_core.state import Key, TensorSpec

if TYPE_CHECKING:
    from bridge_core.formats import Format
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.framework import Framework
    from bridge_core.plugins.library import Library

__all__ = ["BUILTIN", "PluginFailure", "PluginInfo", "Registry", "default_registry", "loaded_registry"]


@dataclass(frozen=True, eq=False)
class Registry:
    """Everything that plugins provide; `extend` returns a new one.

    A table is made when it is first asked for. An installed plugin whose hook fails is left out of the table
    with a warning, and one that fails when it is used is warned of once; `failures` lists both. Where several
    installed plugins provide one name, none of them is used for it; `conflicts` lists them.
    """

    _plugins: tuple[LoadedPlugin, ...] = ()
    _not_loaded: tuple[PluginFailure, ...] = ()
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)
    _disabled: tuple[PluginInfo, ...] = ()
    _log: FailureLog = field(default_factory=FailureLog, repr=False)

    @functools.cached_property
    def formats(self) -> Mapping[str, Format]:
        """Name -> file format, in the order of registration."""
        return self._table("formats").values

    @functools.cached_property
    def frameworks(self) -> Mapping[str, Framework]:
        """Name -> adapter of a framework."""
        return self._table("frameworks").values

    @functools.cached_property
    def kinds(self) -> Mapping[str, LayerKind]:
        """Name -> layer kind."""
        return self._table("kinds").values

    @functools.cached_property
    def transforms(self) -> Mapping[str, LayerTransform]:
        """Name -> layer transform, in the order of registration."""
        return self._table("transforms").values

    @functools.cached_property
    def libraries(self) -> Mapping[str, Library]:
        """Name -> adapter of a model library."""
        return self._table("libraries").values

    @functools.cached_property
    def transforms_of(self) -> Mapping[str, tuple[LayerTransform, ...]]:
        """Framework name -> its transforms, in the order of registration."""
        result: dict[str, tuple[LayerTransform, ...]] = {}
        for transform in self.transforms.values():
            result[transform.framework] = (*result.get(transform.framework, ()), transform)
        return result

    @functools.cached_property
    def checked_transforms_of(self) -> Mapping[str, tuple[LayerTransform, ...]]:
        """The same, once every transform was found to name what its kind has.

        Raises:
            PluginError: A transform of a plugin that was added in this process does not.
        """
        for transform in self.transforms.values():
            owner = self.plugin_of("transforms", transform.name)
            with plugin_failures(owner.name if owner is not None else transform.name):
                _check((transform,), self)
        return self.transforms_of

    @functools.cached_property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """What was loaded, with all that each plugin provides."""
        provided: dict[LoadedPlugin, list[str]] = {plugin: [] for plugin in self._plugins}
        for table, sort in TABLES.items():
            for name, plugin in self._table(table).owners.items():
                provided[plugin].append(f"{sort.what} {name!r}")
        return tuple(
            PluginInfo(plugin.name, plugin.distribution, plugin.version, tuple(names))
            for plugin, names in provided.items()
        )

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """What could not be loaded, which hooks failed, and what failed when it was used."""
        late = (failure for table in TABLES for failure in self._table(table).failures)
        return (*self._not_loaded, *late, *self._log.all())

    @functools.cached_property
    def conflicts(self) -> tuple[Conflict, ...]:
        """The names that several installed plugins provide."""
        return tuple(conflict for table in TABLES for conflict in self._table(table).conflicts.values())

    @property
    def disabled(self) -> tuple[PluginInfo, ...]:
        """The plugins that are installed and switched off; what they provide is not known."""
        return self._disabled

    def plugin_of(self, table: str, name: str) -> LoadedPlugin | None:
        """Return the plugin that provides a name; None if none does, or the table was given as it is.

        Args:
            table: ``"formats"``, ``"frameworks"``, ``"kinds"``, ``"transforms"`` or ``"libraries"``.
            name: The name.
        """
        return self._table(table).owners.get(name)

    def foreign_plugin(self, table: str, name: str) -> LoadedPlugin | None:
        """Return the plugin of another distribution than ckptbridge's that provides a name, or None."""
        plugin = self.plugin_of(table, name)
        return None if plugin is None or plugin.is_built_in else plugin

    def conflict_of(self, table: str, name: str) -> Conflict | None:
        """Return the conflict of the plugins that all provide a name, or None."""
        return self._table(table).conflicts.get(name)

    def extend(
        self, plugin: Any, *, name: str | None = None, distribution: str = "(in process)", version: str = ""
    ) -> Registry:
        """Return a registry with one more plugin.

        Args:
            plugin: Module or object with hook implementations.
            name: What to call it; by default its own name.
            distribution: The distribution it came from, for messages.
            version: Its version.

        Raises:
            PluginConflict: It provides a name that another plugin provides.
            PluginError: It implements no hook, misspells one, or one fails.
        """
        name = name or getattr(plugin, "__name__", None) or type(plugin).__name__
        with plugin_failures(name, "be registered"):
            added = registered(plugin, name, distribution, version)
        with plugin_failures(name, "say what it provides"):
            values = {table: values_of(added, table) for table in TABLES}
        tables = {
            table: self._table(table).extended(added, values[table], sort.what)
            for table, sort in TABLES.items()
        }
        return Registry((*self._plugins, added), self._not_loaded, tables, self._disabled, self._log)

    def with_tables(self, **tables: Mapping[str, Any]) -> Registry:
        """Return a registry with other tables in place of its own, e.g. ``libraries={}``."""
        unknown = tables.keys() - TABLES.keys()
        if unknown:
            raise UsageError(f"{min(unknown)!r} is not a table of the registry: {', '.join(TABLES)}.")
        if "kinds" in tables:
            self._table("transforms")  # checked against the kinds that they were made for
        given = {table: Table(MappingProxyType(dict(values))) for table, values in tables.items()}
        return Registry(self._plugins, self._not_loaded, {**self._tables, **given}, self._disabled, self._log)

    def format(self, name: str) -> Format:
        """Return a format by name.

        Raises:
            UsageError: No plugin provides it, or several do.
        """
        found: Format = self._named("formats", name)
        return found

    def framework(self, name: str) -> Framework:
        """Return a framework adapter by name.

        Raises:
            UsageError: No plugin provides it, or several do.
        """
        found: Framework = self._named("frameworks", name)
        return found

    def framework_of(self, value: Any) -> Framework | None:
        """Return the adapter that accepts a live object, or None; one that fails does not accept it."""
        for framework in self.frameworks.values():
            if self.asks("frameworks", framework, "accepts", value):
                return framework
        return None

    def owners_of(self, specs: Mapping[Key, TensorSpec]) -> tuple[str, ...]:
        """Return the frameworks whose names these look like; one that fails owns none."""
        return tuple(
            framework.name
            for framework in self.frameworks.values()
            if self.asks("frameworks", framework, "owns", specs)
        )

    def layout_of(self, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return the one framework whose names these look like.

        None if none or several own them, or if they may be names of the neutral layout as well.
        """
        owners = self.owners_of(specs)
        return self.unless_neutral(owners[0], specs) if len(owners) == 1 else None

    def asks(
        self,
        table: str,
        value: Any,
        method: str,
        about: Any,
        failed: dict[str, PluginFailure] | None = None,
    ) -> bool:
        """Return a value's answer to a question; if the code of another's plugin fails, the answer is no.

        Args:
            table: The table that the value is in.
            value: A format or a framework.
            method: Name of the method that answers: ``"sniff"``.
            about: What it is asked about.
            failed: Gets the failure under the value's name; without it the failure is reported, once.

        Raises:
            SystemFailure: The system failed while it looked.
        """
        plugin = self.foreign_plugin(table, value.name)
        if plugin is None:
            return bool(getattr(value, method)(about))
        try:
            return bool(getattr(value, method)(about))
        except SystemFailure:
            raise
        except BaseException as err:  # a plugin's code may raise anything
            if is_interrupt(err):
                raise
            failure = plugin.failure(f"{value.name}.{method}", err)
        if failed is None:
            self.report(failure)
        else:
            failed[value.name] = failure
        return False

    def report(self, failure: PluginFailure) -> None:
        """Warn of what a plugin did wrong when it was used, unless that was reported before."""
        self._log.add(failure)

    def failures_of(
        self, table: str, name: str, doing: str, *, damaged: str | None = None, hint: str = ""
    ) -> plugin_failures:
        """Return a context in which failures of what a plugin provides name the plugin and its distribution.

        Args:
            table: The table that it is in.
            name: Its name.
            doing: What it is asked to do: ``"look at a.bin"``.
            damaged: The file that it reads, if that is the likely cause.
            hint: What the user can do, before the plugin is done without.
        """
        plugin = self.foreign_plugin(table, name)
        if plugin is None:
            return plugin_failures(name, doing, damaged=damaged, hint=hint or None)
        ways = [hint] if hint else []
        if plugin.way_without:
            ways.append(f"To do without this plugin, {plugin.way_without}.")
        return plugin_failures(
            name, doing, damaged=damaged, origin=plugin.origin, hint=" ".join(ways) or None
        )

    def unless_neutral(self, layout: str, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return a framework's layout, or None if layers show that the names may be neutral ones."""
        from bridge_core.plugins.layout_detection import neutral_keys

        return None if neutral_keys(specs, layout, self) else layout

    def foreign_failures(
        self, table: str, name: str, doing: str
    ) -> contextlib.AbstractContextManager[None, bool | None]:
        """Return `failures_of` for what another's plugin provides; errors of ckptbridge's own code pass."""
        if self.foreign_plugin(table, name) is None:
            return contextlib.nullcontext()
        return self.failures_of(table, name, doing)

    def _table(self, table: str) -> Table:
        if table not in self._tables:
            made = Table()
            for plugin in self._plugins:
                made = self._joined(made, plugin, table)
            self._tables[table] = made
        return self._tables[table]

    def _joined(self, made: Table, plugin: LoadedPlugin, table: str) -> Table:
        sort = TABLES[table]
        try:
            with warnings.catch_warnings():
                values = values_of(plugin, table)
            if table == "transforms":
                _check(values, self)
        except BaseException as err:  # a plugin's code may raise anything
            if is_interrupt(err):
                raise
            joined = made.without(plugin.failure(sort.hook, err))
        else:
            joined = made.joined(plugin, values, sort.what)
        news: list[object] = [*joined.failures[len(made.failures) :]]
        news += [conflict for name, conflict in joined.conflicts.items() if name not in made.conflicts]
        for text in map(str, news):
            warnings.warn(text, RuntimeWarning, stacklevel=5)
        return joined

    def _named(self, table: str, name: str) -> Any:
        found = self._table(table)
        if name in found.values:
            return found.values[name]
        what = TABLES[table].what
        if name in found.conflicts:
            conflict = found.conflicts[name]
            raise UsageError(conflict.problem, hint=conflict.way_on or None)
        raise UsageError(
            f"there is no {what} {name!r}.", hint=f"Installed are: {', '.join(found.values) or 'none'}."
        )


def _check(transforms: Iterable[LayerTransform], registry: Registry) -> None:
    """Check that transforms name what their kinds have."""
    from bridge_core.layers import check_transforms

    check_transforms(transforms, registry.kinds)


def loaded_registry(*, disabled: Iterable[str] = (), added: Iterable[str] = ()) -> Registry:
    """Return the registry of everything installed, without some plugins and with others.

    A plugin that fails is left out with a warning that names its distribution and the cause; it is in
    ``failures``. The environment variable ``CKPTBRIDGE_DISABLE_PLUGINS`` lists further names to disable;
    those of plugins that are not installed have no effect.

    Args:
        disabled: Plugins to leave out without importing them, each by its name, its module or its
            distribution; ``"all"`` for all but those of ckptbridge itself.
        added: Modules that are plugins, ``"package.module"``, in the current folder or on Python's path.

    Raises:
        UsageError: No plugin has one of the names, or ckptbridge needs it; or there is no such module.
        PluginConflict: A plugin that is added provides a name that another plugin provides.
        PluginError: A plugin that is added fails.
    """
    disabled, added = tuple(disabled), tuple(added)
    points = (BUILTIN, *entry_points(hookspecs.ENTRY_POINT_GROUP))
    refuse_unknown(disabled, points)
    if added:
        points = tuple(point for point in points if point.value not in added)
    loaded = load_plugins(points, normalised(disabled) | names_in_environment())
    registry = Registry(loaded.plugins, loaded.failures, _disabled=loaded.disabled)
    for name in added:
        registry = registry.extend(import_plugin(name), name=name, distribution=ADDED)
    return registry


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed; see `loaded_registry` for what is left out."""
    return loaded_registry()
