"""What a torch checkpoint asks of a zip archive beyond being one.

Tensors are read in place, so records must be stored; deflated ones are unpacked within a limit.
"""

from __future__ import annotations

from zlib import crc32

from bridge_core import (
    IntegrityError,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsafeFile,
)
from bridge_core.formats import ZipMember, read_member, read_members

__all__ = ["METADATA_RECORD", "Archive"]

METADATA_RECORD = ".data/ckptbridge.json"
"""Record of the bridge's own metadata; torch does not read it."""

_MAX_UNPACKED = 256 << 20


class Archive:
    """The records of a torch zip file.

    Args:
        file: The open file.
        allow_zero_crc: Take a CRC of zero for "not computed" in an archive that has others, too.

    Raises:
        BadInputError: As `bridge_core.formats.read_members`.
        MalformedFile: There is not exactly one root folder.
        UnsafeFile: A name leads outside the root.
    """

    def __init__(self, file: SourceFile, *, allow_zero_crc: bool = False) -> None:
        self.file = file
        self.allow_zero_crc = allow_zero_crc
        self._unpacked = 0
        members = read_members(file, encoding="utf-8", longer=TruncatedFile)
        for member in members:
            parts = member.name.removesuffix("/").split("/")
            if ".." in parts or "" in parts or "\\" in member.name:
                raise UnsafeFile(f"has a record that leads elsewhere: {member.name[:200]!r}.", path=file.name)
        roots = dict.fromkeys(member.name.partition("/")[0] for member in members)
        if len(roots) != 1:
            shown = ", ".join(repr(root[:80]) for root in list(roots)[:5]) or "none"
            raise MalformedFile(f"a torch archive has one root folder; found {shown}.", path=file.name)
        (self.root,) = roots
        self.has_checksums = any(member.crc for member in members)
        self.records = {
            member.name.removeprefix(f"{self.root}/"): member
            for member in members
            if not member.name.endswith("/")
        }

    def read(self, record: ZipMember, *, limit: int) -> bytes:
        """Return a whole record, unpacked and checked.

        Raises:
            LimitExceeded: It is longer than ``limit``.
            MalformedFile: It does not unpack to its size.
            IntegrityError: Its CRC differs.
        """
        if record.size > limit:
            raise LimitExceeded(
                f"record {record.name!r} is {record.size} bytes long; at most {limit} were expected.",
                path=self.file.name,
            )
        data = read_member(self.file, record)
        if self.is_checked(record) and crc32(data) != record.crc:
            raise self.damaged(record)
        return data

    def unpack(self, record: ZipMember) -> bytes:
        """Return a deflated record; all of them together must stay under a limit."""
        self._unpacked += record.size
        if self._unpacked > _MAX_UNPACKED:
            raise LimitExceeded(
                f"has compressed records of more than {_MAX_UNPACKED >> 20} MiB.",
                path=self.file.name,
                hint="Save it again with torch.save, which stores tensors uncompressed.",
            )
        return self.read(record, limit=_MAX_UNPACKED)

    def is_checked(self, record: ZipMember) -> bool:
        """Tell whether the record's CRC counts: where all are zero, none was computed."""
        return record.crc != 0 or (self.has_checksums and not self.allow_zero_crc)

    def damaged(self, record: ZipMember) -> IntegrityError:
        """Return the error for a CRC that differs."""
        text = f"record {record.name!r} does not have the CRC-32 that the archive states."
        hint = "The file is damaged: download it again, or save it again where it was made."
        if record.crc == 0:
            text += " It states 00000000 for this one, and others for other records."
            hint = "Download it again. Where its writer left checksums out, save it again with torch."
        return IntegrityError(text, path=self.file.name, hint=hint)
