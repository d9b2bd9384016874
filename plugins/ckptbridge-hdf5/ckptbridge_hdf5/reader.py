"""Opening HDF5 files that ckptbridge wrote: guard and index are verified before a value is read."""

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
from ckptbridge_hdf5.layout import (
    BLOCK,
    COPY_AGAIN,
    Entry,
    Guard,
    Index,
    dataset_path,
    gaps,
    structure_digest,
)

__all__ = ["open_file"]

_SIGNATURE_SIZE = 8
_STRUCTURE_BASE, _STRUCTURE_EACH = 64 << 10, 4 << 10
"""Most bytes of HDF5 structure in a file of ckptbridge: for the file, and for each tensor in addition."""


def open_file(file: SourceFile, *, is_hdf5: bool) -> FlatState:
    """Open a file lazily; `Hdf5Format.open` documents the errors.

    Args:
        file: The file.
        is_hdf5: Whether it has an HDF5 signature.
    """
    guard = Guard.read(file)
    if guard is None:
        if not is_hdf5:
            if file.size < _SIGNATURE_SIZE:
                raise TruncatedFile(
                    f"the file is {file.size} bytes, and an HDF5 signature is {_SIGNATURE_SIZE} bytes.",
                    path=file.name,
                    hint=COPY_AGAIN,
                )
            start = file.read(0, _SIGNATURE_SIZE)
            raise MalformedFile(
                f"expected an HDF5 signature, got a file that begins with {start!r}.", path=file.name
            )
        raise refusal(file, None)
    index = Index.decode(guard.read_index(file), file)
    ranges = list(gaps(guard, index.entries, file.name))
    limit = _STRUCTURE_BASE + _STRUCTURE_EACH * len(index.entries)
    total = sum(stop - start for start, stop in ranges)
    if total > limit:
        raise LimitExceeded(
            f"the HDF5 structure is {total} bytes for {len(index.entries)} tensors; at most {limit} bytes "
            "are read.",
            path=file.name,
        )
    problem = None
    if file.size != guard.file_size:
        problem = (
            f"expected {guard.file_size} bytes, as the guard states, got {file.size} bytes: "
            f"something was appended at byte {guard.file_size}."
        )
    elif structure_digest(_read(file, ranges)) != index.structure:
        problem = (
            "the HDF5 structure (every byte outside of the guard, the index and the values) differs from "
            "its SHA-256: the file is damaged or was edited."
        )
    if problem is not None:
        hint = "Copy the file again, or write it again with ckptbridge."
        raise refusal(file, IntegrityError(problem, path=file.name, hint=hint))
    layout, metadata, _ = load_metadata(index.metadata, path=file.name)
    owners = {number: key for key, number in reversed(list(index.keys.items()))}
    tensors = {number: _tensor(file, index.entries[number], number, key) for number, key in owners.items()}
    return FlatState(
        {key: tensors[number] for key, number in index.keys.items()},
        layout=layout,
        metadata=metadata.with_(extra=dict(index.extra)),
        close=file.close,
    )


def _tensor(file: SourceFile, entry: Entry, number: int, key: Key) -> Tensor:
    def check(block: int, data: memoryview) -> None:
        if hashlib.sha256(data).digest() != entry.digest(block):
            start = entry.offset + block * BLOCK
            raise IntegrityError(
                f"the values in dataset {dataset_path(number)}, bytes {start} to {start + len(data) - 1} of "
                "the file, differ from their SHA-256: the file is damaged.",
                path=file.name,
                key=key,
                hint=COPY_AGAIN,
            )

    checked = ChecksummedBlocks(file, entry.offset, entry.spec.nbytes, BLOCK, check)
    stored = FileTensor(checked, entry.offset, entry.spec, big_endian=not np.little_endian)
    if entry.spec.dtype != np.bool_:
        return stored

    def read_bool(region: Region) -> Array:
        values = stored.read(region)
        largest = values.view(np.uint8).max(initial=0)
        if largest > 1:
            raise MalformedFile(
                f"expected 0 or 1 for every bool in dataset {dataset_path(number)}, at byte {entry.offset} "
                f"of the file, got {largest}.",
                path=file.name,
                key=key,
            )
        return values

    return LazyTensor(entry.spec, read_bool)


def _read(file: SourceFile, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for start, stop in ranges:
        for position in range(start, stop, BLOCK):
            yield file.read(position, min(BLOCK, stop - position))
