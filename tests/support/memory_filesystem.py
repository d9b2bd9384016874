"""A file system at ``mem://`` URLs that counts its requests, and fails where a test says so.

Files are bytes in memory, or those of a local folder, which are read from the disk at each request and take
no memory. Nothing here waits by time: a test holds requests back with `MemoryFileSystem.hold`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bridge_core.errors import RemoteFailure, SourceNotFound
from bridge_core.io import RangeAnswer, RemoteEntry, RemotePath
from bridge_core.io.fetching import shared_fetcher

__all__ = ["MemoryFileSystem", "Request", "assert_nothing_held", "temporary"]


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that was made.

    Args:
        method: Name of the method: pinned, entry, entries, read, upload or remove.
        url: What was asked for.
        start: First byte of a read.
        nbytes: Bytes of a read.
    """

    method: str
    url: str
    start: int = 0
    nbytes: int = 0


def assert_nothing_held() -> None:
    """Check that nothing of closed files is in memory, once the requests in flight have ended."""
    with shared_fetcher._changed:
        assert shared_fetcher._changed.wait_for(lambda: shared_fetcher.held == 0, 20), shared_fetcher.held


def temporary(
    message: str = "the server answered 503.", *, retry_after: float | None = None
) -> RemoteFailure:
    """Return a failure after which the same request may succeed."""
    return RemoteFailure(message, is_temporary=True, retry_after=retry_after)


class MemoryFileSystem:
    """A `WritableFileSystem` over a mapping or a local folder.

    Args:
        files: Path after ``mem://`` -> content: ``{"host/model.safetensors": b"..."}``.
        folder: A local folder whose files are at ``mem://host/``, in addition.
        lists: Whether folders can be listed; if not, `entries` returns None and folders are unknown.
        has_versions: Whether entries and answers have a version.

    Attributes:
        requests: All requests, in the order in which they began.
        failures: Errors that the next requests of `failing` methods raise, one each.
        failing: The methods that raise ``failures``.
        short_answers: How many of the next reads answer with one byte less.
        on_read: Called with each read before it is answered, on the thread of the read.
        most_at_once: The most reads that were in progress at one time.
    """

    name = "memory"
    schemes = ("mem",)

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        folder: Path | None = None,
        lists: bool = True,
        has_versions: bool = True,
    ) -> None:
        self.files: dict[str, bytes | Path] = dict(files or {})
        self.lists, self.has_versions = lists, has_versions
        self.requests: list[Request] = []
        self.failures: deque[BaseException] = deque()
        self.failing: set[str] = {"read"}
        self.short_answers = 0
        self.on_read: Callable[[Request], None] | None = None
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        if folder is not None:
            self.add_folder(folder)

    def add_folder(self, folder: Path, at: str = "host") -> None:
        """Serve the files of a local folder; they are read from the disk at each request."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files[f"{at}/{path.relative_to(folder).as_posix()}"] = path

    def path(self, name: str = "") -> RemotePath:
        """Return a path with a memory of its own, as a checkpoint has that is opened anew."""
        return RemotePath(self, self.url(name))

    def url(self, name: str = "") -> str:
        """Return the URL of a file at ``mem://host/``."""
        return f"mem://host/{urllib.parse.quote(name)}".rstrip("/")

    # What a test asks afterwards.

    def made(self, method: str) -> list[Request]:
        """Return the requests of one method."""
        return [request for request in self.requests if request.method == method]

    @property
    def reads(self) -> int:
        """How many ranges were read."""
        return len(self.made("read"))

    @property
    def bytes_read(self) -> int:
        """How many bytes were read."""
        return sum(request.nbytes for request in self.made("read"))

    def forget_requests(self) -> None:
        """Count anew."""
        self.requests.clear()
        self.most_at_once = 0

    # What a test makes go wrong.

    def fail(self, *errors: BaseException, methods: Sequence[str] = ("read",)) -> None:
        """Let the next requests of some methods raise these errors, one each."""
        self.failing = set(methods)
        self.failures.extend(errors)

    @contextlib.contextmanager
    def hold(self) -> Iterator[threading.Event]:
        """Hold reads back within the ``with`` block until the event is set, or the block ends."""
        released, before = threading.Event(), self.on_read
        self.on_read = lambda _request: released.wait() and None
        try:
            yield released
        finally:
            released.set()
            self.on_read = before

    # The interface.

    def pinned(self, url: str) -> str:
        """Return the URL."""
        self._note(Request("pinned", url))
        return url

    def entry(self, url: str) -> RemoteEntry | None:
        """Return the file or folder; folders are known only if they can be listed."""
        self._note(Request("entry", url))
        key = _key(url)
        if key in self.files:
            return self._entry(key)
        is_folder = self.lists and any(name.startswith(f"{key}/") for name in self.files)
        return RemoteEntry(key.rpartition("/")[2]) if is_folder else None

    def entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return what is directly in a folder."""
        self._note(Request("entries", url))
        if not self.lists:
            return None
        start = f"{_key(url)}/"
        inside = [name[len(start) :] for name in self.files if name.startswith(start)]
        folders = sorted({name.partition("/")[0] for name in inside if "/" in name})
        files = [self._entry(start + name) for name in inside if "/" not in name]
        return [*map(RemoteEntry, folders), *files]

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return a range."""
        request = Request("read", url, start, nbytes)
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._note(request)
            if self.on_read is not None:
                self.on_read(request)
            content = self._content(_key(url), url)
            assert nbytes > 0, "a read of no bytes"
            assert start >= 0, "a read before the beginning"
            data = _part(content, start, nbytes)
            with self._lock:
                if self.short_answers:
                    self.short_answers -= 1
                    data = data[:-1]
            return RangeAnswer(data, self._entry(_key(url)).version)
        finally:
            with self._lock:
                self._at_once -= 1

    def upload(self, url: str, path: Path) -> None:
        """Keep a copy of a local file."""
        self._note(Request("upload", url, nbytes=path.stat().st_size))
        self.files[_key(url)] = path.read_bytes()

    def remove(self, url: str) -> None:
        """Forget a file."""
        self._note(Request("remove", url))
        self.files.pop(_key(url), None)

    def _note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            error = self.failures.popleft() if request.method in self.failing and self.failures else None
        if error is not None:
            raise error

    def _content(self, key: str, url: str) -> bytes | Path:
        try:
            return self.files[key]
        except KeyError:
            raise SourceNotFound("the file does not exist.", path=url) from None

    def _entry(self, key: str) -> RemoteEntry:
        content = self.files[key]
        if isinstance(content, Path):
            status = content.stat()
            size, text = status.st_size, f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        else:
            size, text = len(content), f"{len(content)}-{id(content)}"
        version = hashlib.sha256(text.encode()).hexdigest()[:16] if self.has_versions else ""
        return RemoteEntry(key.rpartition("/")[2], size, version)


def _key(url: str) -> str:
    return urllib.parse.unquote(url.partition("://")[2]).rstrip("/")


def _part(content: bytes | Path, start: int, nbytes: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + nbytes]
    fd = os.open(content, os.O_RDONLY)
    try:
        os.lseek(fd, start, os.SEEK_SET)
        return os.read(fd, nbytes)
    finally:
        os.close(fd)
