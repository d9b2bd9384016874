"""The first bytes of the kinds of files that torch has written."""

from __future__ import annotations

__all__ = ["LEGACY_MAGIC", "is_legacy", "is_tar", "is_zip"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of a legacy file holds."""
_MAGIC_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
_MAGIC_TEXT = b"L%dL\n." % LEGACY_MAGIC
"""The first pickle in the words of protocols 0 and 1."""
_TAR_MEMBERS = (b"sys_info", b"pickle", b"storages", b"tensors")


def is_zip(head: bytes) -> bool:
    """Tell whether these are the first bytes of a zip file."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_legacy(head: bytes) -> bool:
    """Tell whether these are the first bytes of a legacy file, or of a bare pickle."""
    if head[4:9] == b"\0\0\0\0{":
        return False  # the header length of a safetensors file
    if head.startswith(_MAGIC_TEXT):
        return True
    return _MAGIC_BYTES in head[:32] or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2)


def is_tar(head: bytes) -> bool:
    """Tell whether these are the first bytes of the tar files of torch 0.1."""
    name = head[:100].rstrip(b"\0").removeprefix(b"./").rstrip(b"/")
    return head[257:262] == b"ustar" or (len(head) >= 500 and name in _TAR_MEMBERS)
