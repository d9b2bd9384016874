"""Mistakes of converting weights, as functions of an array, with the kind that each is called."""

from __future__ import annotations

import ml_dtypes
import numpy as np

__all__ = ["MISTAKES", "axis_with_factor"]


def axis_with_factor(array, factor):
    """Return the first axis that can be cut into ``factor`` parts of two or more; None without one."""
    return next((a for a, n in enumerate(array.shape) if n % factor == 0 and n >= 2 * factor), None)


def _in_parts(array, order):
    axis = axis_with_factor(array, len(order))
    parts = np.split(array, len(order), axis)
    return np.concatenate([parts[n] for n in order], axis)


def _split(array, inner):
    axis = axis_with_factor(array, inner * 2)
    shape = (*array.shape[:axis], -1, 2, inner, *array.shape[axis + 1 :])
    return array.reshape(shape).swapaxes(axis + 1, axis + 2).reshape(array.shape)


def _heads_inside(array):
    axis = axis_with_factor(array, 4)
    shape = (*array.shape[:axis], 4, -1, *array.shape[axis + 1 :])
    return array.reshape(shape).swapaxes(axis, axis + 1).reshape(array.shape)


def _shifted_rows(array):
    moved = np.zeros_like(array)
    moved[1:] = array[:-1]
    return moved


def _permuted(array):
    return array[np.random.default_rng(3).permutation(len(array))]


def _through(name):
    narrow = getattr(ml_dtypes, name, None) or np.dtype(name)
    return lambda array: array.astype(narrow).astype(array.dtype)


MISTAKES = {
    "transposed square": (lambda a: a.swapaxes(-1, -2), {"transposed"}),
    "permuted axes": (lambda a: a.transpose(*range(2, a.ndim), 1, 0), {"permuted axes", "transposed"}),
    "flipped": (lambda a: a[..., ::-1], {"flipped"}),
    "byte order": (lambda a: a.byteswap(), {"byte order"}),
    "Fortran order": (lambda a: a.ravel(order="F").reshape(a.shape), {"Fortran order", "transposed"}),
    "swapped halves": (lambda a: _in_parts(a, (1, 0)), {"swapped parts"}),
    "swapped gates": (lambda a: _in_parts(a, (0, 2, 1, 3)), {"swapped parts"}),
    "interleaved halves": (lambda a: _split(a, 4), {"interleaved"}),
    "interleaved heads": (_heads_inside, {"interleaved"}),
    "off by one row": (_shifted_rows, {"shifted rows"}),
    "one row less": (lambda a: a[1:], {"cut"}),
    "scaled": (lambda a: a * np.float32(0.125), {"scaled"}),
    "scaled by a root": (lambda a: a / np.float32(np.sqrt(72)), {"scaled"}),
    "shifted by one": (lambda a: a - np.float32(1), {"shifted"}),
    "negated": (lambda a: -a, {"negated"}),
    "rounded through bfloat16": (_through("bfloat16"), {"rounded"}),
    "rounded through float16": (_through("float16"), {"rounded"}),
    "permuted experts": (_permuted, {"permuted", "rolled", "swapped parts", "interleaved", "flipped"}),
    "padded": (lambda a: np.concatenate([a, np.zeros_like(a[:3])]), {"padded"}),
    "repeated": (lambda a: np.repeat(a, 2, axis=0), {"repeated"}),
}
"""Name -> (function of an array, the kinds it may be called)."""
