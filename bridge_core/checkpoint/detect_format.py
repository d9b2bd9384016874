"""Detects the format of a file by its content, and opens the file.

Any file name works. A file that no format recognises is described by what it looks like.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from bridge_core.checkpoint.local_copies import needs_local_path
from bridge_core.checkpoint.metadata_check import check_metadata
from bridge_core.errors import BridgeError, MalformedFile, PluginError, TruncatedFile, UsageError
from bridge_core.formats import Format, FormatWithEntries, describe_foreign, is_index
from bridge_core.io import Location, RemotePath, SourceFile, open_location, system_failures
from bridge_core.messages import log
from bridge_core.plugins import PluginFailure, Registry
from bridge_core.state import FlatState, select_entry

__all__ = ["by_extension", "identify", "is_set_of_shards", "open_file", "recognises", "speaks_for"]


def identify(file: SourceFile, registry: Registry, *, expected: Format | None = None) -> Format:
    """Return the one format that recognises a file by its content.

    If a format of ckptbridge and one of another plugin recognise it, the other plugin gets the file only if
    its extension is the longer one that ends the file's name. A file that no format recognises goes to the
    format that is ``expected``, or else to that of its extension: that format reports best what is wrong.

    Args:
        file: The open file.
        registry: Where formats are found.
        expected: The format of a file that none recognises; None for that of its extension.

    Raises:
        MalformedFile: No format or several recognise the file.
        PluginError: No format recognises the file, and one failed to look at it.
    """
    formats = tuple(registry.formats.values())
    failed: dict[str, PluginFailure] = {}
    recognising = [candidate for candidate in formats if recognises(candidate, file, registry, failed)]
    if not recognising and file.size and failed and describe_foreign(file) is None:
        named = expected or by_extension(file.path.name, registry)
        if named is None or named.name in failed:
            raise _failed_to_look(file, registry, failed, named)
    for failure in failed.values():
        registry.report(failure)
    return _preferred(recognising, file, registry) if recognising else _speaking_for(file, registry, expected)


def _failed_to_look(
    file: SourceFile, registry: Registry, failed: Mapping[str, PluginFailure], named: Format | None
) -> PluginError:
    """Return the error for a file that may be of a format which failed to look at it."""
    name = named.name if named is not None else next(iter(failed))
    plugin, failure = registry.foreign_plugin("formats", name), failed[name]
    without = f"To do without this plugin, {plugin.way_without}." if plugin and plugin.way_without else None
    return PluginError(
        f"the format {name!r} of {failure.origin} failed to look at {file.name}, which no other format "
        f"recognises: {failure.reason.rstrip('.')}.",
        plugin=failure.name,
        hint=without,
    )


def _speaking_for(file: SourceFile, registry: Registry, expected: Format | None) -> Format:
    """Return the format for a file that no format recognises.

    Raises:
        BadInputError: No format is expected, and no format has the file's extension.
    """
    if file.size == 0:
        raise TruncatedFile(
            "the file is empty (0 bytes).", path=file.name, hint="Download it or write it again."
        )
    foreign = describe_foreign(file)
    if foreign is None and (named := expected or by_extension(file.path.name, registry)):
        return named
    foreign = foreign or describe_foreign(file, containers=True, text=True)
    left_out = ", ".join(plugin.name for plugin in registry.disabled)
    installed = f"Installed formats: {', '.join(registry.formats) or 'none'}."
    installed += f" Plugins that were left out: {left_out}." * bool(left_out)
    if foreign:
        raise MalformedFile(f"the file is {foreign}.", path=file.name, hint=installed)
    if file.size < 8:
        raise TruncatedFile(
            f"the file is {file.size} bytes, which is too short for any format of weights.",
            path=file.name,
            hint="Download it or write it again.",
        )
    raise MalformedFile(
        f"no installed format recognises the file, which begins with {file.read(0, min(16, file.size))!r}.",
        path=file.name,
        hint=f"Install a plugin for its format. {installed}",
    )


def _preferred(recognising: list[Format], file: SourceFile, registry: Registry) -> Format:
    """Return which of the formats that recognise a file gets it.

    Raises:
        MalformedFile: Several remain.
    """
    own = [candidate for candidate in recognising if _is_own(candidate, registry)]
    others = [candidate for candidate in recognising if candidate not in own]
    least = max((_fit(candidate, file.path.name) for candidate in own), default=0)
    named = [candidate for candidate in others if _fit(candidate, file.path.name) > least]
    left = named if len(own) == 1 and named else own or others
    if len(left) == 1:
        return left[0]
    names = sorted(candidate.name for candidate in left)
    ways = [
        f'Name the format: open_state(path, format="{names[0]}"), or ckptbridge inspect --format {names[0]}.'
    ]
    for candidate in left:
        plugin = registry.foreign_plugin("formats", candidate.name)
        if plugin is not None and plugin.way_without:
            ways.append(f"To do without {candidate.name} of {plugin.origin}, {plugin.way_without}.")
    raise MalformedFile(
        f"the file may be of {len(names)} formats: {', '.join(names)}.", path=file.name, hint=" ".join(ways)
    )


def _is_own(candidate: Format, registry: Registry) -> bool:
    """Return whether a format is one of ckptbridge's own, or was given without a plugin."""
    return registry.foreign_plugin("formats", candidate.name) is None


def speaks_for(candidate: Format, name: str, registry: Registry) -> bool:
    """Return whether a format may take a file of this name even if other formats recognise it.

    True for ckptbridge's own formats, and for another plugin's whose extension ends the name.
    """
    return _is_own(candidate, registry) or bool(_fit(candidate, name))


