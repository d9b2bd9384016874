"""Refuses a source that is only a part of a model, before anything is planned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bridge_core.checkpoint import Part, part_of
from bridge_core.conversion.options import ConversionOptions
from bridge_core.errors import ShardError, UnsupportedFeature
from bridge_core.state import FlatState

__all__ = ["require_whole"]


def require_whole(source: Any, state: FlatState, options: ConversionOptions) -> None:
    """Check that a path stands for a whole model; a state that the caller opened is taken as it is.

    Shards hold whole tensors, so that one is converted where the caller allows missing ones. Slices of
    tensors are not; an adapter is converted where it stays in its framework.

    Raises:
        ShardError: The file is a part of a model, or its index names only a part.
        UnsupportedFeature: The file is an adapter.
    """
    where = state.metadata.provenance.get("path")
    if not isinstance(source, str | os.PathLike) or where is None:
        return
    absent = state.metadata.provenance.get("part")
    part = _few_shards(absent) if absent is not None else part_of(Path(where))
    if part is None:
        return
    if part.tensors == "changes":
        if options.to != state.layout:
            raise UnsupportedFeature(f"{part.what}.", path=where, hint=part.way_on)
    elif part.tensors == "slices":
        raise ShardError(f"{part.what}.", path=where, hint=part.way_on)
    elif not options.permissions.allow_missing:
        raise ShardError(
            f"{part.what}.",
            path=where,
            hint=f"{part.way_on} To convert it by itself, allow_missing=True (--allow-missing '**') says that "
            "the others may be missing.",
        )


def _few_shards(absent: str) -> Part:
    return Part(f"names {absent}", "Fetch the index again, and the shards that are missing.", "some")
