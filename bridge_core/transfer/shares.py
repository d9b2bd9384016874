"""Shares: which regions of tensors a process reads, and what reading them costs.

A process of a mesh needs some boxes of each tensor, often each of them on several devices. Boxes that adjoin
are joined, so that every byte is read once. Where a box is many short runs of its file, it is cheaper to read
a share of another shape, and to exchange values with the other processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bridge_core.ops import OpTensor, Split
from bridge_core.state import FileTensor, LazyTensor, Region, StridedFileTensor, Tensor, regions
from bridge_core.transfer.memory_order import chunk_shape_of, chunked_sources

__all__ = ["Cut", "ReadCost", "best_cut", "boxed", "grouped_by_chunks", "joined_boxes", "read_cost"]

_READ_CALL = 4 << 10
"""Bytes whose transfer takes as long as a read by itself takes more: a page, of which a part may be read."""

_NEAR = 16 << 10
"""Bytes between short runs up to which they are read over; as `bridge_core.state.FileTensor` does."""

_SHORT = 4 << 10
"""Bytes of a run from which on it is read by itself; as `bridge_core.state.FileTensor` does."""

_WASTE = 1.05
"""How many times as many elements as the tensor has a cut may hold, since its parts have one shape."""


@dataclass(frozen=True)
class ReadCost:
    """What reading a region takes.

    Args:
        needed: Bytes of the sources that the region is made from.
        nbytes: Bytes that are read from files for it.
        calls: How many separate runs these are.
    """

    needed: int = 0
    nbytes: int = 0
    calls: int = 0

    def __add__(self, other: ReadCost) -> ReadCost:
        """Return the cost of reading both."""
        return ReadCost(self.needed + other.needed, self.nbytes + other.nbytes, self.calls + other.calls)

    @property
    def total(self) -> int:
        """The cost as a number of bytes that would take as long."""
        return self.nbytes + self.calls * _READ_CALL


@dataclass(frozen=True)
class Cut:
    """A tensor in parts of one shape; the last parts of an axis may be smaller or empty.

    Args:
        shape: The tensor's shape.
        parts: Into how many parts each axis is cut.
    """

    shape: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def part_shape(self) -> tuple[int, ...]:
        """The shape of every part, with padding."""
        return tuple(-(-n // parts) for n, parts in zip(self.shape, self.parts, strict=True))

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """The shape of all parts together, with padding."""
        return tuple(n * parts for n, parts in zip(self.part_shape, self.parts, strict=True))

    def region(self, number: int) -> Region:
        """Return the elements of a part, by its number in row-major order; the padding has none."""
        places = []
        for parts in reversed(self.parts):
            number, place = divmod(number, parts)
            places.append(place)
        return tuple(
            slice(min(n, place * size), min(n, (place + 1) * size), 1)
            for n, place, size in zip(self.shape, reversed(places), self.part_shape, strict=True)
        )


def joined_boxes(boxes: Iterable[Region]) -> list[Region]:
    """Return boxes with the same elements, each of them once.

    Equal boxes and those that adjoin are joined. The boxes have steps of 1 and are equal or disjoint. Empty
    boxes are left out.

    >>> joined_boxes([(slice(0, 2), slice(0, 4)), (slice(2, 4), slice(0, 4)), (slice(0, 2), slice(0, 4))])
    [(slice(0, 4, 1), slice(0, 4, 1))]
    """
    corners = sorted(
        {tuple((s.start, s.stop) for s in box) for box in boxes if all(s.start < s.stop for s in box)}
    )
    axes = len(corners[0]) if corners else 0
    for axis in reversed(range(axes)):
        corners.sort(key=lambda box: (*box[:axis], *box[axis + 1 :], box[axis]))
        joined = corners[:1]
        for box in corners[1:]:
            last = joined[-1]
            beside = box[:axis] == last[:axis] and box[axis + 1 :] == last[axis + 1 :]
            if beside and box[axis][0] == last[axis][1]:
                joined[-1] = (*box[:axis], (last[axis][0], box[axis][1]), *box[axis + 1 :])
            else:
                joined.append(box)
        corners = joined
    return [tuple(slice(start, stop, 1) for start, stop in box) for box in sorted(corners)]


def boxed(tensor: Tensor, region: Region) -> Tensor:
    """Return a region of a tensor as a tensor, whose blocks are planned as usual."""
    for axis, part in enumerate(region):
        size = tensor.spec.shape[axis]
        if (part.start, part.stop) == (0, size):
            continue
        sizes = tuple(n for n in (part.start, part.stop - part.start, size - part.stop) if n)
        op = Split(axis, sizes)
        output = 1 if part.start else 0
        tensor = OpTensor(op, (tensor,), output, op.spec((tensor.spec,))[output])
    return tensor


def read_cost(tensor: Tensor, region: Region) -> ReadCost:
    """Return what reading a region of a tensor takes; no value is read."""
    if 0 in regions.region_shape(region):
        return ReadCost()
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        pulls = tensor.op.input_regions(tensor.output, region, specs)
        return sum((read_cost(tensor.inputs[pull.input], pull.region) for pull in pulls), ReadCost())
    spec = tensor.spec
    needed = regions.size(regions.region_shape(region)) * spec.dtype.itemsize
    if isinstance(tensor, FileTensor):
        return _file_cost(spec.shape, regions.row_major_strides(spec.shape), region, spec.dtype.itemsize)
    if isinstance(tensor, StridedFileTensor):
        last = sum((s.stop - 1 - s.start) * n for s, n in zip(region, tensor.strides, strict=True))
        return ReadCost(needed, (last + 1) * spec.dtype.itemsize, 1)
    if chunk := chunk_shape_of(tensor):
        count = math.prod(
            -(-part.stop // size) - part.start // size for part, size in zip(region, chunk, strict=True)
        )
        return ReadCost(needed, count * math.prod(chunk) * spec.dtype.itemsize, count)
    if isinstance(tensor, LazyTensor) and tensor.source is not None:
        return read_cost(tensor.source, region)
    return ReadCost(needed, needed, 1)


def _file_cost(shape: tuple[int, ...], strides: tuple[int, ...], region: Region, itemsize: int) -> ReadCost:
    sizes = regions.region_shape(region)
    run, calls = itemsize, 1
    for n, part, stride in zip(reversed(sizes), reversed(region), reversed(strides), strict=True):
        step = part.step * stride * itemsize
        gap = step - run
        if n == 1:
            continue
        if calls == 1 and (gap <= 0 or (run < _SHORT and gap < _NEAR)):
            run += (n - 1) * step
        else:
            calls *= n
    return ReadCost(regions.size(sizes) * itemsize, run * calls, calls)


def best_cut(tensor: Tensor, count: int) -> tuple[Cut, ReadCost] | None:
    """Return the cut of a tensor into parts of about equal size that is the cheapest to read.

    Args:
        tensor: The tensor.
        count: How many parts.

    Returns:
        The cut, and what its first part costs; None if the tensor cannot be cut so.
    """
    shape, itemsize = tensor.spec.shape, max(1, tensor.spec.dtype.itemsize)
    best: tuple[Cut, ReadCost] | None = None
    ideal = tensor.spec.nbytes / count + _READ_CALL
    for axes in (1, 2):
        for parts in _cuts(shape, count, axes):
            cut = Cut(shape, parts)
            if math.prod(cut.padded_shape) * itemsize > tensor.spec.nbytes * _WASTE:
                continue
            cost = read_cost(tensor, cut.region(0))
            if best is None or cost.total < best[1].total:
                best = (cut, cost)
        if best is not None and best[1].total <= 1.1 * ideal:
            break
    return best


def _cuts(shape: tuple[int, ...], count: int, axes: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways to cut that many axes into parts, ``count`` in all."""
    for chosen in itertools.combinations(range(len(shape)), axes):
        for factors in _factors(count, axes):
            if all(shape[axis] >= n for axis, n in zip(chosen, factors, strict=True)):
                parts = [1] * len(shape)
                for axis, n in zip(chosen, factors, strict=True):
                    parts[axis] = n
                yield tuple(parts)


