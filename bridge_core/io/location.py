"""Where a file or folder is: a path on this machine, or a URL."""

from __future__ import annotations

from pathlib import Path

from bridge_core.io.remote_path import RemotePath
from bridge_core.io.source_file import SourceFile

__all__ = ["Location", "open_location"]

Location = Path | RemotePath
"""A path on this machine, or one at a URL with the same methods."""


def open_location(place: Location, *, name: str | None = None, follow: bool = True) -> SourceFile:
    """Open a file where it is.

    Args:
        place: The file.
        name: What errors call a local file; by default its path.
        follow: Whether symbolic links are followed, as for `SourceFile`.

    Raises:
        SourceNotFound, SourceIsFolder, MalformedFile, SystemFailure, UsageError: As `SourceFile`.
        AccessDenied, RemoteFailure: A server does not give it.
    """
    if isinstance(place, RemotePath):
        return place.open_source()
    return SourceFile(place, name=name, follow=follow)
