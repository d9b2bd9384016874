"""One axis in front of all leaves: weights stacked over layers, or replicated over devices."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_core.state import TensorSpec

__all__ = ["leading_axis"]


def leading_axis(specs: Iterable[TensorSpec]) -> int | None:
    """Return the size of an axis that all leaves seem to have in front; None if there is no such axis.

    Args:
        specs: The leaves of a layer, or of a tree.

    Returns:
        The size of the first axis if all leaves share it, it is more than 1, and some leaves have two axes
        and the others more: biases ``[n, out]`` next to kernels ``[n, in, out]``.

    >>> import numpy
    >>> f4 = numpy.dtype("float32")
    >>> leading_axis([TensorSpec((8, 4, 6), f4), TensorSpec((8, 6), f4)])
    8
    >>> leading_axis([TensorSpec((4, 4), f4), TensorSpec((4,), f4)])
    """
    shapes = {spec.shape for spec in specs}
    ranks = {len(shape) for shape in shapes}
    if len(ranks) < 2 or min(ranks) != 2:
        return None
    sizes = {shape[0] for shape in shapes}
    size = sizes.pop()
    return size if not sizes and size > 1 else None
