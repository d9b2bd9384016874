"""Where each tensor's bytes go in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.state import Key

__all__ = ["Extent", "FileImage"]


@dataclass(frozen=True)
class Extent:
    """Where a run of a tensor's row-major bytes is stored in a file.

    Args:
        start: First byte of the run within the tensor.
        nbytes: Bytes of the run.
        offset: First byte of the run in the file.
    """

    start: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class FileImage:
    """A file laid out before any tensor is read: headers, and places for the tensors' bytes.

    Args:
        size: Bytes of the complete file.
        segments: ``(offset, bytes)`` of everything that is known beforehand, tensors excluded.
        slots: Key -> extents, together the tensor's little-endian row-major bytes. Keys of the state
            that have no slot share that of another key and are not written again.
        seeds: Key -> CRC-32 of the bytes that come before the tensor in the same checksum.
        finish: Given the CRC-32 of each slot's key (seed included), returns the last
            ``(offset, bytes)``; None if the format stores no checksum.
        pack: Key -> elements per byte, for keys whose dtype the format packs; they are written packed.
    """

    size: int
    segments: tuple[tuple[int, bytes], ...]
    slots: Mapping[Key, tuple[Extent, ...]]
    seeds: Mapping[Key, int] = field(default_factory=dict)
    finish: Callable[[Mapping[Key, int]], Iterable[tuple[int, bytes]]] | None = None
    pack: Mapping[Key, int] = field(default_factory=dict)
