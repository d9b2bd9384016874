"""Writing lazy tensors to a file, with bounded memory, several threads and progress.

A format lays a file out (`FileImage`), and `FileTarget` writes the tensors to their places. First, each
tensor gets a `BlockPlan`. Threads take complete tensors, in the order of their sources; a tensor that is most
of the file is divided among them in blocks. Tensors that need the same chunks of a source are written
together.
"""

from __future__ import annotations

import itertools
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
from bridge_core.state import Array, FileTensor, FlatState, Key, Region, regions
from bridge_core.transfer.block_plan import COPY_BLOCK, BlockPlan, plan_blocks
from bridge_core.transfer.block_reader import read_blocks
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.chunk_jobs import Allowance, Part, jobs_by_chunks
from bridge_core.transfer.memory_order import is_remote
from bridge_core.transfer.remote_reading import announce_plans, sharing_memory
from bridge_core.transfer.scatter import Packer, file_ranges, little_endian_bytes, scatter, scatter_box
from bridge_core.transfer.scratch import Scratch, ScratchPool
from bridge_core.transfer.source_pages import SourcePages
from bridge_core.transfer.thread_pool import run_jobs
from bridge_core.transfer.write_behind import RUN, WriteBehind

__all__ = ["FileTarget"]

_KERNEL_BLOCK = 64 << 20
"""Bytes that the system copies at once, between two looks at interrupts and reports of progress."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Tensors to write, or some of their blocks.

    Args:
        parts: The blocks of each tensor.
        ahead: A tensor of a later job, to be read ahead; None if no later job begins a tensor.
        ends: Tensors of which this is the last job in order.
    """

    parts: tuple[Part, ...]
    ahead: BlockPlan | None = None
    ends: tuple[BlockPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sum:
    """The checksum of a run of a tensor.

    Args:
        plan: The plan of the tensor.
        start: First byte of the run.
        nbytes: Bytes of the run.
        crc: CRC-32 of its values.
        packed: CRC-32 of the bytes written.
    """

    plan: BlockPlan
    start: int
    nbytes: int
    crc: int
    packed: int


class FileTarget:
    """The `WriteTarget` of the bridge: fills one temporary file.

    Args:
        path: The temporary file.
        budget: Threads and memory.
        report: Called with (bytes, key) from any thread after each write; None for no reports.
        sums: Whether to fill ``checksums``; a format that stores checksums needs them in any case.
        pool: Scratch memory that several targets use one after the other; None for an own one.
        behind: Takes what was written to the disk and out of the page cache; None to leave it to the system.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        report: Callable[[int, Key], None] | None = None,
        *,
        sums: bool = True,
        pool: ScratchPool | None = None,
        behind: WriteBehind | None = None,
    ) -> None:
        self._path = path
        self._behind = behind
        self._unwritten: dict[Key, int] = {}
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
        if image.finish is not None and self._behind is not None and self._behind.reads_back:
            self._behind = None  # the file has checksums of its own, for which all of it is read at the end
        with sharing_memory((state.tensor(key) for key in image.slots), self._budget) as budget:
            plans = self._plans(state, image, budget)
            announce_plans(plans)
            self._fill(image, plans, budget)

    def _fill(self, image: FileImage, plans: list[BlockPlan], budget: Budget) -> None:
        summed = self._sums or image.finish is not None
        self._pool.reserve(max((plan.scratch_nbytes for plan in plans), default=0))
        fd = open_to_write(self._path)
        try:
            with system_failures(self._path, "writing"):
                allocate(fd, image.size)
                for offset, data in image.segments:
                    write_all(fd, data, offset)

            def work(job: _Job) -> list[_Sum]:
                source = job.ahead.source if job.ahead is not None else None
                if source is not None and not is_remote(source):  # what is remote was announced before
                    source.file.prefetch(source.offset, source.spec.nbytes)
                held_nbytes = max(part.plan.held_nbytes for part in job.parts)
                sums: list[_Sum] = []
                with (
                    about_tensor(job.parts[0].plan.key),
                    large.taken(held_nbytes, self._stop),
                    self._pool.borrowed() as scratch,
                ):
                    for part in job.parts:
                        with OverflowCount() as overflow:
                            sums.extend(self._write(fd, part, scratch, summed=summed))
                        self._note_overflow(part.plan.key, overflow)
                for plan in job.ends:
                    pages.done(plan)
                    for extent in plan.extents if self._behind is None else ():
                        start_writeback(fd, extent.offset, extent.nbytes)
                return sums

            jobs = self._jobs(plans, image.size)
            large = Allowance(budget.block, budget.threads)
            pages = SourcePages(plans if self._behind is not None and self._behind.drops else ())
            sums = run_jobs(work, jobs, self._budget.threads, stop=self._stop)
            seeded = self._checksums(fd, jobs, list(itertools.chain(*sums))) if summed else {}
            if image.finish is not None:
                with system_failures(self._path, "writing"):
                    for offset, data in image.finish(seeded):
                        write_all(fd, data, offset)
        finally:
            os.close(fd)

    def blocks(self, state: FlatState, key: Key) -> Iterator[Array]:
        """Yield a tensor's values in row-major order, flat and contiguous, a block at a time."""
        tensor = state.tensor(key)
        with sharing_memory((tensor,), self._budget) as budget:
            plan = plan_blocks(key, tensor, budget.block, in_order=True)
            scratch = Scratch(plan.scratch_nbytes)  # the caller may read several tensors in turn
            announce_plans([plan])
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

    def _plans(self, state: FlatState, image: FileImage, budget: Budget) -> list[BlockPlan]:
        """Return a plan for each tensor, in the order in which their values are in the source."""
        plans = [
            plan_blocks(
                key,
                state.tensor(key),
                budget.block,
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
        threads = self._budget.threads

        def divided(plan: BlockPlan) -> bool:
            is_most = plan.nbytes * threads > size and plan.elements_per_byte == 1
            return is_most and not plan.can_copy and plan.block_shape != plan.tensor.spec.shape

        jobs: list[_Job] = []
        for number, plan in enumerate(plans):
            if plan.chunks is not None:
                continue
            ahead = plans[number + threads] if number + threads < len(plans) else None
            parts = [Part(plan, (block,)) for block in plan.blocks] if divided(plan) else [Part(plan)]
            for count, part in enumerate(parts, 1):
                jobs.append(
                    _Job((part,), ahead if count == 1 else None, (plan,) if count == len(parts) else ())
                )
        chunked = jobs_by_chunks([plan for plan in plans if plan.chunks is not None], divided)
        last = {part.plan.key: number for number, parts in enumerate(chunked) for part in parts}
        for number, parts in enumerate(chunked):
            ends: tuple[BlockPlan, ...] = tuple(part.plan for part in parts if last[part.plan.key] == number)
            jobs.append(_Job(tuple(parts), None, ends))
        return jobs

    def _write(self, fd: int, part: Part, scratch: Scratch, *, summed: bool) -> Iterator[_Sum]:
        """Write blocks of a tensor.

        Yields:
            The checksums of the runs that they are; none if checksums are not needed, the system copied the
            bytes, or they are some of several blocks that are not contiguous.
        """
        plan = part.plan
        with about_tensor(plan.key):
            if self._copied(fd, plan):
                if summed and self._behind is not None and plan.source is not None:
                    # The source is read now, and not after everything was written, while it is cached.
                    yield self._sum_source(plan, plan.source)
                return
            packer = Packer(plan.elements_per_byte) if plan.elements_per_byte > 1 else None
            crc = packed_crc = start = position = passed_on = 0
            for region, block in read_blocks(plan, scratch, part.blocks, self._stop):
                if not plan.contiguous:
                    with system_failures(self._path, "writing"), self._write_lock:
                        scatter_box(fd, block, plan.tensor.spec.shape, region, plan.extents)
                    self._report(block.nbytes, plan.key)
                    self._note_box(fd, plan, block.nbytes)
                    continue
                if part.blocks is not None and (begin := _first_byte(plan, region)) != position:
                    if position > start and summed:
                        yield _Sum(plan, start, position - start, crc, crc)
                    self._pass_on(fd, plan, passed_on, position)
                    crc, start, position, passed_on = 0, begin, begin, begin
                data = little_endian_bytes(block)
                for at in range(0, len(data), COPY_BLOCK):
                    piece = data[at : at + COPY_BLOCK]  # summed and written while it is in the cache
                    crc = zlib.crc32(piece, crc) if summed else 0
                    if packer is not None:
                        piece = packer.pack(piece)
                        packed_crc = zlib.crc32(piece, packed_crc)
                    with system_failures(self._path, "writing"), self._write_lock:
                        scatter(fd, piece, position, plan.extents)
                    position += len(piece)
                    self._report(len(piece), plan.key)
                    if position - passed_on >= RUN:
                        self._pass_on(fd, plan, passed_on, position)
                        passed_on = position
            self._pass_on(fd, plan, passed_on, position)
            if not summed or not (plan.contiguous or part.blocks is None):
                return
            if not plan.contiguous:
                crc = self._sum_written(fd, plan)
            nbytes = plan.nbytes if part.blocks is None else position - start
            yield _Sum(plan, start, nbytes, crc, crc if packer is None else packed_crc)

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
                self._pass_on(fd, plan, extent.start + start, extent.start + start + nbytes)
        return True

    def _pass_on(self, fd: int, plan: BlockPlan, start: int, stop: int) -> None:
        """Let a run of a tensor, written completely, go to the disk."""
        if self._behind is not None:
            for _, offset, nbytes in file_ranges(start, stop, plan.extents):
                self._behind.add(self._path, fd, plan.key, offset, nbytes)

    def _note_box(self, fd: int, plan: BlockPlan, nbytes: int) -> None:
        """Let a tensor that is written in boxes go to the disk after the last one, whoever writes it."""
        with self._write_lock:
            left = self._unwritten.get(plan.key, plan.nbytes) - nbytes
            self._unwritten[plan.key] = left
        if left == 0:
            self._pass_on(fd, plan, 0, plan.nbytes)

    def _sum_source(self, plan: BlockPlan, source: FileTensor) -> _Sum:
        crc = 0
        buffer = memoryview(bytearray(min(COPY_BLOCK, plan.nbytes)))
        for begin in range(0, plan.nbytes, COPY_BLOCK):
            if self._stop.is_set():
                raise KeyboardInterrupt
            piece = buffer[: min(COPY_BLOCK, plan.nbytes - begin)]
            source.file.read_into(source.offset + begin, piece)
            crc = zlib.crc32(piece, crc)
        return _Sum(plan, 0, plan.nbytes, crc, crc)

    def _checksums(self, fd: int, jobs: list[_Job], sums: list[_Sum]) -> dict[Key, int]:
        """Store the tensors' checksums; return those of the file's bytes, with their seeds."""
        again = [
            plan
            for job in jobs
            for plan in job.ends
            if not plan.contiguous and any(p.plan is plan and p.blocks is not None for p in job.parts)
        ]
        crcs = run_jobs(
            lambda plan: self._sum_written(fd, plan), again, self._budget.threads, stop=self._stop
        )
        sums = [*sums, *(_Sum(plan, 0, plan.nbytes, crc, crc) for plan, crc in zip(again, crcs, strict=True))]
        crcs_of: dict[Key, int] = {}
        seeded: dict[Key, int] = {}
        for run in sorted(sums, key=lambda run: run.start):
            key = run.plan.key
            crcs_of[key] = crc32_combine(crcs_of.get(key, 0), run.crc, run.nbytes)
            before = seeded.get(key, run.plan.crc_seed)
            seeded[key] = crc32_combine(before, run.packed, run.nbytes // run.plan.elements_per_byte)
        self.checksums.update(crcs_of)
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


def _first_byte(plan: BlockPlan, region: Region) -> int:
    """Return the place of a block's first byte in the tensor."""
    strides = regions.row_major_strides(plan.tensor.spec.shape)
    first: int = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
    return first * plan.tensor.spec.dtype.itemsize
