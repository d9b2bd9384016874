"""The `config.json` in a checkpoint's folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge_core.errors import LimitExceeded, MalformedFile
from bridge_core.formats import describe_foreign, is_index
from bridge_core.io import SourceFile, parse_json
from bridge_core.state import FlatState

__all__ = ["config_beside", "read_config"]

_LARGEST_CONFIG = 16 << 20


def config_beside(*states: FlatState | None) -> Mapping[str, Any] | None:
    """Return the ``config.json`` of the first of the checkpoints whose folder has one.

    The file is read when the first entry is asked for, so that one that is damaged stops only a conversion
    that needs it. Asking for an entry then raises what `read_config` does.
    """
    for state in states:
        where = state.metadata.provenance.get("path") if state is not None else None
        if where and (path := Path(where).parent / "config.json").is_file():
            return _ConfigFile(path)
    return None


def read_config(path: Path) -> dict[str, Any]:
    """Return what a config file holds; ``NaN`` and ``Infinity``, which transformers writes, are read.

    Raises:
        MalformedFile: It is not a JSON object.
        KeyConflict: An object in it holds a name twice.
        LimitExceeded: It is too large to be a config.
        SystemFailure: It cannot be read.
    """
    with SourceFile(path) as file:
        if file.size > _LARGEST_CONFIG:
            raise LimitExceeded(
                f"is {file.size} bytes long; a config has {_LARGEST_CONFIG} at most.", path=path
            )
        if file.size == 0:
            raise MalformedFile("is empty; a config, a JSON object, was expected.", path=path)
        if not is_index(file) and (what := describe_foreign(file)):
            raise MalformedFile(f"is {what}. A config, a JSON object, was expected.", path=path)
        return parse_json(file.read(0, file.size), path=str(path), what="the config", constants=True)


class _ConfigFile(Mapping[str, Any]):
    """The entries of a config file, which is read when the first of them is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @functools.cached_property
    def _entries(self) -> dict[str, Any]:
        return read_config(self._path)

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
