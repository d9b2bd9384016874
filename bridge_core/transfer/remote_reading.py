"""What is read from servers: announced before, in the order of reading, and with a share of the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from bridge_core.io import JOINED_GAP, fetch_memory, return_freed_memory
from bridge_core.ops import OpTensor
from bridge_core.state import FileTensor, Region, StridedFileTensor, Tensor, regions
from bridge_core.transfer.block_plan import BlockPlan
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.memory_order import is_remote

__all__ = ["announce_plans", "announce_region", "sharing_memory"]

_RETURNED = 256 << 10
"""Bytes of freed memory that goes back to the system at once: glibc would hold more of it than the budget."""


@contextlib.contextmanager
def sharing_memory(tensors: Iterable[Tensor], budget: Budget) -> Iterator[Budget]:
    """Give fetching a share of the memory within the ``with`` block; return the rest.

    The budget is returned unchanged if no tensor is at a server, or if it is such a rest already.

    Args:
        tensors: What will be read.
        budget: Threads and memory.
    """
    if budget.is_shared or not any(map(is_remote, tensors)):
        yield budget
        return
    return_freed_memory(_RETURNED)
    with fetch_memory(budget.fetch_nbytes, budget.threads):
        yield budget.after_fetches


def announce_plans(plans: Iterable[BlockPlan]) -> None:
    """Announce what the blocks of tensors at servers need, in their order."""
    for plan in plans:
        if not is_remote(plan.tensor):
            continue
        is_read_once = isinstance(plan.tensor, FileTensor) or plan.block_shape == plan.tensor.spec.shape
        for region in (regions.full(plan.tensor.spec.shape),) if is_read_once else plan.blocks:
            announce_region(plan.tensor, region)


def announce_region(tensor: Tensor, region: Region) -> None:
    """Announce what a region of a tensor needs from files; nothing happens for other tensors."""
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        for part in tensor.op.input_regions(tensor.output, region, specs):
            announce_region(tensor.inputs[part.input], part.region)
    elif isinstance(tensor, StridedFileTensor):
        announce_region(tensor.base, regions.full(tensor.base.spec.shape))
    elif is_remote(tensor) and isinstance(tensor, FileTensor):
        itemsize = tensor.spec.dtype.itemsize
        for start, stop in _spans(tensor.spec.shape, regions.simplify(region), itemsize):
            tensor.file.prefetch(tensor.offset + start, stop - start)


def _spans(shape: tuple[int, ...], region: Region, itemsize: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of bytes that a region is in; runs that are near each other are in one range."""
    sizes = regions.region_shape(region)
    if 0 in sizes:
        return
    strides = [stride * itemsize for stride in regions.row_major_strides(shape)]
    start = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
    steps = [part.step * stride for part, stride in zip(region, strides, strict=True)]
    # The bytes from the first to the last element of what is inside each axis.
    inner = [itemsize]
    for n, step in zip(reversed(sizes), reversed(steps), strict=True):
        inner.append(inner[-1] + (n - 1) * step)
    inner.reverse()
    far = 0  # how many of the outer axes have runs that are not near each other
    for axis, (n, step) in enumerate(zip(sizes, steps, strict=True)):
        if n > 1 and step - inner[axis + 1] > JOINED_GAP:
            far = axis + 1
    for place in regions.boxes(sizes[:far], (1,) * far):
        begin = start + sum(part.start * step for part, step in zip(place, steps, strict=False))
        yield begin, begin + inner[far]
