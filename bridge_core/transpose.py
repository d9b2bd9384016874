"""Copying between arrays whose axes run in different orders, at the speed that the caches allow.

numpy walks one of the two arrays against its grain. Where a stride is a power of two, as model widths are,
the lines it touches fall into the same few cache sets. Here a tile that fits the cache is first copied along
the source's grain into a padded buffer, and from there along the target's.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bridge_core.tensors import Array

__all__ = ["copy_into"]

_TILE_BYTES = 1024
"""Bytes of a tile's side along the source's grain."""
_TILE_ROWS = 256
_PAD_BYTES = 64
_SMALL = 1 << 16
"""Bytes below which numpy's own copy is as good."""
_PAGE = 4096
_NEAR_CACHE = 128 << 10
_WIDE = 32
"""Shortest axis, in elements, along which tiles are worth their while."""
_INTEGERS: dict[int, np.dtype[Any]] = {n: np.dtype(f"uint{8 * n}") for n in (1, 2, 4, 8)}


def copy_into(out: Array, source: Array) -> None:
    """Copy an array of any strides into another of the same shape and dtype, whose last axis is contiguous.

    >>> a = np.arange(6).reshape(2, 3)
    >>> b = np.empty((3, 2), a.dtype)
    >>> copy_into(b, a.T)
    >>> b.tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    integers = _INTEGERS.get(out.dtype.itemsize)
    if integers is not None:
        out, source = out.view(integers), source.view(integers)
    if out.nbytes < _SMALL or source.flags.c_contiguous:
        np.copyto(out, source)
        return
    out, source = _coalesced(out, source)
    fast = min(range(out.ndim), key=lambda axis: abs(source.strides[axis]))
    last = out.ndim - 1
    if fast == last or out.shape[last] < _WIDE or _is_gentle(out, source):
        np.copyto(out, source)
    elif out.shape[fast] >= _WIDE:
        _planes(out, source, fast)
    else:
        _in_two_steps(out, source)


def _is_gentle(out: Array, source: Array) -> bool:
    """Tell whether the lines that one row of the target touches in the source stay in the cache anyway."""
    near = out.ndim == 2 and out.shape[-1] * _PAD_BYTES <= _NEAR_CACHE
    return near and bool(source.strides[-1] % _PAGE)


def _coalesced(out: Array, source: Array) -> tuple[Array, Array]:
    """Merge neighbouring axes that both arrays walk as one, and drop axes of size one."""
    shape: list[int] = []
    strides: list[tuple[int, int]] = []
    for n, *steps in zip(source.shape, out.strides, source.strides, strict=True):
        if n == 1:
            continue
        if shape and strides[-1] == (steps[0] * n, steps[1] * n):
            shape[-1] *= n
            strides[-1] = (steps[0], steps[1])
        else:
            shape.append(n)
            strides.append((steps[0], steps[1]))
    if len(shape) == source.ndim:
        return out, source
    ours, theirs = zip(*strides, strict=True)
    strided = np.lib.stride_tricks.as_strided
    return strided(out, shape, ours), strided(source, shape, theirs, writeable=False)


def _planes(out: Array, source: Array, fast: int) -> None:
    """Transpose the planes of the source's grain and the target's, one after the other."""
    plane = (fast, out.ndim - 1)
    parts: list[Any] = [(slice(None),) if axis in plane else range(n) for axis, n in enumerate(out.shape)]
    index: tuple[Any, ...]
    for index in itertools.product(*parts):
        _tiles(out[index], source[index])


def _tiles(out: Array, source: Array) -> None:
    """Copy a matrix whose source runs down the columns."""
    rows, columns = out.shape
    width = max(8, _TILE_BYTES // out.itemsize)
    pad = _PAD_BYTES // out.itemsize
    tile = np.empty((_TILE_ROWS, width + pad), out.dtype)
    for top in range(0, columns, _TILE_ROWS):
        for left in range(0, rows, width):
            part = source[left : left + width, top : top + _TILE_ROWS].T
            staged = tile[: part.shape[0], : part.shape[1]]
            np.copyto(staged, part)
            np.copyto(out[left : left + width, top : top + _TILE_ROWS], staged.T)


def _in_two_steps(out: Array, source: Array) -> None:
    """First bring the target's last axis inside, keeping the others in the source's order; then reorder them.

    Both steps move long runs, where one step would move the few elements of a kernel's window.
    """
    last = out.ndim - 1
    order = sorted(range(last), key=lambda axis: -abs(source.strides[axis]))
    inner = np.empty([out.shape[axis] for axis in (*order, last)], out.dtype)
    step = source.transpose((*order, last))
    merged_out, merged = _coalesced(inner, step)
    if merged.ndim == 2 and merged.shape[0] >= _WIDE:
        _tiles(merged_out, merged)
    else:
        np.copyto(inner, step)
    back = sorted(range(last), key=order.__getitem__)
    np.copyto(out, inner.transpose((*back, last)))
