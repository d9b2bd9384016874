"""What plugins provide, table by table, with the plugin that provides it; and how their code is called.

A plugin of another distribution than ckptbridge's may fail in any call. A question that it fails to answer
is answered with no, and the failure is reported once; any other failure becomes an error that names it.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge_core.errors import BridgeError, PluginError, PluginWarning, SystemFailure, UsageError
from bridge_core.messages import nearest
from bridge_core.plugins.loading import FailureLog, LoadedPlugin, PluginFailure, PluginInfo
from bridge_core.plugins.plugin_errors import is_interrupt, plugin_failures
from bridge_core.plugins.provided_values import TABLES
from bridge_core.plugins.table import Conflict, Table, values_of

if TYPE_CHECKING:
    from bridge_core.layers import LayerTransform

__all__ = ["PluginTables"]

_PACKAGES = {"hdf5": "ckptbridge-hdf5", "orbax": "ckptbridge-orbax"}
"""Formats of ckptbridge's own plugins, which are installed by themselves."""


@dataclass(frozen=True, eq=False)
class PluginTables:
    """The tables of a registry; one is made when it is first asked for.

    An installed plugin whose hook fails is left out of the table with a warning, and one that fails when it
    is used is warned of once; `failures` lists both. Where several installed plugins provide one name, none
    of them is used for it; `conflicts` lists them.
    """

    _plugins: tuple[LoadedPlugin, ...] = ()
    _not_loaded: tuple[PluginFailure, ...] = ()
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)
    _disabled: tuple[PluginInfo, ...] = ()
    _log: FailureLog = field(default_factory=FailureLog, repr=False)

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
        """Return the plugin that provides a name; None if none does, or `with_tables` gave the table.

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

    @contextlib.contextmanager
    def reported(self, table: str, name: str, doing: str) -> Iterator[None]:
        """Let failures of another's plugin, in what nothing depends on any more, be reported and pass.

        Args:
            table: The table that what it provides is in.
            name: Its name.
            doing: The method that runs: ``"close"``.
        """
        try:
            yield
        except BaseException as err:  # a plugin's code may raise anything
            plugin = self.foreign_plugin(table, name)
            if plugin is None or is_interrupt(err) or isinstance(err, BridgeError):
                raise
            self.report(plugin.failure(f"{name}.{doing}", err))

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
                self._check_transforms(values)
        except BaseException as err:  # a plugin's code may raise anything
            if is_interrupt(err):
                raise
            joined = made.without(plugin.failure(sort.hook, err))
        else:
            joined = made.joined(plugin, values, sort.what)
        news: list[object] = [*joined.failures[len(made.failures) :]]
        news += [conflict for name, conflict in joined.conflicts.items() if name not in made.conflicts]
        for text in map(str, news):
            warnings.warn(text, PluginWarning, stacklevel=5)
        return joined

    def _named(self, table: str, name: str, listed: Iterable[str] | None = None) -> Any:
        """Return a value by name; an error lists the names that would do, by default all of the table."""
        provided = self._table(table)
        names = provided.values if listed is None else listed
        if not isinstance(name, str):
            got = repr(name)[:80]
            raise UsageError(
                f"expected the name of a {TABLES[table].what}, got {got}.",
                hint=nearest("", names, listing="Installed"),
            )
        if name in provided.values:
            return provided.values[name]
        if name in provided.conflicts:
            conflict = provided.conflicts[name]
            raise UsageError(conflict.problem, hint=conflict.way_on or None)
        hint = nearest(name, names, listing="Installed")
        if (table, name) == ("frameworks", "neutral"):
            raise UsageError("expected a framework, got 'neutral', the layout between frameworks.", hint=hint)
        if table == "formats" and name in _PACKAGES:
            hint = f"Run: pip install {_PACKAGES[name]}. Installed: {', '.join(names)}."
        raise UsageError(f"unknown {TABLES[table].what} {name!r}.", hint=hint)

    def _check_transforms(self, transforms: Collection[LayerTransform]) -> None:
        """Check that transforms name what their kinds have.

        Raises:
            PluginError: One does not, or several plugins provide its kind.
        """
        from bridge_core.layers import check_transforms

        kinds = self._table("kinds")
        for transform in transforms:
            if transform.kind in kinds.conflicts:
                raise PluginError(f"transform {transform.name!r}: {kinds.conflicts[transform.kind].problem}")
        check_transforms(transforms, kinds.values)
