"""Zip archives whose members are stored, as byte ranges: read strictly, and laid out before writing.

`zipfile` wants a file object, believes the central directory alone and cannot say where a member's bytes
stand. Readers of weights need just that, and need the two places that describe a member to agree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bridge_core.errors import KeyConflict, LimitExceeded, MalformedFile, TruncatedFile, UnsupportedFeature
from bridge_core.formats.file_layout import Extent, FileImage
from bridge_core.io import SourceFile
from bridge_core.state import Key

__all__ = ["DEFLATED", "STORED", "NewMember", "ZipMember", "read_members", "zip_image"]

STORED, DEFLATED = 0, 8

_LOCAL = struct.Struct("<4s5HIIIHH")
_CENTRAL = struct.Struct("<4s6HIII5HII")
_END = struct.Struct("<4s4HIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 256 << 20
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF

_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_EPOCH = 0x21
"""1 January 1980, so that equal states give equal bytes."""
_ALIGNMENT = 64
_PADDING_ID = 0xD935


@dataclass(frozen=True)
class ZipMember:
    """A member as both its headers describe it.

    Args:
        name: Its name.
        method: ``STORED``, ``DEFLATED`` or another of the zip methods.
        crc: CRC-32 of its content.
        size: Bytes of its content.
        stored: Bytes in the archive.
        offset: Where these stand in the file.
    """

    name: str
    method: int
    crc: int
    size: int
    stored: int
    offset: int


@dataclass(frozen=True)
class NewMember:
    """A member to be laid out.

    Args:
        name: Its name.
        head: Bytes at its start.
        nbytes: Bytes of its tensor, which follow.
        key: The tensor; None where ``head`` is all.
        crc: CRC-32 of ``head``.
    """

    name: str
    head: bytes
    crc: int
    nbytes: int = 0
    key: Key | None = None


def read_members(file: SourceFile) -> list[ZipMember]:
    """Read the directory of an archive, and check it against every member's own header.

    Raises:
        TruncatedFile: The end of the archive is missing.
        MalformedFile: The directory and the members disagree, or members overlap.
        KeyConflict: Two members have one name.
        UnsupportedFeature: The archive is encrypted or spans several disks.
        LimitExceeded: The directory is larger than any archive of weights needs.
    """
    start, size, count = _directory(file)
    if size > _MAX_DIRECTORY:
        raise LimitExceeded(f"its directory takes {size} bytes.", path=file.name)
    raw = file.read(start, size)
    members: list[ZipMember] = []
    places: list[tuple[int, int]] = []
    seen: set[str] = set()
    position = 0
    for _ in range(count):
        member, header, position = _entry(raw, position, file)
        if member.name in seen:
            raise KeyConflict("two members of the archive have this name.", path=file.name, key=member.name)
        seen.add(member.name)
        members.append(member)
        places.append((header, member.offset + member.stored))
    if position != size:
        raise MalformedFile(
            f"its directory holds {size - position} bytes more than its {count} entries.", path=file.name
        )
    end = 0
    for begin, stop in sorted(places):
        if begin < end:
            raise MalformedFile("two members of the archive overlap.", path=file.name)
        end = stop
    if end > start:
        raise MalformedFile("a member reaches into the archive's directory.", path=file.name)
    return members


def _directory(file: SourceFile) -> tuple[int, int, int]:
    """Return where the directory starts, its bytes, and the number of its entries."""
    tail = file.read(max(0, file.size - _END.size - _MAX_COMMENT), min(file.size, _END.size + _MAX_COMMENT))
    at = len(tail)
    while True:
        at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            raise _without_end(tail, file)
        if at + _END.size <= len(tail):
            _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                break
        at += 3
    end = file.size - len(tail) + at
    disks = disk or first_disk
    if end >= _LOCATOR.size:
        mark, disk64, offset, _ = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
        if mark == b"PK\6\7":
            if offset + _END64.size > end - _LOCATOR.size:
                raise MalformedFile("its zip64 record stands outside the archive.", path=file.name)
            mark, _, _, _, disk, first_disk, here, count, size, start = _END64.unpack(
                file.read(offset, _END64.size)
            )
            if mark != b"PK\6\6":
                raise MalformedFile("its zip64 record is damaged.", path=file.name)
            end = offset
            disks = disk or first_disk or disk64
    if disks or here != count:
        raise UnsupportedFeature("is one part of an archive over several disks.", path=file.name)
    if start + size != end or count * _CENTRAL.size > size:
        raise MalformedFile(
            f"its directory of {count} entries should stand in bytes {start} to {start + size}, "
            f"and the record behind it starts at {end}.",
            path=file.name,
        )
    return start, size, count


def _without_end(tail: bytes, file: SourceFile) -> MalformedFile:
    at = tail.rfind(b"PK\5\6")
    rest = len(tail) - at - _END.size
    if at >= 0 and rest >= 0 and _END.unpack_from(tail, at)[-1] < rest:
        return MalformedFile("holds more bytes behind its end-of-archive record.", path=file.name)
    if file.size >= 4 and file.read(0, 4) not in (b"PK\3\4", b"PK\5\6"):
        return MalformedFile("is no zip archive.", path=file.name)
    return TruncatedFile("has no end-of-archive record: it is cut off.", path=file.name)


def _entry(raw: bytes, at: int, file: SourceFile) -> tuple[ZipMember, int, int]:
    """Return a member, where its own header starts, and where the next entry does."""
    if at + _CENTRAL.size > len(raw):
        raise MalformedFile("its directory ends within an entry.", path=file.name)
    fields = _CENTRAL.unpack_from(raw, at)
    mark, flags, method, crc, stored, size = fields[0], *(fields[i] for i in (3, 4, 7, 8, 9))
    name_length, extra_length, comment_length, disk, header = *fields[10:14], fields[16]
    at += _CENTRAL.size
    stop = at + name_length + extra_length + comment_length
    if mark != b"PK\1\2" or stop > len(raw):
        raise MalformedFile("its directory holds a damaged entry.", path=file.name)
    raw_name = raw[at : at + name_length]
    name = _text(raw_name, flags, file)
    extra = raw[at + name_length : at + name_length + extra_length]
    wide = iter(_zip64(extra))
    size, stored, header = (next(wide, -1) if value == _FULL32 else value for value in (size, stored, header))
    if min(size, stored, header) < 0:
        raise MalformedFile("lacks its zip64 sizes.", path=file.name, key=name)
    if flags & _ENCRYPTED:
        raise UnsupportedFeature("is encrypted.", path=file.name, key=name)
    if disk not in (0, _FULL16):
        raise UnsupportedFeature("stands on another disk of the archive.", path=file.name, key=name)
    if method == STORED and size != stored:
        raise MalformedFile(f"is stored, but takes {stored} bytes for {size}.", path=file.name, key=name)
    offset = _check_local(file, name, raw_name, flags, method, crc, size, stored, header)
    return ZipMember(name, method, crc, size, stored, offset), header, stop


def _check_local(
    file: SourceFile,
    name: str,
    raw_name: bytes,
    flags: int,
    method: int,
    crc: int,
    size: int,
    stored: int,
    header: int,
) -> int:
    """Return where a member's bytes start, once its own header agrees with the directory."""
    if header + _LOCAL.size + len(raw_name) > file.size:
        raise MalformedFile("its header should stand behind the end of the file.", path=file.name, key=name)
    raw = file.read(header, _LOCAL.size + len(raw_name))
    fields = _LOCAL.unpack_from(raw)
    mark, own_flags, own_method, own_crc, own_stored, own_size = fields[0], *fields[2:4], *fields[6:9]
    name_length, extra_length = fields[9:]
    same = (
        mark == b"PK\3\4" and own_method == method and (own_flags ^ flags) & (_ENCRYPTED | _DESCRIPTOR) == 0
    )
    same = same and name_length == len(raw_name) and raw[_LOCAL.size :] == raw_name
    if same and not own_flags & _DESCRIPTOR:
        same = own_crc == crc and own_size in (size, _FULL32) and own_stored in (stored, _FULL32)
    if not same:
        raise MalformedFile(
            "the header before it and the archive's directory disagree.", path=file.name, key=name
        )
    offset: int = header + _LOCAL.size + name_length + extra_length
    if offset + stored > file.size:
        raise TruncatedFile("reaches past the end of the file.", path=file.name, key=name)
    return offset


