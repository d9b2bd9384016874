"""The msgpack wire format itself: decoding from a file by position, and encoding heads.

Decoders of the msgpack library need an entire value in memory. `Cursor` reads a small window at a time and
skips tensor bytes by their length, so that indexing costs only what the names cost. The encoders return
heads without the bytes that follow, so that tensors can be streamed after them.
"""

from __future__ import annotations

import struct
from typing import Literal

from bridge_core import LimitExceeded, MalformedFile, SourceFile, TruncatedFile

__all__ = [
    "CHUNKED",
    "MAX_DEPTH",
    "MAX_METADATA",
    "MAX_NAME",
    "MAX_RANK",
    "ROOT_METADATA",
    "Cursor",
    "Kind",
    "Meter",
    "array_head",
    "bin_head",
    "ext_head",
    "integer",
    "map_head",
    "text",
]

CHUNKED = "__msgpack_chunked_array__"
"""Flax's mark of a map that represents one array cut into flat chunks."""
ROOT_METADATA = "__ckptbridge__"
"""Entry of the root that holds the metadata of ckptbridge in a file without tensors."""
MAX_METADATA = 64 << 20
"""Most bytes of ckptbridge's metadata in a file."""
MAX_RANK = 32
"""Most axes of an array; every supported numpy has as many."""
MAX_DEPTH = 500
"""Most levels of nested maps; a model has a few dozen."""
MAX_NAME = 1 << 16
"""Most bytes of one name in a tree."""
_CHUNK_DEPTH = 2  # a chunked leaf is a map of maps
_MAX_ENTRIES = 1 << 22
_MAX_PARTS = 1 << 26
_SMALL_WINDOW = 4 << 10
_LARGE_WINDOW = 256 << 10

Kind = Literal["nil", "bool", "int", "float", "str", "bin", "ext", "array", "map"]

_HEADS: dict[int, tuple[Kind, struct.Struct]] = {
    0xC4: ("bin", struct.Struct(">B")),
    0xC5: ("bin", struct.Struct(">H")),
    0xC6: ("bin", struct.Struct(">I")),
    0xC7: ("ext", struct.Struct(">B")),
    0xC8: ("ext", struct.Struct(">H")),
    0xC9: ("ext", struct.Struct(">I")),
    0xCA: ("float", struct.Struct(">f")),
    0xCB: ("float", struct.Struct(">d")),
    0xCC: ("int", struct.Struct(">B")),
    0xCD: ("int", struct.Struct(">H")),
    0xCE: ("int", struct.Struct(">I")),
    0xCF: ("int", struct.Struct(">Q")),
    0xD0: ("int", struct.Struct(">b")),
    0xD1: ("int", struct.Struct(">h")),
    0xD2: ("int", struct.Struct(">i")),
    0xD3: ("int", struct.Struct(">q")),
    0xD9: ("str", struct.Struct(">B")),
    0xDA: ("str", struct.Struct(">H")),
    0xDB: ("str", struct.Struct(">I")),
    0xDC: ("array", struct.Struct(">H")),
    0xDD: ("array", struct.Struct(">I")),
    0xDE: ("map", struct.Struct(">H")),
    0xDF: ("map", struct.Struct(">I")),
}


