"""Errors of writing name the destination, not the temporary file or folder that is written first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bridge_core.errors import BridgeError
from bridge_core.io import Location, system_failures

__all__ = ["shown_as"]


@contextlib.contextmanager
def shown_as(temporary: Path, destination: Location) -> Iterator[None]:
    """Let errors name the destination, and the system's errors become ours.

    Args:
        temporary: The file or folder that is written.
        destination: What it becomes.

    Raises:
        SystemFailure: The system failed.
    """
    try:
        with system_failures(_named(destination), "writing"):
            yield
    except BridgeError as err:
        if err.path is not None and Path(err.path).is_relative_to(temporary):
            err.path = _named(destination.joinpath(*Path(err.path).relative_to(temporary).parts))
        raise


def _named(place: Location) -> Path | str:
    """Return a place as errors hold it: a path, or the shown text of a URL."""
    return place if isinstance(place, Path) else str(place)
