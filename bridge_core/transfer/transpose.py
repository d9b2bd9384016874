"""Copying between arrays of different memory order, at the speed that the caches allow.

numpy walks one of the two arrays across its contiguous axis. If a stride is a power of two, as model widths
are, the cache lines of this walk fall into the same few cache sets. This module copies a tile that fits the
cache in the source's memory order into a padded buffer, and from there in the target's.

If OpenCV is installed (``ckptbridge[fast]``), its transpose moves the planes of large jobs: it exchanges
elements in the processor's vector registers. The result is the same, byte for byte.

The constants were chosen with ``benchmarks/transpose_kernel.py``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from bridge_core.state import Array

__all__ = ["Kernel", "copy_into", "kernel_for", "move_plane"]

Kernel = Callable[[Array, Array], None]
"""Copies a matrix whose source is column-major: ``(out, source)``, both of unsigned integers."""

_WORTH_LOADING = 256 << 20
"""Bytes of a job from which on a compiled kernel saves more time than its import costs."""

_TILE_BYTES = 1024
"""Bytes of a tile's side along the source's contiguous axis."""
_TILE_ROWS = 256
_COMPILED_TILE = 256
_PAD_BYTES = 64
_SMALL = 1 << 16
"""Bytes below which numpy's own copy is as good."""
_PAGE = 4096
_NEAR_CACHE = 64 << 10
_WIDE = 32
"""Elements of the shortest axis along which tiles are faster than numpy."""
_INTEGERS: dict[int, np.dtype[Any]] = {n: np.dtype(f"uint{8 * n}") for n in (1, 2, 4, 8)}


def kernel_for(nbytes: int) -> Kernel | None:
    """Return the compiled kernel for so many bytes; None if too few, or not installed."""
    return _opencv() if nbytes >= _WORTH_LOADING else None


def copy_into(out: Array, source: Array, kernel: Kernel | None = None) -> None:
    """Copy an array of any strides into another of the same shape and dtype.

    The last axis of ``out`` is contiguous.

    Args:
        out: The array that is written to.
        source: The array that is read; it may share no memory with ``out``.
        kernel: Moves large planes; None for this module's own tiles.

    >>> a = np.arange(6).reshape(2, 3)
    >>> b = np.empty((3, 2), a.dtype)
    >>> copy_into(b, a.T)
    >>> b.tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    integers = _INTEGERS.get(out.dtype.itemsize)
    if integers is not None:
        out, source = out.view(integers), source.view(integers)
    else:
        kernel = None
    if out.nbytes < _SMALL or source.flags.c_contiguous:
        np.copyto(out, source)
        return
    out, source = _coalesced(out, source)
    fast = min(range(out.ndim), key=lambda axis: abs(source.strides[axis]))
    last = out.ndim - 1
    gentle = kernel is None and _is_gentle(out, source)
    if fast == last or out.shape[last] < _WIDE or gentle:
        np.copyto(out, source)
    elif out.shape[fast] >= _WIDE:
        _planes(out, source, fast, kernel or _tiles)
    else:
        _in_two_steps(out, source, kernel or _tiles)


def move_plane(out: Array, source: Array, kernel: Kernel | None = None) -> None:
    """Copy a matrix whose source is column-major and already in the cache."""
    integers = _INTEGERS.get(out.dtype.itemsize)
    if integers is None:
        np.copyto(out, source)
    else:
        (kernel or np.copyto)(out.view(integers), source.view(integers))


@functools.cache
def _opencv() -> Kernel | None:
    try:
        import cv2
    except ImportError:
        return None
    names = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}

    def transpose(out: Array, source: Array) -> None:
        """Transpose tile by tile, each small enough for the cache."""
        rows, columns = out.shape
        dtype = names[out.itemsize]
        target, turned = out.view(dtype), source.view(dtype).T
        for top in range(0, rows, _COMPILED_TILE):
            for left in range(0, columns, _COMPILED_TILE):
                part = turned[left : left + _COMPILED_TILE, top : top + _COMPILED_TILE]
                cv2.transpose(part, target[top : top + _COMPILED_TILE, left : left + _COMPILED_TILE])

    return transpose


def _is_gentle(out: Array, source: Array) -> bool:
    """Return whether the source's lines for a row of the target stay in the cache untiled."""
    near = out.ndim == 2 and out.shape[-1] * _PAD_BYTES <= _NEAR_CACHE
    return near and bool(source.strides[-1] % _PAGE)


def _coalesced(out: Array, source: Array) -> tuple[Array, Array]:
    """Merge neighbouring axes that are contiguous in both arrays, and drop axes of size 1."""
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


def _planes(out: Array, source: Array, fast: int, kernel: Kernel) -> None:
    """Transpose the planes of the source's contiguous axis and the target's in turn."""
    plane = (fast, out.ndim - 1)
    parts: list[Any] = [(slice(None),) if axis in plane else range(n) for axis, n in enumerate(out.shape)]
    index: tuple[Any, ...]
    for index in itertools.product(*parts):
        kernel(out[index], source[index])


def _tiles(out: Array, source: Array) -> None:
    """Copy a matrix whose source is column-major."""
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


def _in_two_steps(out: Array, source: Array, kernel: Kernel) -> None:
    """Make the target's last axis contiguous, then reorder the other axes.

    Both steps move long runs; a single step would move the few elements of a convolution's window at a time.
    """
    last = out.ndim - 1
    order = sorted(range(last), key=lambda axis: -abs(source.strides[axis]))
    inner = np.empty([out.shape[axis] for axis in (*order, last)], out.dtype)
    step = source.transpose((*order, last))
    merged_out, merged = _coalesced(inner, step)
    if merged.ndim == 2 and merged.shape[0] >= _WIDE:
        kernel(merged_out, merged)
    else:
        np.copyto(inner, step)
    back = sorted(range(last), key=order.__getitem__)
    np.copyto(out, inner.transpose((*back, last)))
