"""Files that unfinished downloads leave behind, recognised by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from bridge_core.errors import SystemFailure
from bridge_core.io.location import Location, names_in
from bridge_core.io.remote_path import RemotePath

__all__ = ["control_file", "is_unfinished", "unfinished_downloads"]

_SUFFIXES = "incomplete|part|partial|tmp|temp|crdownload|opdownload|download|filepart|aria2|!qB|!ut"
_CONTROL_FILES = (".aria2", ".!qB", ".!ut")
"""Suffixes of the file next to a download that has its full size before its content."""
_HUB = Path(".cache", "huggingface", "download")


def is_unfinished(name: str) -> bool:
    """Return whether a file's name is one that unfinished downloads have.

    >>> is_unfinished("model.safetensors.incomplete"), is_unfinished("model.safetensors")
    (True, False)
    """
    return re.fullmatch(rf"(?i).+\.({_SUFFIXES})(\.\d+)?", name) is not None


def control_file(path: Location) -> Location | None:
    """Return the control file of a file that is being downloaded in place, or None.

    Such a file may have its full size before its content is complete. Of one at a URL, what is known of its
    folder decides, and the server is not asked.
    """
    if isinstance(path, RemotePath):
        seen = path.parent.seen_names()
        names = (path.name + suffix for suffix in _CONTROL_FILES)
        return next((path.with_name(name) for name in names if name in seen), None)
    control_files = (path.with_name(path.name + suffix) for suffix in _CONTROL_FILES)
    return next((file for file in control_files if os.path.lexists(file)), None)


def unfinished_downloads(folder: Location, names: Iterable[str] | None = None) -> list[str]:
    """Return the unfinished downloads of a folder.

    Those that Hugging Face's tools store elsewhere are included.

    Args:
        folder: The folder.
        names: Only downloads of files with these names; None for all. Hugging Face's tools give their
            unfinished files other names, so those are always returned.

    Returns:
        Paths relative to the folder, sorted.
    """
    beginnings = ("",) if names is None else tuple(f"{name}." for name in names)
    downloads = [name for name in _names(folder) if is_unfinished(name) and name.startswith(beginnings)]
    if isinstance(folder, RemotePath):
        return sorted(downloads)
    for hub_folder in (_HUB, *_blobs(folder)):
        hub_names = _names(folder / hub_folder)
        downloads += [str(hub_folder / name) for name in hub_names if name.endswith(".incomplete")]
    return sorted(downloads)


def _blobs(folder: Path) -> tuple[Path, ...]:
    """Return the folder of the files of a snapshot, if the folder is one in a cache of Hugging Face."""
    return (Path("..", "..", "blobs"),) if folder.absolute().parent.name == "snapshots" else ()


def _names(folder: Location) -> list[str]:
    if isinstance(folder, RemotePath):
        return list(folder.seen_names())
    try:
        return names_in(folder)
    except SystemFailure:  # the names only complete a message
        return []
