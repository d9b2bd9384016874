"""Zip archives as byte ranges: their records, and a strict reader of them.

`zipfile` needs a file object, trusts only the central directory and does not give the byte at which a
member's content begins. Readers of weights need that byte, and need both headers of a member to agree.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from bridge_core.errors import KeyConflict, LimitExceeded, MalformedFile, TruncatedFile, UnsupportedFeature
from bridge_core.formats.foreign import describe_foreign
from bridge_core.io import SourceFile
from bridge_core.messages import count

__all__ = [
    "CENTRAL",
    "END",
    "END64",
    "FULL16",
    "FULL32",
    "LOCAL",
    "LOCATOR",
    "STORED",
    "UTF8",
    "ZipMember",
    "read_directory",
    "read_member",
    "read_members",
]

STORED, _DEFLATED = 0, 8

LOCAL = struct.Struct("<4s5HIIIHH")
CENTRAL = struct.Struct("<4s6HIII5HII")
END = struct.Struct("<4s4HIIH")
END64 = struct.Struct("<4sQHHIIQQQQ")
LOCATOR = struct.Struct("<4sIQI")
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 256 << 20
_MAX_MEMBERS = 2_000_000
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""Placeholders for numbers that are in zip64 records."""
_FULL = (FULL16, FULL16, FULL32, FULL32)
_CHUNK = 1 << 20
_FIRST_CHUNK = 10_000
_SMALL_MEMBER = 16 << 10
"""Bytes of a member that are fetched with its header, which joins the headers before and after it."""
_FIRST_BYTES = 512
"""Bytes of a member that are fetched with its header: what precedes an array in the member, for one."""
_FETCH_AGAIN = "The file is damaged or was cut off: fetch it again."

_ENCRYPTED, _STREAMED, UTF8 = 0x1, 0x8, 0x800


class ZipMember(NamedTuple):
    """A member as both its headers describe it.

    Args:
        name: Its name.
        method: 0 stored, 8 deflated.
        crc: CRC-32 of its content.
        size: Bytes of its content.
        stored: Bytes that the content takes in the archive.
        offset: First byte of the content in the file.
    """

    name: str
    method: int
    crc: int
    size: int
    stored: int
    offset: int


def read_members(
    file: SourceFile, *, encoding: str = "cp437", longer: type[MalformedFile] = MalformedFile
) -> list[ZipMember]:
    """Read the directory of an archive, and check it against every member's own header.

    Args:
        file: The archive.
        encoding: Encoding of names that are not marked as UTF-8.
        longer: Class of the error for bytes after the end of the archive.

    Raises:
        TruncatedFile: The end of the archive is missing.
        MalformedFile: The directory and the members disagree, or members overlap.
        KeyConflict: Two members have one name.
        UnsupportedFeature: A member is encrypted or neither stored nor deflated, or the archive spans several
            disks.
        LimitExceeded: The directory is larger than any archive of weights needs.
    """
    raw, start, entries = read_directory(file, longer)
    if file.is_remote:
        _announce_headers(raw, entries, file, encoding)
    members: dict[str, ZipMember] = {}
    places: list[tuple[int, int]] = []
    position = 0
    for _ in range(entries):
        entry, raw_name, flags, position = _entry(raw, position, file, encoding)
        if entry.name in members:
            raise KeyConflict("two members of the archive have this name.", path=file.name, key=entry.name)
        offset = _content(entry, raw_name, flags, file)
        members[entry.name] = entry._replace(offset=offset)
        places.append((entry.offset, offset + entry.stored))
    if position != len(raw):
        raise MalformedFile(
            f"expected {position} bytes in the zip directory of {entries} entries, got {len(raw)}.",
            path=file.name,
        )
    end = 0
    for begin, stop in sorted(places):
        if begin < end:
            raise MalformedFile(
                f"two members of the zip archive overlap at byte {begin}.", path=file.name, hint=_FETCH_AGAIN
            )
        end = stop
    if end > start:
        raise MalformedFile(
            f"a member ends at byte {end}, after the zip directory begins at byte {start}.",
            path=file.name,
            hint=_FETCH_AGAIN,
        )
    return list(members.values())


