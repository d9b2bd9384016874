"""What a file looks like that is not of a known format, by its first bytes."""

from __future__ import annotations

import codecs

from bridge_core.io import SourceFile

__all__ = ["describe_foreign", "is_index"]

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a git-lfs pointer, not weights; fetch the file itself with 'git lfs pull'",
    ),
    (0, b"GGUF", "a GGUF file, which no installed format reads"),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file; 'pip install ckptbridge-hdf5' adds a format for these",
    ),
    (0, b"\x93NUMPY", "a single numpy array (.npy)"),
    (0, b"\x1f\x8b", "a gzip file; decompress it first"),
    (0, b"BZh", "a bzip2 file; decompress it first"),
    (0, b"\xfd7zXZ\0", "an xz file; decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file; decompress it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (0, b"PAR1", "a Parquet file"),
    (
        0,
        b"\x00\x05\x16\x07",
        "an AppleDouble file of macOS, not weights; give the file without '._' in its name",
    ),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"{", "JSON text, not weights"),
)

_CONTAINERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, but not one that an installed format reads"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"\x80", "a pickle; load it with the program that wrote it, and save only its weights"),
)
"""Files that may hold weights of a known format."""

_TABLE_END = bytes.fromhex("57fb808b247547db")
"""Ends the ``.index`` file of a TensorFlow checkpoint."""


_SHOWN = 40
"""Characters of a text that a message shows."""

_SHORTEST_TEXT = 8
"""Bytes; a shorter file may be any file that was cut off."""


def describe_foreign(file: SourceFile, *, containers: bool = False, text: bool = False) -> str | None:
    """Return what a file of another format looks like, as "a web page"; None if unknown.

    Args:
        file: The file.
        containers: Whether archives and pickles, which may be of a known format, are described as well.
        text: Whether plain text is described as well.
    """
    head = file.read(0, min(512, file.size))
    if head and not any(head):
        return _zeros(file)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML or XML), not weights; the download failed, or needs a login"
    if file.size >= 8 and file.read(file.size - 8, 8) == _TABLE_END:
        return "the index of a TensorFlow checkpoint, which no installed format reads"
    for offset, magic, what in (*_FOREIGN, *(_CONTAINERS if containers else ())):
        if head[offset:].startswith(magic):
            return what
    return _described_text(head) if text and file.size >= _SHORTEST_TEXT else None


def _described_text(head: bytes) -> str | None:
    """Describe a text by its first bytes; None if they are not printable UTF-8."""
    try:
        shown = codecs.getincrementaldecoder("utf-8-sig")().decode(head).strip()
    except UnicodeDecodeError:
        return None
    if not shown or not all(character.isprintable() or character in "\t\r\n" for character in shown):
        return None
    line = shown.splitlines()[0]
    line = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    return f"a text file that begins with {line!r}, not weights; a failed download may leave such a file"


def _zeros(file: SourceFile) -> str:
    """Describe a file that begins with zero bytes; of a large one only some blocks are read."""
    block = 1 << 16
    last = max(file.size - block, 0)
    places = sorted({last * part // 16 for part in range(17)})
    if any(any(file.read(place, min(block, file.size - place))) for place in places):
        return "a file that begins with zero bytes, as an unfinished download may; download it again"
    return "a file of zero bytes only, as an unfinished download leaves it; download it again"


def is_index(file: SourceFile) -> bool:
    """Return whether the content is JSON, as that of every index is."""
    head = file.read(0, min(64, file.size)).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"{") and b"\0" not in head
