"""Describes what is in a folder without weights, for the error about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from bridge_core.checkpoint.own_files import way_to_finish
from bridge_core.errors import BridgeError, SystemFailure
from bridge_core.formats import describe_foreign, is_index
from bridge_core.io import Location, RemotePath, SourceFile, is_unfinished, names_in, unfinished_downloads
from bridge_core.messages import count, listed

__all__ = ["InPlaceOfWeights", "what_else"]

_SUFFIXES = (".bin", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".pt", ".pth", ".safetensors")
_MOST = 200
"""How many entries are looked at: a folder with many more is a data set, and not a checkpoint."""
_MOST_REMOTE = 8
"""Folders of one at a URL that are listed."""


class InPlaceOfWeights(NamedTuple):
    """What a folder holds in place of weights, and what to do; both are empty if it holds nothing known."""

    what: str
    way_on: str


def what_else(folder: Location) -> InPlaceOfWeights:
    """Return what a folder without weights holds in their place."""
    entries = _entries_in(folder)
    contents, way_on = [], ""
    if not entries:
        contents.append("it is empty")
    if folders := _folders_with_weights(entries):
        contents.append(f"the weights are in {count(len(folders), 'folder')} of it, {listed(folders)}")
        way_on = f"Give the folder of one complete model, such as {folder / folders[0]}."
    if begun := unfinished_downloads(folder):
        contents.append(f"the download of {listed(begun)} is not finished")
        way_on = "Finish the download."
    if finish := way_to_finish([entry.name for entry in entries]):
        contents.append("the conversion that writes it is not finished")
        way_on = finish
    contents += [f"{entry.name} is {what}" for entry in entries if (what := _described(entry)) is not None]
    return InPlaceOfWeights("; ".join(contents[:8]), way_on)


def _entries_in(folder: Location) -> list[Location]:
    return [folder / name for name in names_in(folder)[:_MOST]]


def _described(entry: Location) -> str | None:
    if isinstance(entry, RemotePath) or entry.name.startswith(".") or is_unfinished(entry.name):
        return None
    if entry.is_symlink() and not entry.exists():
        return "a link to a file that does not exist" if entry.suffix in _SUFFIXES else None
    if entry.is_dir():
        return "a folder" if entry.suffix in _SUFFIXES else None
    try:
        with SourceFile(entry) as file:
            if file.size == 0:
                return "empty" if entry.suffix in _SUFFIXES else None
            return None if is_index(file) else describe_foreign(file)
    except BridgeError:  # not a regular file, or not readable
        return "a file that cannot be read" if entry.suffix in _SUFFIXES else None


def _folders_with_weights(entries: Sequence[Location]) -> list[str]:
    """Return the folders that hold weights, or else such folders in them, as snapshots of a cache are."""
    folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    is_remote = any(isinstance(folder, RemotePath) for folder in folders)
    if is_remote:  # each costs a request
        folders = folders[:_MOST_REMOTE]
    own = [folder.name for folder in folders if _has_weights(folder)]
    if own or is_remote:
        return own
    return [
        f"{folder.name}/{inner.name}"
        for folder in folders
        for inner in _folders_in(folder)
        if _has_weights(inner)
    ]


def _folders_in(folder: Location) -> list[Location]:
    try:
        return [entry for entry in _entries_in(folder) if entry.is_dir()]
    except OSError:
        return []


def _has_weights(folder: Location) -> bool:
    try:
        return any(PurePath(name).suffix in _SUFFIXES for name in names_in(folder))
    except SystemFailure:
        return False
