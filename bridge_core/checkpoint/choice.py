"""The file to read, and notes about it for the reader of a report."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bridge_core.checkpoint.partial_files import part_of
from bridge_core.errors import AccessDenied, SourceNotFound, TruncatedFile
from bridge_core.io import Location, RemotePath, control_file, nearest_file
from bridge_core.messages import nearest
from bridge_core.state import LeftOut

__all__ = ["Choice", "choose_file"]

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".json", ".msgpack", ".npz", ".pt", ".pth", ".safetensors", ".toml"}
)


@dataclass(frozen=True)
class Choice:
    """The file or index to read, and for the reader of a report notes about it and what is not read."""

    path: Location
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def choose_file(path: Location) -> Choice:
    """Return a file as the choice, with a note if it is only a part of a model.

    Raises:
        TruncatedFile: The download of the file is not finished.
        SourceNotFound: The file does not exist: at its URL, or its name may be that of a model on the Hugging
            Face Hub.
        AccessDenied, RemoteFailure: A server does not answer for it.
    """
    if isinstance(path, RemotePath):
        _require_remote(path)
    else:
        _refuse_hub_name(path)
    control = control_file(path)
    if control is not None:
        raise TruncatedFile(
            f"the download of the file is not finished: {control.name} is next to it.",
            path=path,
            hint=f"Finish the download, or remove {control.name} if it is left from an earlier one.",
        )
    part = part_of(path)
    return Choice(path, (f"{path.name} {part.what}",) if part is not None else ())


def _refuse_hub_name(path: Path) -> None:
    """Refuse a name of a model on the Hugging Face Hub that is not a path."""
    name = path.as_posix()
    if _HUB_NAME.fullmatch(name) and path.suffix.lower() not in _FILE_SUFFIXES and not os.path.lexists(path):
        raise SourceNotFound(
            "the file or folder does not exist.",
            path=path,
            hint=nearest_file(path) or f"If it is a model on the Hugging Face Hub, write hf://{name}.",
        )


def _require_remote(place: RemotePath) -> None:
    """Check that there is a file at a URL, which a page that a server shows for a folder is not."""
    if place.exists() and not (place.url.endswith("/") and not _lists_folders(place)):
        return
    names = place.parent.listed_names()
    if names:
        hint = nearest(place.name, names, listing="The folder holds")
    elif _lists_folders(place):
        hint = "Check the URL."
    else:
        hint = (
            "The server does not list folders. Give the URL of the file of weights, or of the index of a "
            "sharded set (*.index.json)."
        )
    raise SourceNotFound("the file or folder does not exist.", path=place, hint=hint)


def _lists_folders(place: RemotePath) -> bool:
    try:
        return place.names() is not None
    except (AccessDenied, SourceNotFound):
        return True
