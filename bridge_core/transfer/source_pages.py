"""What a large conversion leaves of its sources in the page cache: what was there before.

Reading a file of which nothing is in memory fills the page cache with bytes that are used once. Where the
result is large (`write_behind`), they are dropped after their last use. Sources that were in the page cache
stay there: whoever read them may want them again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bridge_core.io import SourceFile, cached_nbytes, drop_pages
from bridge_core.ops import OpTensor
from bridge_core.state import FileTensor, Tensor
from bridge_core.transfer.block_plan import BlockPlan

__all__ = ["SourcePages"]


@dataclass(frozen=True, slots=True)
class _Source:
    """A range of a local file."""

    file: SourceFile
    offset: int
    nbytes: int

    @property
    def is_cold(self) -> bool:
        """Whether less than half of it is in the page cache; False if that is not known."""
        cached = cached_nbytes(self.file.fd, self.offset, self.nbytes)
        return cached is not None and cached * 2 < self.nbytes


class SourcePages:
    """The cold ranges of local files that tensors are made of, and how often each is still needed.

    Args:
        plans: The tensors that will be written; asked before any of them is read.
    """

    def __init__(self, plans: Sequence[BlockPlan]) -> None:
        sources = {id(plan): list(_sources(plan.tensor)) for plan in plans}
        is_cold = {source: source.is_cold for of_plan in sources.values() for source in of_plan}
        self._cold = {name: [s for s in of_plan if is_cold[s]] for name, of_plan in sources.items()}
        self._uses = Counter(source for of_plan in self._cold.values() for source in of_plan)
        self._lock = threading.Lock()

    def done(self, plan: BlockPlan) -> None:
        """Drop what no other tensor needs, after a tensor was written."""
        for source in self._cold.get(id(plan), ()):
            with self._lock:
                self._uses[source] -= 1
                is_last = self._uses[source] == 0
            if is_last:
                drop_pages(source.file.fd, source.offset, source.nbytes)


def _sources(tensor: Tensor) -> Iterator[_Source]:
    """Yield each range of a local file that a tensor is made of, once."""
    seen: set[int] = set()
    ranges: set[_Source] = set()
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor, OpTensor):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                waiting.extend(tensor.inputs)
        elif isinstance(tensor, FileTensor) and isinstance(tensor.file, SourceFile) and tensor.spec.nbytes:
            source = _Source(tensor.file, tensor.offset, tensor.spec.nbytes)
            if source not in ranges:
                ranges.add(source)
                yield source
