"""What our HDF5 files hold beside plain HDF5: a guard and an index, both covered by SHA-256.

libhdf5 can crash, hang or run filters on a damaged or hostile file, so it never parses one here. The guard,
in the user block that HDF5 leaves to applications, proves the index; the index places every
tensor and proves its blocks and the rest of the file. Other programs see an ordinary HDF5 file.

    guard   bytes 0 to 511: magic, place of the index, file size, SHA-256 of the index, SHA-256 of these
    index   dataset /ckptbridge, uint8, JSON
    tensor  dataset /t/000123, contiguous
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import (
    BridgeError,
    IntegrityError,
    Key,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TensorSpec,
    TruncatedFile,
    UnsupportedFeature,
)
from bridge_core.io import parse_json
from bridge_core.state import dtype_named

__all__ = ["BLOCK", "Entry", "Guard", "Index", "MAX_RANK", "USER_BLOCK", "gaps", "structure_digest"]

USER_BLOCK = 512
"""Bytes before the HDF5 superblock."""
BLOCK = 256 << 10
"""Tensors carry one SHA-256 for each block of this many bytes."""
MAX_RANK = 32
"""Axes that HDF5 allows."""

_VERSION = 1
_MAX_INDEX = 100_000_000
_DIGEST = hashlib.sha256().digest_size
_MAGIC = b"ckptbridge-hdf5\n"
_GUARD = struct.Struct("<16sQQQ32s")


@dataclass(frozen=True)
class Guard:
    """The first bytes of the file.

    Args:
        index_offset: Where the index stands.
        index_size: Its bytes.
        file_size: Bytes of the whole file.
        index_digest: SHA-256 of the index.
    """

    index_offset: int
    index_size: int
    file_size: int
    index_digest: bytes

    def pack(self) -> bytes:
        """Return the whole user block."""
        head = _GUARD.pack(_MAGIC, self.index_offset, self.index_size, self.file_size, self.index_digest)
        return (head + hashlib.sha256(head).digest()).ljust(USER_BLOCK, b"\0")

    @classmethod
    def read(cls, file: SourceFile) -> Guard | None:
        """Read and prove the guard; None where the file does not begin with ours.

        Raises:
            IntegrityError: It is damaged.
            TruncatedFile: The file ends within it.
        """
        head = file.read(0, min(len(_MAGIC), file.size))
        if head != _MAGIC:
            if _MAGIC.startswith(head):
                raise TruncatedFile(f"ends after {file.size} bytes.", path=file.name)
            return None
        data = file.read(0, USER_BLOCK)
        _, offset, size, file_size, digest = _GUARD.unpack_from(data)
        guard = cls(offset, size, file_size, digest)
        if guard.pack() != data:
            raise IntegrityError("its guard (bytes 0 to 511) differs from its SHA-256.", path=file.name)
        return guard

    def read_index(self, file: SourceFile) -> bytes:
        """Read and prove the index.

        Raises:
            TruncatedFile: The file is shorter than the guard says.
            MalformedFile: The index would stand outside the file.
            LimitExceeded: It is too large to be one.
            IntegrityError: It is damaged.
        """
        if file.size < self.file_size:
            raise TruncatedFile(
                f"is {file.size} bytes long; its guard says {self.file_size}.", path=file.name
            )
        if self.index_size > _MAX_INDEX:
            raise LimitExceeded(
                f"its index has {self.index_size} bytes; at most {_MAX_INDEX} are read.", path=file.name
            )
        if self.index_offset < USER_BLOCK or self.index_offset + self.index_size > self.file_size:
            raise MalformedFile("its guard places the index outside the file.", path=file.name)
        data = file.read(self.index_offset, self.index_size)
        if hashlib.sha256(data).digest() != self.index_digest:
            raise IntegrityError("its index (/ckptbridge) differs from its SHA-256.", path=file.name)
        return data


@dataclass(frozen=True)
class Entry:
    """One stored tensor.

    Args:
        spec: Shape and dtype.
        offset: Its first byte in the file; 0 where it has none.
        digests: SHA-256 of each of its blocks, joined.
    """

    spec: TensorSpec
    offset: int
    digests: bytes

    @classmethod
    def blank(cls, specs: Iterable[TensorSpec]) -> list[Entry]:
        """Return entries of the right size for tensors that have no place and no digests yet.

        Raises:
            LimitExceeded: Their digests alone would overflow the index.
        """
        entries: list[Entry] = []
        room = _MAX_INDEX // 2
        for spec in specs:
            size = cls.digests_size(spec)
            room -= size
            if room < 0:
                raise _too_large(f"more than {_MAX_INDEX}")
            entries.append(cls(spec, 0, bytes(size)))
        return entries

    @staticmethod
    def digests_size(spec: TensorSpec) -> int:
        """Return how many bytes the digests of such a tensor take."""
        return -(-spec.nbytes // BLOCK) * _DIGEST

    def digest(self, block: int) -> bytes:
        """Return the SHA-256 of one block."""
        return self.digests[block * _DIGEST : (block + 1) * _DIGEST]


@dataclass(frozen=True)
class Index:
    """Everything about a file but its values.

    Args:
        entries: The stored tensors, ``/t/000000`` first.
        keys: Key -> number of its tensor; tied keys share one.
        structure: SHA-256 of all bytes that are no guard, index or tensor.
        metadata: The text of the bridge's metadata.
        extra: Strings for the file's own readers.
    """

    entries: tuple[Entry, ...]
    keys: Mapping[Key, int]
    structure: bytes
    metadata: str
    extra: Mapping[str, str]

    def encode(self) -> bytes:
        """Return the JSON; its length does not depend on digests.

        Raises:
            LimitExceeded: It would be longer than a reader accepts.
        """
        document = {
            "version": _VERSION,
            "block": BLOCK,
            "structure": self.structure.hex(),
            "metadata": self.metadata,
            "extra": dict(self.extra),
            "keys": [[list(key), number] for key, number in self.keys.items()],
            "tensors": [
                {
                    "path": f"/t/{number:06d}",
                    "dtype": entry.spec.dtype.name,
                    "shape": list(entry.spec.shape),
                    "offset": entry.offset,
                    "sha256": entry.digests.hex(),
                }
                for number, entry in enumerate(self.entries)
            ],
        }
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        if len(data) > _MAX_INDEX:
            raise _too_large(str(len(data)))
        return data

    @classmethod
    def decode(cls, data: bytes, file: SourceFile) -> Index:
        """Read what `encode` wrote.

        Raises:
            MalformedFile: A field is missing, of another type, or contradicts another.
            KeyConflict: A key stands twice.
            UnsupportedFeature: A newer version, or a dtype that is not known.
        """
        document = parse_json(data, path=file.name, what="its index (/ckptbridge)")
        if document.get("version") != _VERSION or document.get("block") != BLOCK:
            raise UnsupportedFeature(
                f"its index has version {document.get('version')!r}; this plugin reads {_VERSION}.",
                path=file.name,
                hint="Use a newer ckptbridge-hdf5.",
            )
        try:
            entries = tuple(_entry(item, number) for number, item in enumerate(document["tensors"]))
            return cls(
                entries,
                _keys(document["keys"], len(entries), file),
                bytes.fromhex(document["structure"]),
                _is(document["metadata"], str),
                {_is(k, str): _is(v, str) for k, v in document["extra"].items()},
            )
        except UnsupportedFeature as err:
            raise UnsupportedFeature(err.message, path=file.name, hint=err.hint) from None
        except BridgeError:
            raise
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as err:
            raise MalformedFile(f"its index (/ckptbridge) is damaged: {err!r}.", path=file.name) from err


def _too_large(size: str) -> LimitExceeded:
    return LimitExceeded(
        f"the index of these tensors would have {size} bytes; at most {_MAX_INDEX} are stored.",
        hint="Write several files with --max-shard-size.",
    )


def _entry(item: Any, number: int) -> Entry:
    shape = tuple(_is(n, int) for n in item["shape"])
    spec = TensorSpec(shape, dtype_named(_is(item["dtype"], str)))
    entry = Entry(spec, _is(item["offset"], int), bytes.fromhex(item["sha256"]))
    room = spec.dtype.itemsize
    for n in shape:
        room *= max(1, n)
    if any(n < 0 for n in shape) or len(shape) > MAX_RANK or room >= 1 << 62:
        raise ValueError(f"/t/{number:06d} has the impossible shape {shape}")
    if len(entry.digests) != Entry.digests_size(spec):
        raise ValueError(f"/t/{number:06d} has {len(entry.digests)} bytes of SHA-256 for {spec}")
    return entry


def _keys(items: Any, count: int, file: SourceFile) -> dict[Key, int]:
    keys: dict[Key, int] = {}
    for parts, number in items:
        key = tuple(_is(part, str) for part in parts)
        if key in keys:
            raise KeyConflict("stands twice in the index (/ckptbridge).", path=file.name, key=key)
        if not 0 <= _is(number, int) < count:
            raise ValueError(f"key {key!r} names tensor {number} of {count}")
        "".join(key).encode()
        keys[key] = number
    if len(set(keys.values())) != count:
        raise ValueError("a tensor has no key")
    return keys


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def gaps(guard: Guard, entries: Iterable[Entry], path: str) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` of everything that is no guard, index or tensor.

    Raises:
        MalformedFile: Two of them overlap, or one leaves the file.
    """
    position = USER_BLOCK
    taken = [(entry.offset, entry.spec.nbytes) for entry in entries if entry.spec.nbytes]
    for offset, nbytes in sorted([*taken, (guard.index_offset, guard.index_size)]):
        if offset < position or offset + nbytes > guard.file_size:
            raise MalformedFile(
                f"its index gives bytes {offset} to {offset + nbytes} to a tensor; they overlap "
                "something else or leave the file.",
                path=path,
            )
        if offset > position:
            yield position, offset
        position = offset + nbytes
    if position < guard.file_size:
        yield position, guard.file_size


def structure_digest(pieces: Iterable[bytes]) -> bytes:
    """Return the SHA-256 of the gaps' bytes."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
