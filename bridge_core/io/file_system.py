"""The interface of file systems that are reached by URL, which plugins provide.

A file system answers single requests, each as plainly as its server does. Everything that makes reading fast
and safe is done once, for all of them, by `RemoteFile`: joining neighbouring ranges, requests at the same
time, repeating a failed request with growing pauses, and comparing lengths and versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

__all__ = ["CommitsFolders", "FileSystem", "RangeAnswer", "RemoteEntry", "WritableFileSystem"]


@dataclass(frozen=True)
class RemoteEntry:
    """A file or a folder at a URL.

    Args:
        name: Its name in its folder.
        size: Bytes of a file; None for a folder.
        version: What changes with the content, such as an ETag; empty if the server has none.
    """

    name: str
    size: int | None = None
    version: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.size is None


@dataclass(frozen=True)
class RangeAnswer:
    """What a server answered to a request for a range.

    Args:
        data: The bytes, as any object with the buffer protocol.
        version: The version that the answer declares; empty if it declares none.
    """

    data: Any
    version: str = ""


@runtime_checkable
class FileSystem(Protocol):
    """Files that are read by URL, such as ``s3://bucket/model.safetensors``.

    Methods are called from several threads at once. They raise `SourceNotFound`, `AccessDenied` and
    `RemoteFailure` (``is_temporary`` where the same request may succeed later), and never put a token, a
    password or a signed URL into a message; `shown_url` removes them. They do not repeat requests.
    """

    name: str
    """Short name, e.g. ``"hub"``."""
    schemes: tuple[str, ...]
    """The beginnings of its URLs, without ``://``: ``("s3",)``."""

    def pinned(self, url: str) -> str:
        """Return the URL of what is there now, or the same URL without versions.

        It is called once, when a source is opened: a branch becomes a commit.

        Args:
            url: What the user gave.
        """
        ...

    def entry(self, url: str) -> RemoteEntry | None:
        """Return what is at a URL: a file with its size, a folder, or None for nothing.

        Args:
            url: A URL of this file system.
        """
        ...

    def entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return the files and folders directly in a folder; None if the server lists no folders.

        Args:
            url: The folder.
        """
        ...

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file.

        Args:
            url: The file.
            start: Its first byte.
            nbytes: How many bytes, at least one; the range is inside the file.
            entry: What `entry` or `entries` returned of it.

        Raises:
            RemoteFailure: The server failed, or sent another range or the complete file.
        """
        ...


@runtime_checkable
class WritableFileSystem(FileSystem, Protocol):
    """A file system whose files can be written, each complete or not at all."""

    def upload(self, url: str, path: Path) -> None:
        """Upload a local file; what was sent of an upload that fails or is interrupted is removed.

        A file at the URL is replaced once the new one is complete. The server checks the bytes where it can.

        Args:
            url: The destination.
            path: The local file.
        """
        ...

    def remove(self, url: str) -> None:
        """Remove a file; if it does not exist, nothing happens.

        Args:
            url: The file.
        """
        ...


@runtime_checkable
class CommitsFolders(FileSystem, Protocol):
    """A file system that writes the files of a folder in one step: all of them or none.

    Such a step is a commit, for example. There is no method for a single object: a destination is written to
    a temporary folder on this machine first, and then uploaded at once.
    """

    def upload_folder(self, url: str, folder: Path, names: Sequence[str], removed: Sequence[str] = ()) -> str:
        """Upload files of a local folder in one step; return the URL where they are read.

        Files of the same names are replaced, and others stay. The URL is that of the new state of the folder,
        which does not change any more. The server checks the bytes where it can.

        Args:
            url: The destination folder; not a URL that `pinned` returned.
            folder: The local folder.
            names: Paths of the files below it, with ``/``, at least one.
            removed: Names of files of the destination folder that the same step removes; without
                such files the argument is left out.

        Raises:
            SourceNotFound: The destination, such as a repository, does not exist.
            AccessDenied: The server does not permit writing.
            RemoteFailure: The upload failed; nothing was changed.
        """
        ...