def _factors(count: int, axes: int) -> Iterator[tuple[int, ...]]:
    if axes == 1:
        yield (count,)
        return
    for first in range(2, count // 2 + 1):
        if count % first == 0:
            yield first, count // first


def grouped_by_chunks(tensors: Sequence[Tensor], max_bytes: int) -> Iterator[list[int]]:
    """Yield the numbers of tensors that are loaded together, in bounded memory.

    Tensors whose sources share chunks are in one group, however large, so that each chunk is decoded once.

    Args:
        tensors: The tensors.
        max_bytes: Bytes of a group of several other tensors.
    """
    groups: dict[int, list[int]] = {}
    owner: dict[int, int] = {}
    for number, tensor in enumerate(tensors):
        sources = [id(source) for source in chunked_sources(tensor)]
        shared = sorted({owner[source] for source in sources if source in owner})
        first = shared[0] if shared else number
        members = groups.setdefault(first, [])
        for other in shared[1:]:
            for moved in groups.pop(other):
                owner.update(dict.fromkeys(map(id, chunked_sources(tensors[moved])), first))
                members.append(moved)
        owner.update(dict.fromkeys(sources, first))
        members.append(number)
    waiting: list[int] = []
    nbytes = 0
    for members in groups.values():
        size = sum(tensors[number].spec.nbytes for number in members)
        if waiting and nbytes + size > max_bytes:
            yield waiting
            waiting, nbytes = [], 0
        waiting = [*waiting, *members]
        nbytes += size
    if waiting:
        yield waiting
