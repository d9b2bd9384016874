"""The guard and the index, which the HDF5 files of ckptbridge have in addition to plain HDF5.

libhdf5 can crash, hang or run filters on a damaged or hostile file, so files are read without it. The guard,
in the user block that HDF5 leaves to applications, has the SHA-256 of the index; the index has the place of
every tensor and the SHA-256 of its blocks and of the rest of the file. Other programs see an ordinary HDF5
file.

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
    join_key,
)
from bridge_core.io import parse_json
from bridge_core.state import dtype_named

__all__ = [
    "BLOCK",
    "COPY_AGAIN",
    "Entry",
    "Guard",
    "Index",
    "MAX_RANK",
    "USER_BLOCK",
    "dataset_path",
    "gaps",
    "structure_digest",
]

USER_BLOCK = 512
"""Bytes before the HDF5 superblock."""
BLOCK = 256 << 10
"""Tensors carry one SHA-256 for each block of this many bytes."""
MAX_RANK = 32
"""Most axes of a dataset that HDF5 allows."""

COPY_AGAIN = "Copy or download the file again."
"""Hint for a file that was damaged on its way."""

_VERSION = 1
_MAX_INDEX = 100_000_000
_DIGEST = hashlib.sha256().digest_size
_MAGIC = b"ckptbridge-hdf5\n"
_GUARD = struct.Struct("<16sQQQ32s")


@dataclass(frozen=True)
class Guard:
    """The first bytes of the file.

    Args:
        index_offset: First byte of the index in the file.
        index_size: Bytes of the index.
        file_size: Bytes of the complete file.
        index_digest: SHA-256 of the index.
    """

    index_offset: int
    index_size: int
    file_size: int
    index_digest: bytes

    def pack(self) -> bytes:
        """Return the complete user block: the fields, their SHA-256, and zeros."""
        head = _GUARD.pack(_MAGIC, self.index_offset, self.index_size, self.file_size, self.index_digest)
        return (head + hashlib.sha256(head).digest()).ljust(USER_BLOCK, b"\0")

    @classmethod
    def read(cls, file: SourceFile) -> Guard | None:
        """Read and verify the guard; return None for a file that does not begin with one.

        Raises:
            IntegrityError: The guard is damaged.
            TruncatedFile: The file ends within the guard.
        """
        head = file.read(0, min(len(_MAGIC), file.size))
        if head != _MAGIC:
            if _MAGIC.startswith(head):
                raise TruncatedFile(
                    f"the file is {file.size} bytes and ends within its guard (bytes 0 to 511).",
                    path=file.name,
                    hint=COPY_AGAIN,
                )
            return None
        data = file.read(0, USER_BLOCK)
        _, offset, size, file_size, digest = _GUARD.unpack_from(data)
        guard = cls(offset, size, file_size, digest)
        if guard.pack() != data:
            raise IntegrityError(
                "the guard (bytes 0 to 511) differs from its SHA-256: the file is damaged.",
                path=file.name,
                hint=COPY_AGAIN,
            )
        return guard

    def read_index(self, file: SourceFile) -> bytes:
        """Read and verify the index.

        Raises:
            TruncatedFile: The file is shorter than the guard states.
            MalformedFile: The guard places the index outside of the file.
            LimitExceeded: The index is larger than any that is written.
            IntegrityError: The index is damaged.
        """
        if file.size < self.file_size:
            raise TruncatedFile(
                f"expected {self.file_size} bytes, as the guard states, got {file.size} bytes.",
                path=file.name,
                hint=COPY_AGAIN,
            )
        start, stop = self.index_offset, self.index_offset + self.index_size
        if self.index_size > _MAX_INDEX:
            raise LimitExceeded(
                f"the index (/ckptbridge) is {self.index_size} bytes; at most {_MAX_INDEX} bytes are read.",
                path=file.name,
            )
        if start < USER_BLOCK or stop > self.file_size:
            raise MalformedFile(
                f"the guard places the index (/ckptbridge) at bytes {start} to {stop - 1}, outside of bytes "
                f"{USER_BLOCK} to {self.file_size - 1}.",
                path=file.name,
            )
        data = file.read(self.index_offset, self.index_size)
        if hashlib.sha256(data).digest() != self.index_digest:
            raise IntegrityError(
                f"the index (dataset /ckptbridge), bytes {start} to {stop - 1} of the file, differs from its "
                "SHA-256: the file is damaged.",
                path=file.name,
                hint=COPY_AGAIN,
            )
        return data


@dataclass(frozen=True)
class Entry:
    """One stored tensor.

    Args:
        spec: Shape and dtype.
        offset: Its first byte in the file; 0 for a tensor without elements.
        digests: SHA-256 of each of its blocks, concatenated.
    """

    spec: TensorSpec
    offset: int
    digests: bytes

    @classmethod
    def blank(cls, specs: Iterable[TensorSpec]) -> list[Entry]:
        """Return entries of the right size for tensors that have no place and no digests yet.

        Raises:
            LimitExceeded: The digests would be larger than the index may be.
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
        structure: SHA-256 of all bytes outside of the guard, the index and the tensors.
        metadata: The metadata of ckptbridge as JSON text.
        extra: Strings for the file's own readers.
    """

    entries: tuple[Entry, ...]
    keys: Mapping[Key, int]
    structure: bytes
    metadata: str
    extra: Mapping[str, str]

    def encode(self) -> bytes:
        """Return the JSON; its length does not depend on the digests' values.

        Raises:
            LimitExceeded: The JSON would be longer than the reader accepts.
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
                    "path": dataset_path(number),
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
            KeyConflict: A key appears twice.
            UnsupportedFeature: The version or the block size is not supported, or a dtype is unknown.
        """
        document = parse_json(data, path=file.name, what="the index (/ckptbridge)")
        version, block = document.get("version"), document.get("block")
        if version != _VERSION or block != BLOCK:
            raise UnsupportedFeature(
                f"expected an index (/ckptbridge) of version {_VERSION} with blocks of {BLOCK} bytes, got "
                f"version {version!r} with blocks of {block!r} bytes.",
                path=file.name,
                hint="Run: pip install --upgrade ckptbridge-hdf5",
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
        except KeyError as err:
            raise MalformedFile(f"the index (/ckptbridge) has no field {err}.", path=file.name) from err
        except (AttributeError, OverflowError, TypeError, ValueError) as err:
            raise MalformedFile(f"the index (/ckptbridge) is malformed: {err}.", path=file.name) from err


def _too_large(size: str) -> LimitExceeded:
    return LimitExceeded(
        f"the index of these tensors would be {size} bytes; at most {_MAX_INDEX} bytes are stored.",
        hint='Pass max_shard_size="5GB" (--max-shard-size 5GB) to write several files.',
    )


def dataset_path(number: int) -> str:
    """Return the path of a tensor's dataset in the file.

    >>> dataset_path(12)
    '/t/000012'
    """
    return f"/t/{number:06d}"


def _entry(item: Any, number: int) -> Entry:
    shape = tuple(_is(n, int) for n in item["shape"])
    spec = TensorSpec(shape, dtype_named(_is(item["dtype"], str)))
    entry = Entry(spec, _is(item["offset"], int), bytes.fromhex(item["sha256"]))
    room = spec.dtype.itemsize
    for n in shape:
        room *= max(1, n)
    if any(n < 0 for n in shape) or len(shape) > MAX_RANK or room >= 1 << 62:
        raise ValueError(f"dataset {dataset_path(number)} has the impossible shape {list(shape)}")
    if len(entry.digests) != (size := Entry.digests_size(spec)):
        raise ValueError(
            f"expected {size} bytes of SHA-256 for dataset {dataset_path(number)} ({spec}), got "
            f"{len(entry.digests)} bytes"
        )
    return entry


def _keys(items: Any, count: int, file: SourceFile) -> dict[Key, int]:
    keys: dict[Key, int] = {}
    for parts, number in items:
        key = tuple(_is(part, str) for part in parts)
        if key in keys:
            raise KeyConflict("the key appears twice in the index (/ckptbridge).", path=file.name, key=key)
        if not 0 <= _is(number, int) < count:
            raise ValueError(f"key {join_key(key)!r} refers to tensor {number}, and there are {count}")
        "".join(key).encode()
        keys[key] = number
    if without_key := set(range(count)).difference(keys.values()):
        raise ValueError(f"dataset {dataset_path(min(without_key))} has no key")
    return keys


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r:.80}")
    return value


def gaps(guard: Guard, entries: Iterable[Entry], path: str) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` of all bytes outside of the guard, the index and the tensors.

    Raises:
        MalformedFile: Two of them overlap, or one extends beyond the file.
    """
    position = USER_BLOCK
    taken = [
        (entry.offset, entry.spec.nbytes, dataset_path(number))
        for number, entry in enumerate(entries)
        if entry.spec.nbytes
    ]
    for offset, nbytes, name in sorted([*taken, (guard.index_offset, guard.index_size, "/ckptbridge")]):
        if offset < position or offset + nbytes > guard.file_size:
            raise MalformedFile(
                f"dataset {name}, bytes {offset} to {offset + nbytes - 1}, overlaps what ends at byte "
                f"{position - 1}, or extends beyond the file's {guard.file_size} bytes.",
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
