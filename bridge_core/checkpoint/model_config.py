"""The `config.json` in a checkpoint's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge_core.errors import LimitExceeded
from bridge_core.io import SourceFile, parse_json
from bridge_core.state import FlatState

__all__ = ["config_beside"]

_LARGEST_CONFIG = 16 << 20


def config_beside(*states: FlatState | None, name: str = "config.json") -> Mapping[str, Any] | None:
    """Return the config of the first of the checkpoints whose folder has one.

    Args:
        states: The checkpoints.
        name: The config's name.

    Raises:
        MalformedFile: It is not a JSON object.
        LimitExceeded: It is too large to be one.
        SystemFailure: It cannot be read.
    """
    for state in states:
        where = state.metadata.provenance.get("path") if state is not None else None
        if not where:
            continue
        path = Path(where).parent / name
        if not path.is_file():
            continue
        with SourceFile(path) as file:
            if file.size > _LARGEST_CONFIG:
                raise LimitExceeded(
                    f"is {file.size} bytes long; a config has {_LARGEST_CONFIG} at most.", path=path
                )
            return parse_json(file.read(0, file.size), path=str(path), what="the config")
    return None
