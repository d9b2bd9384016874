"""How each tensor moves: its blocks, their order, and their places in the file.

A block is a region of the result. The regions of the sources that it needs follow from the ops'
`input_regions`. If the result's last axis is not contiguous in the source, a tensor larger than one block is
cut along both axes, so that both reads and writes are long contiguous runs. If sources have chunks, a block
is a union of them (`chunk_blocks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bridge_core.formats import Extent
from bridge_core.state import FileTensor, Key, Region, Tensor, TensorSpec, regions
from bridge_core.transfer.chunk_blocks import ChunkBlocks, chunk_blocks, largest_chunk
from bridge_core.transfer.chunk_grid import copies
from bridge_core.transfer.memory_order import (
    MemoryOrder,
    chunked_sources,
    first_source,
    is_remote,
    memory_order_of,
)

__all__ = ["COPY_BLOCK", "LARGE", "STRIP", "BlockPlan", "plan_blocks", "plan_boxes"]

COPY_BLOCK = 1 << 20
"""Bytes that are copied at once without ops: they stay in the cache from reading to writing.

Chosen with ``benchmarks/file_to_file.py``.
"""

STRIP = 1 << 20
"""Bytes that are read at once and then transposed while they are in the cache.

Chosen with ``benchmarks/transpose_kernel.py``, contestant ``from file``.
"""

LARGE = 2 * STRIP
"""Bytes of a block from which on it is read in strips if its memory order differs from the source's."""

_LINES = 64 << 10
"""Bytes that arrays of one block take to begin at cache lines."""

_STRIPS = 4 * STRIP
"""Bytes of strips that are in memory in addition to a block."""

# The next three were chosen with benchmarks/memory.py: one tensor that is larger than the memory budget.

_SHORT_RUN = 1536
"""The fewest bytes of a read, so that a block can be one run of the target."""

_GOOD_RUN = 4 << 10
"""Bytes of a read from which on longer ones gain little."""

_WRITE_COST = 4
"""Time to write a run, as a multiple of the time to read one."""

_STACKED_BLOCK = 16 << 20
"""Bytes of the largest block over many sources: each source is read by itself, so larger blocks gain nothing.

Chosen with ``benchmarks/stacking.py``.
"""


@dataclass(frozen=True, eq=False, slots=True)
class BlockPlan:
    """How one tensor moves from its source to its destination.

    Args:
        key: The tensor's key.
        tensor: The tensor.
        nbytes: Bytes of its values.
        source: The tensor in a file that the first values come from; None if they come from memory.
        block_shape: Shape of the blocks; those at the ends are smaller.
        contiguous: Whether the blocks follow each other in row-major order, each one run of the tensor.
        memory_order: The order of the axes in the source; None if the last axis is contiguous there, if the
            order is not known, or if the tensor is small.
        scratch_nbytes: Bytes of scratch memory that reading a block takes.
        extents: The places of the tensor's bytes in the file that is written.
        crc_seed: CRC-32 of the bytes that precede the tensor in the same checksum.
        elements_per_byte: How many elements are packed into a byte.
        can_copy: Whether the system may be able to copy its bytes from file to file.
        chunks: How it is cut by the chunks of its sources; None if they have none, or the cut is given.
        held_nbytes: Bytes of complete chunks of sources that are held while the blocks are read.
        band_shape: Shape of runs of blocks that are read as one; empty to read each block by itself.
    """

    key: Key
    tensor: Tensor
    nbytes: int
    source: FileTensor | None
    block_shape: tuple[int, ...]
    contiguous: bool
    memory_order: MemoryOrder | None
    scratch_nbytes: int
    extents: tuple[Extent, ...]
    crc_seed: int
    elements_per_byte: int
    can_copy: bool
    chunks: ChunkBlocks | None = None
    held_nbytes: int = 0
    band_shape: tuple[int, ...] = ()

    @property
    def blocks(self) -> Iterator[Region]:
        """The blocks, in the order in which they are to be moved."""
        if self.chunks is not None:
            shape = self.tensor.spec.shape
            if self.contiguous:
                return self.chunks.in_order(shape)
            return (block for _, blocks in self.chunks.groups(shape) for block in blocks)
        return regions.boxes(self.tensor.spec.shape, self.block_shape)


