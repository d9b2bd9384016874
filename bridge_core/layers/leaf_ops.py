"""From axis names to ops: how a native leaf becomes the neutral leaf, and back."""

from __future__ import annotations

import functools
from math import prod

from bridge_core.axes import Axis, Shape, bind, parse_axes
from bridge_core.layers.transforms import Leaf
from bridge_core.ops import Flip, Op, Permute, Reshape, Split, inverse_chain, simplify_chain

__all__ = ["Factors", "cut_of", "from_neutral_ops", "part_shape", "to_neutral_ops"]

Factors = tuple[tuple[str, Shape], ...]
"""Axis of a kind -> the sizes into which a framework splits it."""

Label = str | None
"""Name of an axis of the kind, numbered where it stands for several; None for an axis the kind lacks."""


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
    """Return the ops from a native leaf, or one part of it, to the neutral leaf, and the neutral shape.

    Args:
        leaf: The native leaf.
        kind_axes: Axes of the neutral leaf.
        shape: Shape of the native leaf, or of the part.
        part: Which part.
        factors: How axes are split here, where the shape alone does not tell.

    Returns:
        None if the shape does not fit the leaf's axes.
    """
    native = _native(leaf.axes_of(part), shape, axis_splits)
    if native is None:
        return None
    sizes: dict[str, list[int]] = {}
    for label, n in zip(native, shape, strict=True):
        if label is not None:
            sizes.setdefault(label, []).append(n)
    neutral = _neutral(kind_axes, sizes)
    if neutral is None or not set(sizes) <= set(neutral):
        return None
    named = [label for label in native if label is not None]
    order = [i for name in neutral if name in sizes for i, label in enumerate(named) if label == name]
    squeezed = tuple(n for label, n in zip(native, shape, strict=True) if label is not None)
    final = tuple(prod(sizes.get(name or "", [1])) for name in neutral)
    ops = (
        Reshape(shape, squeezed),
        Flip(tuple(i for i, label in enumerate(named) if label.partition("#")[0] in leaf.flip)),
        Permute(tuple(order)),
        Reshape(tuple(squeezed[i] for i in order), final),
    )
    return simplify_chain(ops), final


@functools.lru_cache(maxsize=65536)
def from_neutral_ops(
    leaf: Leaf, kind_axes: str, shape: Shape, rank: int, *, part: int = 0, axis_splits: Factors = ()
) -> tuple[tuple[Op, ...], Shape] | None:
    """Return the ops from a neutral leaf to the native one, or to one part of it, and that shape.

    Args:
        leaf: The native leaf.
        kind_axes: Axes of the neutral leaf.
        shape: Shape of the neutral leaf.
        rank: Largest native rank in the layer; a leaf with ``*1`` gets as many axes of size one as
            bring it to that rank.
        part: Which part.
        factors: How axes of the kind are split, where this framework splits them.

    Returns:
        None if the shape does not fit, an axis that the native leaf lacks has not size one, or nothing tells
        how to split an axis.
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
        found = _sizes(axis, sizes, dict(axis_splits), rank - fixed)
        if found is None:
            return None
        native.extend(found)
        present.add(axis.name)
    if any(prod(found) != 1 for name, found in sizes.items() if name not in present):
        return None
    forward = to_neutral_ops(leaf, kind_axes, tuple(native), part=part, axis_splits=axis_splits)
    if forward is None or forward[1] != shape:
        return None
    return simplify_chain(inverse_chain(forward[0])), tuple(native)


def _native(axes: str, shape: Shape, axis_splits: Factors) -> list[Label] | None:
    """Name every native axis; the axes that the kind holds as one have one name."""
    known = dict(axis_splits)
    ways = [dict(way) for way in bind(axes, shape)]
    if len(ways) > 1:
        ways = [way for way in ways if all(len(known.get(n, s)) == len(s) for n, s in way.items())]
    if len(ways) != 1:
        return None
    (bound,) = ways
    parsed = parse_axes(axes)
    ones = len(shape) - sum(len(sizes) for sizes in bound.values())
    labels: list[Label] = []
    for axis in parsed:
        if axis.name == "1":
            single = sum(other.name == "1" and not other.spread for other in parsed)
            labels.extend([None] * (ones - single if axis.spread else 1))
        elif axis.spread:
            labels.extend(f"{axis.name}#{i}" for i in range(len(bound[axis.name])))
        else:
            labels.extend([axis.name] * len(bound[axis.name]))
    return labels


def _neutral(axes: str, sizes: dict[str, list[int]]) -> list[Label] | None:
    """Name every axis of the kind, given the axes that the native leaf has."""
    labels: list[Label] = []
    for axis in parse_axes(axes):
        if not axis.spread:
            labels.append(None if axis.name == "1" else axis.name)
            continue
        found = [label for label in sizes if "#" in label and label.partition("#")[0] == axis.name]
        if axis.spread == "+" and not found:
            return None
        labels.extend(found)
    return labels


def _sizes(axis: Axis, sizes: dict[str, Shape], axis_splits: dict[str, Shape], spare: int) -> Shape | None:
    """Return the native sizes of an axis of the kind; None where they cannot be told."""
    if axis.name == "1":
        return (1,) * (max(0, spare) if axis.spread else 1)
    found = sizes.get(axis.name)
    if found is None:
        return () if axis.spread == "*" else None
    if axis.split == 1:
        return None if axis.spread == "+" and not found else found
    split = axis_splits.get(axis.name, found if axis.split == 0 else ())
    fits = prod(split) == prod(found) and len(split) == (axis.split or len(split))
    return split if fits else None
