"""HDF5 files for ckptbridge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core import Format
    from ckptbridge_hdf5.format import Hdf5Format as Hdf5Format
else:
    __getattr__, __dir__, __all__ = exports(__name__, {"format": "Hdf5Format"})


@hookimpl
def bridge_formats() -> Iterable[Format]:
    """Return the HDF5 format."""
    from ckptbridge_hdf5.format import Hdf5Format

    return (Hdf5Format(),)
