"""The format itself: what ckptbridge calls to recognise, open and write our HDF5 files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bridge_core import (
    Capabilities,
    FlatState,
    Format,
    IntegrityError,
    Key,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    SystemFailure,
    Tensor,
    TruncatedFile,
    UnsupportedFeature,
    WriteTarget,
    hookimpl,
)
from bridge_core.formats import ShardNames
from bridge_core.io import CheckedBlocks, write_all
from bridge_core.state import DTYPES, Array, LazyTensor, Region, Ties, dump_metadata, load_metadata
from ckptbridge_hdf5.examine import refusal
from ckptbridge_hdf5.layout import BLOCK, Entry, Guard, Index, gaps, structure_digest
from ckptbridge_hdf5.skeleton import MAX_RANK, build

__all__ = ["bridge_formats", "Hdf5Format"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_STRUCTURE_BASE, _STRUCTURE_EACH = 64 << 10, 4 << 10
"""Most bytes of HDF5 structure that a file of ours can have, and more for each tensor."""


class Hdf5Format:
    """HDF5 files in our own layout: one contiguous dataset a tensor, an index, and SHA-256 of everything."""

    name = "hdf5"
    extensions: tuple[str, ...] = (".h5", ".hdf5")
    layout: str | None = None
    names: ShardNames | None = ShardNames(
        "model.h5", "model-{index:05d}-of-{count:05d}.h5", "model.h5.index.json", ties="shared"
    )
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=frozenset(DTYPES),
        metadata=True,
        nested=True,
    )

    def sniff(self, file: SourceFile) -> bool:
        """Tell whether an HDF5 signature stands where HDF5 allows one."""
        offset = 0
        while offset + len(_SIGNATURE) <= file.size:
            if file.read(offset, len(_SIGNATURE)) == _SIGNATURE:
                return True
            offset = offset * 2 or 512
        return False

    def open(self, file: SourceFile) -> FlatState:
        """Open a file of ours; values are read and proven block by block when asked for.

        Raises:
            UnsafeFile: It points to other files or wants foreign filters.
            UnsupportedFeature: It is another program's HDF5 file.
            IntegrityError: A checksum differs.
            LimitExceeded: It claims more than it can hold.
            MalformedFile: It is no HDF5 file, or contradicts itself.
        """
        guard = Guard.read(file)
        if guard is None:
            if not self.sniff(file):
                kind = TruncatedFile if file.size < len(_SIGNATURE) else MalformedFile
                raise kind("holds no HDF5 signature.", path=file.name)
            raise refusal(file, None)
        index = Index.decode(guard.read_index(file), file)
        ranges = list(gaps(guard, index.entries, file.name))
        limit = _STRUCTURE_BASE + _STRUCTURE_EACH * len(index.entries)
        total = sum(stop - start for start, stop in ranges)
        if total > limit:
            raise LimitExceeded(
                f"has {total} bytes of structure for {len(index.entries)} tensors; {limit} is the most.",
                path=file.name,
            )
        if file.size != guard.file_size or structure_digest(_read(file, ranges)) != index.structure:
            raise refusal(
                file,
                IntegrityError(
                    "its HDF5 structure differs from its SHA-256: it is damaged or was edited.",
                    path=file.name,
                    hint="Write it again with ckptbridge.",
                ),
            )
        layout, metadata, _ = load_metadata(index.metadata, path=file.name)
        owners = {number: key for key, number in reversed(list(index.keys.items()))}
        tensors = {number: _tensor(file, index.entries[number], key) for number, key in owners.items()}
        return FlatState(
            {key: tensors[number] for key, number in index.keys.items()},
            layout=layout,
            metadata=metadata.with_(extra=dict(index.extra)),
            close=file.close,
        )

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a state: the structure first, then each tensor block by block, then index and guard.

        Raises:
            UnsupportedFeature: A name is no valid Unicode, or a tensor has too many axes.
            LimitExceeded: There are too many tensors for one index.
            SystemFailure: A write failed.
        """
        keys, owners = _numbered(state)
        specs = [state.spec(key) for key in owners]
        for key, spec in zip(owners, specs, strict=True):
            if len(spec.shape) > MAX_RANK:
                raise UnsupportedFeature(f"has {len(spec.shape)} axes; HDF5 allows {MAX_RANK}.", key=key)
        entries = Entry.blank(specs)
        metadata = dump_metadata(state.layout, state.metadata)
        index = Index((), keys, hashlib.sha256().digest(), metadata, state.metadata.extra)

        def placed(offsets: tuple[int, ...]) -> tuple[Entry, ...]:
            return tuple(replace(e, offset=offset) for e, offset in zip(entries, offsets, strict=True))

        skeleton = build(specs, lambda offsets: len(replace(index, entries=placed(offsets)).encode()))
        index = replace(index, entries=placed(skeleton.offsets))
        guard = Guard(skeleton.index_offset, len(index.encode()), skeleton.size, b"")
        ranges = gaps(guard, index.entries, str(target.path))
        structure = structure_digest(skeleton.content(start, stop) for start, stop in ranges)
        with _writer(target.path, skeleton.size) as put:
            for offset, data in skeleton.segments():
                put(data, offset)
            written = tuple(
                replace(entry, digests=_write(target.blocks(state, key), entry.offset, put))
                for key, entry in zip(owners, index.entries, strict=True)
            )
            text = replace(index, entries=written, structure=structure).encode()
            put(text, guard.index_offset)
            put(replace(guard, index_digest=hashlib.sha256(text).digest()).pack(), 0)