def read_directory(file: SourceFile, longer: type[MalformedFile] = MalformedFile) -> tuple[bytes, int, int]:
    """Return an archive's directory, its offset in the file, and the number of entries.

    Raises:
        TruncatedFile: The end of the archive is missing.
        MalformedFile: The directory is not at the offset that the archive's end gives.
        UnsupportedFeature: The archive spans several disks.
        LimitExceeded: The directory is larger than any archive of weights needs.
    """
    tail = _tail(file)
    at = len(tail)
    while True:
        at = tail.rfind(b"PK\5\6", 0, at)
        if at < 0:
            raise _without_end(tail, file, longer)
        if at + END.size <= len(tail):
            _, disk, first_disk, *narrow, comment = END.unpack_from(tail, at)
            if at + END.size + comment == len(tail):
                break
        at += 3
    here, entries, size, start = narrow
    end = file.size - len(tail) + at
    disks = disk or first_disk
    if end >= LOCATOR.size:
        mark, disk64, offset, _ = LOCATOR.unpack(file.read(end - LOCATOR.size, LOCATOR.size))
        if mark == b"PK\6\7":
            if offset + END64.size > end - LOCATOR.size:
                raise MalformedFile(
                    f"expected the zip64 record before byte {end - LOCATOR.size}, got byte {offset}.",
                    path=file.name,
                    hint=_FETCH_AGAIN,
                )
            mark, _, _, _, disk, first_disk, *wide = END64.unpack(file.read(offset, END64.size))
            known = zip(narrow, wide, _FULL, strict=True)
            if mark != b"PK\6\6" or any(old not in (new, full) for old, new, full in known):
                raise MalformedFile(
                    f"the zip64 record at byte {offset} is damaged.", path=file.name, hint=_FETCH_AGAIN
                )
            here, entries, size, start = wide
            end = offset
            disks = disk or first_disk or disk64
    if disks or here != entries:
        raise UnsupportedFeature(
            "the file is one part of a zip archive that was split.",
            path=file.name,
            hint="Join the parts to one archive: zip -s 0 parts.zip --out joined.zip",
        )
    if start + size != end or entries * CENTRAL.size > size:
        raise MalformedFile(
            f"expected the zip directory of {entries} entries to end at byte {end}, got bytes {start} to "
            f"{start + size}.",
            path=file.name,
            hint=_FETCH_AGAIN,
        )
    if entries > _MAX_MEMBERS or size > _MAX_DIRECTORY:
        raise LimitExceeded(
            f"expected at most {_MAX_MEMBERS} entries and {_MAX_DIRECTORY} bytes in the zip directory, got "
            f"{entries} entries and {size} bytes.",
            path=file.name,
        )
    return file.read(start, size), start, entries


def _tail(file: SourceFile) -> bytes:
    """Return the end of a file that the end of an archive is in; of a file at a server no more than that."""
    if file.is_remote and file.size >= END.size:
        tail = file.read(file.size - END.size, END.size)
        if tail.startswith(b"PK\5\6") and tail.endswith(b"\0\0"):
            return tail
    nbytes = min(file.size, END.size + _MAX_COMMENT)
    return file.read(file.size - nbytes, nbytes)


def _without_end(tail: bytes, file: SourceFile, longer: type[MalformedFile]) -> MalformedFile:
    at = tail.rfind(b"PK\5\6")
    rest = len(tail) - at - END.size
    if at >= 0 and rest >= 0 and END.unpack_from(tail, at)[-1] < rest:
        end = file.size - rest + END.unpack_from(tail, at)[-1]
        return longer(
            f"the zip archive ends at byte {end}, but {count(file.size - end, 'byte')} more are in the file.",
            path=file.name,
        )
    if file.size >= 4 and (head := file.read(0, 4)) not in (b"PK\3\4", b"PK\5\6"):
        what = describe_foreign(file, text=True) or f"a file that begins with {head!r}"
        return MalformedFile(f"expected a zip archive, got {what}.", path=file.name)
    return TruncatedFile(
        f"the zip archive has no directory at its end, byte {file.size}.",
        path=file.name,
        hint=_FETCH_AGAIN,
    )


def _entry(raw: bytes, at: int, file: SourceFile, encoding: str) -> tuple[ZipMember, bytes, int, int]:
    """Return a member with its header's offset, raw name, flags, and the next entry's offset."""
    if at + CENTRAL.size > len(raw):
        raise MalformedFile(
            f"the zip directory ends within the entry at its byte {at}.", path=file.name, hint=_FETCH_AGAIN
        )
    fields = CENTRAL.unpack_from(raw, at)
    mark, _, _, flags, method, _, _, crc, stored, size, *lengths, disk, _, _, header = fields
    name_length, extra_length, comment_length = lengths
    extra = at + CENTRAL.size + name_length
    stop = extra + extra_length + comment_length
    if mark != b"PK\1\2" or stop > len(raw):
        raise MalformedFile(
            f"the entry at byte {at} of the zip directory is damaged.", path=file.name, hint=_FETCH_AGAIN
        )
    raw_name = raw[at + CENTRAL.size : extra]
    name = _text(raw_name, "utf-8" if flags & UTF8 else encoding, file)
    if FULL32 in (size, stored, header):
        wide = iter(_zip64(raw[extra : extra + extra_length]))
        size, stored, header = (next(wide, -1) if n == FULL32 else n for n in (size, stored, header))
        if min(size, stored, header) < 0:
            raise MalformedFile(
                "the zip64 sizes of the member are missing.", path=file.name, key=name, hint=_FETCH_AGAIN
            )
    if flags & _ENCRYPTED:
        raise UnsupportedFeature(
            "the member is encrypted.", path=file.name, key=name, hint="Write the archive without a password."
        )
    if method not in (STORED, _DEFLATED):
        raise UnsupportedFeature(
            f"expected compression method 0 (stored) or 8 (deflate), got {method}.",
            path=file.name,
            key=name,
            hint="Write the archive again, uncompressed.",
        )
    if disk not in (0, FULL16):
        raise UnsupportedFeature(
            f"the member is in part {disk} of a zip archive that was split.",
            path=file.name,
            key=name,
            hint="Join the parts to one archive.",
        )
    if method == STORED and size != stored:
        raise MalformedFile(
            f"expected {size} bytes of the uncompressed member, got {stored}.",
            path=file.name,
            key=name,
            hint=_FETCH_AGAIN,
        )
    return ZipMember(name, method, crc, size, stored, header), raw_name, flags, stop


