"""Opening our HDF5 files: the guard and the index prove everything before a value is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from bridge_core import (
    FileTensor,
    FlatState,
    IntegrityError,
    Key,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    Tensor,
    TruncatedFile,
)
from bridge_core.io import ChecksummedBlocks
from bridge_core.state import Array, LazyTensor, Region, load_metadata
from ckptbridge_hdf5.examine import refusal
from ckptbridge_hdf5.layout import BLOCK, Entry, Guard, Index, gaps, structure_digest

__all__ = ["open_file"]

_SIGNATURE_SIZE = 8
_STRUCTURE_BASE, _STRUCTURE_EACH = 64 << 10, 4 << 10
"""Most bytes of HDF5 structure that a file of ours can have, and more for each tensor."""


def open_file(file: SourceFile, *, is_hdf5: bool) -> FlatState:
    """Open a file lazily; see `Hdf5Format.open`.

    Args:
        file: The file.
        is_hdf5: Whether it has an HDF5 signature.
    """
    guard = Guard.read(file)
    if guard is None:
        if not is_hdf5:
            kind = TruncatedFile if file.size < _SIGNATURE_SIZE else MalformedFile
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


def _tensor(file: SourceFile, entry: Entry, key: Key) -> Tensor:
    def check(block: int, data: memoryview) -> None:
        if hashlib.sha256(data).digest() != entry.digest(block):
            start = block * BLOCK
            raise IntegrityError(
                f"bytes {start} to {start + len(data)} of its values differ from their SHA-256.",
                path=file.name,
                key=key,
            )

    checked = ChecksummedBlocks(file, entry.offset, entry.spec.nbytes, BLOCK, check)
    stored = FileTensor(checked, entry.offset, entry.spec, big_endian=not np.little_endian)
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