def _numbered(state: FlatState) -> tuple[dict[Key, int], list[Key]]:
    """Number the tensors to store; keys that are tied and hold the same tensor share a number."""
    shared: dict[tuple[Key, int], int] = {}
    keys: dict[Key, int] = {}
    owners: list[Key] = []
    ties = Ties(state.metadata.ties)
    for key, tensor in state.tensors().items():
        try:
            "".join(key).encode()
        except UnicodeEncodeError as err:
            raise UnsupportedFeature(
                f"the name {key!r} is no valid Unicode: {err.reason}.", hint="Rename the tensor."
            ) from None
        number = shared.setdefault((ties.root(key), id(tensor)), len(owners))
        if number == len(owners):
            owners.append(key)
        keys[key] = number
    return keys, owners


def _write(blocks: Iterable[Array], offset: int, put: Callable[[memoryview, int], None]) -> bytes:
    """Write a tensor's blocks one after the other, and return the SHA-256 of each run of `BLOCK` bytes."""
    digests, digest, room = bytearray(), hashlib.sha256(), BLOCK
    for block in blocks:
        little = block.astype(block.dtype.newbyteorder("<"), copy=False)
        data = memoryview(little.view(np.uint8).data)
        put(data, offset)
        offset += len(data)
        while len(data):
            part = data[:room]
            digest.update(part)
            room -= len(part)
            data = data[len(part) :]
            if room == 0:
                digests += digest.digest()
                digest, room = hashlib.sha256(), BLOCK
    return bytes(digests if room == BLOCK else digests + digest.digest())


@contextlib.contextmanager
def _writer(path: Path, size: int) -> Iterator[Callable[[bytes | memoryview, int], None]]:
    """Give a function that writes bytes at an offset of the target."""

    @contextlib.contextmanager
    def failures() -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise SystemFailure(f"writing failed: {err.strerror or err}.", path=path) from err

    def put(data: bytes | memoryview, offset: int) -> None:
        with failures():
            write_all(fd, data, offset)

    with failures():
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with failures():
            os.ftruncate(fd, size)
        yield put
    finally:
        os.close(fd)


def _tensor(file: SourceFile, entry: Entry, key: Key) -> Tensor:
    def check(block: int, data: memoryview) -> None:
        if hashlib.sha256(data).digest() != entry.digest(block):
            start = block * BLOCK
            raise IntegrityError(
                f"bytes {start} to {start + len(data)} of its values differ from their SHA-256.",
                path=file.name,
                key=key,
            )

    checked = CheckedBlocks(file, entry.offset, entry.spec.nbytes, BLOCK, check)
    stored = checked.tensor(entry.offset, entry.spec, big_endian=not np.little_endian)
    if entry.spec.dtype != np.bool_:
        return stored

    def read_bool(region: Region) -> Array:
        values = stored.read(region)
        if (values.view(np.uint8) > 1).any():
            raise MalformedFile("holds a bool that is neither 0 nor 1.", path=file.name, key=key)
        return values

    return LazyTensor(entry.spec, read_bool)


def _read(file: SourceFile, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, stop in ranges:
        for position in range(start, stop, BLOCK):
            yield file.read(position, min(BLOCK, stop - position))


@hookimpl
def bridge_formats() -> Iterable[Format]:
    """Return the HDF5 format."""
    return (Hdf5Format(),)
