"""Where a file or folder is: a path on this machine, or a URL; and what both can be asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeGuard

from bridge_core.errors import AccessDenied, MalformedFile, SourceNotFound, SystemFailure, UnsafeFile
from bridge_core.io.remote_path import RemotePath
from bridge_core.io.source_file import SourceFile
from bridge_core.io.system_errors import system_failures
from bridge_core.io.urls import scheme_of, shown_url

__all__ = [
    "Location",
    "exists_beside",
    "files_in",
    "is_location",
    "names_beside",
    "names_in",
    "open_listed",
    "open_location",
    "shown_path",
    "size_of",
]

Location = Path | RemotePath
"""A path on this machine, or one at a URL with the same methods."""


def is_location(value: object) -> TypeGuard[str | os.PathLike[str] | RemotePath]:
    """Return whether a value is a path or URL, and not an object in memory."""
    return isinstance(value, str | os.PathLike | RemotePath)


def shown_path(value: object) -> str | None:
    """Return a path as messages show it, a URL without credentials; None for other values.

    >>> shown_path("s3://key:secret@bucket/a.npz"), shown_path("a.npz"), shown_path({})
    ('s3://bucket/a.npz', 'a.npz', None)
    """
    if not is_location(value):
        return None
    text = str(value) if isinstance(value, RemotePath) else os.fspath(value)
    return shown_url(text) if scheme_of(text) else text


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


def open_listed(place: Location, *, follow_links: bool = False) -> SourceFile:
    """Open a file that another file or a plugin names, and not the user.

    A symbolic link may lead to any file of its folder, and from a snapshot of Hugging Face's cache to the
    blobs of the same model. There are no links at URLs.

    Args:
        place: The file.
        follow_links: Whether a link may lead to any other folder as well.

    Raises:
        UnsafeFile: It is a link to another folder.
        MalformedFile: It does not exist, is a special file, or is a link whose target does not exist.
        SourceIsFolder: It is a folder.
        SystemFailure: The system refuses to open it, or a server does not give it.
    """
    if isinstance(place, RemotePath):
        try:
            return place.open_source()
        except SourceNotFound as err:
            # A name that a file lists is that file's mistake; one that the user gives is the user's.
            raise MalformedFile(err.message, path=place, hint=err.hint) from None
    target = _link_target(place, follow_links) if place.is_symlink() else place
    return SourceFile(target, name=str(place), follow=False)


def _link_target(link: Path, follow_links: bool) -> Path:
    try:
        target = link.resolve()
        folder = link.parent.resolve()
    except (OSError, RuntimeError) as err:  # links in a circle
        raise MalformedFile("the symbolic link leads to itself.", path=link) from err
    allowed = [folder]
    for parent in folder.parents:
        if parent.name == "snapshots":
            allowed.append(parent.parent / "blobs")
    if not follow_links and not any(target.is_relative_to(parent) for parent in allowed):
        raise UnsafeFile(
            f"the symbolic link leads out of its folder, to {target}.",
            path=link,
            hint="Pass follow_links=True (--follow-links) if you trust it.",
        )
    return target


def exists_beside(place: Location) -> bool:
    """Return whether a file next to another exists, such as a config next to the weights.

    A server that refuses to answer for it, as one does for a signed URL of another file, counts as no.

    Raises:
        RemoteFailure: The server cannot be reached.
    """
    try:
        return place.is_file()
    except AccessDenied:
        return False


def names_in(folder: Location) -> list[str]:
    """Return the sorted names in a folder.

    Raises:
        NeedsLocalPath: The server does not list folders.
        SystemFailure: The system or the server does not list this one.
    """
    with system_failures(folder, "listing the folder"):
        return sorted(entry.name for entry in folder.iterdir())


def files_in(folder: Location) -> list[str]:
    """Return the sorted names of the files in a folder, and of links to files.

    Raises:
        NeedsLocalPath, SystemFailure: As `names_in`.
    """
    with system_failures(folder, "listing the folder"):
        return [name for name in names_in(folder) if (folder / name).is_file()]


def names_beside(place: Location) -> list[str]:
    """Return the sorted names in the folder around a place; none if it cannot be listed."""
    if isinstance(place, RemotePath):
        return list(place.parent.listed_names())
    try:
        return names_in(place.absolute().parent)
    except SystemFailure:  # the file may be readable where its folder cannot be listed
        return []


def size_of(place: Location) -> int:
    """Return the bytes of a file, links not followed.

    Raises:
        OSError: The system or the server does not answer.
    """
    if isinstance(place, RemotePath):
        entry = place.entry()
        return entry.size or 0 if entry is not None else 0
    return place.lstat().st_size
