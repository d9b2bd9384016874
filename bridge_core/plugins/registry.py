"""Loading plugins into a Registry: isolated, checked, and immutable afterwards.

A plugin's module is imported when the registry is made, and each of its hooks is called when something of
its kind is first asked for: opening a file needs no layers, and a plan needs no formats.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from bridge_core.errors import PluginConflict, PluginError, UsageError
from bridge_core.plugins import hookspecs
from bridge_core.plugins.entry_points import EntryPoint, entry_points
from bridge_core.plugins.plugin_errors import plugin_failures
from bridge_core.state import Key, TensorSpec

if TYPE_CHECKING:
    from bridge_core.formats import Format
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.framework import Framework
    from bridge_core.plugins.library import Library

T = TypeVar("T")

__all__ = ["BUILTIN", "PluginFailure", "PluginInfo", "Registry", "default_registry"]

BUILTIN = EntryPoint("bridge_core", "bridge_core.builtin_plugin", "ckptbridge", "")
"""The plugin inside the core; the torch and Flax adapters come by entry point."""

_TABLES = {
    "formats": ("bridge_formats", "format", "bridge_core.formats:Format"),
    "frameworks": ("bridge_frameworks", "framework", "bridge_core.plugins:Framework"),
    "kinds": ("bridge_layer_kinds", "kind", "bridge_core.layers:LayerKind"),
    "transforms": ("bridge_layer_transforms", "transform", "bridge_core.layers:LayerTransform"),
    "libraries": ("bridge_libraries", "library", "bridge_core.plugins:Library"),
}
"""Table of the registry -> its hook, what one of its entries is called, and the type of these."""


@dataclass(frozen=True)
class PluginInfo:
    """One loaded plugin: its name, the distribution it came from, and what it added."""

    name: str
    distribution: str
    version: str
    provides: tuple[str, ...]


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be loaded, and why."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True, eq=False)
class _Plugin:
    """A plugin whose hooks are checked, and called when a table is made."""

    name: str
    distribution: str
    version: str
    hooks: Mapping[str, Callable[[], Any]]


@dataclass(frozen=True, eq=False)
class _Table:
    """What all plugins provide of one kind: name -> value, name -> its plugin, and which hooks failed."""

    values: Mapping[str, Any] = field(default_factory=dict)
    owners: Mapping[str, _Plugin] = field(default_factory=dict)
    failures: tuple[PluginFailure, ...] = ()

    def joined(self, plugin: _Plugin, values: Iterable[Any], what: str) -> _Table:
        """Return the table with what one more plugin provides.

        Raises:
            PluginConflict: A name is in it already.
        """
        merged, owners = dict(self.values), dict(self.owners)
        for value in values:
            if value.name in merged:
                raise PluginConflict(
                    f"{what} {value.name!r} is provided by {plugin.distribution} and by "
                    f"{owners[value.name].distribution} already.",
                    plugin=plugin.name,
                    hint="Uninstall one of them.",
                )
            merged[value.name], owners[value.name] = value, plugin
        return replace(self, values=MappingProxyType(merged), owners=owners)


@dataclass(frozen=True, eq=False)
class Registry:
    """Everything that plugins provide; `extend` returns a new one.

    A table is made when it is first asked for. A plugin of `default_registry` whose hook fails is left out
    of the table with a warning; `failures` lists it.
    """

    _plugins: tuple[_Plugin, ...] = ()
    _not_loaded: tuple[PluginFailure, ...] = ()
    _tables: dict[str, _Table] = field(default_factory=dict, repr=False)

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
            owner = self._table("transforms").owners.get(transform.name)
            with plugin_failures(owner.name if owner is not None else transform.name):
                _check((transform,), self.kinds)
        return self.transforms_of

    @functools.cached_property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """What was loaded, with all that each plugin provides."""
        provided: dict[_Plugin, list[str]] = {plugin: [] for plugin in self._plugins}
        for table, (_, what, _) in _TABLES.items():
            for name, plugin in self._table(table).owners.items():
                provided[plugin].append(f"{what} {name!r}")
        return tuple(
            PluginInfo(plugin.name, plugin.distribution, plugin.version, tuple(names))
            for plugin, names in provided.items()
        )

    @functools.cached_property
    def failures(self) -> tuple[PluginFailure, ...]:
        """What could not be loaded, and which hooks failed."""
        late = (failure for table in _TABLES for failure in self._table(table).failures)
        return (*self._not_loaded, *late)

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
        added = _registered(plugin, name, distribution, version)
        with plugin_failures(name, "say what it provides"):
            values = {table: _values(added, table) for table in _TABLES}
        tables = {
            table: self._table(table).joined(added, values[table], what)
            for table, (_, what, _) in _TABLES.items()
        }
        return Registry((*self._plugins, added), self._not_loaded, tables)

    def with_tables(self, **tables: Mapping[str, Any]) -> Registry:
        """Return a registry with other tables in place of its own, e.g. ``libraries={}``."""
        unknown = tables.keys() - _TABLES.keys()
        if unknown:
            raise UsageError(f"{min(unknown)!r} is not a table of the registry: {', '.join(_TABLES)}.")
        given = {table: _Table(MappingProxyType(dict(values))) for table, values in tables.items()}
        return Registry(self._plugins, self._not_loaded, {**self._tables, **given})

    def format(self, name: str) -> Format:
        """Return a format by name.

        Raises:
            UsageError: No plugin provides it.
        """
        return _lookup(self.formats, name, "format")

    def framework(self, name: str) -> Framework:
        """Return a framework adapter by name.

        Raises:
            UsageError: No plugin provides it.
        """
        return _lookup(self.frameworks, name, "framework")

    def framework_of(self, value: Any) -> Framework | None:
        """Return the adapter that accepts a live object, or None."""
        for framework in self.frameworks.values():
            if framework.accepts(value):
                return framework
        return None

    def layout_of(self, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return the one framework whose names these look like.

        None if none or several own them, or if they may be names of the neutral layout as well.
        """
        owners = [framework.name for framework in self.frameworks.values() if framework.owns(specs)]
        return self.unless_neutral(owners[0], specs) if len(owners) == 1 else None

    def unless_neutral(self, layout: str, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return a framework's layout, or None if layers show that the names may be neutral ones."""
        from bridge_core.plugins.layout_detection import neutral_keys

        return None if neutral_keys(specs, layout, self) else layout

    def _table(self, table: str) -> _Table:
        if table not in self._tables:
            made = _Table()
            for plugin in self._plugins:
                try:
                    values = _values(plugin, table)
                    if table == "transforms":
                        _check(values, self.kinds)
                except Exception as err:  # a plugin's code may raise anything
                    failure = _failure(plugin.name, plugin.distribution, err)
                    made = replace(made, failures=(*made.failures, failure))
                else:
                    made = made.joined(plugin, values, _TABLES[table][1])
            self._tables[table] = made
        return self._tables[table]


def _lookup(table: Mapping[str, T], name: str, what: str) -> T:
    try:
        return table[name]
    except KeyError:
        raise UsageError(
            f"there is no {what} {name!r}.", hint=f"Installed are: {', '.join(table) or 'none'}."
        ) from None


def _registered(plugin: Any, name: str, distribution: str, version: str) -> _Plugin:
    """Check a plugin against the specifications of the hooks, without calling one.

    Raises:
        PluginError: It implements no hook, or misspells one.
    """
    manager = pluggy.PluginManager("ckptbridge")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as err:
        raise PluginError(str(err), plugin=name) from err
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError("implements no hook.", plugin=name, hint="Mark one with @hookimpl.")
    return _Plugin(name, distribution, version, {caller.name: caller for caller in callers})


def _values(plugin: _Plugin, table: str) -> tuple[Any, ...]:
    """Call a plugin's hook; return what it provides for a table.

    Raises:
        PluginError: It returned something else.
    """
    hook, _, type_name = _TABLES[table]
    if hook not in plugin.hooks:
        return ()
    module, _, attribute = type_name.partition(":")
    wanted: type = getattr(importlib.import_module(module), attribute)
    results = plugin.hooks[hook]()
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(
                f"returned {result!r}; a list of {wanted.__name__} was expected.", plugin=plugin.name
            )
    values = tuple(value for result in results for value in result)
    for value in values:
        if not isinstance(value, wanted):
            raise PluginError(f"returned {value!r}, which is no {wanted.__name__}.", plugin=plugin.name)
    return values


def _check(transforms: Iterable[LayerTransform], kinds: Mapping[str, LayerKind]) -> None:
    """Check that transforms name what their kinds have."""
    from bridge_core.layers import check_transforms

    check_transforms(transforms, kinds)


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed.

    A plugin that fails is left out with a warning that names its distribution and the cause; it is in
    ``failures``. Two plugins that provide one name are an error when that kind of thing is first asked for.
    """
    plugins: list[_Plugin] = []
    failures: list[PluginFailure] = []
    for point in (BUILTIN, *entry_points(hookspecs.ENTRY_POINT_GROUP)):
        try:
            plugins.append(_registered(point.load(), point.name, point.distribution, point.version))
        except Exception as err:  # a plugin's code may raise anything
            failures.append(_failure(point.name, point.distribution, err))
    return Registry(tuple(plugins), tuple(failures))


def _failure(name: str, distribution: str, err: Exception) -> PluginFailure:
    failure = PluginFailure(name, distribution, f"{type(err).__name__}: {err}")
    warnings.warn(
        f"plugin {name!r} of {distribution} was left out: {failure.reason}", RuntimeWarning, stacklevel=4
    )
    return failure
