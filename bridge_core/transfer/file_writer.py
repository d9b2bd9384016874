"""Running: lazy tensors in, file bytes out, with bounded memory, several workers and progress.

A format lays a file out (`FileImage`); `FileTarget` fills the places. Workers take whole tensors in file
order; a tensor larger than its share of the memory budget is cut into row-major blocks.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bridge_core.errors import BridgeError, LimitExceeded, SystemFailure
from bridge_core.formats import Extent, FileImage
from bridge_core.io import allocate, crc32_combine, read_all, start_writeback, write_all
from bridge_core.state import Array, FileTensor, FlatState, Key, Region, Tensor, regions
from bridge_core.transfer.block_plan import cut, is_plain_copy, scratch_bytes
from bridge_core.transfer.block_reader import read_block
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.memory_order import first_source
from bridge_core.transfer.scatter import little, packed, scatter, scatter_box
from bridge_core.transfer.scratch import Scratch, ScratchPool
from bridge_core.transfer.thread_pool import work_off

__all__ = ["FileTarget"]

COPY_BLOCK = 1 << 20
"""Bytes that pass through at once where nothing is moved: they stay in the cache from reading to writing."""

_KERNEL_BLOCK = 64 << 20


@dataclass(frozen=True, slots=True)
class _Job:
    """A tensor to write, or one block of it.

    Args:
        key: The tensor.
        region: The block; None for the whole tensor.
        start: Where the block's bytes begin in the tensor; None if they are no single run.
        nbytes: Bytes of the block.
        first: Whether no other job of the tensor was begun before.
        last: Whether none is begun after.
    """

    key: Key
    region: Region | None = None
    start: int | None = None
    nbytes: int = 0
    first: bool = True
    last: bool = True


class FileTarget:
    """The `WriteTarget` of the bridge: fills one temporary file.

    Args:
        path: The temporary file.
        budget: Threads and memory.
        report: Called with (bytes, key) from any worker as work gets done.
        sums: Whether ``checksums`` is wanted; a format that keeps checksums takes them anyway.
        pool: Memory that several targets use one after the other.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        report: Callable[[int, Key], None] | None = None,
        *,
        sums: bool = True,
        pool: ScratchPool | None = None,
    ) -> None:
        self._path = path
        self._sums = sums
        self._budget = budget
        self._report = report or (lambda _bytes, _key: None)
        self._stop = threading.Event()
        self._pool = pool or ScratchPool()
        self._writing = threading.Lock()
        self.checksums: dict[Key, int] = {}
        """CRC-32 of the little-endian row-major bytes of the tensors written, but for those that the system
        copied: theirs is the source's."""

    @property
    def path(self) -> Path:
        """The temporary file."""
        return self._path

    def fill(self, state: FlatState, image: FileImage) -> None:
        """Write a laid-out file.

        Raises:
            SystemFailure: A write failed.
            LimitExceeded: A block did not fit into memory.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with _writing(self._path):
                allocate(fd, image.size)
                for offset, data in image.segments:
                    write_all(fd, data, offset)
            ordered = _in_order(state, image)
            following = dict(zip(ordered, ordered[self._budget.threads :], strict=False))
            jobs = [job for key in ordered for job in self._jobs(state.tensor(key), key, image)]

            def work(job: _Job) -> int:
                if job.first and (ahead := following.get(job.key)) is not None:
                    _read_ahead(state.tensor(ahead))
                found = self._write(fd, state.tensor(job.key), job, image)
                for extent in image.slots[job.key] if job.last else ():
                    start_writeback(fd, extent.offset, extent.nbytes)
                return found

            sums = work_off(work, jobs, self._budget.threads, stop=self._stop)
            seeded = self._seeded(fd, jobs, sums, image)
            if image.finish is not None:
                with _writing(self._path):
                    for offset, data in image.finish(seeded):
                        write_all(fd, data, offset)
        finally:
            os.close(fd)

    def blocks(self, state: FlatState, key: Key) -> Iterator[Array]:
        """Yield a tensor's values in row-major order, flat and contiguous, a block at a time."""
        tensor = state.tensor(key)
        scratch = Scratch(scratch_bytes(tensor, self._budget.block))  # the caller may read tensors in turn
        limit = self._budget.block // tensor.spec.dtype.itemsize
        crc = 0
        for region in regions.blocks(tensor.spec.shape, limit):
            block = self._block(tensor, region, scratch).reshape(-1)
            crc = zlib.crc32(little(block), crc)
            yield block
            self._report(block.nbytes, key)
        self.checksums[key] = crc

    def _block(self, tensor: Tensor, region: Region, scratch: Scratch) -> Array:
        if self._stop.is_set():
            raise KeyboardInterrupt
        scratch.reset()
        try:
            return read_block(tensor, region, scratch)
        except MemoryError as err:
            raise LimitExceeded(
                f"a block of {self._budget.block} bytes does not fit into memory.",
                hint="Lower --max-ram.",
            ) from err

    def _jobs(self, tensor: Tensor, key: Key, image: FileImage) -> list[_Job]:
        """Return what there is to do for a tensor: one job, or one for each block if it is most of the file.

        Workers do best with tensors of their own; but one that outweighs the rest would leave them idle.
        """
        whole = [_Job(key)]
        few = tensor.spec.nbytes * self._budget.threads <= image.size
        if few or is_plain_copy(tensor) or image.pack.get(key, 1) > 1:
            return whole
        pieces = cut(tensor, self._budget.block)
        found = list(pieces.regions)
        if len(found) < 2:
            return whole
        jobs = []
        position = 0
        for number, region in enumerate(found):
            nbytes = regions.size(regions.region_shape(region)) * tensor.spec.dtype.itemsize
            start = position if pieces.ordered else None
            jobs.append(_Job(key, region, start, nbytes, number == 0, number == len(found) - 1))
            position += nbytes
        return jobs

    def _seeded(self, fd: int, jobs: list[_Job], sums: list[int], image: FileImage) -> dict[Key, int]:
        """Return the checksums of what the file now holds, where they are wanted; blocks' are joined."""
        wanted = self._sums or image.finish is not None
        seeded: dict[Key, int] = {}
        boxed: dict[Key, None] = {}
        for job, found in zip(jobs, sums, strict=True):
            if job.region is None:
                seeded[job.key] = found
            elif job.start is None:
                boxed[job.key] = None
            elif wanted:
                self.checksums[job.key] = crc32_combine(self.checksums.get(job.key, 0), found, job.nbytes)
                seed = image.seeds.get(job.key, 0)
                seeded[job.key] = crc32_combine(seeded.get(job.key, seed), found, job.nbytes)
        if wanted:
            again = list(boxed)

            def work(key: Key) -> int:
                return self._sum_written(fd, key, image.slots[key], image.seeds.get(key, 0))

            found_again = work_off(work, again, self._budget.threads, stop=self._stop)
            seeded.update(zip(again, found_again, strict=True))
        return {**dict.fromkeys(image.slots, 0), **seeded}

    def _write(self, fd: int, tensor: Tensor, job: _Job, image: FileImage) -> int:
        """Do one job; return the checksum of what the file now holds, if one is wanted."""
        key, extents = job.key, image.slots[job.key]
        seed, per_byte = image.seeds.get(key, 0), image.pack.get(key, 1)
        wanted = self._sums or image.finish is not None
        with _about(key), self._pool.borrowed() as scratch:
            if job.region is not None:
                return self._write_piece(fd, tensor, job, extents, wanted, scratch)
            if per_byte > 1:
                return self._write_packed(fd, tensor, key, extents, seed, per_byte, scratch)
            if is_plain_copy(tensor) and image.finish is None and self._copied(fd, tensor, key, extents):
                return 0
            pieces = cut(tensor, self._limit(tensor))
            if pieces.ordered:
                return self._write_ordered(fd, tensor, pieces.regions, key, extents, seed, wanted, scratch)
            for region in pieces.regions:
                self._write_piece(fd, tensor, _Job(key, region), extents, wanted, scratch)
            return self._sum_written(fd, key, extents, seed) if wanted else 0

    def _write_piece(
        self,
        fd: int,
        tensor: Tensor,
        job: _Job,
        extents: tuple[Extent, ...],
        wanted: bool,
        scratch: Scratch,
    ) -> int:
        """Write one block; return its checksum if it is one run of the tensor."""
        region = job.region or ()
        block = self._block(tensor, region, scratch)
        crc = 0
        if job.start is None:
            with _writing(self._path), self._writing:
                scatter_box(fd, block, tensor.spec.shape, region, extents)
        else:
            data = little(block.reshape(-1))
            for at in range(0, len(data), COPY_BLOCK):
                part = data[at : at + COPY_BLOCK]  # summed and written while it is in the cache
                crc = zlib.crc32(part, crc) if wanted else 0
                with _writing(self._path), self._writing:
                    scatter(fd, part, job.start + at, extents)
        self._report(block.nbytes, job.key)
        return crc

    def _copied(self, fd: int, tensor: FileTensor, key: Key, extents: tuple[Extent, ...]) -> bool:
        """Let the system copy the bytes, if it can; their checksum is then the source's."""
        for extent in extents:
            for start in range(0, extent.nbytes, _KERNEL_BLOCK):
                if self._stop.is_set():
                    raise KeyboardInterrupt
                nbytes = min(_KERNEL_BLOCK, extent.nbytes - start)
                source = tensor.offset + extent.start + start
                with _writing(self._path), self._writing:
                    copied = tensor.file.copy_to(fd, source, nbytes, extent.offset + start)
                if not copied:
                    return False
                self._report(nbytes, key)
        return True

    def _limit(self, tensor: Tensor) -> int:
        return COPY_BLOCK if is_plain_copy(tensor) else self._budget.block

    def _write_ordered(
        self,
        fd: int,
        tensor: Tensor,
        pieces: Iterable[Region],
        key: Key,
        extents: tuple[Extent, ...],
        seed: int,
        wanted: bool,
        scratch: Scratch,
    ) -> int:
        crc, stored, position = 0, seed, 0
        for region in pieces:
            data = little(self._block(tensor, region, scratch).reshape(-1))
            for start in range(0, len(data), COPY_BLOCK):
                part = data[start : start + COPY_BLOCK]  # summed and written while it is in the cache
                if wanted:
                    crc = zlib.crc32(part, crc)
                    stored = zlib.crc32(part, stored) if seed else crc
                with _writing(self._path), self._writing:
                    scatter(fd, part, position, extents)
                position += len(part)
                self._report(len(part), key)
        if wanted:
            self.checksums[key] = crc
        return stored if seed else crc

    def _write_packed(
        self,
        fd: int,
        tensor: Tensor,
        key: Key,
        extents: tuple[Extent, ...],
        seed: int,
        per_byte: int,
        scratch: Scratch,
    ) -> int:
        crc, stored, position = 0, seed, 0

        def summed() -> Iterator[Array]:
            nonlocal crc
            limit = self._budget.block // tensor.spec.dtype.itemsize
            for region in regions.blocks(tensor.spec.shape, limit):
                block = self._block(tensor, region, scratch).reshape(-1)
                crc = zlib.crc32(little(block), crc)
                yield block

        for block in packed(summed(), per_byte):
            data = little(block)
            stored = zlib.crc32(data, stored)
            with _writing(self._path), self._writing:
                scatter(fd, data, position, extents)
            position += len(data)
            self._report(len(data), key)
        self.checksums[key] = crc
        return stored

    def _sum_written(self, fd: int, key: Key, extents: tuple[Extent, ...], seed: int) -> int:
        """Take the checksums of a tensor that was written out of order, from the file."""
        crc, stored = 0, seed
        buffer = memoryview(bytearray(COPY_BLOCK))
        for extent in extents:
            for start in range(0, extent.nbytes, COPY_BLOCK):
                part = buffer[: min(COPY_BLOCK, extent.nbytes - start)]
                with _writing(self._path):
                    read_all(fd, part, extent.offset + start)
                crc = zlib.crc32(part, crc)
                if seed:
                    stored = zlib.crc32(part, stored)
        self.checksums[key] = crc
        return stored if seed else crc


def _in_order(state: FlatState, image: FileImage) -> list[Key]:
    """Return the keys as their values stand in the source, so that it is read from front to back."""

    def position(key: Key) -> tuple[str, int]:
        source = first_source(state.tensor(key))
        extents = image.slots[key]
        written = extents[0].offset if extents else 0
        return (source.file.name, source.offset) if source is not None else ("", written)

    return sorted(image.slots, key=position)


def _read_ahead(tensor: Tensor) -> None:
    source = first_source(tensor)
    if source is not None:
        source.file.expect(source.offset, source.spec.nbytes)


class _writing:
    """Turns a system error into `SystemFailure`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            raise SystemFailure(f"writing failed: {error.strerror or error}.", path=self.path) from error


class _about:
    """Adds the tensor's key to errors that lack one."""

    def __init__(self, key: Key) -> None:
        self.key = key

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, BridgeError) and error.key is None:
            error.key = self.key
