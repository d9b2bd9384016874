"""From what a user writes to where it is: a path of this machine, or a URL of a file system."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from bridge_core.checkpoint.write_options import StrPath, as_path
from bridge_core.errors import MissingDependency, UsageError
from bridge_core.io import FileSystem, Location, RemotePath, scheme_of, shown_url
from bridge_core.messages import nearest
from bridge_core.plugins import Registry, guarded_system
from bridge_core.state import FlatState

__all__ = ["local_path", "locate", "location_of", "system_of"]

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
