"""Writing lazy tensors to a file, with bounded memory, several threads and progress.

A format lays a file out (`FileImage`), and `FileTarget` writes the tensors to their places. First, each
tensor gets a `BlockPlan`. Threads take complete tensors, in the order of their sources; a tensor that is most
of the file is divided among them in blocks.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bridge_core.errors import about_tensor
from bridge_core.formats import FileImage
from bridge_core.io import (
    allocate,
    crc32_combine,
    open_to_write,
    read_all,
    start_writeback,
    system_failures,
    write_all,
)
from bridge_core.ops import OverflowCount
from bridge_core.state import Array, FlatState, Key, Region, regions
from bridge_core.transfer.block_plan import COPY_BLOCK, BlockPlan, plan_blocks
from bridge_core.transfer.block_reader import read_blocks
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.scatter import Packer, little_endian_bytes, scatter, scatter_box
from bridge_core.transfer.scratch import Scratch, ScratchPool
from bridge_core.transfer.thread_pool import run_jobs

__all__ = ["FileTarget"]

_KERNEL_BLOCK = 64 << 20
"""Bytes that the system copies at once, between two looks at interrupts and reports of progress."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A tensor to write, or one block of it.

    Args:
        plan: The plan of the tensor.
        block: The block; None for all of them.
        nbytes: Bytes to write.
        start: First of these bytes in the tensor, if its blocks are contiguous.
        ahead: A tensor of a later job, to be read ahead; None if no later job begins a tensor.
        last: Whether this is the tensor's last job in order.
    """

    plan: BlockPlan
    block: Region | None
    nbytes: int
    start: int = 0
    ahead: BlockPlan | None = None
    last: bool = True


class FileTarget:
    """The `WriteTarget` of the bridge: fills one temporary file.

    Args:
        path: The temporary file.
        budget: Threads and memory.
        report: Called with (bytes, key) from any thread after each write; None for no reports.
        sums: Whether to fill ``checksums``; a format that stores checksums needs them in any case.
        pool: Scratch memory that several targets use one after the other; None for an own one.
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
        self._write_lock = threading.Lock()
        self.checksums: dict[Key, int] = {}
        """CRC-32 of the little-endian row-major bytes of each tensor, except those that the system copied:
        their checksum is that of the source."""
        self.overflows: dict[Key, int] = {}
        """Key -> how many values are outside the range of the dtype that they were cast to."""

    @property
    def path(self) -> Path:
        """The temporary file."""
        return self._path

    def fill(self, state: FlatState, image: FileImage) -> None:
        """Write a laid-out file.

        Raises:
            SystemFailure: A write failed.
            OutOfMemory: The system has no memory for a block.
        """
        plans = self._plans(state, image)
        summed = self._sums or image.finish is not None
        self._pool.reserve(max((plan.scratch_nbytes for plan in plans), default=0))
        fd = open_to_write(self._path)
        try:
            with system_failures(self._path, "writing"):
                allocate(fd, image.size)
                for offset, data in image.segments:
                    write_all(fd, data, offset)

            def work(job: _Job) -> tuple[int, int] | None:
                if job.ahead is not None and (source := job.ahead.source) is not None:
                    source.file.prefetch(source.offset, source.spec.nbytes)
                with OverflowCount() as overflow:
                    crcs = self._write(fd, job, summed=summed)
                self._note_overflow(job.plan.key, overflow)
                for extent in job.plan.extents if job.last else ():
                    start_writeback(fd, extent.offset, extent.nbytes)
                return crcs

            jobs = self._jobs(plans, image.size)
            parts = run_jobs(work, jobs, self._budget.threads, stop=self._stop)
            seeded = self._checksums(fd, jobs, parts) if summed else {}
            if image.finish is not None:
                with system_failures(self._path, "writing"):
                    for offset, data in image.finish(seeded):
                        write_all(fd, data, offset)
        finally:
            os.close(fd)

    def blocks(self, state: FlatState, key: Key) -> Iterator[Array]:
        """Yield a tensor's values in row-major order, flat and contiguous, a block at a time."""
        plan = plan_blocks(key, state.tensor(key), self._budget.block, in_order=True)
        scratch = Scratch(plan.scratch_nbytes)  # the caller may read several tensors in turn
        crc = 0
        blocks = read_blocks(plan, scratch, stop=self._stop)
        while True:
            with OverflowCount() as overflow:  # the caller's own work between two blocks does not count
                _, block = next(blocks, (None, None))
            self._note_overflow(key, overflow)
            if block is None:
                break
            crc = zlib.crc32(little_endian_bytes(block), crc)
            yield block.reshape(-1)
            self._report(block.nbytes, key)
        self.checksums[key] = crc

    def _note_overflow(self, key: Key, overflow: OverflowCount) -> None:
        if overflow.values:
            with self._write_lock:
                self.overflows[key] = self.overflows.get(key, 0) + overflow.values

    def _plans(self, state: FlatState, image: FileImage) -> list[BlockPlan]:
        """Return a plan for each tensor, in the order in which their values are in the source."""
        plans = [
            plan_blocks(
                key,
                state.tensor(key),
                self._budget.block,
                extents=extents,
                crc_seed=image.seeds.get(key, 0),
                elements_per_byte=image.pack.get(key, 1),
                may_copy=image.finish is None,
            )
            for key, extents in image.slots.items()
        ]

        def position(plan: BlockPlan) -> tuple[str, int]:
            if plan.source is not None:
                return plan.source.file.name, plan.source.offset
            return "", plan.extents[0].offset if plan.extents else 0

        return sorted(plans, key=position)

    def _jobs(self, plans: list[BlockPlan], size: int) -> list[_Job]:
        """Return a job for each tensor, or for each block of a tensor that is most of the file.

        Threads work best on tensors of their own; but while one writes most of the file, the others wait.
        """
        jobs: list[_Job] = []
        threads = self._budget.threads
        for number, plan in enumerate(plans):
            ahead = plans[number + threads] if number + threads < len(plans) else None
            is_most = plan.nbytes * threads > size and plan.elements_per_byte == 1
            if not is_most or plan.can_copy or plan.block_shape == plan.tensor.spec.shape:
                jobs.append(_Job(plan, None, plan.nbytes, ahead=ahead))
                continue
            start = 0
            for region in plan.blocks:
                nbytes = regions.size(regions.region_shape(region)) * plan.tensor.spec.dtype.itemsize
                last = start + nbytes == plan.nbytes
                jobs.append(_Job(plan, region, nbytes, start, None if start else ahead, last))
                start += nbytes
        return jobs

    def _write(self, fd: int, job: _Job, *, summed: bool) -> tuple[int, int] | None:
        """Do one job.

        Returns:
            CRC-32 of the values, and of the bytes written; None if checksums are not needed, the system
            copied the bytes, or the job is one of several blocks that are not contiguous.
        """
        plan = job.plan
        with about_tensor(plan.key), self._pool.borrowed() as scratch:
            if self._copied(fd, plan):
                return None
            packer = Packer(plan.elements_per_byte) if plan.elements_per_byte > 1 else None
            crc, packed_crc, position = 0, 0, job.start
            blocks = plan.blocks if job.block is None else (job.block,)
            for region, block in read_blocks(plan, scratch, blocks, self._stop):
                if not plan.contiguous:
                    with system_failures(self._path, "writing"), self._write_lock:
                        scatter_box(fd, block, plan.tensor.spec.shape, region, plan.extents)
                    self._report(block.nbytes, plan.key)
                    continue
                data = little_endian_bytes(block)
                for at in range(0, len(data), COPY_BLOCK):
                    part = data[at : at + COPY_BLOCK]  # summed and written while it is in the cache
                    crc = zlib.crc32(part, crc) if summed else 0
                    if packer is not None:
                        part = packer.pack(part)
                        packed_crc = zlib.crc32(part, packed_crc)
                    with system_failures(self._path, "writing"), self._write_lock:
                        scatter(fd, part, position, plan.extents)
                    position += len(part)
                    self._report(len(part), plan.key)
            if not summed or not (plan.contiguous or job.block is None):
                return None
            if not plan.contiguous:
                crc = self._sum_written(fd, plan)
            return crc, crc if packer is None else packed_crc

    def _copied(self, fd: int, plan: BlockPlan) -> bool:
        """Return whether the system copied the bytes; if so, their checksum is that of the source."""
        stored = plan.source
        if stored is None or not plan.can_copy:
            return False
        for extent in plan.extents:
            for start in range(0, extent.nbytes, _KERNEL_BLOCK):
                if self._stop.is_set():
                    raise KeyboardInterrupt
                nbytes = min(_KERNEL_BLOCK, extent.nbytes - start)
                source = stored.offset + extent.start + start
                with system_failures(self._path, "writing"), self._write_lock:
                    copied = stored.file.copy_to(fd, source, nbytes, extent.offset + start)
                if not copied:
                    return False
                self._report(nbytes, plan.key)
        return True

    def _checksums(self, fd: int, jobs: list[_Job], parts: list[tuple[int, int] | None]) -> dict[Key, int]:
        """Store the tensors' checksums; return those of the file's bytes, with their seeds."""
        cut = (job.plan for job in jobs if job.last and job.block is not None)
        again = [_Job(plan, None, plan.nbytes) for plan in cut if not plan.contiguous]
        sums = run_jobs(
            lambda job: self._sum_written(fd, job.plan), again, self._budget.threads, stop=self._stop
        )
        seeded: dict[Key, int] = {}
        for job, part in zip((*jobs, *again), (*parts, *((crc, crc) for crc in sums)), strict=True):
            if part is not None:
                key, nbytes = job.plan.key, job.nbytes
                self.checksums[key] = crc32_combine(self.checksums[key] if job.start else 0, part[0], nbytes)
                before = seeded[key] if job.start else job.plan.crc_seed
                seeded[key] = crc32_combine(before, part[1], nbytes // job.plan.elements_per_byte)
        return seeded

    def _sum_written(self, fd: int, plan: BlockPlan) -> int:
        """Return the checksum of a tensor that was written out of order, from the file."""
        crc = 0
        buffer = memoryview(bytearray(COPY_BLOCK))
        for extent in plan.extents:
            for start in range(0, extent.nbytes, COPY_BLOCK):
                part = buffer[: min(COPY_BLOCK, extent.nbytes - start)]
                with system_failures(self._path, "writing"):
                    read_all(fd, part, extent.offset + start)
                crc = zlib.crc32(part, crc)
        return crc
