"""Checkpoints at URLs for ckptbridge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core.io import FileSystem
    from ckptbridge_remote.hub import Hub as Hub
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"hub": "Hub"})


@hookimpl
def bridge_filesystems() -> Iterable[FileSystem]:
    """Return the file systems."""
    from ckptbridge_remote.hub import Hub

    return (Hub(),)