def _text(raw: bytes, flags: int, file: SourceFile) -> str:
    if b"\0" in raw:
        raise MalformedFile(f"a member's name {raw!r} holds a NUL.", path=file.name)
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise MalformedFile(f"a member's name {raw!r} is not UTF-8.", path=file.name) from None


def _zip64(extra: bytes) -> Iterable[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            whole = min(length, len(extra) - at - 4) // 8
            return struct.unpack_from(f"<{min(whole, 3)}Q", extra, at + 4)
        at += 4 + length
    return ()


def zip_image(members: Iterable[NewMember]) -> FileImage:
    """Lay an archive out; checksums that depend on tensors are filled in when these are written.

    Every member's content starts at a multiple of 64, so that it can be mapped.

    Raises:
        UnsupportedFeature: A name is too long for an archive.
    """
    placed: list[tuple[NewMember, int]] = []
    segments: list[tuple[int, bytes]] = []
    slots: dict[Key, tuple[Extent, ...]] = {}
    seeds: dict[Key, int] = {}
    position = 0
    for member in members:
        placed.append((member, position))
        head = _local(member, position) + member.head
        segments.append((position, head))
        position += len(head)
        if member.key is not None:
            slots[member.key] = (Extent(0, member.nbytes, position),)
            seeds[member.key] = member.crc
            position += member.nbytes
    directory = _closing(placed, position, {})
    return FileImage(
        size=position + len(directory),
        segments=tuple(segments),
        slots=slots,
        seeds=seeds,
        finish=_finisher(placed, position),
    )


def _finisher(
    placed: list[tuple[NewMember, int]], position: int
) -> Callable[[Mapping[Key, int]], Iterable[tuple[int, bytes]]]:
    def finish(checksums: Mapping[Key, int]) -> Iterable[tuple[int, bytes]]:
        for member, start in placed:
            if member.key is not None:
                yield start + 14, struct.pack("<I", checksums[member.key])
        yield position, _closing(placed, position, checksums)

    return finish


def _size(member: NewMember) -> int:
    return len(member.head) + member.nbytes


def _name(member: NewMember) -> tuple[bytes, int]:
    raw = member.name.encode()
    if len(raw) > _FULL16:
        raise UnsupportedFeature(
            f"a zip archive holds names of at most {_FULL16} bytes; this one has {len(raw)}.",
            key=member.key or member.name[:100],
        )
    return raw, 0 if member.name.isascii() else _UTF8


def _version(wide: bool) -> int:
    return 45 if wide else 20


def _local(member: NewMember, position: int) -> bytes:
    name, flags = _name(member)
    size = _size(member)
    wide = size >= _FULL32
    extra = struct.pack("<HHQQ", 1, 16, size, size) if wide else b""
    padding = -(position + _LOCAL.size + len(name) + len(extra) + 4) % _ALIGNMENT
    extra += struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    shown = _FULL32 if wide else size
    head = _LOCAL.pack(
        b"PK\3\4", _version(wide), flags, STORED, 0, _EPOCH, member.crc, shown, shown, len(name), len(extra)
    )
    return head + name + extra


def _closing(placed: list[tuple[NewMember, int]], start: int, checksums: Mapping[Key, int]) -> bytes:
    """Return the directory and what ends the archive."""
    parts: list[bytes] = []
    for member, header in placed:
        name, flags = _name(member)
        size = _size(member)
        wide = [value for value in (size, size, header) if value >= _FULL32]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        crc = member.crc if member.key is None else checksums.get(member.key, 0)
        shown, at = min(size, _FULL32), min(header, _FULL32)
        version = _version(bool(wide))
        parts.append(
            _CENTRAL.pack(
                b"PK\1\2", version, version, flags, STORED, 0, _EPOCH, crc, shown, shown,
                len(name), len(extra), 0, 0, 0, 0, at,
            )
        )  # fmt: skip
        parts += (name, extra)
    size, count = sum(map(len, parts)), len(placed)
    if count >= _FULL16 or size >= _FULL32 or start >= _FULL32:
        parts.append(_END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, start))
        parts.append(_LOCATOR.pack(b"PK\6\7", 0, start + size, 1))
    shown_count = min(count, _FULL16)
    parts.append(
        _END.pack(b"PK\5\6", 0, 0, shown_count, shown_count, min(size, _FULL32), min(start, _FULL32), 0)
    )
    return b"".join(parts)