def _fit(candidate: Format, name: str) -> int:
    """Return the length of a format's longest extension that ends a file name; 0 if none does."""
    fitting = (len(e) for e in candidate.extensions if name.lower().endswith(e.lower()))
    return max(fitting, default=0)


def by_extension(name: str, registry: Registry) -> Format | None:
    """Return the one format whose longest extension ends a file name; of equally long ones ckptbridge's own.

    Raises:
        UsageError: Several formats share it.
    """
    fits = {candidate.name: _fit(candidate, name) for candidate in registry.formats.values()}
    longest = max(fits.values(), default=0)
    if not longest:
        return None
    best = [candidate for candidate in registry.formats.values() if fits[candidate.name] == longest]
    best = [candidate for candidate in best if _is_own(candidate, registry)] or best
    if len(best) > 1:
        names = ", ".join(candidate.name for candidate in best)
        raise UsageError(
            f"the name {name!r} does not determine the format: {len(best)} formats have its extension, "
            f"{names}.",
            hint=f'Pass the format, such as format="{best[0].name}" (--format {best[0].name}).',
        )
    return best[0]


def recognises(
    candidate: Format,
    file: SourceFile,
    registry: Registry,
    failed: dict[str, PluginFailure] | None = None,
) -> bool:
    """Return whether a format recognises a file; one of another plugin that fails does not.

    Args:
        candidate: The format.
        file: The file.
        registry: Where formats are found.
        failed: Gets the failure, by the format's name; None to report it.
    """
    if _is_own(candidate, registry):
        return registry.asks("formats", candidate, "sniff", file, failed)
    with file.duplicate() as lent:  # the plugin's code may close it
        return registry.asks("formats", candidate, "sniff", lent, failed)


def is_set_of_shards(file: SourceFile, registry: Registry, chosen: Format | None = None) -> bool:
    """Return whether a file is the index of a sharded set, and not a file of weights itself.

    A format of another plugin than ckptbridge's takes an index only if its extension ends the file's name.

    Args:
        file: The file.
        registry: Where formats are found.
        chosen: The format that the caller gives.
    """
    if not is_index(file):
        return False
    for candidate in [chosen] if chosen else registry.formats.values():
        if speaks_for(candidate, file.path.name, registry) and recognises(candidate, file, registry):
            return False
    return True


@contextlib.contextmanager
def _opening(used: Format, file: SourceFile, registry: Registry) -> Iterator[None]:
    """Let errors of a format's code name the file, and the plugin unless it is ckptbridge's own."""
    try:
        with (
            registry.failures_of("formats", used.name, f"read {file.name}", damaged=file.name),
            system_failures(file.name, "reading"),
        ):
            yield
    except BridgeError as err:
        plugin = registry.foreign_plugin("formats", used.name)
        if plugin is not None and err.hint is None and not _fit(used, file.path.name):
            without = f" If it is another file, {plugin.way_without}." if plugin.way_without else ""
            err.hint = f"It was opened as {used.name} by {plugin.origin}, which recognises it.{without}"
        raise


def open_file(
    path: Location,
    registry: Registry,
    chosen: Format | None = None,
    *,
    follow_links: bool = False,
    entry: str | None = None,
) -> tuple[Format, FlatState]:
    """Open a file or an index.

    Args:
        path: The file, or its URL.
        registry: Where formats are found.
        chosen: The format, if it is known.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        entry: Path of the entry to read, joined by dots; None for the format's usual one. In a sharded set
            it is an entry of all shards together.

    Returns:
        The format and the state, whose `close` closes everything.

    Raises:
        BadInputError: The file is damaged, unsafe, or of no known format.
        NeedsLocalPath: The file is at a URL, and a library opens files of its format by name.
        SystemFailure: The system failed to open or read the file.
        UsageError: The file has no such entry.
    """

    def open_one(
        file: SourceFile, expected: Format | None, entry: str | None = None
    ) -> tuple[Format, FlatState]:
        used = chosen or identify(file, registry, expected=expected)
        with _opening(used, file, registry):
            return used, _opened(used, file, registry, entry)

    file = open_location(path)
    try:
        if is_set_of_shards(file, registry, chosen):
            from bridge_core.formats import open_sharded

            formats = [chosen] if chosen else list(registry.formats.values())
            used, state = open_sharded(file, open_one, formats, follow_links=follow_links)
            is_selected = entry is None
        else:
            used, state = open_one(file, None, entry)
            is_selected = entry is None or isinstance(used, FormatWithEntries)
    except BaseException:
        file.close()
        raise
    try:
        check_metadata(state, registry, str(path))
        log("checkpoint", "opened %s: %s, layout %s, %d tensors", path, used.name, state.layout, len(state))
        return used, state if is_selected or entry is None else select_entry(state, entry)
    except BaseException as err:
        state.close()
        if isinstance(err, BridgeError):
            err.path = err.path or str(path)
        raise


def _opened(used: Format, file: SourceFile, registry: Registry, entry: str | None) -> FlatState:
    place: Location = file.path
    if used.capabilities.needs_path and isinstance(place, RemotePath):
        raise needs_local_path(place, f"files of the format {used.name}")
    if entry is not None and isinstance(used, FormatWithEntries):
        state = used.open_entry(file, entry)
    else:
        state = used.open(file)
    if not isinstance(state, FlatState):
        raise TypeError(f"opening a file should return a FlatState, got {type(state).__name__}")
    if registry.foreign_plugin("formats", used.name) is None:
        return state
    from bridge_core.plugins import closed_with, guarded_state

    doing = f"read {file.name}"
    guarded = guarded_state(
        state, lambda: registry.failures_of("formats", used.name, doing, damaged=file.name)
    )
    return closed_with(guarded, file, lambda: registry.reported("formats", used.name, "close"))
