"""Laying out a torch zip file before any tensor is read.

Records are stored and begin at multiples of 64 bytes, so that `torch.load(mmap=True)` can map them. Their
CRCs are known only after the tensors were written, and are patched into both headers at the end.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

from bridge_core import FileImage, FlatState, Key
from bridge_core.formats import Extent
from bridge_torch.safe_pickle.writer import Slot, write_pickle

__all__ = ["METADATA_RECORD", "lay_out"]

METADATA_RECORD = ".data/ckptbridge.json"
"""Where the bridge's own metadata stands; torch does not read it."""

_ROOT = "archive"
_ALIGNMENT = 64
_VERSION = b"3\n"
_DATE = 0x21
"""1 January 1980, the earliest that zip knows: equal states give equal files."""
_LIMIT16 = 0xFFFF
_LIMIT32 = 0xFFFFFFFF
_PADDING_ID = 0x4246
_LOCAL_CRC = 14
_CENTRAL_CRC = 16


@dataclass(frozen=True)
class _Placed:
    """A record and where its parts stand."""

    name: bytes
    size: int
    crc: int
    header: int
    data: int


def lay_out(state: FlatState, slots: Mapping[Key, Slot], metadata: str | None) -> FileImage:
    """Place everything that a torch file of this state holds.

    Args:
        state: The tensors.
        slots: Key -> its name and storage, in the order of the file.
        metadata: Text for the record of the bridge's own metadata.
    """
    pickle = write_pickle(slots)
    layout = _Layout()
    layout.add("data.pkl", pickle)
    layout.add("byteorder", b"little")
    layout.add("version", _VERSION)
    places: dict[Key, int] = {}
    extents: dict[Key, tuple[Extent, ...]] = {}
    for key, slot in slots.items():
        if slot.owner == key:
            nbytes = state.spec(key).nbytes
            places[key] = len(layout.records)
            offset = layout.reserve(f"data/{slot.storage}", nbytes)
            extents[key] = (Extent(0, nbytes, offset),)
    identity = int.from_bytes(hashlib.sha256(pickle).digest()[:16], "big")
    layout.add(".data/serialization_id", f"{identity:040d}".encode())
    if metadata is not None:
        layout.add(METADATA_RECORD, metadata.encode("ascii"))
    return layout.image(extents, places)


class _Layout:
    def __init__(self) -> None:
        self.position = 0
        self.records: list[_Placed] = []
        self.segments: list[tuple[int, bytes]] = []

    def add(self, name: str, content: bytes) -> None:
        """Place a record whose content is known."""
        offset = self.reserve(name, len(content), crc32(content))
        self.segments.append((offset, content))

    def reserve(self, name: str, size: int, crc: int = 0) -> int:
        """Place a record's headers, and return where its content goes."""
        raw = f"{_ROOT}/{name}".encode()
        wide = struct.pack("<2H2Q", 1, 16, size, size) if size >= _LIMIT32 else b""
        begin = self.position + 30 + len(raw) + len(wide) + 4
        padding = -begin % _ALIGNMENT
        extra = wide + struct.pack("<2H", _PADDING_ID, padding) + b"Z" * padding
        shown = min(size, _LIMIT32)
        header = struct.pack(
            *("<4s5H3L2H", b"PK\x03\x04", 45 if wide else 20, 0, 0, 0, _DATE),
            *(crc, shown, shown, len(raw), len(extra)),
        )
        self.segments.append((self.position, header + raw + extra))
        placed = _Placed(raw, size, crc, self.position, begin + padding)
        self.records.append(placed)
        self.position = placed.data + size
        return placed.data

    def image(self, slots: Mapping[Key, tuple[Extent, ...]], places: Mapping[Key, int]) -> FileImage:
        """Add the directory and return the whole."""
        directory = bytearray()
        entries: list[int] = []
        for record in self.records:
            entries.append(self.position + len(directory))
            directory += _entry(record)
        end = _end(len(self.records), len(directory), self.position)
        self.segments.append((self.position, bytes(directory) + end))
        records = self.records

        def finish(checksums: Mapping[Key, int]) -> Iterable[tuple[int, bytes]]:
            for key, place in places.items():
                crc = struct.pack("<L", checksums[key])
                yield records[place].header + _LOCAL_CRC, crc
                yield entries[place] + _CENTRAL_CRC, crc

        return FileImage(
            size=self.position + len(directory) + len(end),
            segments=tuple(self.segments),
            slots=slots,
            finish=finish,
        )


def _entry(record: _Placed) -> bytes:
    values = [record.size, record.size] if record.size >= _LIMIT32 else []
    if record.header >= _LIMIT32:
        values.append(record.header)
    extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
    size = min(record.size, _LIMIT32)
    version = 45 if values else 20
    return (
        struct.pack(
            *("<4s6H3L5H2L", b"PK\x01\x02", version, version, 0, 0, 0, _DATE),
            *(record.crc, size, size, len(record.name), len(extra), 0, 0, 0, 0),
            min(record.header, _LIMIT32),
        )
        + record.name
        + extra
    )


def _end(count: int, size: int, start: int) -> bytes:
    wide = b""
    if count >= _LIMIT16 or size >= _LIMIT32 or start >= _LIMIT32:
        wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        wide += struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    shown = min(count, _LIMIT16)
    return wide + struct.pack(
        *("<4s4H2LH", b"PK\x05\x06", 0, 0, shown, shown),
        *(min(size, _LIMIT32), min(start, _LIMIT32), 0),
    )
