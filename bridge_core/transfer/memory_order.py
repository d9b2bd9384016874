"""Which way a result runs against the bytes that it comes from.

A chain of ops may turn, cut, stack and fold axes. What a good order of reading needs is little: along which
axis of the result the source's bytes lie side by side, along which one its rows follow each other, and which
axes go from one source to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge_core.io import CheckedSource, SourceFile
from bridge_core.ops import Concat, Flip, Op, OpTensor, Permute, Reshape, Split, Stack, Unstack, axis_groups
from bridge_core.state import FileTensor, Tensor

__all__ = ["Grain", "first_source", "grain_of"]


@dataclass(frozen=True)
class Grain:
    """How a result's axes lie in its source.

    Args:
        inner: The axis along which the source's bytes are neighbours.
        outer: The axis along which the source's outermost rows follow each other.
        stacked: Axes along which each step is another source.
    """

    inner: int
    outer: int
    stacked: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Axis:
    """Where an axis of the result lies in a tensor further down: None where it is not there."""

    outer: int | None
    inner: int | None
    stacked: bool = False


_STACKED = _Axis(None, None, stacked=True)


def grain_of(tensor: Tensor) -> Grain | None:
    """Return how a tensor lies in its source, or None if that cannot be told."""
    axes = [_Axis(i, i) for i in range(len(tensor.spec.shape))]
    while isinstance(tensor, OpTensor):
        if not tensor.inputs:
            return None
        found = _through(tensor.op, axes, tensor)
        if found is None:
            return None
        axes, tensor = found, tensor.inputs[0]
    last = len(tensor.spec.shape) - 1
    # An axis that was unstacked is gone from the result; the next one then is the outermost.
    first = min((axis.outer for axis in axes if axis.outer is not None), default=0)
    inner = [i for i, axis in enumerate(axes) if axis.inner == last]
    outer = [i for i, axis in enumerate(axes) if axis.outer == first]
    if last < 0 or len(inner) != 1 or len(outer) != 1:
        return None
    return Grain(inner[0], outer[0], tuple(i for i, axis in enumerate(axes) if axis.stacked))


def first_source(tensor: Tensor) -> FileTensor | None:
    """Return the place in a file where the tensor's first values come from, if it is known."""
    while isinstance(tensor, OpTensor) and tensor.inputs:
        tensor = tensor.inputs[0]
    known = isinstance(tensor, FileTensor) and isinstance(tensor.file, SourceFile | CheckedSource)
    return tensor if known and isinstance(tensor, FileTensor) else None


def _through(op: Op, axes: list[_Axis], tensor: OpTensor) -> list[_Axis] | None:
    """Return where the axes lie in the op's inputs."""
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
            return _folded(axes, source, target)
        case Flip() | Split() | Concat():
            return axes
        case _:
            same = len(tensor.inputs) == 1 and tensor.inputs[0].spec.shape == tensor.spec.shape
            return axes if same else None


def _moved(axis: _Axis, place: Callable[[int], int]) -> _Axis:
    outer = None if axis.outer is None else place(axis.outer)
    inner = None if axis.inner is None else place(axis.inner)
    return _Axis(outer, inner, axis.stacked)


def _folded(axes: list[_Axis], source: tuple[int, ...], target: tuple[int, ...]) -> list[_Axis] | None:
    """Follow axes through a fold: where one axis became several, the first lies outside, the last inside."""
    if 0 in source:
        return None
    outer: dict[int, int] = {}
    inner: dict[int, int] = {}
    for before, after in axis_groups(source, target):
        made = [a for a in range(after.start, after.stop) if target[a] > 1]
        came = [a for a in range(before.start, before.stop) if source[a] > 1]
        if made and came and (len(made) == 1 or len(came) == 1):
            outer[made[0]] = came[0]
            inner[made[-1]] = came[-1]
    return [
        _Axis(
            None if axis.outer is None else outer.get(axis.outer),
            None if axis.inner is None else inner.get(axis.inner),
            axis.stacked,
        )
        for axis in axes
    ]
