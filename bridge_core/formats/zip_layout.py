"""Zip archives of stored members, laid out before any tensor is read.

Checksums that depend on tensors are known only after these were written, and are filled in at the end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge_core.errors import UnsupportedFeature
from bridge_core.formats.file_layout import Extent, FileImage
from bridge_core.formats.zip_archive import CENTRAL, END, END64, FULL16, FULL32, LOCAL, LOCATOR, STORED, UTF8
from bridge_core.state import Key

__all__ = ["NewMember", "zip_image"]

_LOCAL_CRC = 14
_EPOCH = 0x21
"""1 January 1980, so that equal states give equal bytes."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class NewMember:
    """A member to be laid out.

    Args:
        name: Its name.
        head: Bytes at its start.
        nbytes: Bytes of its tensor, which follow ``head``.
        key: The tensor; None if the member has no bytes after ``head``.
    """

    name: str
    head: bytes
    nbytes: int = 0
    key: Key | None = None


def zip_image(members: Iterable[NewMember], *, padding_id: int = 0xD935, padding: bytes = b"\0") -> FileImage:
    """Return the layout of an archive.

    Every member's content begins at a multiple of 64 bytes, so that it can be mapped.

    Args:
        members: The members, in the order of the file.
        padding_id: Identifier of the extra field before a member's content.
        padding: The byte that fills this field.

    Raises:
        UnsupportedFeature: A name is longer than 65535 bytes.
    """
    placed: list[_Placed] = []
    segments: list[tuple[int, bytes]] = []
    slots: dict[Key, tuple[Extent, ...]] = {}
    position = 0
    for member in members:
        entry = _Placed(member, _name(member), zlib.crc32(member.head), position)
        placed.append(entry)
        head = _local(entry, padding_id, padding) + member.head
        segments.append((position, head))
        position += len(head)
        if member.key is not None:
            slots[member.key] = (Extent(0, member.nbytes, position),)
            position += member.nbytes

    def finish(checksums: Mapping[Key, int]) -> Iterable[tuple[int, bytes]]:
        for entry in placed:
            if entry.member.key is not None:
                yield entry.header + _LOCAL_CRC, struct.pack("<I", checksums[entry.member.key])
        yield position, _closing(placed, position, checksums)

    return FileImage(
        size=position + len(_closing(placed, position, {})),
        segments=tuple(segments),
        slots=slots,
        seeds={entry.member.key: entry.crc for entry in placed if entry.member.key is not None},
        finish=finish,
    )


@dataclass(frozen=True)
class _Placed:
    """A member with its encoded name, the CRC-32 of its head, and the offset of its header."""

    member: NewMember
    name: bytes
    crc: int
    header: int

    @property
    def size(self) -> int:
        return len(self.member.head) + self.member.nbytes

    @property
    def flags(self) -> int:
        return 0 if self.name.isascii() else UTF8


def _name(member: NewMember) -> bytes:
    raw = member.name.encode()
    if len(raw) > FULL16:
        raise UnsupportedFeature(
            f"expected a name of at most {FULL16} bytes, as zip archives store, got {len(raw)}.",
            key=member.name[:100],
            hint="Shorten the name.",
        )
    return raw


def _version(wide: bool) -> int:
    return 45 if wide else 20


def _local(entry: _Placed, padding_id: int, padding: bytes) -> bytes:
    name, size = entry.name, entry.size
    wide = size >= FULL32
    extra = struct.pack("<HHQQ", 1, 16, size, size) if wide else b""
    gap = -(entry.header + LOCAL.size + len(name) + len(extra) + 4) % _ALIGNMENT
    extra += struct.pack("<HH", padding_id, gap) + padding * gap
    shown = min(size, FULL32)
    head = LOCAL.pack(
        b"PK\3\4",
        _version(wide),
        entry.flags,
        STORED,
        0,
        _EPOCH,
        entry.crc,
        shown,
        shown,
        len(name),
        len(extra),
    )
    return head + name + extra


def _closing(placed: list[_Placed], start: int, checksums: Mapping[Key, int]) -> bytes:
    """Return the directory and the records that end the archive."""
    parts: list[bytes] = []
    for entry in placed:
        key, name, size, header = entry.member.key, entry.name, entry.size, entry.header
        wide = [value for value in (size, size, header) if value >= FULL32]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        crc = entry.crc if key is None else checksums.get(key, 0)
        shown, at = min(size, FULL32), min(header, FULL32)
        version = _version(bool(wide))
        parts.append(
            CENTRAL.pack(
                b"PK\1\2", version, version, entry.flags, STORED, 0, _EPOCH, crc, shown, shown,
                len(name), len(extra), 0, 0, 0, 0, at,
            )
        )  # fmt: skip
        parts += (name, extra)
    size, count = sum(map(len, parts)), len(placed)
    if count >= FULL16 or size >= FULL32 or start >= FULL32:
        parts.append(END64.pack(b"PK\6\6", END64.size - 12, 45, 45, 0, 0, count, count, size, start))
        parts.append(LOCATOR.pack(b"PK\6\7", 0, start + size, 1))
    shown_count = min(count, FULL16)
    parts.append(
        END.pack(b"PK\5\6", 0, 0, shown_count, shown_count, min(size, FULL32), min(start, FULL32), 0)
    )
    return b"".join(parts)
