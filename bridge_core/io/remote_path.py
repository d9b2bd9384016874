"""A file or folder at a URL, with the methods of `pathlib.Path` that reading a checkpoint needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from bridge_core.errors import AccessDenied, LimitExceeded, NeedsLocalPath, SourceNotFound
from bridge_core.io.file_system import FileSystem, RemoteEntry
from bridge_core.io.retries import repeated
from bridge_core.io.urls import child_url, parent_url, shown_url, url_name

if TYPE_CHECKING:
    from bridge_core.io.remote_file import RemoteFile

__all__ = ["RemotePath"]

_Answer = TypeVar("_Answer")

_AT_ONCE = 8
"""Requests at the same time."""
_ASKING = "asking the server for it"
_LARGEST_TEXT = 100 << 20
"""Bytes of a file that `RemotePath.read_bytes` reads."""


class RemotePath:
    """A file or folder at a URL, used as a `pathlib.Path`.

    The server is asked once about each file and folder, and its answers are remembered by all paths that are
    made from one: a checkpoint is seen as it was when it was opened.

    Args:
        system: The file system.
        url: The URL, which may hold credentials; messages show it without.
    """

    def __init__(self, system: FileSystem, url: str, *, _seen: _Seen | None = None) -> None:
        self.system = system
        self.url = url
        self._seen = _seen or _Seen(system)

    @classmethod
    def pinned(cls, system: FileSystem, url: str) -> RemotePath:
        """Return the path of a URL, with a commit in place of a branch if there are commits.

        Raises:
            SourceNotFound: Nothing is at the URL.
            AccessDenied, RemoteFailure: The server does not answer.
        """
        return cls(system, repeated(lambda: system.pinned(url), _ASKING, shown_url(url)))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return url_name(self.url)

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in; at the root the root itself."""
        return self._at(parent_url(self.url))

    @property
    def parents(self) -> tuple[RemotePath, ...]:
        """The folders around it, the nearest first."""
        folders: list[RemotePath] = []
        while (outer := (folders[-1] if folders else self).parent) not in (*folders, self):
            folders.append(outer)
        return tuple(folders)

    def joinpath(self, *names: str) -> RemotePath:
        """Return an entry of this folder, or of a folder in it."""
        url = self.url
        for name in names:
            url = child_url(url, name)
        return self._at(url)

    def __truediv__(self, name: str) -> RemotePath:
        return self.joinpath(name)

    def with_name(self, name: str) -> RemotePath:
        """Return the entry of the same folder that has another name."""
        return self.parent / name

    def absolute(self) -> RemotePath:
        """Return itself."""
        return self

    def as_posix(self) -> str:
        """Return the URL as messages show it."""
        return str(self)

    def exists(self) -> bool:
        """Return whether there is a file or folder."""
        return self.entry() is not None

    def is_file(self) -> bool:
        """Return whether there is a file."""
        entry = self.entry()
        return entry is not None and not entry.is_folder

    def is_dir(self) -> bool:
        """Return whether there is a folder."""
        entry = self.entry()
        return entry is not None and entry.is_folder

    def is_symlink(self) -> bool:
        """Return False: there are no links at URLs."""
        return False

    def entry(self) -> RemoteEntry | None:
        """Return what the server answers about it; None if there is nothing."""
        return self._seen.entry(self.url)

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the entries of the folder.

        Raises:
            NeedsLocalPath: The server does not list folders.
        """
        names = self.names()
        if names is None:
            raise NeedsLocalPath(
                "the server does not list its folders, so that the weights in one cannot be found.",
                path=str(self),
                hint="Give the file of weights, or the index of a sharded set (*.index.json).",
            )
        for name in names:
            yield self / name

    def names(self) -> tuple[str, ...] | None:
        """Return the names in the folder, sorted; None if the server lists no folders.

        Raises:
            AccessDenied: The server does not permit listing it.
        """
        return self._seen.names(self.url)

    def ask_for(self, names: Iterable[str]) -> None:
        """Ask the server for several entries of the folder at the same time, for later calls.

        Raises:
            RemoteFailure: The server does not answer for one of them.
        """
        from concurrent.futures import ThreadPoolExecutor

        ended = threading.Event()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ckptbridge request") as threads:
            try:
                list(threads.map(lambda name: self._seen.learn((self / name).url, ended), names))
            except BaseException:
                ended.set()  # the other requests are not repeated, which an interrupt would wait for
                raise

    def listed_names(self) -> tuple[str, ...]:
        """Return the names in the folder, sorted; none where the server lists none or refuses to."""
        try:
            return self.names() or ()
        except (AccessDenied, SourceNotFound):
            return ()

    def seen_names(self) -> tuple[str, ...]:
        """Return the names in the folder that were listed before; the server is not asked."""
        return self._seen.names(self.url, ask=False) or ()

    def open_source(self) -> RemoteFile:
        """Open the file.

        Raises:
            SourceNotFound: There is no such file.
            SourceIsFolder: It is a folder.
            AccessDenied, RemoteFailure: The server does not give it.
        """
        from bridge_core.io.remote_file import RemoteFile

        return RemoteFile(self)

    def read_bytes(self) -> bytes:
        """Return the content of a small file, such as a config."""
        with self.open_source() as file:
            if file.size > _LARGEST_TEXT:
                raise LimitExceeded(
                    f"the file is {file.size} bytes; at most {_LARGEST_TEXT} are read at once.",
                    path=str(self),
                )
            return file.read(0, file.size)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content of a small file as text."""
        return self.read_bytes().decode(encoding)

    @property
    def content(self) -> bytes | None:
        """The bytes of a small file that was read at once; None if it was not."""
        return self._seen.contents.get(self.url)

    @content.setter
    def content(self, data: bytes | None) -> None:
        self._seen.contents[self.url] = data

    def once(self, make: Callable[[RemotePath], _Answer]) -> _Answer:
        """Return what a function makes of the file, which is called the first time only."""
        return self._seen.made(self, make)

    def _at(self, url: str) -> RemotePath:
        return RemotePath(self.system, url, _seen=self._seen)

    def __str__(self) -> str:
        return shown_url(self.url)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url


