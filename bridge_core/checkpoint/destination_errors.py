"""Errors of writing name the destination, not the temporary file or folder that is written first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bridge_core.errors import BridgeError
from bridge_core.io import system_failures

__all__ = ["shown_as"]


@contextlib.contextmanager
def shown_as(temporary: Path, destination: Path) -> Iterator[None]:
    """Let errors name the destination, and the system's errors become ours.

    Args:
        temporary: The file or folder that is written.
        destination: What it becomes.

    Raises:
        SystemFailure: The system failed.
    """
    try:
        with system_failures(destination, "writing"):
            yield
    except BridgeError as err:
        if err.path is not None and Path(err.path).is_relative_to(temporary):
            err.path = destination / Path(err.path).relative_to(temporary)
        raise
