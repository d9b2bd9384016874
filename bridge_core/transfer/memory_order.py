"""Memory order: which axis of a result is contiguous in its source file.

A chain of ops may permute, cut, stack and reshape axes. To read in a good order, three things must be known:
along which axis of the result the source's elements are adjacent, along which axis its rows follow each
other, and along which axes each step is another source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge_core.ops import Concat, Flip, Op, OpTensor, Permute, Reshape, Split, Stack, Unstack, axis_groups
from bridge_core.state import FileTensor, Tensor

__all__ = [
    "chunk_shape_of",
    "chunked_sources",
    "first_source",
    "is_remote",
    "memory_order_of",
    "MemoryOrder",
]


@dataclass(frozen=True)
class MemoryOrder:
    """The order of a result's axes in its source.

    Args:
        inner: The axis along which the source's elements are adjacent.
        outer: The axis along which the source's outermost rows follow each other.
        stacked: Axes along which each step is another source.
    """

    inner: int
    outer: int
    stacked: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Axis:
    """The axis of an input that an axis of the result comes from; None if there is none.

    Args:
        outer: The axis whose steps are, or are made of, steps of the result's axis.
        inner: The axis whose elements are adjacent along the result's axis.
        stacked: Whether each step is another source.
        depth: The order among axes with the same ``outer``, of which the first has the longest steps.
    """

    outer: int | None
    inner: int | None
    stacked: bool = False
    depth: tuple[int, ...] = ()


_STACKED = _Axis(None, None, stacked=True)


def memory_order_of(tensor: Tensor) -> MemoryOrder | None:
    """Return the memory order of a tensor in its source; None if it is not known."""
    axes = [_Axis(i, i) for i in range(len(tensor.spec.shape))]
    while isinstance(tensor, OpTensor):
        if not tensor.inputs:
            return None
        input_axes = _through(tensor.op, axes, tensor)
        if input_axes is None:
            return None
        axes, tensor = input_axes, tensor.inputs[0]
    last = len(tensor.spec.shape) - 1
    # The result does not have an axis that was unstacked; then the next one is the outermost.
    first = min(((axis.outer, axis.depth) for axis in axes if axis.outer is not None), default=(0, ()))
    inner = [i for i, axis in enumerate(axes) if axis.inner == last]
    outer = [i for i, axis in enumerate(axes) if (axis.outer, axis.depth) == first]
    if last < 0 or len(inner) != 1 or len(outer) != 1:
        return None
    return MemoryOrder(inner[0], outer[0], tuple(i for i, axis in enumerate(axes) if axis.stacked))


def first_source(tensor: Tensor) -> FileTensor | None:
    """Return the file tensor that the first values come from; None if they are in memory."""
    while isinstance(tensor, OpTensor) and tensor.inputs:
        tensor = tensor.inputs[0]
    return tensor if isinstance(tensor, FileTensor) else None


def is_remote(tensor: Tensor) -> bool:
    """Return whether the first values of a tensor come from a server."""
    source = first_source(tensor)
    # A source of a plugin need not inherit from the protocol, which has more attributes than it once had.
    return source is not None and getattr(source.file, "is_remote", False)


def _through(op: Op, axes: list[_Axis], tensor: OpTensor) -> list[_Axis] | None:
    """Return the axes of the op's first input that ``axes`` of its output come from."""
    match op:
        case Permute(order):
            return [_moved(axis, lambda a: order[a]) for axis in axes]
        case Stack(at, _):
            return [
                _STACKED if axis.outer == at or axis.inner == at else _moved(axis, lambda a: a - (a > at))
                for axis in axes
            ]
        case Unstack(at, _):
            return [_moved(axis, lambda a: a + (a >= at)) for axis in axes]
        case Reshape(source, target):
            return _reshaped(axes, source, target)
        case Flip() | Split() | Concat():
            return axes
        case _:
            same = len(tensor.inputs) == 1 and tensor.inputs[0].spec.shape == tensor.spec.shape
            return axes if same else None


def _moved(axis: _Axis, place: Callable[[int], int]) -> _Axis:
    outer = None if axis.outer is None else place(axis.outer)
    inner = None if axis.inner is None else place(axis.inner)
    return _Axis(outer, inner, axis.stacked, axis.depth)


def _reshaped(axes: list[_Axis], source: tuple[int, ...], target: tuple[int, ...]) -> list[_Axis] | None:
    """Follow axes through a reshape; the first of those of a split axis is the outer one."""
    if 0 in source:
        return None
    outer: dict[int, tuple[int, int]] = {}
    inner: dict[int, int] = {}
    for before, after in axis_groups(source, target):
        targets = [a for a in range(after.start, after.stop) if target[a] > 1]
        sources = [a for a in range(before.start, before.stop) if source[a] > 1]
        if targets and sources and (len(targets) == 1 or len(sources) == 1):
            outer.update((target_axis, (sources[0], depth)) for depth, target_axis in enumerate(targets))
            inner[targets[-1]] = sources[-1]
    result = []
    for axis in axes:
        before_outer, depth = (None, 0) if axis.outer is None else outer.get(axis.outer, (None, 0))
        before_inner = None if axis.inner is None else inner.get(axis.inner)
        result.append(_Axis(before_outer, before_inner, axis.stacked, (depth, *axis.depth)))
    return result


def chunk_shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a source's chunks; empty if it has none."""
    chunk: tuple[int, ...] = getattr(tensor, "chunk_shape", ())
    return chunk if len(chunk) == len(tensor.spec.shape) and 0 not in tensor.spec.shape else ()


def chunked_sources(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the sources that have chunks, each once."""
    sources: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor, OpTensor):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                waiting.extend(reversed(tensor.inputs))
        elif not isinstance(tensor, FileTensor) and chunk_shape_of(tensor):
            sources[id(tensor)] = tensor
    return tuple(sources.values())
