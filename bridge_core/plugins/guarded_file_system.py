"""File systems of plugins: what their code raises names the plugin, and what they return is checked."""

from __future__ import annotations

import functools
import re
import traceback
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bridge_core.errors import BridgeError, PluginError
from bridge_core.io import FileSystem, RangeAnswer, RemoteEntry, scheme_of, shown_url

if TYPE_CHECKING:
    from bridge_core.plugins.plugin_tables import PluginTables

__all__ = ["guarded_system"]

_Answer = TypeVar("_Answer")

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+")
_SHORTEST_VALUE = 4
"""Characters of a value in a query that may be a secret; ``v=1`` is none."""
_OPTIONAL = {
    "upload": "upload a file",
    "remove": "remove a file",
    "upload_folder": "upload a folder",
    "download_command": "name the command that downloads it",
}
"""Methods that only some file systems have -> what they do."""


def guarded_system(system: FileSystem, registry: PluginTables) -> FileSystem:
    """Return a file system whose failures name its plugin; ckptbridge's own is unchanged.

    Errors that are a `BridgeError` pass, without the credentials of the URL. Of others neither their texts'
    URLs nor a traceback is shown, since both may hold credentials.

    Args:
        system: The file system.
        registry: Where it is registered.
    """
    if registry.foreign_plugin("filesystems", system.name) is None:
        return system
    return _GuardedFileSystem(system, registry)