def plan_blocks(
    key: Key,
    tensor: Tensor,
    max_bytes: int,
    *,
    in_order: bool = False,
    extents: tuple[Extent, ...] = (),
    crc_seed: int = 0,
    elements_per_byte: int = 1,
    may_copy: bool = False,
) -> BlockPlan:
    """Return how a tensor moves in blocks of at most ``max_bytes`` each.

    A block has at least one element. One that is read in strips may be half as large again if that makes it
    one run of the target.

    Args:
        key: The tensor's key.
        tensor: The tensor.
        max_bytes: Bytes of a block; twice as much memory may be used.
        in_order: Whether the blocks have to follow each other in row-major order.
        extents: See `BlockPlan`.
        crc_seed: See `BlockPlan`.
        elements_per_byte: See `BlockPlan`; blocks of packed tensors are in row-major order.
        may_copy: Whether bytes may be copied without passing through this process.
    """
    spec = tensor.spec
    shape, itemsize, nbytes = spec.shape, spec.dtype.itemsize, spec.nbytes
    source = first_source(tensor)
    as_stored = source is not None and tensor is source and not source.big_endian
    in_order = in_order or elements_per_byte > 1
    chunks = None
    if not as_stored and chunked_sources(tensor):
        chunks = chunk_blocks(tensor, max_bytes, in_order=in_order)
    if chunks is not None:
        box, cell = chunks.block_shape, chunks.largest_part(shape)
        contiguous = in_order or (_is_run(shape, cell) and _is_run(cell, box))
        block_nbytes = regions.size(box) * itemsize
        return BlockPlan(
            key,
            tensor,
            nbytes,
            source,
            box,
            contiguous,
            None,
            block_nbytes,
            extents,
            crc_seed,
            elements_per_byte,
            can_copy=False,
            chunks=chunks,
            held_nbytes=chunks.held_nbytes,
        )
    large = nbytes > max_bytes or nbytes >= LARGE
    order = memory_order_of(tensor) if large and not as_stored else None
    if order is not None and order.inner == len(shape) - 1:
        order = None
    cut_across = order if nbytes > max_bytes and not in_order else None
    block = min(COPY_BLOCK, max_bytes) if as_stored else max_bytes
    if cut_across is not None and not is_remote(tensor):
        block = _largest_block(shape, cut_across, source, max_bytes)
    elements = max(1, block // itemsize)
    if nbytes <= elements * itemsize:
        box = shape
    elif cut_across is not None and is_remote(tensor):
        box = _run_of_source(shape, cut_across, elements)
    elif cut_across is not None:
        box = _box(shape, cut_across.inner, elements, itemsize)
    else:
        box = regions.block_shape(shape, elements)
    return BlockPlan(
        key,
        tensor,
        nbytes,
        source,
        box,
        _is_run(shape, box),
        None if source is None else order,
        min(nbytes, block) + (0 if as_stored else _strips(tensor, min(nbytes, block))),
        extents,
        crc_seed,
        elements_per_byte,
        may_copy and as_stored and elements_per_byte == 1 and source is not None and source.file.can_copy,
    )


def plan_boxes(key: Key, tensor: Tensor, shape: tuple[int, ...], max_bytes: int = 0) -> BlockPlan:
    """Return how a tensor moves in boxes of a given shape.

    Args:
        key: The tensor's key.
        tensor: The tensor.
        shape: Shape of the boxes; those at the ends are smaller.
        max_bytes: Bytes that may be read at once to decode chunks of sources fewer times; twice as much
            memory may be used.
    """
    spec, source = tensor.spec, first_source(tensor)
    box = tuple(min(n, most) for n, most in zip(spec.shape, shape, strict=True))
    box_nbytes = regions.size(box) * spec.dtype.itemsize
    as_stored = source is not None and tensor is source and not source.big_endian
    sources = () if as_stored else chunked_sources(tensor)
    strips = box_nbytes >= LARGE and source is not None and not as_stored and not sources
    order = memory_order_of(tensor) if strips else None
    band = _band(spec, box, max_bytes // 2 if copies(tensor) else max_bytes) if sources else ()
    return BlockPlan(
        key,
        tensor,
        spec.nbytes,
        source,
        box,
        _is_run(spec.shape, box),
        None if order is None or order.inner == len(box) - 1 else order,
        max(box_nbytes + (0 if as_stored else _STRIPS), regions.size(band) * spec.dtype.itemsize),
        (),
        0,
        1,
        can_copy=False,
        held_nbytes=max(box_nbytes, max_bytes, largest_chunk(sources)) if sources else 0,
        band_shape=band,
    )


def _strips(tensor: Tensor, block_nbytes: int) -> int:
    """Return the bytes in addition to a block; the memory for a server's bytes is not theirs to take."""
    if is_remote(tensor) and block_nbytes < LARGE:  # the block is read at once
        return block_nbytes + _LINES
    return _STRIPS


def _band(spec: TensorSpec, box: tuple[int, ...], max_bytes: int) -> tuple[int, ...]:
    """Return the shape of the longest run of boxes, each a run of the tensor; empty if boxes are none."""
    if not spec.shape or not _is_run(spec.shape, box):
        return ()
    axis = next((a for a, n in enumerate(box) if n != 1), len(box) - 1)
    count = max(1, max_bytes // max(1, regions.size(box) * spec.dtype.itemsize))
    return (*box[:axis], min(spec.shape[axis], box[axis] * count), *box[axis + 1 :])


def _largest_block(
    shape: tuple[int, ...], order: MemoryOrder, source: FileTensor | None, max_bytes: int
) -> int:
    """Return the bytes of a block that is not contiguous in its source.

    Twice ``max_bytes`` of memory may be used.
    """
    if order.stacked:
        return min(max_bytes, _STACKED_BLOCK)
    if source is None:
        return max_bytes
    most = min(max_bytes * 3 // 2, 2 * max_bytes - _STRIPS)
    useful = shape[-1] * _SHORT_RUN <= most
    return max(max_bytes, min(most, shape[-1] * _GOOD_RUN)) if useful else max_bytes


def _run_of_source(shape: tuple[int, ...], order: MemoryOrder, elements: int) -> tuple[int, ...]:
    """Return the shape of blocks that are one run of the source: fewer requests, and each byte once.

    Many short writes to a local file cost less than one more request to a server.
    """
    box = [1 if axis in order.stacked else n for axis, n in enumerate(shape)]
    row = regions.size(tuple(box)) // box[order.outer]
    if row > elements:
        return regions.block_shape(shape, elements)
    box[order.outer] = min(box[order.outer], elements // row)
    return tuple(box)


def _box(shape: tuple[int, ...], inner: int, elements: int, itemsize: int) -> tuple[int, ...]:
    """Return the shape of blocks that are long along the last axis and along ``inner``.

    Writing a run costs more than reading one, and blocks that are one run of the target cost least.
    """
    last = len(shape) - 1
    box = [1] * len(shape)
    long = min(shape[inner], max(1, int((elements // _WRITE_COST) ** 0.5)))
    short = min(long, max(1, _SHORT_RUN // itemsize))
    fits = shape[last] * short <= elements
    parts = 1 if fits else -(-shape[last] * long // elements)
    box[last] = -(-shape[last] // parts)
    box[inner] = min(shape[inner], max(1, elements // box[last]))
    spare = elements // (box[last] * box[inner])
    for axis in range(last - 1, -1, -1):
        if axis != inner:
            box[axis] = min(shape[axis], max(1, spare))
            spare //= box[axis]
    return tuple(box)


def _is_run(shape: tuple[int, ...], box: tuple[int, ...]) -> bool:
    """Return whether each box is one run: cut along one axis, with sizes of 1 before it."""
    cut_at = next((axis for axis, n in enumerate(box) if n != 1), len(box))
    return box[cut_at + 1 :] == shape[cut_at + 1 :]
