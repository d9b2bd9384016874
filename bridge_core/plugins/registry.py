"""Loading plugins into a Registry: isolated, checked, and immutable afterwards."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any, TypeVar

import pluggy

from bridge_core.errors import PluginConflict, PluginError, UsageError
from bridge_core.formats import Format
from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.plugins import hookspecs
from bridge_core.plugins.framework import Framework
from bridge_core.plugins.library import Library
from bridge_core.state import Key, TensorSpec

T = TypeVar("T")

__all__ = ["BUILTIN", "PluginFailure", "PluginInfo", "Registry", "default_registry"]

BUILTIN = ("bridge_core.builtin_plugin",)
"""Plugins that ship inside the core; the torch and Flax adapters come by entry point."""


_ONE_OF = {
    "formats": "format",
    "frameworks": "framework",
    "kinds": "kind",
    "transforms": "transform",
    "libraries": "library",
}
"""Table of the registry -> what one of its entries is called."""


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


def _frozen() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Registry:
    """Everything that plugins provide; `extend` returns a new one.

    Args:
        formats: Name -> format, in the order of registration.
        frameworks: Name -> adapter.
        kinds: Name -> layer kind.
        transforms: Name -> layer transform.
        libraries: Name -> adapter of a model library.
        plugins: What was loaded.
        failures: What was not.
    """

    formats: Mapping[str, Format] = field(default_factory=_frozen)
    frameworks: Mapping[str, Framework] = field(default_factory=_frozen)
    kinds: Mapping[str, LayerKind] = field(default_factory=_frozen)
    transforms: Mapping[str, LayerTransform] = field(default_factory=_frozen)
    libraries: Mapping[str, Library] = field(default_factory=_frozen)
    plugins: tuple[PluginInfo, ...] = ()
    failures: tuple[PluginFailure, ...] = ()
    origins: Mapping[str, str] = field(default_factory=_frozen, repr=False)

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
        found = _call_hooks(plugin, name)
        origins = dict(self.origins)
        provides: list[str] = []
        tables: dict[str, Any] = {}
        for table, values in found.items():
            merged = dict(getattr(self, table))
            for value in values:
                label = f"{_ONE_OF[table]} {value.name!r}"
                if value.name in merged:
                    raise PluginConflict(
                        f"{label} is provided by {distribution} and by {origins[label]} already.",
                        plugin=name,
                        hint="Uninstall one of them.",
                    )
                merged[value.name] = value
                origins[label] = distribution
                provides.append(label)
            tables[table] = MappingProxyType(merged)
        info = PluginInfo(name, distribution, version, tuple(provides))
        return replace(self, **tables, plugins=(*self.plugins, info), origins=MappingProxyType(origins))

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
        """Return the one framework whose names these look like; None if none or several claim them."""
        owners = [framework.name for framework in self.frameworks.values() if framework.owns(specs)]
        return owners[0] if len(owners) == 1 else None

    @functools.cached_property
    def transforms_of(self) -> Mapping[str, tuple[LayerTransform, ...]]:
        """Framework name -> its transforms, in the order of registration."""
        result: dict[str, tuple[LayerTransform, ...]] = {}
        for transform in self.transforms.values():
            result[transform.framework] = (*result.get(transform.framework, ()), transform)
        return result


def _lookup(table: Mapping[str, T], name: str, what: str) -> T:
    try:
        return table[name]
    except KeyError:
        raise UsageError(
            f"there is no {what} {name!r}.", hint=f"Installed are: {', '.join(table) or 'none'}."
        ) from None


def _call_hooks(plugin: Any, name: str) -> dict[str, list[Any]]:
    manager = pluggy.PluginManager("ckptbridge")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
        if not manager.get_hookcallers(plugin):
            raise PluginError("implements no hook.", plugin=name, hint="Mark one with @hookimpl.")
        return {
            "formats": _checked(manager.hook.bridge_formats(), Format, name),
            "frameworks": _checked(manager.hook.bridge_frameworks(), Framework, name),
            "kinds": _checked(manager.hook.bridge_layer_kinds(), LayerKind, name),
            "transforms": _checked(manager.hook.bridge_layer_transforms(), LayerTransform, name),
            "libraries": _checked(manager.hook.bridge_libraries(), Library, name),
        }
    except pluggy.PluginValidationError as err:
        raise PluginError(str(err), plugin=name) from err


def _checked(results: list[Any], wanted: type, name: str) -> list[Any]:
    for result in results:
        if not isinstance(result, Iterable):
            raise PluginError(f"returned {result!r}; a list of {wanted.__name__} was expected.", plugin=name)
    values = [value for result in results for value in result]
    for value in values:
        if not isinstance(value, wanted):
            raise PluginError(f"returned {value!r}, which is no {wanted.__name__}.", plugin=name)
    return values


@functools.cache
def default_registry() -> Registry:
    """Return the registry of everything installed.

    A plugin that fails is left out with a warning that names its distribution and the cause; it stands
    in ``failures``. Two plugins that provide one name are an error.

    Raises:
        PluginConflict: Two plugins provide the same name.
    """
    registry = Registry()
    for name in BUILTIN:
        registry = registry.extend(importlib.import_module(name), name=name, distribution="ckptbridge")
    failures: list[PluginFailure] = []
    points = metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
    for point in sorted(points, key=lambda p: (_owner(p) != "ckptbridge", p.name)):
        version = point.dist.version if point.dist else ""
        try:
            registry = registry.extend(
                point.load(), name=point.name, distribution=_owner(point), version=version
            )
        except PluginConflict:
            raise
        except Exception as err:  # a stranger's code may raise anything
            failure = PluginFailure(point.name, _owner(point), f"{type(err).__name__}: {err}")
            failures.append(failure)
            warnings.warn(
                f"plugin {failure.name!r} of {failure.distribution} was left out: {failure.reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    return replace(registry, failures=tuple(failures))


def _owner(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "(unknown distribution)"
