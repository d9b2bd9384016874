"""The zip archive of a torch checkpoint: one root folder, records in it, and their CRC-32 checksums.

Stored records are read in place. Deflated ones are unpacked into memory, within a limit.
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
from bridge_core.messages import listed
from bridge_torch.hints import UNTRUSTED

__all__ = ["METADATA_RECORD", "Archive"]

METADATA_RECORD = ".data/ckptbridge.json"
"""Name of the record that holds the bridge's own metadata; torch does not read it."""

_MAX_UNPACKED = 256 << 20


class Archive:
    """The records of a torch zip file.

    Args:
        file: The open file.
        allow_zero_crc: Treat a CRC-32 of zero as "not computed" even where other records have one.

    Raises:
        BadInputError: As `bridge_core.formats.read_members`.
        MalformedFile: There is not exactly one root folder.
        UnsafeFile: A record's name is empty in part, or contains ``..`` or a backslash.
    """

    def __init__(self, file: SourceFile, *, allow_zero_crc: bool = False) -> None:
        self.file = file
        self.allow_zero_crc = allow_zero_crc
        self._unpacked = 0
        members = read_members(file, encoding="utf-8", longer=TruncatedFile)
        for member in members:
            parts = member.name.removesuffix("/").split("/")
            if ".." in parts or "" in parts or "\\" in member.name:
                raise UnsafeFile(
                    f"the name of a record is not a plain relative path: {member.name[:200]!r}.",
                    path=file.name,
                    hint=UNTRUSTED,
                )
        roots = dict.fromkeys(member.name.partition("/")[0] for member in members)
        if len(roots) != 1:
            names = listed(repr(root[:80]) for root in roots)
            raise MalformedFile(
                "the file is not a torch checkpoint, but another zip archive: expected one root folder, got "
                f"{len(roots)}{f' ({names})' if names else ''}.",
                path=file.name,
                hint="Give the file that torch.save wrote. If it is inside this archive, unpack it first.",
            )
        (self.root,) = roots
        self.has_checksums = any(member.crc for member in members)
        self.records = {
            member.name.removeprefix(f"{self.root}/"): member
            for member in members
            if not member.name.endswith("/")
        }

    def read(self, record: ZipMember, *, limit: int) -> bytes:
        """Return all bytes of a record, unpacked if need be, with the CRC-32 compared.

        Args:
            record: The record.
            limit: The most bytes that it may have, unpacked.

        Raises:
            LimitExceeded: It is longer than ``limit``.
            MalformedFile: It does not unpack to the size that the archive states.
            IntegrityError: Its CRC-32 differs.
        """
        if record.size > limit:
            raise LimitExceeded(
                f"record {record.name!r}: expected at most {limit} bytes, got {record.size} bytes.",
                path=self.file.name,
            )
        data = read_member(self.file, record)
        if self.is_checked(record) and crc32(data) != record.crc:
            raise self.damaged(record)
        return data

    def unpack(self, record: ZipMember) -> bytes:
        """Return the bytes of a deflated record.

        Raises:
            LimitExceeded: The records that were unpacked so far are more than 256 MiB together.
        """
        self._unpacked += record.size
        if self._unpacked > _MAX_UNPACKED:
            raise LimitExceeded(
                f"compressed records of more than {_MAX_UNPACKED >> 20} MiB in all are not read.",
                path=self.file.name,
                hint="Load it with torch.load and save it with torch.save, which does not compress tensors.",
            )
        return self.read(record, limit=_MAX_UNPACKED)

    def is_checked(self, record: ZipMember) -> bool:
        """Return whether the record has a CRC-32; where those of all records are zero, none was computed."""
        return record.crc != 0 or (self.has_checksums and not self.allow_zero_crc)

    def damaged(self, record: ZipMember) -> IntegrityError:
        """Return the error for a record whose CRC-32 is not the one that the archive states."""
        text = f"record {record.name!r} is damaged: its CRC-32 is not the {record.crc:08x} of the archive."
        hint = "Download the file again, or save it again where it was made."
        if record.crc == 0:
            text = (
                f"record {record.name!r} is damaged, or its CRC-32 was not computed: the archive states "
                "00000000 for it, and other values for other records."
            )
            hint = "Download the file again, or load it with torch.load and save it again with torch.save."
        return IntegrityError(text, path=self.file.name, hint=hint)
