"""The file to read, and notes about it for the reader of a report."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bridge_core.checkpoint.partial_files import part_of
from bridge_core.errors import SourceNotFound, TruncatedFile
from bridge_core.io import control_file, nearest_file
from bridge_core.state import LeftOut

__all__ = ["Choice", "choose_file"]

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_FILE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".h5", ".json", ".msgpack", ".npz", ".pt", ".pth", ".safetensors", ".toml"}
)


@dataclass(frozen=True)
class Choice:
    """The file or index to read, and for the reader of a report notes about it and what is not read."""

    path: Path
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def choose_file(path: Path) -> Choice:
    """Return a file as the choice, with a note if it is only a part of a model.

    Raises:
        TruncatedFile: The download of the file is not finished.
        SourceNotFound: The file does not exist, and its name may be that of a model on the Hugging Face Hub.
    """
    name = path.as_posix()
    if _HUB_NAME.fullmatch(name) and path.suffix.lower() not in _FILE_SUFFIXES and not os.path.lexists(path):
        raise SourceNotFound(
            "the file or folder does not exist.",
            path=path,
            hint=nearest_file(path)
            or "If it is a model on the Hugging Face Hub, download it first "
            f"('hf download {name}'), and give the folder that the download prints.",
        )
    control = control_file(path)
    if control is not None:
        raise TruncatedFile(
            f"the download of the file is not finished: {control.name} is next to it.",
            path=path,
            hint=f"Finish the download, or remove {control.name} if it is left from an earlier one.",
        )
    part = part_of(path)
    return Choice(path, (f"{path.name} {part.what}",) if part is not None else ())
