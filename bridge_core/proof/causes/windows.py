"""Windows over the axes of space: which entries of the input each output of a convolution or pool sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bridge_core.state import Array

__all__ = ["MODES", "AxisWindow", "axis_windows", "convolve", "gathered", "pooled", "probe_positions"]

MODES = ("zeros", "reflect", "edge", "wrap")
"""What lies outside of the input: zeros, mirrored without the border, the border, the other end."""


@dataclass(frozen=True)
class AxisWindow:
    """How a window moves along one axis of space.

    Args:
        size: Entries of the window.
        stride: Step between outputs; with ``spread`` the distance between inputs instead.
        dilation: Step between entries of the window.
        low: Padding before the first input.
        high: Padding after the last one.
        spread: Whether the input is spread by the stride (a transposed convolution).
    """

    size: int
    stride: int = 1
    dilation: int = 1
    low: int = 0
    high: int = 0
    spread: bool = False

    def outputs(self, length: int) -> int:
        """Return how many outputs an axis of this length has."""
        reach = self.dilation * (self.size - 1) + 1
        if self.spread:
            return (length - 1) * self.stride + 1 + self.low + self.high - reach + 1
        return (length + self.low + self.high - reach) // self.stride + 1

    def indices(self, length: int, mode: str, places: Array | None = None) -> tuple[Array, Array]:
        """Return for each output the inputs that its window sees, and which of them exist.

        Args:
            length: Length of the axis.
            mode: One of `MODES`.
            places: The outputs; None for all of them.
        """
        outputs = np.arange(self.outputs(length)) if places is None else places
        step = 1 if self.spread else self.stride
        index = outputs[:, None] * step - self.low + self.dilation * np.arange(self.size)[None]
        if self.spread:
            exists = (index >= 0) & (index <= (length - 1) * self.stride) & (index % self.stride == 0)
            return np.where(exists, index // self.stride, 0), exists
        exists = (index >= 0) & (index < length)
        if mode == "zeros":
            return np.where(exists, index, 0), exists
        if mode == "reflect":
            period = max(2 * (length - 1), 1)
            index = np.abs(index) % period
            index = np.where(index >= length, period - index, index)
        elif mode == "edge":
            index = np.clip(index, 0, length - 1)
        else:
            index = index % length
        return index, np.ones_like(exists)


def axis_windows(
    length: int,
    outputs: int,
    size: int,
    *,
    strides: Sequence[int],
    dilations: Sequence[int] = (1,),
    spread: bool = False,
) -> Iterator[AxisWindow]:
    """Yield the windows that give an axis of one length so many outputs.

    Padding that no output sees is left out, so that equal computations are equal windows.

    >>> [w.low for w in axis_windows(5, 5, 3, strides=(1,))]
    [0, 1, 2]
    """
    for stride in strides:
        for dilation in dilations:
            reach = dilation * (size - 1)
            for low in range(reach + 1):
                if spread:
                    high = outputs - ((length - 1) * stride + 1 + low - reach)
                else:
                    needed = (outputs - 1) * stride + reach + 1 - length - low
                    if needed + stride - 1 < 0:  # more outputs would fit
                        continue
                    high = max(needed, 0)
                if -reach <= high <= reach + (stride if spread else 0) and (spread or high >= 0):
                    yield AxisWindow(size, stride, dilation, low, high, spread)


def probe_positions(outputs: int) -> Array:
    """Return a few outputs of an axis: both ends, where padding shows, and two inside."""
    chosen = {0, 1, outputs // 2, outputs - 2, outputs - 1}
    return np.array(sorted(place for place in chosen if 0 <= place < outputs))


def gathered(
    x: Array, windows: Sequence[AxisWindow], mode: str, places: Sequence[Array] | None = None
) -> tuple[Array, Array]:
    """Return what each window sees: ``[n, out.., size.., c]``, and which of it exists ``[out.., size..]``.

    Args:
        x: ``[n, space.., c]``.
        windows: One for each axis of space.
        mode: One of `MODES`.
        places: The outputs of each axis; None for all.
    """
    space = len(windows)
    exists = np.ones((1,) * (2 * space), bool)
    seen = x
    for axis, window in enumerate(windows):
        wanted = None if places is None else places[axis]
        index, there = window.indices(x.shape[1 + axis], mode, wanted)
        seen = np.take(seen, index, axis=1 + 2 * axis)
        shape = [1] * (2 * space)
        shape[axis], shape[space + axis] = index.shape
        exists = exists & there.reshape(shape)
    order = [0, *range(1, 1 + 2 * space, 2), *range(2, 2 + 2 * space, 2), 1 + 2 * space]
    return seen.transpose(order), exists


def convolve(
    x: Array,
    kernel: Array,
    windows: Sequence[AxisWindow],
    mode: str = "zeros",
    places: Sequence[Array] | None = None,
) -> Array:
    """Return the correlation of an input with a kernel.

    Args:
        x: ``[n, space.., in]``.
        kernel: ``[size.., in / groups, out]``; the groups follow from its size.
        windows: One for each axis of space.
        mode: One of `MODES`.
        places: The outputs of each axis; None for all.
    """
    groups = x.shape[-1] // kernel.shape[-2]
    if groups * kernel.shape[-2] != x.shape[-1] or kernel.shape[-1] % groups:
        raise ValueError("the kernel does not fit the channels")
    ins, outs = kernel.shape[-2], kernel.shape[-1] // groups
    flat = kernel.reshape(-1, kernel.shape[-1])
    parts = []
    for sample in x:  # one at a time: windows take many times the memory of the input
        seen, exists = gathered(sample[None], windows, mode, places)
        seen = np.where(exists[..., None], seen[0], 0)
        shape = seen.shape[: len(windows)]
        part = [
            seen[..., g * ins : (g + 1) * ins].reshape(-1, len(flat)) @ flat[:, g * outs : (g + 1) * outs]
            for g in range(groups)
        ]
        parts.append(np.concatenate(part, axis=-1).reshape(*shape, -1))
    return np.stack(parts)


def pooled(x: Array, windows: Sequence[AxisWindow], how: str, places: Sequence[Array] | None = None) -> Array:
    """Return a pooled input ``[n, out.., c]``.

    Args:
        x: ``[n, space.., c]``.
        windows: One for each axis of space.
        how: ``"max"``, ``"average"`` (padding counts), ``"average of inputs"`` (padding does not).
        places: The outputs of each axis; None for all.
    """
    seen, exists = gathered(x, windows, "zeros", places)
    space = len(windows)
    axes = tuple(range(1 + space, 1 + 2 * space))
    there = exists[None, ..., None]
    if how == "max":
        return np.asarray(np.max(np.where(there, seen, -np.inf), axis=axes))
    total = np.sum(np.where(there, seen, 0), axis=axes)
    if how == "average":
        return np.asarray(total / int(np.prod([window.size for window in windows])))
    count = np.sum(np.broadcast_to(there, (1, *seen.shape[1:-1], 1)), axis=axes)
    return np.asarray(total / count)