class _GuardedFileSystem:
    """A file system whose methods run under a guard; it has those that the other has."""

    def __init__(self, system: FileSystem, registry: PluginTables) -> None:
        self._system = system
        self._registry = registry
        self.name = system.name
        self.schemes = system.schemes
        for name, doing in _OPTIONAL.items():
            if hasattr(system, name):
                setattr(self, name, _OptionalMethod(self, name, doing))

    def pinned(self, url: str) -> str:
        """Return the URL that names the same content while it is read."""
        return self._call(url, "find out which version of it to read", self._pinned, url)

    def _pinned(self, url: str) -> str:
        pinned = self._system.pinned(url)
        if not isinstance(pinned, str) or scheme_of(pinned) not in self.schemes:
            what = shown_url(pinned) if isinstance(pinned, str) else type(pinned).__name__
            raise TypeError(f"expected a URL of its own from `pinned`, got {what}")
        return pinned

    def entry(self, url: str) -> RemoteEntry | None:
        """Return what is at a URL."""
        return self._call(url, "look for it", self._entry, url)

    def _entry(self, url: str) -> RemoteEntry | None:
        entry = self._system.entry(url)
        return None if entry is None else _checked_entry(entry, "entry")

    def entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return what is directly in a folder."""
        return self._call(url, "list it", self._entries, url)

    def _entries(self, url: str) -> Sequence[RemoteEntry] | None:
        listing = self._system.entries(url)
        if listing is None:
            return None
        entries = tuple(_checked_entry(entry, "entries") for entry in listing)
        for entry in entries:
            if entry.name in ("", ".", "..") or "/" in entry.name or "\0" in entry.name:
                raise ValueError(
                    f"expected names of a folder's entries from `entries`, got {entry.name!r:.80}"
                )
        return entries

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file."""
        return self._call(url, "read it", self._read, url, start, nbytes, entry)

    def _read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        answer = self._system.read(url, start, nbytes, entry)
        if not isinstance(answer, RangeAnswer):
            raise TypeError(f"expected a RangeAnswer from `read`, got {type(answer).__name__}")
        if not isinstance(answer.version, str):
            raise TypeError(
                f"expected a text as the version from `read`, got {type(answer.version).__name__}"
            )
        memoryview(answer.data).cast("B")
        return answer

    def _call(self, url: str, doing: str, call: Callable[..., _Answer], *given: Any) -> _Answer:
        cause: BaseException | None = None
        try:
            with self._registry.failures_of("filesystems", self.name, doing):
                try:
                    return call(*given)
                except BaseException as err:  # a plugin's code may raise anything
                    cause = err
                    raise
        except BridgeError as err:
            if err is cause or not isinstance(err, PluginError):
                _hide_secrets(err, url)
                raise
            place = _place_of(cause) if cause is not None else ""
            failure = PluginError(
                f"{_without_secrets(err.message, url).rstrip('.')}{place}.",
                path=shown_url(url),
                plugin=err.plugin,
                hint=err.hint,
            )
        raise failure from None  # raised here, it has no context that holds the foreign error

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that only this file system has."""
        if name.startswith("_"):  # copying and pickling ask before there is a system
            raise AttributeError(name)
        return getattr(self._system, name)


class _OptionalMethod:
    """A method that only some file systems have, under the guard."""

    def __init__(self, guarded: _GuardedFileSystem, name: str, doing: str) -> None:
        self._guarded, self._name, self._doing = guarded, name, doing

    def __call__(self, url: str, *given: Any, **named: Any) -> Any:
        method = functools.partial(getattr(self._guarded._system, self._name), **named)
        return self._guarded._call(url, self._doing, method, url, *given)


def _checked_entry(entry: object, method: str) -> RemoteEntry:
    if not isinstance(entry, RemoteEntry):
        raise TypeError(f"expected a RemoteEntry from `{method}`, got {type(entry).__name__}")
    if not isinstance(entry.name, str) or not isinstance(entry.version, str):
        raise TypeError(f"expected texts as name and version from `{method}`, got {entry.name!r:.80}")
    size = entry.size
    if size is not None and (type(size) is not int or size < 0):
        raise TypeError(f"`{method}`: expected the size of {entry.name!r:.80} in bytes, got {size!r:.80}")
    return entry


def _secrets_of(url: str) -> list[str]:
    """Return what a URL holds that must not be shown, as written and decoded, the longest first.

    >>> _secrets_of("s3://me:p%40ss@host/w?sig=abcd")
    ['me:p%40ss', 'sig=abcd', 'me:p@ss', 'p%40ss', 'abcd', 'p@ss']
    """
    rest, _, query = url.partition("://")[2].partition("?")
    user, _, password = rest.partition("/")[0].rpartition("@")[0].partition(":")
    values = [pair.partition("=")[2] for pair in query.split("&")]
    secrets = [f"{user}:{password}" if password else "", password, query]
    secrets += [value for value in values if len(value) >= _SHORTEST_VALUE]
    decoded = map(urllib.parse.unquote_plus, secrets)
    return sorted({*filter(None, secrets), *filter(None, decoded)}, key=lambda text: (-len(text), text))


def _without_secrets(text: str, url: str) -> str:
    """Return a foreign text without what the URLs in it, or the parts of the URL asked for, may hold.

    >>> _without_secrets("no answer from s3://me:secret@host/w?sig=abc", "")
    'no answer from s3://host/w'
    """
    return _replaced(_URL.sub(lambda match: shown_url(match[0]), text), _secrets_of(url))


def _replaced(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "...")
    return text


def _hide_secrets(error: BridgeError, url: str) -> None:
    """Take what must not be shown of a URL out of an error raised on purpose, and drop its cause."""
    secrets = _secrets_of(url)
    if not secrets:
        return
    error.message = _replaced(error.message, secrets)
    error.hint = error.hint and _replaced(error.hint, secrets)
    error.args = tuple(_replaced(one, secrets) if isinstance(one, str) else one for one in error.args)
    if isinstance(error.path, str):
        error.path = _without_secrets(error.path, url)
        if isinstance(error, OSError):
            error.filename = error.path
    error.__cause__, error.__context__ = None, None


def _place_of(error: BaseException) -> str:
    """Return where in the plugin's code an error was raised, in place of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or frames[-1].filename == __file__:  # of a check above
        return ""
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
