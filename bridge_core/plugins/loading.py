"""Imports plugins, each on its own: one that fails, exits or is switched off is left out, and is listed."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from bridge_core.errors import PluginError, PluginWarning, UsageError
from bridge_core.messages import log
from bridge_core.plugins import hookspecs
from bridge_core.plugins.entry_points import EntryPoint
from bridge_core.plugins.plugin_errors import cause_of, is_interrupt, plugin_failures

__all__ = [
    "ADDED",
    "BUILTIN",
    "FailureLog",
    "Loaded",
    "LoadedPlugin",
    "PluginFailure",
    "PluginInfo",
    "import_plugin",
    "load_plugins",
    "names_in_environment",
    "normalised",
    "refuse_unknown",
    "registered",
]

BUILTIN = EntryPoint("bridge_core", "bridge_core.builtin_plugin", "ckptbridge", "")
"""The plugin inside the core; the torch and Flax adapters come by entry point."""
ADDED = "--plugin"
"""The origin of a plugin that the command was told to import."""
_VARIABLE = "CKPTBRIDGE_DISABLE_PLUGINS"
_EVERY_OTHER = frozenset({"all", "*"})
"""Names that mean every plugin of another distribution than ckptbridge's."""
_NAME_A_MODULE = (
    'Pass a module in the current folder or on Python\'s path: added=["package.module"] (--plugin PKG.MOD).'
)
_SEPARATORS = re.compile(r"[-_.]+")
_HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("bridge_"))


@dataclass(frozen=True)
class PluginInfo:
    """One plugin: its name, the distribution it came from, and what it added."""

    name: str
    distribution: str
    version: str
    provides: tuple[str, ...]