def _announce_headers(raw: bytes, entries: int, file: SourceFile, encoding: str) -> None:
    """Announce the members' own headers, so that they are fetched at the same time."""
    position = 0
    for _ in range(entries):
        entry, raw_name, _, position = _entry(raw, position, file, encoding)
        if entry.offset < file.size:
            content = entry.stored if entry.stored <= _SMALL_MEMBER else _FIRST_BYTES
            file.prefetch(entry.offset, LOCAL.size + len(raw_name) + content)


def _content(entry: ZipMember, raw_name: bytes, flags: int, file: SourceFile) -> int:
    """Return the offset of a member's bytes; its own header must agree with the directory."""
    begin = entry.offset + LOCAL.size + len(raw_name)
    if begin > file.size:
        raise MalformedFile(
            f"the header of the member is at byte {entry.offset}, but the file is only {file.size} bytes.",
            path=file.name,
            key=entry.name,
            hint=_FETCH_AGAIN,
        )
    raw = file.read(entry.offset, begin - entry.offset)
    mark, _, own_flags, method, _, _, crc, stored, size, name_length, extra_length = LOCAL.unpack_from(raw)
    # A streamed member has its checksum and sizes after its bytes, a large one in its extra field.
    absent = 0 if own_flags & _STREAMED else FULL32
    for what, same in (
        ("signature", mark == b"PK\3\4"),
        ("name", name_length == len(raw_name) and raw.endswith(raw_name)),
        ("flags", not (own_flags ^ flags) & (_ENCRYPTED | _STREAMED)),
        ("method", method == entry.method),
        ("CRC-32", crc == entry.crc or crc == absent == 0),
        ("size", size in (entry.size, FULL32, absent) and stored in (entry.stored, FULL32, absent)),
    ):
        if not same:
            raise MalformedFile(
                f"the {what} in the member's own header differs from the {what} in the zip directory.",
                path=file.name,
                key=entry.name,
                hint=_FETCH_AGAIN,
            )
    offset: int = begin + extra_length
    if offset + entry.stored > file.size:
        raise TruncatedFile(
            f"the member ends at byte {offset + entry.stored}, but the file is only {file.size} bytes.",
            path=file.name,
            key=entry.name,
            hint=_FETCH_AGAIN,
        )
    return offset


def _text(raw: bytes, encoding: str, file: SourceFile) -> str:
    if b"\0" in raw:
        raise MalformedFile(f"the name {raw[:200]!r} of a member holds a NUL.", path=file.name)
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise MalformedFile(f"the name {raw[:200]!r} of a member is not UTF-8.", path=file.name) from None


def _zip64(extra: bytes) -> Iterable[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1 and at + length <= len(extra):
            return struct.unpack_from(f"<{length // 8}Q", extra, at)
        at += length
    return ()


def read_member(file: SourceFile, member: ZipMember, nbytes: int | None = None) -> bytes:
    """Return the first bytes of a member's content, or all of it; the CRC-32 is not compared.

    Args:
        file: The archive.
        member: The member.
        nbytes: How many bytes at most; None for all.

    Raises:
        MalformedFile: The content cannot be inflated, or not to the size that the member declares.
    """
    size = member.size if nbytes is None else min(nbytes, member.size)
    if member.method == STORED:
        return file.read(member.offset, size)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    have = taken = 0
    try:
        while not stream.eof and have <= size and (nbytes is None or have < size):
            data = stream.unconsumed_tail
            if not data and taken < member.stored:
                step = min(_CHUNK if nbytes is None else _FIRST_CHUNK, member.stored - taken)
                data = file.read(member.offset + taken, step)
                taken += step
            part = stream.decompress(data, min(size + 1 - have, _CHUNK))
            if not data and not part:
                break
            have += len(part)
            parts.append(part)
    except zlib.error as err:
        raise MalformedFile(
            f"inflating the member failed: {err}.", path=file.name, key=member.name, hint=_FETCH_AGAIN
        ) from err
    if nbytes is None and (have != size or not stream.eof):
        shown = f"more than {size}" if have >= size else str(have)
        raise MalformedFile(
            f"expected {size} bytes from inflating the member, got {shown}.",
            path=file.name,
            key=member.name,
            hint=_FETCH_AGAIN,
        )
    return b"".join(parts)[:size]
