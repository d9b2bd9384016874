"""The index of a Flax msgpack file: the tree of names with a lazy tensor at each leaf; no value is read.

Flax packs arrays as extension values whose payload is a msgpack triple of its own: shape, dtype name,
bytes. A leaf above a size limit is a map of flat chunks instead. Both become tensors over byte ranges.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_core import (
    BridgeError,
    FileTensor,
    Key,
    KeyConflict,
    MalformedFile,
    SourceFile,
    TensorSpec,
    UnsupportedFeature,
)
from bridge_core.io import ByteSource
from bridge_core.state import MARKER, dtype_named
from bridge_flax.msgpack.wire import CHUNKED, MAX_NAME, MAX_RANK, Cursor, Kind, Meter

__all__ = ["ChunkSource", "Span", "scan"]

_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_MAX_DTYPE_NAME = 64
_LONGEST_HEAD = 64
_MAX_NBYTES = (1 << 63) - 1
_NO_MAP = "expected a map of names at the top of the file, got a single {}."
_BAD_NAME = "expected a string or an integer as the name of a map entry, got a value of {}."
_RENAME = "Rename the entry, and write the tree again."


@dataclass(frozen=True)
class Span:
    """The place in the file of a leaf that is not a tensor.

    Args:
        what: ``"string"`` or ``"bytes"``.
        offset: Its first byte in the file.
        nbytes: Its length in bytes.
    """

    what: str
    offset: int
    nbytes: int


class ChunkSource(ByteSource):
    """The chunks of one leaf as consecutive bytes; offsets begin at the first chunk's place in the file.

    Args:
        file: The open file.
        chunks: Flat tensors in that file, in order.
    """

    def __init__(self, file: SourceFile, chunks: Sequence[FileTensor]) -> None:
        self.name = file.name
        self.identity = file.identity
        self.is_remote = file.is_remote
        self._file = file
        self._offsets = [chunk.offset for chunk in chunks]
        sizes = (chunk.spec.nbytes for chunk in chunks)
        self._starts = [*itertools.accumulate(sizes, initial=self.start)]
        self.size = self._starts[-1]

    @property
    def start(self) -> int:
        """Offset of the first byte."""
        return self._offsets[0]

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer; chunks that it does not touch are not read."""
        view = memoryview(buffer).cast("B")
        ranges = []
        for at, nbytes in self._parts(offset, len(view)):
            ranges.append((at, view[:nbytes]))
            view = view[nbytes:]
        self._file.read_ranges(ranges)

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read soon."""
        for at, part in self._parts(offset, nbytes):
            self._file.prefetch(at, part)

    def _parts(self, offset: int, nbytes: int) -> Iterator[tuple[int, int]]:
        """Yield where in the file the parts of a range are, and their lengths."""
        stop = offset + nbytes
        while offset < stop:
            index = bisect_right(self._starts, offset) - 1
            length = min(stop, self._starts[index + 1]) - offset
            yield self._offsets[index] + offset - self._starts[index], length
            offset += length


class _Node(dict[str, Any]):
    """A map or array that is being read; its values are nodes, tensors, spans, Python numbers and None."""

    def __init__(self, kind: Kind, entries: int, name: str) -> None:
        super().__init__()
        self.kind = kind
        self.missing = entries
        self.name = name
        self.carried: Span | None = None


def scan(file: SourceFile) -> tuple[dict[Key, Any], tuple[Key, ...], tuple[Span, ...]]:
    """Index a file.

    Returns:
        Leaves by key in the order of the file (tensors, spans, numbers, None), the empty nodes, and the
        metadata texts of ckptbridge that chunked leaves contain.

    Raises:
        TruncatedFile: The file ends too early.
        MalformedFile: The file breaks msgpack's or Flax's rules.
        KeyConflict: Two entries of a map have the same name.
        LimitExceeded: The file declares too many entries or nests too deep.
        UnsupportedFeature: A dtype or rank is not supported.
    """
    scanner = _Scanner(file)
    try:
        root = scanner.read_root()
    except BridgeError as err:
        if err.key is None and scanner.stack:
            err.key = scanner.where
        if err.path is None:
            err.path = file.name
        raise
    leaves: dict[Key, Any] = {}
    empty: list[Key] = []
    pending: list[tuple[Key, Any]] = [((), root)]
    while pending:
        key, value = pending.pop()
        if not isinstance(value, _Node):
            leaves[key] = value
        elif value:
            pending.extend(((*key, name), value[name]) for name in reversed(value))
        elif key:
            empty.append(key)
    return leaves, tuple(empty), tuple(scanner.carried)


class _Scanner:
    """Reads one tree without recursion, so that a deep file cannot exhaust the stack."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._cursor = Cursor(file)
        self._meter = Meter(file.name)
        self._heads: dict[int, tuple[bytes, TensorSpec]] = {}
        self._name = ""
        self.stack: list[_Node] = []
        self.carried: list[Span] = []

    @property
    def where(self) -> Key:
        """Key of the entry that is being read."""
        names = tuple(node.name for node in self.stack[1:])
        return (*names, self._name) if self._name or not names else names

    def read_root(self) -> _Node:
        kind, entries = self._cursor.head()
        if kind != "map":
            raise self._bad(_NO_MAP.format(kind))
        root = _Node("map", int(entries), "")
        self.stack.append(root)
        while self.stack:
            node = self.stack[-1]
            if node.missing:
                self._read_entry(node)
            else:
                self._close(node)
        if self._cursor.left:
            raise self._bad(
                f"the tree ends at byte {self._cursor.position}, but {self._cursor.left} more bytes follow."
            )
        return root

    def _read_entry(self, node: _Node) -> None:
        node.missing -= 1
        self._meter.enter(len(self.stack))
        self._name = ""
        self._name = name = str(len(node)) if node.kind == "array" else self._read_name()
        if name in node:
            raise KeyConflict(
                f"two entries of one map are named {name!r}; an integer counts as its decimal text.",
                path=self._file.name,
                hint="Rename one of them, and write the file again.",
            )
        kind, value = self._cursor.head()
        if kind in ("map", "array"):
            node[name] = child = _Node(kind, int(value), name)
            self.stack.append(child)
        else:
            node[name] = self._read_leaf(kind, value)

    def _close(self, node: _Node) -> None:
        self._name = node.name
        self.stack.pop()
        if CHUNKED in node:
            if not self.stack:
                raise self._bad(_NO_MAP.format("array"))
            self.stack[-1][node.name] = self._join(node)

    def _read_name(self) -> str:
        kind, length = self._cursor.head()
        if kind == "int":
            return str(length)
        if kind == "ext":
            return str(self._read_number(int(length)))
        if kind != "str":
            raise self._bad(_BAD_NAME.format(f"type {kind}"), hint=_RENAME)
        if length > MAX_NAME:
            raise self._bad(
                f"expected at most {MAX_NAME} bytes as the name of a map entry, got {length} bytes at byte "
                f"{self._cursor.position}."
            )
        try:
            return self._cursor.take(int(length)).decode("utf-8")
        except UnicodeDecodeError as err:
            raise self._bad(f"the name of a map entry is not valid UTF-8: {err}.") from None

    def _read_number(self, length: int) -> int:
        """Read a numpy integer that names an entry."""
        value = self._read_extension(length)
        if not isinstance(value, FileTensor) or value.spec.shape or value.spec.dtype.kind not in "iu":
            raise self._bad(_BAD_NAME.format("an extension type"), hint=_RENAME)
        return int.from_bytes(
            self._file.read(value.offset, value.spec.nbytes), "little", signed=value.spec.dtype.kind == "i"
        )

    def _read_leaf(self, kind: Kind, value: float) -> Any:
        if kind == "ext":
            return self._read_extension(int(value))
        if kind in ("str", "bin"):
            span = Span("string" if kind == "str" else "bytes", self._cursor.position, int(value))
            self._cursor.skip(span.nbytes)
            return span
        if kind == "nil":
            return None
        return bool(value) if kind == "bool" else value

    def _read_extension(self, length: int) -> Any:
        (code,) = struct.unpack("b", self._cursor.take(1))
        self._cursor.require(length)
        end = self._cursor.position + length
        if code in (_NDARRAY, _SCALAR):
            return self._read_array(end)
        if code == _COMPLEX:
            return self._read_complex(end)
        raise self._bad(
            f"expected extension type 1 (array), 2 (complex) or 3 (scalar), got {code} before byte "
            f"{self._cursor.position}."
        )

    def _read_array(self, end: int) -> FileTensor:
        """Read an array; arrays of repeated layers begin with the same bytes and are parsed only once."""
        begin = self._cursor.position
        peeked = self._cursor.peek(min(end - begin, _LONGEST_HEAD))
        head, spec = self._heads.get(end - begin, (None, None))
        if head is not None and spec is not None and peeked.startswith(head):
            self._cursor.skip(end - begin)
            return FileTensor(self._file, begin + len(head), spec)
        tensor = self._parse_array(end)
        if tensor.offset - begin <= len(peeked):
            self._heads[end - begin] = (peeked[: tensor.offset - begin], tensor.spec)
        return tensor

    def _parse_array(self, end: int) -> FileTensor:
        self._expect("array", 3, end)
        kind, rank = self._cursor.head()
        if kind != "array":
            raise self._bad(f"expected an array as the shape, got a value of type {kind}.")
        if rank > MAX_RANK:
            raise self._too_many_axes(int(rank))
        shape = tuple(self._size(*self._cursor.head()) for _ in range(int(rank)))
        kind, length = self._cursor.head()
        if kind not in ("str", "bin"):
            raise self._bad(f"expected a string as the dtype, got a value of type {kind}.")
        spec = self._spec(shape, int(length), end)
        kind, nbytes = self._cursor.head()
        if kind not in ("str", "bin"):
            raise self._bad(f"expected bytes as the values, got a value of type {kind}.")
        offset = self._cursor.position
        if offset + nbytes != end:
            raise self._bad(f"the values end at byte {offset + int(nbytes)}, but their array at byte {end}.")
        if nbytes != spec.nbytes:
            raise self._bad(f"expected {spec.nbytes} bytes of values for {spec}, got {nbytes} bytes.")
        self._cursor.skip(int(nbytes))
        return FileTensor(self._file, offset, spec)

    def _spec(self, shape: tuple[int, ...], length: int, end: int) -> TensorSpec:
        if self._cursor.position + length > end:
            raise self._bad(f"the dtype's name of {length} bytes goes beyond its array's end at byte {end}.")
        name = self._cursor.take(min(length, _MAX_DTYPE_NAME + 1))
        spec = TensorSpec(shape, dtype_named(name.decode("utf-8", "replace")))
        self._check_size(spec)
        return spec

    def _read_complex(self, end: int) -> complex:
        self._expect("array", 2, end)
        parts = [self._cursor.head(), self._cursor.head()]
        if any(kind not in ("float", "int") for kind, _ in parts) or self._cursor.position != end:
            kinds = " and ".join(kind for kind, _ in parts)
            raise self._bad(f"expected two numbers as a complex value, got values of type {kinds}.")
        return complex(*(value for _, value in parts))

    def _expect(self, kind: Kind, entries: int, end: int) -> None:
        got, length = self._cursor.head() if self._cursor.position < end else ("nothing", 0)
        if (got, length) != (kind, entries):
            raise self._bad(f"expected an {kind} of {entries} values in the extension value, got {got}.")

    def _size(self, kind: str, value: float) -> int:
        if kind != "int" or value < 0:
            got = value if kind == "int" else f"a value of type {kind}"
            raise self._bad(f"expected sizes of axes in the shape, got {got}.")
        return int(value)

    def _check_size(self, spec: TensorSpec) -> None:
        extent = spec.dtype.itemsize
        for n in spec.shape:
            extent *= n or 1
        if extent > _MAX_NBYTES:
            raise self._bad(f"the shape {spec} is larger than any machine can address.")

    def _join(self, node: _Node) -> FileTensor:
        """Turn a map of chunks into one tensor."""
        carried = node.pop(MARKER, None)
        if carried is not None:
            if not isinstance(carried, Span) or carried.what != "string":
                raise self._bad(f"expected a string in the entry {MARKER!r}, got {_kind_of(carried)}.")
            self.carried.append(carried)
        if node[CHUNKED] is not True or set(node) != {CHUNKED, "shape", "chunks"}:
            raise self._bad(
                f"expected the entries {CHUNKED!r} (true), 'shape' and 'chunks' in a chunked array, got "
                f"{len(node)} entries: {', '.join(map(repr, [*node][:5]))}."
            )
        sizes = self._numbered(node["shape"], "shape")
        chunks = self._numbered(node["chunks"], "chunks")
        if len(sizes) > MAX_RANK:
            raise self._too_many_axes(len(sizes))
        shape = tuple(self._size("int" if type(n) is int else _kind_of(n), n) for n in sizes)
        if not chunks or not all(isinstance(c, FileTensor) and len(c.spec.shape) == 1 for c in chunks):
            kinds = ", ".join(map(_kind_of, chunks[:5])) or "none"
            raise self._bad(f"expected arrays of one axis as chunks, got {len(chunks)}: {kinds}.")
        dtype = chunks[0].spec.dtype
        spec = TensorSpec(shape, dtype)
        self._check_size(spec)
        for index, chunk in enumerate(chunks):
            if chunk.spec.dtype != dtype:
                raise self._bad(f"expected {dtype.name} in every chunk, got {chunk.spec} in chunk {index}.")
        held = sum(chunk.spec.size for chunk in chunks)
        if held != spec.size:
            raise self._bad(f"expected {spec.size} elements for {spec}, got {held} in the chunks.")
        if len(chunks) == 1:
            return FileTensor(self._file, chunks[0].offset, spec)
        source = ChunkSource(self._file, chunks)
        return FileTensor(source, source.start, spec)

    def _numbered(self, value: Any, what: str) -> list[Any]:
        """Return the values of a map that Flax writes for a tuple."""
        if isinstance(value, _Node) and value.kind == "map":
            if all(str(i) in value for i in range(len(value))):
                return [value[str(i)] for i in range(len(value))]
            got = f"the names {', '.join(map(repr, [*value][:5]))}"
        else:
            got = f"a value of type {_kind_of(value)}"
        raise self._bad(f"expected a map with the names '0', '1' and so on as {what!r}, got {got}.")

    def _bad(self, problem: str, *, hint: str | None = None) -> MalformedFile:
        return MalformedFile(problem, path=self._file.name, hint=hint)

    def _too_many_axes(self, rank: int) -> UnsupportedFeature:
        return UnsupportedFeature(
            f"the array has {rank} axes; at most {MAX_RANK} are supported.", path=self._file.name
        )


def _kind_of(value: Any) -> str:
    """Return the word for a value in an error."""
    match value:
        case _Node():
            return value.kind
        case FileTensor():
            return "array" if value.spec.shape else "numpy scalar"
        case Span():
            return value.what
        case None:
            return "nil"
    return type(value).__name__