class Cursor:
    """A position in a msgpack file; it decodes one head at a time and reads ahead at most 256 KiB.

    Args:
        file: The open file.
    """

    def __init__(self, file: SourceFile) -> None:
        """Begin at the start of the file."""
        self._file = file
        self._base = 0
        self._data = b""
        self._at = 0
        self._window = _SMALL_WINDOW

    @property
    def position(self) -> int:
        """Offset of the next byte in the file."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes between the position and the end of the file."""
        return self._file.size - self._base - self._at

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes and step over them.

        Raises:
            TruncatedFile: The file ends first.
        """
        end = self._at + nbytes
        if end > len(self._data):
            self._load(nbytes)
            end = nbytes
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def peek(self, nbytes: int) -> bytes:
        """Return the next bytes and stay before them.

        Raises:
            TruncatedFile: The file ends first.
        """
        data = self.take(nbytes)
        self._at -= nbytes
        return data

    def skip(self, nbytes: int) -> None:
        """Step over bytes without reading them.

        Raises:
            TruncatedFile: The file ends first.
        """
        self.require(nbytes)
        self._at += nbytes

    def require(self, nbytes: int) -> None:
        """Check that at least this many bytes are left.

        Raises:
            TruncatedFile: The file ends first.
        """
        if nbytes > self.left:
            raise TruncatedFile(
                f"the file is truncated: the value at byte {self.position} needs {nbytes} bytes, but only "
                f"{self.left} bytes are left.",
                path=self._file.name,
                hint="Copy or download the file again.",
            )

    def head(self) -> tuple[Kind, int | float]:
        """Decode one head.

        Returns:
            The kind, and: the value itself of an ``int``, ``float`` or ``bool``; the bytes that follow for
            ``str`` and ``bin``; those that follow the type code for ``ext``; the number of entries for
            ``array`` and ``map``; zero for ``nil``.

        Raises:
            TruncatedFile: The file ends first.
            MalformedFile: No value starts with this byte.
            LimitExceeded: A map or array declares more entries than any checkpoint has.
        """
        if self._at >= len(self._data):
            self._load(1)
        byte = self._data[self._at]
        self._at += 1
        if byte < 0x80:
            return "int", byte
        if byte >= 0xE0:
            return "int", byte - 0x100
        if 0xA0 <= byte < 0xC0:
            return "str", byte & 0x1F
        if byte < 0xA0:
            entries = byte & 0x0F
            return self._container("map" if byte < 0x90 else "array", entries)
        known = _HEADS.get(byte)
        if known is None:
            return self._fixed(byte)
        kind, form = known
        (value,) = form.unpack(self.take(form.size))
        return self._container(kind, value) if kind in ("array", "map") else (kind, value)

    def _fixed(self, byte: int) -> tuple[Kind, int | float]:
        if byte == 0xC0:
            return "nil", 0
        if byte == 0xC1:
            raise MalformedFile(
                f"expected a msgpack value at byte {self.position - 1}, got 0xc1, which starts none.",
                path=self._file.name,
            )
        if byte in (0xC2, 0xC3):
            return "bool", byte & 1
        return "ext", 1 << (byte - 0xD4)

    def _container(self, kind: Kind, entries: int) -> tuple[Kind, int]:
        if entries > _MAX_ENTRIES:
            raise LimitExceeded(
                f"the {kind} before byte {self.position} declares {entries} entries; at most {_MAX_ENTRIES} "
                "are read.",
                path=self._file.name,
            )
        self.require(entries * 2 if kind == "map" else entries)
        return kind, entries

    def _load(self, nbytes: int) -> None:
        """Read a new window: a small one after a jump, ever larger ones while values follow each other."""
        self.require(nbytes)
        followed = self._at <= len(self._data)
        self._window = min(self._window * 2, _LARGE_WINDOW) if followed else _SMALL_WINDOW
        position = self.position
        self._data = self._file.read(position, min(self.left, max(nbytes, self._window)))
        self._base, self._at = position, 0


class Meter:
    """Counts the entries of a tree and the parts of their keys, with the same limits for reading and writing.

    Args:
        path: The file, for errors.
    """

    def __init__(self, path: str) -> None:
        """Start with no entries."""
        self._path = path
        self._entries = 0
        self._parts = 0

    def enter(self, depth: int) -> None:
        """Count one entry whose key has ``depth`` parts.

        Raises:
            LimitExceeded: The tree is too deep or too large.
        """
        self._entries += 1
        self._parts += depth
        if depth > MAX_DEPTH + _CHUNK_DEPTH:
            raise LimitExceeded(f"the tree is deeper than {MAX_DEPTH} levels.", path=self._path)
        if self._entries > _MAX_ENTRIES or self._parts > _MAX_PARTS:
            raise LimitExceeded(
                f"the tree has more than {_MAX_ENTRIES} entries, or its keys more than {_MAX_PARTS} parts.",
                path=self._path,
            )


def map_head(entries: int) -> bytes:
    """Return the head of a map."""
    return bytes([0x80 | entries]) if entries < 16 else _sized(entries, None, 0xDE, 0xDF)


def array_head(entries: int) -> bytes:
    """Return the head of an array."""
    return bytes([0x90 | entries]) if entries < 16 else _sized(entries, None, 0xDC, 0xDD)


def bin_head(nbytes: int) -> bytes:
    """Return the head of a byte string."""
    return _sized(nbytes, 0xC4, 0xC5, 0xC6)


def ext_head(code: int, nbytes: int) -> bytes:
    """Return the head of an extension value, type code included."""
    if nbytes in (1, 2, 4, 8, 16):
        return bytes([0xD4 + nbytes.bit_length() - 1, code])
    return _sized(nbytes, 0xC7, 0xC8, 0xC9) + bytes([code])


def text(value: str) -> bytes:
    """Return a complete string: its head and its UTF-8 bytes.

    Raises:
        UnicodeEncodeError: It holds a lone surrogate.
    """
    data = value.encode("utf-8")
    head = bytes([0xA0 | len(data)]) if len(data) < 32 else _sized(len(data), 0xD9, 0xDA, 0xDB)
    return head + data


def integer(value: int) -> bytes:
    """Return a whole number that is not negative."""
    if value < 0x80:
        return bytes([value])
    return _sized(value, 0xCC, 0xCD, 0xCE) if value < 1 << 32 else b"\xcf" + value.to_bytes(8, "big")


def _sized(value: int, one: int | None, two: int, four: int) -> bytes:
    """Return a code with the shortest size field that holds the value."""
    if one is not None and value < 1 << 8:
        return bytes([one, value])
    if value < 1 << 16:
        return bytes([two]) + value.to_bytes(2, "big")
    return bytes([four]) + value.to_bytes(4, "big")
