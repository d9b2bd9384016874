"""From what a user writes to where it is: a path of this machine, or a URL of a file system."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from bridge_core.checkpoint.write_options import Destined, StrPath, as_path
from bridge_core.errors import MissingDependency, UsageError
from bridge_core.io import (
    CommitsFolders,
    FileSystem,
    Location,
    RemotePath,
    WritableFileSystem,
    scheme_of,
    shown_url,
)
from bridge_core.messages import nearest
from bridge_core.plugins import Registry, guarded_system
from bridge_core.state import FlatState

__all__ = ["as_destined", "local_path", "locate", "location_of", "system_of", "writable"]

_EXTRAS = {"hf": "hf", "s3": "remote", "gs": "remote", "http": "remote", "https": "remote"}
"""Scheme -> extra of ckptbridge that installs its file system."""


def locate(path: StrPath | RemotePath, registry: Registry) -> Location:
    """Return where a source is; a URL is pinned to one version of it.

    Args:
        path: A path, a ``file://`` URL, or a URL of an installed file system.
        registry: Where file systems are found.

    Raises:
        MissingDependency: The file system of the scheme is not installed.
        UsageError: It is not a path, or no file system has the scheme.
        AccessDenied, RemoteFailure: The server does not answer.
        PluginError: The code of the file system's plugin failed.
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path) if isinstance(path, str) else None
    scheme = scheme_of(text) if text else None
    if text is None or scheme is None or os.path.lexists(text):
        return as_path(path)
    if scheme == "file":
        return local_path(text)
    return RemotePath.pinned(system_of(text, registry), text)


def system_of(url: str, registry: Registry) -> FileSystem:
    """Return the file system of a URL.

    Args:
        url: The URL.
        registry: Where file systems are found.

    Raises:
        MissingDependency: The file system of the scheme is not installed.
        UsageError: No file system has the scheme.
    """
    scheme = scheme_of(url) or ""
    system = registry.filesystem_of(scheme)
    if system is not None:
        return guarded_system(system, registry)
    if scheme in _EXTRAS:
        raise MissingDependency(
            f"{scheme}:// needs a plugin that is not installed.",
            path=shown_url(url),
            hint=f"Run: pip install 'ckptbridge[{_EXTRAS[scheme]}]'.",
        )
    known = {"file", *_EXTRAS, *(one for system in registry.filesystems.values() for one in system.schemes)}
    raise UsageError(
        f"no file system has {scheme}:// URLs.",
        path=shown_url(url),
        hint=nearest(scheme, sorted(known), listing="Known"),
    )


def as_destined(path: Destined, registry: Registry) -> Destined:
    """Return a destination as the caller gave it, a URL as a path at its file system.

    Args:
        path: A path, a ``file://`` URL, or a URL of a file system that can be written.
        registry: Where file systems are found.

    Raises:
        MissingDependency: The file system of the scheme is not installed.
        UsageError: No file system has the scheme, or it can only be read.
    """
    text = os.fspath(path) if isinstance(path, str) else None
    if text is None or scheme_of(text) is None or os.path.lexists(text):
        if isinstance(path, RemotePath) and not isinstance(path.system, CommitsFolders):
            writable(path)
        return path
    if scheme_of(text) == "file":
        place = local_path(text)
        return f"{place}{os.sep}" if text.endswith("/") else place
    return as_destined(RemotePath(system_of(text, registry), text), registry)


def writable(place: RemotePath) -> WritableFileSystem:
    """Return the file system of a destination.

    Raises:
        UsageError: It can only be read.
    """
    if isinstance(place.system, WritableFileSystem):
        return place.system
    if isinstance(place.system, CommitsFolders):
        raise UsageError(
            "expected a destination whose files are written one at a time; here all files are written in one "
            "step.",
            path=str(place),
            hint="Convert in one process, without parts and resume.",
        )
    scheme = scheme_of(place.url)
    raise UsageError(
        f"expected a destination that can be written, got a {scheme}:// URL, which can only be read.",
        path=str(place),
        hint="Write to a local path and upload the result, or give a URL of a store, such as s3://.",
    )


def location_of(state: FlatState) -> Location | None:
    """Return the file or folder that a state was opened from; None for one in memory."""
    if state.location is not None:
        return state.location
    where = state.metadata.provenance.get("path")
    return None if not where or scheme_of(where) else Path(where)


def local_path(url: str) -> Path:
    """Return the path of a ``file://`` URL.

    Raises:
        UsageError: The URL names a host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(
            f"expected a file:// URL without a host, got the host {parts.hostname!r}.",
            path=shown_url(url),
            hint="Write three slashes: file:///folder/file.",
        )
    from urllib.request import url2pathname  # which imports much

    return Path(url2pathname(parts.path))