@dataclass(frozen=True)
class PluginFailure:
    """A plugin, or what one hook of it provides, that was left out, and why.

    Args:
        name: Name of the plugin.
        distribution: The distribution it came from.
        reason: The cause, in one line.
        version: The distribution's version.
        hook: The hook, or the method of what it provides, that failed; empty if importing the plugin did.
    """

    name: str
    distribution: str
    reason: str
    version: str = ""
    hook: str = ""

    def __str__(self) -> str:
        """Return the line that warns of it."""
        part = f": {'' if '.' in self.hook else 'its '}{self.hook}" if self.hook else ""
        return f"plugin {self.name!r} of {self.origin}{part} was left out: {self.reason}"

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, eq=False)
class LoadedPlugin:
    """A plugin whose hooks are checked, and called when a table is made."""

    name: str
    distribution: str
    version: str
    hooks: Mapping[str, Callable[[], Any]] = field(repr=False)

    @property
    def is_built_in(self) -> bool:
        """Whether it is a part of ckptbridge itself."""
        return self.distribution == BUILTIN.distribution

    @property
    def origin(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def way_without(self) -> str:
        """What a user can do to go on without it; empty if nothing."""
        if self.is_built_in or self.distribution.startswith("("):
            return ""
        if self.distribution == ADDED:
            return f"leave out --plugin {self.name}"
        return f"pass --disable-plugin {self.distribution}, or set {_VARIABLE}={self.distribution}"

    def failure(self, hook: str, error: BaseException) -> PluginFailure:
        """Return the failure of one of its hooks, or of a method of what it provides."""
        return PluginFailure(self.name, self.distribution, _reason(error), self.version, hook)


class FailureLog:
    """What plugins of a registry did wrong when they were used: each thing is reported once."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str, str], PluginFailure] = {}

    def add(self, failure: PluginFailure) -> None:
        """Warn of a failure, unless the same plugin failed in the same place before."""
        place = (failure.distribution, failure.name, failure.hook)
        if place not in self._failures:
            self._failures[place] = failure
            # Warned of at the caller of ours: whoever asked does not know the plugin.
            warnings.warn(str(failure), PluginWarning, stacklevel=4)

    def all(self) -> tuple[PluginFailure, ...]:
        """Return the failures, in the order in which they came."""
        return tuple(self._failures.values())


@dataclass(frozen=True)
class Loaded:
    """What became of the entry points: plugins that can be used, those that failed, and those disabled."""

    plugins: tuple[LoadedPlugin, ...]
    failures: tuple[PluginFailure, ...]
    disabled: tuple[PluginInfo, ...]


def load_plugins(points: Iterable[EntryPoint], disabled: Collection[str]) -> Loaded:
    """Import plugins; one that fails is left out with a warning.

    Args:
        points: Where the plugins are found.
        disabled: Normalised names of plugins, modules or distributions that are not to be imported.
    """
    plugins: list[LoadedPlugin] = []
    failures: list[PluginFailure] = []
    switched_off: list[PluginInfo] = []
    for point in points:
        if disabled and not is_built_in(point) and not _names_of(point).isdisjoint(disabled):
            switched_off.append(PluginInfo(point.name, point.distribution, point.version, ()))
            continue
        try:
            # What a plugin does to the filters of warnings ends with its import.
            with warnings.catch_warnings():
                loaded = point.load()
            plugins.append(registered(loaded, point.name, point.distribution, point.version))
            log("plugins", "loaded %s of %s %s", point.name, point.distribution, point.version, level=10)
        except BaseException as err:  # a plugin's code may raise anything
            if is_interrupt(err):
                raise
            failure = PluginFailure(point.name, point.distribution, _reason(err), point.version)
            warnings.warn(str(failure), PluginWarning, stacklevel=4)
            failures.append(failure)
    return Loaded(tuple(plugins), tuple(failures), tuple(switched_off))


def registered(plugin: Any, name: str, distribution: str, version: str) -> LoadedPlugin:
    """Check a plugin against the specifications of the hooks, without calling one.

    Raises:
        PluginError: It implements no hook, or has one of an unknown name.
    """
    manager = pluggy.PluginManager("ckptbridge")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name)
        manager.check_pending()
    except pluggy.PluginValidationError as err:
        raise PluginError(
            f"one of its hooks does not exist, or takes other arguments: {err}",
            plugin=name,
            hint=f"The hooks take no arguments. They are: {', '.join(_HOOKS)}.",
        ) from err
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError(
            "the plugin implements no hook.",
            plugin=name,
            hint=f"Mark a function with @hookimpl. The hooks are: {', '.join(_HOOKS)}.",
        )
    return LoadedPlugin(name, distribution, version, {caller.name: caller for caller in callers})


def import_plugin(name: str) -> Any:
    """Import a plugin that the caller names, from the current folder too.

    The current folder stays at the end of Python's path, for what the plugin imports when it is used.

    Args:
        name: ``"package.module"``, or ``"package.module:attribute"``.

    Raises:
        UsageError: There is no such module, or the name cannot be one.
        PluginError: Importing it failed.
    """
    module = name.partition(":")[0]
    if not all(module.split(".")):
        raise UsageError(
            f"expected the name of a module as a plugin, got {name!r}.",
            hint=_NAME_A_MODULE,
        )
    point = EntryPoint(name, name, ADDED, "")
    here = str(Path.cwd())
    first = here not in sys.path
    if first:
        sys.path.insert(0, here)
    try:
        with plugin_failures(name, "be imported"):
            return point.load()
    except PluginError as err:
        cause = err.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{cause.name}."):
            raise UsageError(
                f"cannot import the plugin {name!r}: there is no module {cause.name!r}.",
                hint=_NAME_A_MODULE,
            ) from cause
        raise
    finally:
        if first:
            sys.path.remove(here)
            sys.path.append(here)


def normalised(names: Iterable[str]) -> frozenset[str]:
    """Return names in the form in which they are compared: in lower case, with ``-`` for each of ``-_.``."""
    return frozenset(_SEPARATORS.sub("-", name.strip()).lower() for name in names if name.strip())


def names_in_environment() -> frozenset[str]:
    """Return the names of plugins that the environment switches off, normalised."""
    return normalised(os.environ.get(_VARIABLE, "").split(","))


def refuse_unknown(disabled: Iterable[str], points: Iterable[EntryPoint]) -> None:
    """Refuse names of plugins to be switched off that are not installed, or cannot be switched off.

    Raises:
        UsageError: There is such a name.
    """
    disabled, points = tuple(disabled), tuple(points)
    if not disabled:
        return
    known = {name for point in points if not is_built_in(point) for name in _names_of(point)}
    own = {name for point in points if is_built_in(point) for name in _names_of(point)}
    for name in disabled:
        comparable = normalised([name])
        if comparable <= known or comparable <= _EVERY_OTHER:
            continue
        if comparable <= own:
            raise UsageError(
                f"the plugin {name!r} is a part of ckptbridge itself and cannot be disabled.",
                hint=f'Leave out disabled="{name}" (--disable-plugin {name}).',
            )
        from bridge_core.messages import nearest

        offered = {p.name for p in points if not is_built_in(p)}
        offered |= {p.distribution for p in points if not is_built_in(p)}
        raise UsageError(
            f"unknown plugin {name!r}.",
            hint=nearest(name, sorted(offered), listing="Installed"),
        )


def is_built_in(point: EntryPoint) -> bool:
    """Return whether an entry point leads to a part of ckptbridge itself."""
    return point.distribution == BUILTIN.distribution


def _names_of(point: EntryPoint) -> frozenset[str]:
    """Return the names by which a plugin is switched off, normalised."""
    module = point.value.partition("[")[0].partition(":")[0]
    return normalised((point.name, module, point.distribution)) | _EVERY_OTHER


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        text = f"{type(error).__name__}: {error.message} {error.hint or ''}"
        return " ".join(text.split())
    return cause_of(error)
