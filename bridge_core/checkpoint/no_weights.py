"""What is in a folder without weights, for the message that says so."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bridge_core.errors import BridgeError
from bridge_core.formats import describe_foreign, is_index
from bridge_core.io import SourceFile, is_unfinished, unfinished_downloads
from bridge_core.messages import listed

__all__ = ["InPlaceOfWeights", "what_else"]

_SUFFIXES = (".bin", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".pt", ".pth", ".safetensors")
_MOST = 200
"""Files that are looked at: a folder of very many is a data set, and not a checkpoint."""


class InPlaceOfWeights(NamedTuple):
    """What is there in place of weights, and what to do; empty if nothing is."""

    what: str
    way_on: str


def what_else(folder: Path) -> InPlaceOfWeights:
    """Return what is there in place of the weights that a folder does not have."""
    entries = sorted(folder.iterdir())[:_MOST]
    found, way_on = [], ""
    if folders := _folders_with_weights(entries):
        found.append(f"they are in folders of it, {listed(folders)}")
        way_on = "Give one of these, if it is a whole model."
    if begun := unfinished_downloads(folder):
        found.append(f"there are unfinished downloads, {listed(begun)}")
        way_on = "Finish the download."
    for entry in entries:
        what = _described(entry)
        if what is not None:
            found.append(f"{entry.name} is {what}")
    return InPlaceOfWeights("; ".join(found[:8]), way_on)


def _described(entry: Path) -> str | None:
    if entry.name.startswith(".") or is_unfinished(entry.name):
        return None
    if entry.is_symlink() and not entry.exists():
        return "a link that leads nowhere" if entry.suffix in _SUFFIXES else None
    if entry.is_dir():
        return "a folder" if entry.suffix in _SUFFIXES else None
    try:
        with SourceFile(entry) as file:
            if file.size == 0:
                return "empty" if entry.suffix in _SUFFIXES else None
            return None if is_index(file) else describe_foreign(file)
    except BridgeError:  # what is no regular file, or cannot be read, holds nothing that could be described
        return "a file that cannot be read" if entry.suffix in _SUFFIXES else None


def _folders_with_weights(entries: list[Path]) -> list[str]:
    """Return the folders that hold weights; without any, those in them, as snapshots of a cache are."""
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    own = [folder.name for folder in folders if _has_weights(folder)]
    return own or [
        f"{folder.name}/{inner.name}"
        for folder in folders
        for inner in _folders_in(folder)
        if _has_weights(inner)
    ]


def _folders_in(folder: Path) -> list[Path]:
    try:
        return [entry for entry in sorted(folder.iterdir())[:_MOST] if entry.is_dir()]
    except OSError:
        return []


def _has_weights(folder: Path) -> bool:
    try:
        return any(entry.suffix in _SUFFIXES for entry in folder.iterdir())
    except OSError:
        return False
