"""Finding out what a file is, and opening it as that.

Formats are told by content, so that any file name works; what no format claims is described as what it
looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bridge_core.errors import BridgeError, MalformedFile, TruncatedFile, UsageError
from bridge_core.formats import Format, FormatWithEntries, describe_foreign, is_index
from bridge_core.io import SourceFile, system_failures
from bridge_core.plugins import Registry, plugin_failures
from bridge_core.state import FlatState, select_entry

__all__ = ["by_extension", "claims", "identify", "open_file"]


def identify(file: SourceFile, formats: Iterable[Format], *, expected: Format | None = None) -> Format:
    """Return the one format that claims a file by its content.

    A file that none claims is given to the format that is ``expected``, or else that its name speaks for:
    it knows best what is wrong with the file.

    Raises:
        MalformedFile: None or several claim it.
        PluginError: A format's own code failed.
    """
    formats = tuple(formats)
    found = [candidate for candidate in formats if claims(candidate, file)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted(candidate.name for candidate in found))
        raise MalformedFile(
            f"looks like several formats: {names}.", path=file.name, hint="Say which with --format."
        )
    if file.size == 0:
        raise TruncatedFile("is empty.", path=file.name)
    foreign = describe_foreign(file)
    if foreign is None and (named := expected or by_extension(file.path.name, formats)):
        return named
    foreign = foreign or describe_foreign(file, containers=True)
    if foreign:
        raise MalformedFile(f"is {foreign}.", path=file.name)
    if file.size < 8:
        raise TruncatedFile(f"is {file.size} bytes long; no file of weights is so short.", path=file.name)
    raise MalformedFile(
        "is of no known format.",
        path=file.name,
        hint=f"Installed are: {', '.join(f.name for f in formats) or 'none'}.",
    )


def by_extension(name: str, formats: Iterable[Format]) -> Format | None:
    """Return the one format whose longest extension ends a file name.

    Raises:
        UsageError: Several formats share it.
    """
    fits = [
        (len(extension), candidate)
        for candidate in formats
        for extension in candidate.extensions
        if name.lower().endswith(extension.lower())
    ]
    best = [candidate for length, candidate in fits if length == max(length for length, _ in fits)]
    if len(best) > 1:
        names = ", ".join(candidate.name for candidate in best)
        raise UsageError(f"the name {name!r} fits several formats: {names}.", hint="Say which with --format.")
    return best[0] if best else None


def claims(candidate: Format, file: SourceFile) -> bool:
    """Return whether a format claims a file.

    Raises:
        PluginError: The format's own code failed.
    """
    with plugin_failures(candidate.name, f"look at {file.name}"):
        return bool(candidate.sniff(file))


def open_file(
    path: Path,
    registry: Registry,
    chosen: Format | None = None,
    *,
    follow_links: bool = False,
    entry: str | None = None,
) -> tuple[Format, FlatState]:
    """Open a file or an index.

    Args:
        path: The file.
        registry: Where formats are found.
        chosen: The format, if it is known.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        entry: Path of the entry to read, joined by dots; None for what the format takes. That of a sharded
            set is an entry of all shards together.

    Returns:
        The format and the state, whose `close` closes everything.

    Raises:
        BadInputError: The file is damaged, unsafe, or of no known format.
        SystemFailure: The system refuses.
        UsageError: There is no such entry.
    """
    formats = [chosen] if chosen else list(registry.formats.values())

    def open_one(
        file: SourceFile, expected: Format | None, entry: str | None = None
    ) -> tuple[Format, FlatState]:
        used = chosen or identify(file, registry.formats.values(), expected=expected)
        with plugin_failures(used.name, damaged=file.name), system_failures(file.name, "reading"):
            if entry is not None and isinstance(used, FormatWithEntries):
                return used, used.open_entry(file, entry)
            return used, used.open(file)

    file = SourceFile(path)
    try:
        if is_index(file) and not any(claims(candidate, file) for candidate in formats):
            from bridge_core.formats import open_sharded

            used, state = open_sharded(file, open_one, formats, follow_links=follow_links)
        else:
            used, state = open_one(file, None, entry)
            if isinstance(used, FormatWithEntries):
                return used, state
    except BaseException:
        file.close()
        raise
    return used, state if entry is None else _selected(state, entry, path)


def _selected(state: FlatState, entry: str, path: Path) -> FlatState:
    """Return one entry of a state, which is closed where there is none."""
    try:
        return select_entry(state, entry)
    except BridgeError as err:
        state.close()
        err.path = err.path or str(path)
        raise
