"""Writing lazy tensors into a folder: by files, or by boxes that a format's library stores."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from bridge_core.errors import about_tensor
from bridge_core.io import SourceFolder, create_file
from bridge_core.ops import OverflowCount
from bridge_core.state import Array, FlatState, Key, Region
from bridge_core.transfer.block_plan import plan_boxes
from bridge_core.transfer.block_reader import read_blocks
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.file_writer import FileTarget
from bridge_core.transfer.remote_reading import announce_plans
from bridge_core.transfer.scatter import little_endian_bytes
from bridge_core.transfer.scratch import ScratchPool
from bridge_core.transfer.thread_pool import run_jobs

__all__ = ["FolderWriter"]

_J = TypeVar("_J")


class FolderWriter:
    """The `FolderTarget` of the bridge: fills one temporary folder.

    Args:
        path: The temporary folder.
        budget: Threads and memory.
        report: Called with (bytes, key) from any thread after each write; None for no reports.
        sums: Whether to fill ``checksums``.
        pool: Scratch memory; None for an own one.
        replaces: The folder that is replaced, whose other items stay; None if there is none.
    """

    def __init__(
        self,
        path: Path,
        budget: Budget,
        report: Callable[[int, Key], None] | None = None,
        *,
        sums: bool = True,
        pool: ScratchPool | None = None,
        replaces: SourceFolder | None = None,
    ) -> None:
        self._path = path
        self._replaces = replaces
        self._sums = sums
        self._budget = budget
        self._report = report or (lambda _bytes, _key: None)
        self._stop = threading.Event()
        self._pool = pool or ScratchPool()
        self._files: list[FileTarget] = []
        self._lock = threading.Lock()
        self._checksums: dict[Key, int] = {}
        self._overflows: dict[Key, int] = {}

    @property
    def path(self) -> Path:
        """The temporary folder."""
        return self._path

    @property
    def block_nbytes(self) -> int:
        """Bytes of the largest array that one thread should hold at once."""
        return self._budget.block

    @property
    def replaces(self) -> SourceFolder | None:
        """The folder that is replaced, whose other items stay; None if nothing stays."""
        return self._replaces

    @property
    def checksums(self) -> dict[Key, int]:
        """CRC-32 of the row-major bytes of each tensor that was written in their order; a copy."""
        checksums = dict(self._checksums)
        for file in self._files:
            checksums.update(file.checksums)
        return checksums

    @property
    def overflows(self) -> dict[Key, int]:
        """Key -> how many values are outside the range of the dtype they were cast to."""
        overflows = dict(self._overflows)
        for file in self._files:
            overflows.update(file.overflows)
        return overflows

    def file(self, name: str) -> FileTarget:
        """Create a file in the folder.

        Args:
            name: The relative name, its parts joined by slashes; folders in it are made.
        """
        path = self._path.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(create_file(path))
        target = FileTarget(path, self._budget, self._report, sums=self._sums, pool=self._pool)
        self._files.append(target)
        return target

    def boxes(self, state: FlatState, key: Key, shape: tuple[int, ...]) -> Iterator[tuple[Region, Array]]:
        """Yield a tensor's values box by box, in row-major order of the boxes.

        An array is C-contiguous and valid until the next one is yielded.

        Args:
            state: The state that holds the tensor.
            key: The tensor's key.
            shape: Shape of a box; those at the ends are smaller.

        Raises:
            OutOfMemory: A box does not fit into memory.
            KeyboardInterrupt: Another job failed, or the user interrupted.
        """
        plan = plan_boxes(key, state.tensor(key), shape, self._budget.block)
        announce_plans([plan])
        summed = self._sums and plan.contiguous
        crc = overflowing = 0
        with about_tensor(key), self._pool.borrowed() as scratch:
            blocks = read_blocks(plan, scratch, stop=self._stop)
            while True:
                with OverflowCount() as overflow:  # the caller's own work between two boxes does not count
                    region, block = next(blocks, (None, None))
                overflowing += overflow.values
                if region is None or block is None:
                    break
                if summed:
                    crc = zlib.crc32(little_endian_bytes(block), crc)
                nbytes = block.nbytes
                yield region, block
                self._report(nbytes, key)
        with self._lock:
            if summed:
                self._checksums[key] = crc
            if overflowing:
                self._overflows[key] = overflowing

    def run(self, work: Callable[[_J], None], jobs: Iterable[_J]) -> None:
        """Do jobs with the threads of the budget; the first error ends the others.

        Args:
            work: Does one job.
            jobs: The jobs, in the order in which they begin.
        """
        run_jobs(work, jobs, self._budget.threads, stop=self._stop)
