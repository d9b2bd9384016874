"""The msgpack wire format itself: decoding from a file by position, and encoding heads.

Decoders of the msgpack library want the whole value in memory. The cursor here reads a small window at
a time and steps over tensor bytes by their length, so that indexing costs what the names cost. The
encoders give heads without the bytes that follow, so that tensors can be streamed behind them.
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
"""Flax's mark of a map that stands for one array cut into flat chunks."""
ROOT_METADATA = "__ckptbridge__"
"""Entry of the root that holds the bridge's metadata where no tensor can carry it."""
MAX_METADATA = 64 << 20
"""Bytes of the bridge's own metadata in a file."""
MAX_RANK = 32
"""Axes that every supported numpy can hold."""
MAX_DEPTH = 500
"""Nested maps; a model has a few dozen."""
MAX_NAME = 1 << 16
"""Bytes of one name in a tree."""
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
    """A position in a msgpack file; decodes one head at a time and never reads ahead far.

    Args:
        file: The open file.
    """

    def __init__(self, file: SourceFile) -> None:
        """Stand at the start of the file."""
        self._file = file
        self._base = 0
        self._data = b""
        self._at = 0
        self._window = _SMALL_WINDOW

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self._base + self._at

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
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
        found = self.take(nbytes)
        self._at -= nbytes
        return found

    def skip(self, nbytes: int) -> None:
        """Step over bytes without reading them.

        Raises:
            TruncatedFile: The file ends first.
        """
        self.require(nbytes)
        self._at += nbytes

    def require(self, nbytes: int) -> None:
        """Check that so many bytes are left.

        Raises:
            TruncatedFile: The file ends first.
        """
        if nbytes > self.left:
            raise TruncatedFile(
                f"ends too early: a value at byte {self.position} needs {nbytes} bytes, "
                f"{self.left} are left.",
                path=self._file.name,
            )

    def head(self) -> tuple[Kind, int | float]:
        """Decode one head.

        Returns:
            The kind, and: the value itself of an ``int``, ``float`` or ``bool``; the bytes that follow for
            ``str`` and ``bin``; those that follow the type code for ``ext``; the number of entries for
            ``array`` and ``map``; zero for ``nil``.

        Raises:
            TruncatedFile: The file ends first.
            MalformedFile: The byte starts no value.
            LimitExceeded: More entries are claimed than any checkpoint has.
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
                f"byte {self.position - 1} is 0xc1, which starts no msgpack value.", path=self._file.name
            )
        if byte in (0xC2, 0xC3):
            return "bool", byte & 1
        return "ext", 1 << (byte - 0xD4)

    def _container(self, kind: Kind, entries: int) -> tuple[Kind, int]:
        if entries > _MAX_ENTRIES:
            raise LimitExceeded(
                f"claims {entries} entries at byte {self.position}; at most {_MAX_ENTRIES} are read.",
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
    """Counts what a tree costs in memory, the same for reading and for writing.

    Args:
        path: The file, for errors.
    """

    def __init__(self, path: str) -> None:
        """Start at nothing."""
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
            raise LimitExceeded(f"nests deeper than {MAX_DEPTH} levels.", path=self._path)
        if self._entries > _MAX_ENTRIES or self._parts > _MAX_PARTS:
            raise LimitExceeded(
                f"has more than {_MAX_ENTRIES} entries, or more than {_MAX_PARTS} parts in its keys.",
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
    """Return a whole string.

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
