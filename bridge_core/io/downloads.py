"""Files that unfinished downloads leave, told by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["control_file", "is_unfinished", "unfinished_downloads"]

_SUFFIXES = "incomplete|part|partial|tmp|temp|crdownload|opdownload|download|filepart|aria2|!qB|!ut"
_CONTROL_FILES = (".aria2", ".!qB", ".!ut")
"""What is beside a file, or in its name, that has its full size before its content."""
_HUB = Path(".cache", "huggingface", "download")


def is_unfinished(name: str) -> bool:
    """Return whether a file's name is one that unfinished downloads have.

    >>> is_unfinished("model.safetensors.incomplete"), is_unfinished("model.safetensors")
    (True, False)
    """
    return re.fullmatch(rf"(?i).+\.({_SUFFIXES})(\.\d+)?", name) is not None


def control_file(path: Path) -> Path | None:
    """Return the control file beside a file that is downloaded in place, whose size says nothing; or None."""
    beside = (path.with_name(path.name + suffix) for suffix in _CONTROL_FILES)
    return next((file for file in beside if os.path.lexists(file)), None)


def unfinished_downloads(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Return the unfinished downloads of a folder, with those that Hugging Face's tools keep elsewhere.

    Args:
        folder: The folder.
        names: The files that are looked for; None for any. Hugging Face's tools do not keep the names, so
            that their files count always.

    Returns:
        Paths from the folder, sorted.
    """
    wanted = None if names is None else tuple(names)
    found = [
        name
        for name in _names(folder)
        if is_unfinished(name) and (wanted is None or any(name.startswith(f"{file}.") for file in wanted))
    ]
    for place in (_HUB, *_blobs(folder)):
        found += [str(place / name) for name in _names(folder / place) if name.endswith(".incomplete")]
    return sorted(found)


def _blobs(folder: Path) -> tuple[Path, ...]:
    """Return where a cache of Hugging Face keeps the files of a snapshot."""
    return (Path("..", "..", "blobs"),) if folder.absolute().parent.name == "snapshots" else ()


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:  # what is asked for only completes a message
        return []
