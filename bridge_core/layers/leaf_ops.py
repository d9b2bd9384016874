"""From axis names to ops: how a native leaf becomes the neutral leaf, and back."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from math import prod

from bridge_core.axes import Axis, Layout, Shape, bind, layout_ops, parse_axes
from bridge_core.layers.transforms import Leaf
from bridge_core.ops import Flip, Op, Split, inverse_chain, simplify_chain

__all__ = ["Factors", "cut_of", "from_neutral_ops", "part_shape", "to_neutral_ops"]

Factors = tuple[tuple[str, Shape], ...]
"""Axis of a kind -> the sizes into which a framework splits it, e.g. ``("heads", (8, 64))``."""


def cut_of(leaf: Leaf, shape: Shape) -> Split | None:
    """Return the op that cuts a native leaf into its roles; None for a leaf of one role."""
    count = len(leaf.roles)
    if count == 1:
        return None
    axis = leaf.cut_axis
    return Split(axis, (shape[axis] // count,) * count)


def part_shape(leaf: Leaf, shape: Shape) -> Shape:
    """Return the shape of one part of a native leaf."""
    if len(leaf.roles) == 1:
        return shape
    axis = leaf.cut_axis
    return (*shape[:axis], shape[axis] // len(leaf.roles), *shape[axis + 1 :])


@functools.lru_cache(maxsize=65536)
def to_neutral_ops(
    leaf: Leaf, kind_axes: str, shape: Shape, *, part: int = 0, axis_splits: Factors = ()
) -> tuple[tuple[Op, ...], Shape] | None:
    """Return the ops from a native leaf to the neutral one, and the neutral shape.

    The native leaf may be one part of several.

    Args:
        leaf: The native leaf.
        kind_axes: Axes of the neutral leaf.
        shape: Shape of the native leaf, or of the part.
        part: Index of the part.
        axis_splits: How axes are split here, where the shape does not determine it.

    Returns:
        None if the shape does not fit the leaf's axes.
    """
    native = _native(leaf.axes_of(part), shape, axis_splits)
    if native is None:
        return None
    sizes = {name: n for run, n in zip(native, shape, strict=True) for name in run}
    neutral = _neutral(kind_axes, sizes)
    if neutral is None or set(sizes) != {name for run in neutral for name in run}:
        return None
    flipped = tuple(i for i, run in enumerate(native) if run and _axis_of(run[0]) in leaf.flip)
    ops = layout_ops(native, neutral, sizes)
    if flipped:
        ops = simplify_chain((Flip(flipped), *ops))
    return ops, tuple(prod(sizes[name] for name in run) for run in neutral)


@functools.lru_cache(maxsize=65536)
def from_neutral_ops(
    leaf: Leaf, kind_axes: str, shape: Shape, rank: int, *, part: int = 0, axis_splits: Factors = ()
) -> tuple[tuple[Op, ...], Shape] | None:
    """Return the ops from a neutral leaf to the native one, and the native shape.

    The native leaf may be one part of several.

    Args:
        leaf: The native leaf.
        kind_axes: Axes of the neutral leaf.
        shape: Shape of the neutral leaf.
        rank: Largest native rank in the layer; a leaf with ``*1`` gets as many axes of size one as
            bring it to that rank.
        part: Index of the part.
        axis_splits: How axes of the kind are split, where this framework splits them.

    Returns:
        None if the shape does not fit, an axis that the native leaf does not have is not of size one, or it
        is not known how to split an axis.
    """
    bound = bind(kind_axes, shape)
    if len(bound) != 1:
        return None
    sizes = dict(bound[0])
    native: list[int] = []
    axes = parse_axes(leaf.axes_of(part))
    fixed = sum(1 for axis in axes if not axis.spread)
    present: set[str] = set()
    for axis in axes:
        native_sizes = _sizes(axis, sizes, dict(axis_splits), rank - fixed)
        if native_sizes is None:
            return None
        native.extend(native_sizes)
        present.add(axis.name)
    if any(prod(own) != 1 for name, own in sizes.items() if name not in present):
        return None
    forward = to_neutral_ops(leaf, kind_axes, tuple(native), part=part, axis_splits=axis_splits)
    if forward is None or forward[1] != shape:
        return None
    return simplify_chain(inverse_chain(forward[0])), tuple(native)


def _native(axes: str, shape: Shape, axis_splits: Factors) -> Layout | None:
    """Return the layout of a native leaf; the name of an axis is ``k#0`` for ``*k``, else ``heads/0``."""
    known = dict(axis_splits)
    ways = [dict(way) for way in bind(axes, shape)]
    if len(ways) > 1:
        ways = [way for way in ways if all(len(known.get(n, s)) == len(s) for n, s in way.items())]
    if len(ways) != 1:
        return None
    (bound,) = ways
    parsed = parse_axes(axes)
    single = sum(axis.name == "1" and not axis.spread for axis in parsed)
    spare = len(shape) - single - sum(map(len, bound.values()))
    layout: list[tuple[str, ...]] = []
    for axis in parsed:
        if axis.name == "1":
            layout.extend([()] * (spare if axis.spread else 1))
        else:
            layout.extend((f"{_prefix(axis)}{i}",) for i in range(len(bound[axis.name])))
    return tuple(layout)


def _neutral(axes: str, names: Iterable[str]) -> Layout | None:
    """Return the layout of a leaf of the kind, given the names of the native axes."""
    layout: list[tuple[str, ...]] = []
    for axis in parse_axes(axes):
        prefix = _prefix(axis)
        own = tuple(name for name in names if name.startswith(prefix))
        if axis.spread == "+" and not own:
            return None
        layout.extend(((name,) for name in own) if axis.spread else (own,))
    return tuple(layout)


def _prefix(axis: Axis) -> str:
    return f"{axis.name}#" if axis.spread else f"{axis.name}/"


def _axis_of(name: str) -> str:
    return name.rstrip("0123456789")[:-1]


def _sizes(axis: Axis, sizes: dict[str, Shape], axis_splits: dict[str, Shape], spare: int) -> Shape | None:
    """Return the native sizes of an axis of the kind; None where they are not known."""
    if axis.name == "1":
        return (1,) * (max(0, spare) if axis.spread else 1)
    own_sizes = sizes.get(axis.name)
    if own_sizes is None:
        return () if axis.spread == "*" else None
    if axis.split == 1:
        return None if axis.spread == "+" and not own_sizes else own_sizes
    split = axis_splits.get(axis.name, own_sizes if axis.split == 0 else ())
    fits = prod(split) == prod(own_sizes) and len(split) == (axis.split or len(split))
    return split if fits else None
