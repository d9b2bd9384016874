"""Reading a block, or a tensor, into memory."""

from __future__ import annotations

import itertools
from typing import Any

from bridge_core.ops import OpTensor
from bridge_core.state import Array, FileTensor, Region, Tensor, regions
from bridge_core.transfer.block_plan import STRIP, runs_across
from bridge_core.transfer.memory_order import Grain, first_source, grain_of
from bridge_core.transfer.scratch import Scratch
from bridge_core.transfer.transpose import copy_into, move_plane

__all__ = ["read_block", "read_whole"]

_FEWEST_BYTES = 256
"""Bytes that a strip writes side by side at least, or lines of the cache are fetched for little."""

_WHOLE = 16 << 20


def read_block(tensor: Tensor, region: Region, scratch: Scratch) -> Array:
    """Return a block as a C-contiguous array, in the scratch memory where possible."""
    grain = _across(tensor, region)
    if grain is not None:
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        _fill_across(tensor, region, out, scratch, grain)
        return out
    found = _pulled(tensor, region, scratch)
    if found.flags.c_contiguous:
        return found
    out = scratch.take(found.shape, found.dtype)
    copy_into(out, found, scratch.kernel)
    return out


def read_whole(tensor: Tensor, out: Array, scratch: Scratch) -> None:
    """Fill a C-contiguous array of the tensor's shape and dtype, with one pass over its values."""
    whole = regions.full(tensor.spec.shape)
    grain = _across(tensor, whole)
    if isinstance(tensor, FileTensor):
        tensor.read_into(whole, out)
    elif grain is not None:
        _fill_across(tensor, whole, out, scratch, grain)
    else:
        for region in regions.blocks(tensor.spec.shape, _WHOLE // tensor.spec.dtype.itemsize):
            scratch.reset()
            index: tuple[Any, ...] = (*region, ...)  # the ellipsis keeps an array where no axes are
            copy_into(out[index], _pulled(tensor, region, scratch), scratch.kernel)


def _across(tensor: Tensor, region: Region) -> Grain | None:
    """Return the grain of a large region, where its file runs along another axis than the last; else None."""
    large = regions.size(regions.region_shape(region)) * tensor.spec.dtype.itemsize >= 2 * STRIP
    if not large or first_source(tensor) is None:
        return None
    grain = grain_of(tensor)
    return grain if grain is not None and runs_across(tensor, grain) else None


def _fill_across(tensor: Tensor, region: Region, out: Array, scratch: Scratch, grain: Grain) -> None:
    """Read strips along the source's grain, and move each into place while it is in the cache."""
    outer, inner = grain.outer, grain.inner
    sizes = list(regions.region_shape(region))
    for axis in grain.stacked:
        sizes[axis] = 1
    row = regions.size(tuple(sizes)) * out.itemsize // max(1, sizes[outer])
    fewest = _FEWEST_BYTES // out.itemsize if outer == out.ndim - 1 else 1
    sizes[outer] = max(1, min(sizes[outer], max(STRIP // max(1, row), fewest)))
    if row * sizes[outer] > 2 * STRIP:
        sizes[inner] = max(1, sizes[inner] * STRIP // (row * sizes[outer]))
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(out.shape, sizes, strict=True))):
        parts = [slice(at, min(at + k, n)) for at, k, n in zip(corner, sizes, out.shape, strict=True)]
        wanted = tuple(
            slice(p.start + part.start * p.step, p.start + (part.stop - 1) * p.step + 1, p.step)
            for p, part in zip(region, parts, strict=True)
        )
        with scratch.returned():
            found = _pulled(tensor, wanted, scratch, spread=scratch.kernel is None)
            target = out[tuple(parts)]
            if grain.stacked:
                found, target = found.squeeze(grain.stacked), target.squeeze(grain.stacked)
            if found.ndim == 2:
                move_plane(target, found, scratch.kernel)
            else:
                copy_into(target, found, scratch.kernel)


def _pulled(tensor: Tensor, region: Region, scratch: Scratch, *, spread: bool = False) -> Array:
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        pulls = tensor.op.input_regions(tensor.output, region, specs)
        pieces = tuple(_pulled(tensor.inputs[p.input], p.region, scratch, spread=spread) for p in pulls)
        return tensor.op.compute(tensor.output, region, pieces, specs)
    if isinstance(tensor, FileTensor):
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        tensor.read_into(region, out)
        return scratch.spread(out) if spread else out
    return tensor.read(region)
