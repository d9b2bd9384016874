"""Writing the HDF5 files of ckptbridge: the structure first, then each tensor, then index and guard."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from bridge_core import FlatState, Key, UnsupportedFeature, WriteTarget
from bridge_core.io import open_to_write, system_failures, write_all
from bridge_core.state import Array, Ties, dump_metadata, is_unicode
from ckptbridge_hdf5.layout import BLOCK, MAX_RANK, Entry, Guard, Index, gaps, structure_digest
from ckptbridge_hdf5.skeleton import build

__all__ = ["write_file"]


def write_file(state: FlatState, target: WriteTarget) -> None:
    """Write a state; `Hdf5Format.write` documents the errors."""
    keys, owners = _numbered(state)
    specs = [state.spec(key) for key in owners]
    for key, spec in zip(owners, specs, strict=True):
        if len(spec.shape) > MAX_RANK:
            raise UnsupportedFeature(
                f"the tensor has {len(spec.shape)} axes; HDF5 allows at most {MAX_RANK}.",
                key=key,
                hint="Reshape the tensor first.",
            )
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
        if not is_unicode("".join(key)):
            raise UnsupportedFeature(
                "the name contains a lone surrogate, which UTF-8 cannot encode.",
                key=key,
                hint="Rename the tensor.",
            )
        number = shared.setdefault((ties.root(key), id(tensor)), len(owners))
        if number == len(owners):
            owners.append(key)
        keys[key] = number
    return keys, owners


def _write(blocks: Iterable[Array], offset: int, put: Callable[[memoryview, int], None]) -> bytes:
    """Write a tensor's blocks one after another, and return the SHA-256 of each run of `BLOCK` bytes."""
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
    """Yield a function that writes bytes at an offset of the target."""
    failures = system_failures(path, "writing")

    def put(data: bytes | memoryview, offset: int) -> None:
        with failures:
            write_all(fd, data, offset)

    with failures:
        fd = open_to_write(path)
    try:
        with failures:
            os.ftruncate(fd, size)
        yield put
    finally:
        os.close(fd)
