"""The registry: everything that plugins provide, found by name, immutable.

A plugin's module is imported when the registry is made, and each of its hooks is called when something of
its kind is first asked for: opening a file needs no layers, and a plan needs no formats.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.messages import nearest
from bridge_core.plugins import hookspecs
from bridge_core.plugins.direct_values import as_plugins
from bridge_core.plugins.entry_points import entry_points
from bridge_core.plugins.loading import (
    ADDED,
    BUILTIN,
    PluginFailure,
    PluginInfo,
    import_plugin,
    load_plugins,
    names_in_environment,
    normalised,
    refuse_unknown,
    registered,
)
from bridge_core.plugins.plugin_errors import plugin_failures
from bridge_core.plugins.plugin_tables import PluginTables
from bridge_core.plugins.provided_values import TABLES, is_of_folders
from bridge_core.plugins.table import Table, values_of
from bridge_core.state import Key, TensorSpec

if TYPE_CHECKING:
    from bridge_core.formats import FolderFormat, Format
    from bridge_core.io import FileSystem
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.framework import Framework
    from bridge_core.plugins.library import Library
    from bridge_core.plugins.recipe import Recipe

__all__ = [
    "BUILTIN",
    "PluginFailure",
    "PluginInfo",
    "Registry",
    "default_registry",
    "given_registry",
    "loaded_registry",
]


@dataclass(frozen=True, eq=False)
class Registry(PluginTables):
    """Everything that plugins provide; `extend` returns a new one."""

    @functools.cached_property
    def formats(self) -> Mapping[str, Format]:
        """Name -> file format, in the order of registration."""
        values = self._table("formats").values
        return MappingProxyType({name: value for name, value in values.items() if hasattr(value, "open")})

    @functools.cached_property
    def folder_formats(self) -> Mapping[str, FolderFormat]:
        """Name -> format whose checkpoints are folders, in the order of registration."""
        values = self._table("formats").values
        return MappingProxyType({name: value for name, value in values.items() if is_of_folders(value)})

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
    def recipes(self) -> Mapping[str, Recipe]:
        """Name -> recipe, the rules for a family of models."""
        return self._table("recipes").values

    @functools.cached_property
    def filesystems(self) -> Mapping[str, FileSystem]:
        """Name -> file system that is reached by URL."""
        return self._table("filesystems").values

    def filesystem_of(self, scheme: str) -> FileSystem | None:
        """Return the file system of a URL's scheme, or None.

        Raises:
            UsageError: Several plugins provide it.
        """
        able = [system for system in self.filesystems.values() if scheme in system.schemes]
        if len(able) > 1:
            names = ", ".join(system.name for system in able)
            raise UsageError(
                f"{len(able)} file systems read {scheme}:// URLs: {names}.",
                hint="Disable the plugins of all but one (--disable-plugin NAME).",
            )
        return able[0] if able else None

    @functools.cached_property
    def transforms_of(self) -> Mapping[str, tuple[LayerTransform, ...]]:
        """Framework name -> its transforms, in the order of registration."""
        result: dict[str, tuple[LayerTransform, ...]] = {}
        for transform in self.transforms.values():
            result[transform.framework] = (*result.get(transform.framework, ()), transform)
        return result

    @functools.cached_property
    def checked_transforms_of(self) -> Mapping[str, tuple[LayerTransform, ...]]:
        """The same as `transforms_of`, with every transform checked to name what its kind has.

        Raises:
            PluginError: A transform of a plugin that was added in this process does not.
        """
        for transform in self.transforms.values():
            owner = self.plugin_of("transforms", transform.name)
            with plugin_failures(owner.name if owner is not None else transform.name):
                self._check_transforms((transform,))
        return self.transforms_of

    def extend(
        self,
        plugin: Any,
        *further: Any,
        name: str | None = None,
        distribution: str = "(in process)",
        version: str = "",
    ) -> Registry:
        """Return a registry with more plugins, or with values that plugins provide.

        Args:
            plugin: A layer from `custom_layer`, a kind, transform, format, framework, library or recipe; a
                list or tuple of them; or a plugin: a module or object with hook implementations.
            *further: More of the same.
            name: What to call it; by default its own name.
            distribution: The distribution it came from, for messages.
            version: Its version.

        Raises:
            PluginConflict: It provides a name that another plugin provides.
            PluginError: It is none of these, or is not complete; or a plugin implements no hook, has one of
                an unknown name, or one fails.

        >>> from bridge_core import LayerKind, default_registry
        >>> registry = default_registry().extend(LayerKind("scaled", {"kernel": "in out", "gain": "out"}))
        >>> registry.plugins[-1].provides
        ("kind 'scaled'",)
        """
        registry = self
        for one, given_name in as_plugins((plugin, *further)):
            registry = registry._extended(one, name or given_name, distribution, version)
        return registry

    def _extended(self, plugin: Any, name: str, distribution: str, version: str) -> Registry:
        with plugin_failures(name, "be registered"):
            added = registered(plugin, name, distribution, version)
        with plugin_failures(name, "return what it provides"):
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
            raise UsageError(
                f"unknown table {min(unknown)!r} of the registry.",
                hint=nearest(min(unknown), TABLES, listing="Tables"),
            )
        if "kinds" in tables:
            self._table("transforms")  # checked against the kinds that they were made for
        given = {table: Table(MappingProxyType(dict(values))) for table, values in tables.items()}
        return Registry(self._plugins, self._not_loaded, {**self._tables, **given}, self._disabled, self._log)

    def format(self, name: str) -> Format:
        """Return a file format by name.

        Raises:
            UsageError: No plugin provides it, several do, or its checkpoints are folders.
        """
        if isinstance(name, str) and name in self.folder_formats and name not in self.formats:
            raise UsageError(
                f"expected a format of single files, got {name!r}, whose checkpoints are folders.",
                hint=nearest("", self.formats, listing="Formats of files"),
            )
        file_format: Format = self._named("formats", name, self.formats)
        return file_format

    def any_format(self, name: str) -> Format | FolderFormat:
        """Return a format of files or of folders by name.

        Raises:
            UsageError: No plugin provides it, or several do.
        """
        either: Format | FolderFormat = self._named("formats", name)
        return either

    def framework(self, name: str) -> Framework:
        """Return a framework adapter by name.

        Raises:
            UsageError: No plugin provides it, or several do.
        """
        found: Framework = self._named("frameworks", name)
        return found

    def recipe(self, name: str) -> Recipe:
        """Return a recipe by name.

        Raises:
            UsageError: No plugin provides it, or several do.
        """
        found: Recipe = self._named("recipes", name)
        return found

    def require_layout(self, name: str, argument: str) -> None:
        """Refuse what is neither ``"neutral"`` nor the name of a framework.

        Args:
            name: The name.
            argument: The argument of Python that has it; the option of the command has the same name.

        Raises:
            UsageError: It is not the name of a layout, or several plugins provide the framework.
        """
        provided = self._table("frameworks")
        if isinstance(name, str) and (name == "neutral" or name in provided.conflicts):
            if name != "neutral":
                self.framework(name)
            return
        if not isinstance(name, str) or name not in provided.values:
            raise UsageError(
                f"unknown layout {repr(name)[:80]} for {argument}= (--{argument}).",
                hint=nearest(str(name), (*provided.values, "neutral"), listing="Layouts"),
            )

    def framework_of(self, value: Any) -> Framework | None:
        """Return the adapter that accepts a live object, or None.

        An adapter that fails does not accept it.
        """
        for framework in self.frameworks.values():
            if self.asks("frameworks", framework, "accepts", value):
                return framework
        return None

    def owners_of(self, specs: Mapping[Key, TensorSpec]) -> tuple[str, ...]:
        """Return the frameworks that these names look like; one that fails owns none."""
        return tuple(
            framework.name
            for framework in self.frameworks.values()
            if self.asks("frameworks", framework, "owns", specs)
        )

    def layout_of(self, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return the one framework that these names look like.

        None if none or several own them, or if they may be names of the neutral layout as well.
        """
        owners = self.owners_of(specs)
        return self.unless_neutral(owners[0], specs) if len(owners) == 1 else None

    def unless_neutral(self, layout: str, specs: Mapping[Key, TensorSpec]) -> str | None:
        """Return a framework's layout, or None if layers show that the names may be neutral ones."""
        from bridge_core.plugins.layout_detection import neutral_keys

        return None if neutral_keys(specs, layout, self) else layout


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


def given_registry(registry: Registry | None) -> Registry:
    """Return the registry that a caller passed, or that of everything installed.

    Raises:
        UsageError: The value is not a registry.
    """
    if registry is None:
        return default_registry()
    if not isinstance(registry, Registry):
        raise UsageError(
            f"expected registry= to be a Registry, got {type(registry).__name__}.",
            hint="Pass registry=bridge_core.default_registry(), or leave it out.",
        )
    return registry
