"""The `config.json` in a checkpoint's folder."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from bridge_core.checkpoint.locations import location_of
from bridge_core.errors import LimitExceeded, MalformedFile
from bridge_core.formats import describe_foreign, is_index
from bridge_core.io import Location, RemotePath, exists_beside, open_location, parse_json
from bridge_core.state import FlatState

__all__ = ["config_beside", "read_config"]

_LARGEST_CONFIG = 16 << 20


def config_beside(*states: FlatState | None, name: str = "config.json") -> Mapping[str, Any] | None:
    """Return the config in the folder of the first checkpoint that has one; None if none has.

    The file is read when its first entry is looked up, so that a damaged config stops only a conversion that
    needs it. The lookup then raises what `read_config` does.

    Args:
        states: The checkpoints; None is passed over.
        name: The config's file name.
    """
    for state in states:
        where = location_of(state) if state is not None else None
        if where is not None and exists_beside(path := where.parent / name):
            return _ConfigFile(path)
    return None


def read_config(path: Location) -> dict[str, Any]:
    """Return the entries of a config file.

    ``NaN`` and ``Infinity``, which transformers writes, are read.

    Raises:
        MalformedFile: The file is not a JSON object.
        KeyConflict: An object in the file has a name twice.
        LimitExceeded: The file is larger than 16 MiB.
        SystemFailure: The file cannot be read, or a server does not give it.
    """
    return dict(path.once(_read) if isinstance(path, RemotePath) else _read(path))


def _read(path: Location) -> dict[str, Any]:
    with open_location(path) as file:
        if file.size > _LARGEST_CONFIG:
            raise LimitExceeded(
                f"the config is {file.size} bytes, and at most {_LARGEST_CONFIG} bytes are read.", path=path
            )
        if file.size == 0:
            raise MalformedFile(
                "expected a config, a JSON object; the file is empty (0 bytes).",
                path=path,
                hint="Download it again, or remove it.",
            )
        if not is_index(file) and (what := describe_foreign(file)):
            raise MalformedFile(f"expected a config, a JSON object; the file is {what}.", path=path)
        return parse_json(file.read(0, file.size), path=str(path), what="the config", constants=True)


class _ConfigFile(Mapping[str, Any]):
    """The entries of a config file, which is read at the first lookup."""

    def __init__(self, path: Location) -> None:
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
