"""The kinds of files that torch has written, by their first bytes."""

from __future__ import annotations

import re

__all__ = ["LEGACY_MAGIC", "appearance", "is_legacy", "is_tar", "is_zip"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What the first pickle of a legacy file holds."""
_MAGIC_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
_MAGIC_TEXT = b"L%dL\n." % LEGACY_MAGIC
"""The first pickle of a legacy file in protocols 0 and 1."""
_TAR_MEMBERS = (b"sys_info", b"pickle", b"storages", b"tensors")
_OTHERS = (
    (re.compile(rb"lmgg|fmgg|tjgg"), "a GGML file"),
    (re.compile(rb"\xba\x16\x4f\x2f"), "a fastText model"),
    (re.compile(rb"[0-9]+ [0-9]+\n"), "word vectors in word2vec's format"),
)
"""Files of other programs that have the suffix ``.bin``."""


def is_zip(head: bytes) -> bool:
    """Return whether these are the first bytes of a zip file."""
    return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_legacy(head: bytes) -> bool:
    """Return whether these are the first bytes of a legacy file, or of a bare pickle."""
    if head[4:9] == b"\0\0\0\0{":
        return False  # the header length of a safetensors file
    if head.startswith(_MAGIC_TEXT):
        return True
    return _MAGIC_BYTES in head[:32] or (head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2)


def is_tar(head: bytes) -> bool:
    """Return whether these are the first bytes of a tar file of torch 0.1."""
    name = head[:100].rstrip(b"\0").removeprefix(b"./").rstrip(b"/")
    return head[257:262] == b"ustar" or (len(head) >= 500 and name in _TAR_MEMBERS)


def appearance(head: bytes) -> str:
    """Return what a file of no known format looks like, by its first bytes.

    >>> appearance(b"hello world\\n")
    "text that begins with 'hello world'"
    >>> appearance(b"\\x01\\xff")
    'bytes of an unknown format, which begin with 01 ff'
    """
    for pattern, what in _OTHERS:
        if pattern.match(head):
            return what
    text = head[:64].decode("utf-8", "replace")
    if len(head) > 64:
        text = text.rstrip("\ufffd")  # the cut may be within a character
    if text and all(c in "\t\r\n" or (c.isprintable() and c != "\ufffd") for c in text):
        return f"text that begins with {(text.strip() or text)[:40].splitlines()[0]!r}"
    return f"bytes of an unknown format, which begin with {head[:16].hex(' ')}"
