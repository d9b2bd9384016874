"""The zip container of torch checkpoints, read strictly and without copying.

Only what torch writes is accepted: one root folder, each name once, the central directory agreeing with
the local headers. Tensors are read in place, so records must be stored; deflated ones are unpacked within a
limit.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from bridge_core import (
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)

__all__ = ["Archive", "Record", "is_zip"]

STORED = 0
DEFLATED = 8

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 256 << 20
_MAX_ENTRIES = 2_000_000
_MAX_UNPACKED = 256 << 20
_CHUNK = 4 << 20


def is_zip(head: bytes) -> bool:
    """Tell whether these are the first bytes of a zip file."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Record:
    """One entry of the directory.

    Args:
        name: Path in the archive.
        method: 0 stored, 8 deflated.
        packed: Bytes in the file.
        size: Bytes of content.
        crc: CRC-32 of the content, as the directory has it.
        header: Where the local header stands.
    """

    name: str
    method: int
    packed: int
    size: int
    crc: int
    header: int


class Archive:
    """The directory of a torch zip file.

    Args:
        file: The open file.
        allow_zero_crc: Take a CRC of zero for "not computed".

    Raises:
        TruncatedFile: The file ends before its directory.
        MalformedFile: The directory is damaged, or has not exactly one root folder.
        KeyConflict: A name stands twice.
        UnsafeFile: A name leads outside the root.
        UnsupportedFeature: A record is encrypted.
        LimitExceeded: The directory is larger than any checkpoint's.
    """

    def __init__(self, file: SourceFile, *, allow_zero_crc: bool = False) -> None:
        self.file = file
        self.allow_zero_crc = allow_zero_crc
        self.directory, count, length = _find_directory(file)
        self._unpacked = 0
        records = _read_directory(file, self.directory, count, length)
        roots = dict.fromkeys(name.partition("/")[0] for name in records)
        if len(roots) != 1:
            shown = ", ".join(repr(root[:80]) for root in list(roots)[:5]) or "none"
            raise MalformedFile(f"a torch archive has one root folder; found {shown}.", path=file.name)
        self.root = next(iter(roots))
        prefix = f"{self.root}/"
        self.records = {
            name.removeprefix(prefix): record for name, record in records.items() if not name.endswith("/")
        }

    def where(self, record: Record) -> int:
        """Return the position of a record's bytes, found through its local header.

        Raises:
            MalformedFile: The local header and the directory disagree.
        """
        fixed = self.file.read(record.header, _LOCAL.size)
        signature, _, _, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(fixed)
        begin = record.header + _LOCAL.size
        if signature != b"PK\x03\x04" or begin + name_length + extra_length > self.directory:
            raise self._bad(record, "has no local header where the directory says")
        name = self.file.read(begin, name_length)
        if name.decode("utf-8", "replace") != record.name or method != record.method:
            raise self._bad(record, "differs between the directory and its local header")
        if record.crc != 0 and crc not in (0, record.crc):
            raise self._bad(record, "has one CRC in the directory and another in its local header")
        # A streamed entry keeps its sizes behind the data, an entry of zip64 in its extra field.
        for local, central in ((packed, record.packed), (size, record.size)):
            if local not in (0, 0xFFFFFFFF, central):
                raise self._bad(
                    record, f"is {central} bytes in the directory and {local} in its local header"
                )
        offset: int = begin + name_length + extra_length
        if offset + record.packed > self.directory:
            raise self._bad(record, "reaches into the directory")
        return offset

    def read(self, record: Record, *, limit: int) -> bytes:
        """Return a whole record, unpacked and checked.

        Raises:
            LimitExceeded: It is longer than ``limit``.
            IntegrityError: Its CRC differs.
        """
        if record.size > limit:
            raise LimitExceeded(
                f"record {record.name!r} is {record.size} bytes long; at most {limit} were expected.",
                path=self.file.name,
            )
        offset = self.where(record)
        if record.method == STORED:
            data = self.file.read(offset, record.size)
        else:
            data = self._inflate(record, offset)
        if self.is_checked(record) and zlib.crc32(data) != record.crc:
            raise self.damaged(record.name)
        return data

    def unpack(self, record: Record) -> bytes:
        """Return a deflated record; all of them together must stay under a limit."""
        self._unpacked += record.size
        if self._unpacked > _MAX_UNPACKED:
            raise LimitExceeded(
                f"has compressed records of more than {_MAX_UNPACKED >> 20} MiB.",
                path=self.file.name,
                hint="Save it again with torch.save, which stores tensors uncompressed.",
            )
        return self.read(record, limit=_MAX_UNPACKED)

    def is_checked(self, record: Record) -> bool:
        """Tell whether the record's CRC counts."""
        return record.crc != 0 or not self.allow_zero_crc

    def damaged(self, name: str) -> IntegrityError:
        """Return the error for a CRC that differs."""
        return IntegrityError(
            f"record {name!r} does not have the CRC-32 that the archive states.",
            path=self.file.name,
            hint="The file is damaged; fetch it again.",
        )

    def _inflate(self, record: Record, offset: int) -> bytes:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        result = bytearray()
        try:
            for start in range(0, record.packed, _CHUNK):
                packed = self.file.read(offset + start, min(_CHUNK, record.packed - start))
                result += unpacker.decompress(packed, record.size + 1 - len(result))
                if len(result) > record.size or unpacker.unconsumed_tail:
                    break
        except zlib.error as err:
            raise self._bad(record, f"cannot be unpacked ({err})") from err
        if len(result) != record.size or not unpacker.eof:
            raise self._bad(record, f"does not unpack to the {record.size} bytes that it states")
        return bytes(result)

    def _bad(self, record: Record, problem: str) -> MalformedFile:
        return MalformedFile(f"record {record.name!r} {problem}.", path=self.file.name)


