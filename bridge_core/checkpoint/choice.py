"""A file that was chosen or given to be read, and what a reader of a report should know of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bridge_core.checkpoint.partial_files import part_of
from bridge_core.errors import SourceNotFound, TruncatedFile
from bridge_core.io import control_file

__all__ = ["Choice", "choose_file"]

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".json", ".msgpack", ".npz", ".pt", ".pth", ".safetensors", ".toml"}
)


@dataclass(frozen=True)
class Choice:
    """A file or an index that is read, and what a reader of a report should know of it."""

    path: Path
    notes: tuple[str, ...] = ()


def choose_file(path: Path) -> Choice:
    """Return a file that was given by name, or found, with a note if it is a part of a model.

    Raises:
        TruncatedFile: It is being downloaded.
        SourceNotFound: It is not there, and is named like a model of the Hugging Face Hub.
    """
    name = path.as_posix()
    if _HUB_NAME.fullmatch(name) and path.suffix.lower() not in _FILE_SUFFIXES and not os.path.lexists(path):
        raise SourceNotFound(
            "there is no such file or folder.",
            path=path,
            hint="If it is a model of the Hugging Face Hub, download it first "
            f"('hf download {name}'), and give the folder.",
        )
    control = control_file(path)
    if control is not None:
        raise TruncatedFile(
            f"the download is not finished: {control.name} is beside it.",
            path=path,
            hint=f"Finish the download, or remove {control.name} if it is left from an earlier one.",
        )
    part = part_of(path)
    return Choice(path, (f"{path.name} {part.what}",) if part is not None else ())
