"""Names of files that ckptbridge writes next to weights, and that describe only them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

__all__ = [
    "MANIFEST_NAME",
    "WORK_FOLDER",
    "describes_old_weights",
    "manifest_name",
    "remove_manifest_of",
    "way_to_finish",
]

MANIFEST_NAME = "ckptbridge-manifest.json"
"""Name of the manifest of a folder."""

WORK_FOLDER = ".ckptbridge-work"
"""Name of the folder that holds a work list and receipts until the work is finished."""

_MARK = b'"ckptbridge manifest"'


def manifest_name(file: str) -> str:
    """Return the name of the manifest of one file.

    >>> manifest_name("model.safetensors")
    'model.safetensors.manifest.json'
    """
    return f"{file}.manifest.json"


def describes_old_weights(name: str) -> bool:
    """Return whether an entry of a folder is wrong once the folder's weights are replaced."""
    return name in (MANIFEST_NAME, WORK_FOLDER)


def way_to_finish(names: Collection[str]) -> str:
    """Return how to finish the conversion that writes a folder; an empty text if none is unfinished.

    Args:
        names: The names in the folder.
    """
    if WORK_FOLDER not in names:
        return ""
    return (
        "Run the conversion again with resume=True (--resume), or the parts of its work list that are "
        "missing, which ckptbridge work finish FILE names."
    )


def remove_manifest_of(file: Path) -> None:
    """Remove the manifest of a file that was replaced, if there is one that ckptbridge wrote."""
    manifest = file.with_name(manifest_name(file.name))
    with contextlib.suppress(OSError):  # also where its name would be too long, so that there is none
        with manifest.open("rb") as opened:
            is_own = _MARK in opened.read(200)
        if is_own:
            manifest.unlink()
