"""What was written to a destination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge_core.io import Location
from bridge_core.state import Key

__all__ = ["Saved"]


@dataclass(frozen=True)
class Saved:
    """What `save_state` wrote.

    Args:
        files: Where the files of weights are, the index last; or the folder, if the format's checkpoints are
            folders.
        format: Name of their format.
        total_bytes: Size of these files together, in bytes.
        checksums: Key -> CRC-32 of the tensor's little-endian row-major bytes, as they were written. Tensors
            that were copied by the system have none, and without verification no tensor has one. Tied keys
            whose values are stored once have one entry.
        overflows: Key -> number of values outside the range of the dtype that they were cast to.
    """

    files: tuple[Location, ...]
    format: str
    total_bytes: int
    checksums: Mapping[Key, int]
    overflows: Mapping[Key, int] = field(default_factory=dict)
