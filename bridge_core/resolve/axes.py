"""From axis names to ops: how a native leaf becomes the neutral leaf, and back."""

from __future__ import annotations

import functools

from bridge_core.layers import Leaf
from bridge_core.ops import Flip, Op, Permute, Reshape, inverse_chain, simplify_chain

__all__ = ["from_neutral_ops", "to_neutral_ops"]

Shape = tuple[int, ...]


@functools.lru_cache(maxsize=65536)
def to_neutral_ops(leaf: Leaf, kind_axes: str, shape: Shape) -> tuple[tuple[Op, ...], Shape] | None:
    """Return the ops from a native leaf to the neutral one, and the neutral shape.

    None if the shape does not fit the leaf's axes.
    """
    native = _expand(leaf.axes, len(shape))
    if native is None or any(name is None and n != 1 for name, n in zip(native, shape, strict=True)):
        return None
    sizes = {name: n for name, n in zip(native, shape, strict=True) if name is not None}
    neutral = _expand(kind_axes, len(sizes), sizes)
    if neutral is None or not set(sizes) <= set(neutral):
        return None
    named = [name for name in native if name is not None]
    kept = [name for name in neutral if name in sizes]
    flipped = tuple(
        i for i, name in enumerate(shape_name for shape_name in named) if name.partition("#")[0] in leaf.flip
    )
    squeezed = tuple(sizes[name] for name in named)
    moved = tuple(sizes[name] for name in kept if name is not None)
    final = tuple(sizes.get(name or "", 1) for name in neutral)
    ops = (
        Reshape(shape, squeezed),
        Flip(flipped),
        Permute(tuple(named.index(name) for name in kept if name is not None)),
        Reshape(moved, final),
    )
    return simplify_chain(ops), final


@functools.lru_cache(maxsize=65536)
def from_neutral_ops(
    leaf: Leaf, kind_axes: str, shape: Shape, rank: int
) -> tuple[tuple[Op, ...], Shape] | None:
    """Return the ops from a neutral leaf to the native one, and the native shape.

    Args:
        leaf: The native leaf.
        kind_axes: Axes of the neutral leaf.
        shape: Shape of the neutral leaf.
        rank: Largest native rank in the layer; a leaf with ``*1`` gets as many axes of size one as
            bring it to that rank.

    Returns:
        None if the shape does not fit, or an axis that the native leaf lacks has not size one.
    """
    neutral = _expand(kind_axes, len(shape))
    if neutral is None:
        return None
    sizes = {name: n for name, n in zip(neutral, shape, strict=True) if name is not None}
    wanted = _native_axes(leaf.axes, sizes, rank)
    if wanted is None:
        return None
    if any(n != 1 for name, n in sizes.items() if name not in wanted):
        return None
    native = tuple(sizes[name] if name is not None else 1 for name in wanted)
    forward = to_neutral_ops(leaf, kind_axes, native)
    if forward is None or forward[1] != shape:
        return None
    return simplify_chain(inverse_chain(forward[0])), native


def _expand(axes: str, rank: int, known: dict[str, int] | None = None) -> list[str | None] | None:
    """Name every axis: ``k`` of ``*k`` becomes ``k#0, k#1``, and ``1`` becomes None."""
    tokens = axes.split()
    fixed = sum(token[0] not in "*+" for token in tokens)
    if known is not None:
        spare = 0
        for token in tokens:
            if token[0] in "*+":
                spare = sum(name.partition("#")[0] == token[1:] and "#" in name for name in known)
    else:
        spare = rank - fixed
        if spare < 0 or (spare and fixed == len(tokens)):
            return None
    names: list[str | None] = []
    for token in tokens:
        if token[0] in "*+":
            if token[0] == "+" and spare < 1:
                return None
            name = token[1:]
            names.extend(None if name == "1" else f"{name}#{i}" for i in range(spare))
        else:
            names.append(None if token == "1" else token)
    return names


def _native_axes(axes: str, sizes: dict[str, int], rank: int) -> list[str | None] | None:
    tokens = axes.split()
    fixed = sum(token[0] not in "*+" for token in tokens)
    names: list[str | None] = []
    for token in tokens:
        if token[1:] == "1" and token[0] in "*+":
            names.extend([None] * max(0, rank - fixed))
        elif token[0] in "*+":
            found = [name for name in sizes if name.partition("#")[0] == token[1:] and "#" in name]
            if token[0] == "+" and not found:
                return None
            names.extend(found)
        elif token == "1":
            names.append(None)
        elif token in sizes:
            names.append(token)
        else:
            return None
    return names
