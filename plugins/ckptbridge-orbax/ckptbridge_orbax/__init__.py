"""Orbax checkpoints for ckptbridge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core.formats import FolderFormat
    from ckptbridge_orbax.format import OrbaxFormat as OrbaxFormat
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"format": "OrbaxFormat"})


@hookimpl
def bridge_formats() -> Iterable[FolderFormat]:
    """Return the format of Orbax's folders."""
    from ckptbridge_orbax.format import OrbaxFormat

    return (OrbaxFormat(),)
