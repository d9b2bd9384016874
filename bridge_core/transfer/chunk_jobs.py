"""Which blocks are read together, so that each chunk is decoded once for all tensors that need it.

Layers that are stacked in a source are the usual case: a chunk holds a part of every layer.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bridge_core.state import Region
from bridge_core.transfer.block_plan import BlockPlan
from bridge_core.transfer.chunk_grid import chunk_regions

__all__ = ["Allowance", "Part", "jobs_by_chunks"]

_PAUSE = 0.2
"""Seconds between two looks at ``stop``."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Blocks of one tensor.

    Args:
        plan: The plan of the tensor.
        blocks: The blocks; None for all.
    """

    plan: BlockPlan
    blocks: tuple[Region, ...] | None = None

    @property
    def regions(self) -> Iterator[Region]:
        """The blocks, in the order in which they are to be moved."""
        return self.plan.blocks if self.blocks is None else iter(self.blocks)


def jobs_by_chunks(
    plans: Sequence[BlockPlan], divided: Callable[[BlockPlan], bool] = lambda plan: False
) -> list[list[Part]]:
    """Return jobs, in the order of their first tensors; one thread does all of a job.

    Args:
        plans: Plans of tensors whose sources have chunks.
        divided: Whether a tensor is divided among threads although it shares no source.
    """
    uses = Counter(id(source) for plan in plans for source in _sources(plan))
    by_chunk: dict[object, dict[int, list[Region]]] = {}
    for number, plan in enumerate(plans):
        shared = {id(source) for source in _sources(plan) if uses[id(source)] > 1}
        if plan.chunks is None or not plan.nbytes or not (shared or divided(plan)):
            by_chunk[number] = {number: []}
            continue
        for cell, blocks in plan.chunks.groups(plan.tensor.spec.shape):
            needed = [
                (id(source), *((part.start, part.stop) for part in region))
                for source, region in chunk_regions(plan.tensor, cell)
                if id(source) in shared or not shared
            ]
            key = tuple(sorted(set(needed)))
            by_chunk.setdefault(key, {}).setdefault(number, []).extend(blocks)
    return _joined(plans, by_chunk, divided)


def _sources(plan: BlockPlan) -> tuple[object, ...]:
    return plan.chunks.sources if plan.chunks is not None and plan.elements_per_byte == 1 else ()


def _joined(
    plans: Sequence[BlockPlan],
    by_chunk: dict[object, dict[int, list[Region]]],
    divided: Callable[[BlockPlan], bool],
) -> list[list[Part]]:
    """Return the jobs; those of a single tensor become one, unless it is to be divided."""
    joined: dict[object, dict[int, list[Region]]] = {}
    for key, blocks in by_chunk.items():
        first = next(iter(blocks))
        alone = len(blocks) == 1 and not divided(plans[first])
        parts = joined.setdefault(first if alone else key, {})
        for number, regions in blocks.items():
            parts.setdefault(number, []).extend(regions)
    pieces = Counter(number for parts in joined.values() for number in parts)
    return [
        [
            Part(plans[number], None if pieces[number] == 1 else tuple(regions))
            for number, regions in parts.items()
        ]
        for parts in joined.values()
    ]


class Allowance:
    """Memory that several threads share for chunks that exceed a thread's own share.

    Args:
        share: Bytes that each thread may have without asking.
        threads: How many threads; chunks that exceed a share have as much memory together as all shares. A
            single chunk may be larger.
    """

    def __init__(self, share: int, threads: int) -> None:
        self._share = share
        self._all = share * threads
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, nbytes: int, stop: threading.Event | None = None) -> Iterator[None]:
        """Wait until so many bytes are free, and take them within the ``with`` block.

        Raises:
            KeyboardInterrupt: ``stop`` is set.
        """
        if nbytes <= self._share:
            yield
            return
        with self._changed:
            while self._taken and self._taken + nbytes > self._all:
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt
                self._changed.wait(_PAUSE)
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()