class _Seen:
    """What a server said of files and folders, asked once each; a refusal is remembered as well."""

    def __init__(self, system: FileSystem) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._entries: dict[str, RemoteEntry | AccessDenied | None] = {}
        self._listed: dict[str, dict[str, RemoteEntry] | AccessDenied | None] = {}
        self._made: dict[tuple[str, Callable[..., Any]], Any] = {}
        self.contents: dict[str, bytes | None] = {}

    def entry(self, url: str) -> RemoteEntry | None:
        return _unless_refused(self.learn(url))

    def learn(self, url: str, ended: threading.Event | None = None) -> RemoteEntry | AccessDenied | None:
        """Return what the server answers about a URL, or its refusal, which `entry` raises.

        Args:
            url: The URL.
            ended: When it is set, a request that failed is not repeated; None for never.
        """
        key = url.rstrip("/")
        with self._lock:
            is_known, answer = key in self._entries, self._entries.get(key)
            listing = self._listed.get(parent_url(url).rstrip("/"))
        if not is_known and isinstance(listing, dict):
            return listing.get(url_name(url))
        if not is_known:
            answer = _answer(
                lambda: repeated(lambda: self._system.entry(url), _ASKING, shown_url(url), ended=ended)
            )
            with self._lock:
                answer = self._entries.setdefault(key, answer)
        return answer

    def names(self, url: str, *, ask: bool = True) -> tuple[str, ...] | None:
        """Return the names in a folder, sorted; None if the server lists none, or was not to be asked."""
        key = url.rstrip("/")
        with self._lock:
            is_known = key in self._listed
        if not is_known and not ask:
            return None
        if not is_known:
            doing = "listing the folder"
            listing = _answer(lambda: repeated(lambda: self._listing(url), doing, shown_url(url)))
            with self._lock:
                self._listed.setdefault(key, listing)
        names = _unless_refused(self._listed[key])
        return None if names is None else tuple(sorted(names))

    def made(self, place: RemotePath, make: Callable[[RemotePath], _Answer]) -> _Answer:
        key = (place.url, make)
        if key not in self._made:
            self._made[key] = make(place)
        made: _Answer = self._made[key]
        return made

    def _listing(self, url: str) -> dict[str, RemoteEntry] | None:
        entries = self._system.entries(url)
        return None if entries is None else {entry.name: entry for entry in entries}


def _answer(ask: Callable[[], _Answer]) -> _Answer | AccessDenied:
    """Return what a server answers, or its refusal."""
    try:
        return ask()
    except AccessDenied as err:
        return err


def _unless_refused(answer: _Answer | AccessDenied) -> _Answer:
    if isinstance(answer, AccessDenied):
        raise AccessDenied(answer.message, path=answer.path, hint=answer.hint) from None
    return answer