def _find_directory(file: SourceFile) -> tuple[int, int, int]:
    """Return where the central directory starts, its number of entries and its length."""
    length = min(file.size, _END.size + _MAX_COMMENT)
    tail = file.read(file.size - length, length)
    position = len(tail) - _END.size
    while True:
        position = tail.rfind(b"PK\x05\x06", 0, max(0, position + 4))
        if position < 0:
            raise TruncatedFile(
                "is a zip file without its directory, which stands at the end.",
                path=file.name,
                hint="The file was cut off; fetch it again.",
            )
        if position + _END.size <= len(tail):
            end = _END.unpack_from(tail, position)
            if position + _END.size + end[7] == len(tail):
                break
        position -= 1
    _, disk, first_disk, here, count, size, start, _ = end
    stop = file.size - length + position
    locator_at = stop - _LOCATOR64.size
    if locator_at >= 0:
        locator = _LOCATOR64.unpack(file.read(locator_at, _LOCATOR64.size))
        if locator[0] == b"PK\x06\x07":
            stop = locator[2]
            if locator[1] != 0 or stop + _END64.size > locator_at:
                raise MalformedFile("has a damaged zip64 directory.", path=file.name)
            wide = _END64.unpack(file.read(stop, _END64.size))
            narrow = (here, count, size, start)
            here, count, size, start = wide[6:]
            same = all(
                old in (new, sentinel)
                for old, new, sentinel in zip(
                    narrow, wide[6:], (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True
                )
            )
            if wide[0] != b"PK\x06\x06" or not same:
                raise MalformedFile("has a damaged zip64 directory.", path=file.name)
    if disk or first_disk or here != count:
        raise UnsupportedFeature("is one part of a zip over several files.", path=file.name)
    if start + size != stop:
        raise MalformedFile(
            f"has a zip directory of {size} bytes at {start}, but it should end at byte {stop}.",
            path=file.name,
        )
    if count > _MAX_ENTRIES or size > _MAX_DIRECTORY:
        raise LimitExceeded(f"has a zip directory of {count} entries, {size} bytes.", path=file.name)
    return start, count, size


def _read_directory(file: SourceFile, start: int, count: int, length: int) -> dict[str, Record]:
    data = file.read(start, length)
    records: dict[str, Record] = {}
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > length:
            raise MalformedFile(f"has a zip directory with fewer entries than {count}.", path=file.name)
        entry = _ENTRY.unpack_from(data, position)
        name_at = position + _ENTRY.size
        extra_at = name_at + entry[10]
        position = extra_at + entry[11] + entry[12]
        if entry[0] != b"PK\x01\x02" or position > length:
            raise MalformedFile("has a damaged entry in its zip directory.", path=file.name)
        record = _record(file, entry, data[name_at:extra_at], data[extra_at : extra_at + entry[11]])
        if record.name in records:
            raise KeyConflict(f"holds two records named {record.name!r}.", path=file.name)
        records[record.name] = record
    if position != length:
        raise MalformedFile(f"has a zip directory with more entries than {count}.", path=file.name)
    _check_overlap(file, records, start)
    return records


def _record(file: SourceFile, entry: tuple[int, ...], raw_name: bytes, extra: bytes) -> Record:
    flags, method, crc, packed, size = entry[3], entry[4], entry[7], entry[8], entry[9]
    disk, header = entry[13], entry[16]
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedFile(
            f"has a record name that is not UTF-8: {raw_name[:80]!r}.", path=file.name
        ) from None
    parts = name.removesuffix("/").split("/")
    if ".." in parts or "" in parts or "\\" in name or "\0" in name:
        raise UnsafeFile(f"has a record that leads elsewhere: {name[:200]!r}.", path=file.name)
    wide = [value == 0xFFFFFFFF for value in (size, packed, header)]
    if any(wide):
        values = iter(_wide_values(extra))
        try:
            size, packed, header = (
                next(values) if is_wide else value
                for is_wide, value in zip(wide, (size, packed, header), strict=True)
            )
        except RuntimeError:
            raise MalformedFile(f"record {name!r} lacks its zip64 sizes.", path=file.name) from None
    if flags & 1:
        raise UnsupportedFeature(f"record {name!r} is encrypted.", path=file.name)
    if method not in (STORED, DEFLATED):
        raise UnsupportedFeature(
            f"record {name!r} is compressed by method {method}; 0 and 8 are read.", path=file.name
        )
    if disk not in (0, 0xFFFF) or (method == STORED and packed != size):
        raise MalformedFile(f"record {name!r} has sizes that do not agree.", path=file.name)
    return Record(name, method, packed, size, crc, header)


def _wide_values(extra: bytes) -> tuple[int, ...]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == 1 and position + length <= len(extra):
            return struct.unpack_from(f"<{length // 8}Q", extra, position)
        position += length
    return ()


def _check_overlap(file: SourceFile, records: dict[str, Record], directory: int) -> None:
    end, owner = 0, ""
    for record in sorted(records.values(), key=lambda record: record.header):
        if record.header < end:
            raise MalformedFile(f"records {owner!r} and {record.name!r} overlap.", path=file.name)
        end, owner = record.header + _LOCAL.size + len(record.name.encode()) + record.packed, record.name
    if end > directory:
        raise MalformedFile(f"record {owner!r} reaches into the directory.", path=file.name)
