"""Moves that explain a part of the right tensor: one row off, padded, cut, repeated, rows in other places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, blocks
from bridge_core.proof.differences.moves import Move, MoveName
from bridge_core.state import Array, Tensor, regions

__all__ = ["name_partial", "partial_moves", "picks_along", "rows_found", "share_values"]

Shape = tuple[int, ...]
_MOST_AXES = 4
_MOST_CUTS = 8
"""How many parts of one size are looked at, such as those of a fused tensor."""


def partial_moves(left: Shape, right: Shape) -> Iterator[Move]:
    """Yield moves by one row, or cuts, pads and repetitions for shapes that differ along some axes.

    Matrices may be transposed before.
    """
    if len(left) != len(right):
        return
    straight = tuple(range(len(left)))
    yield from _partial_moves(left, left, straight, right)
    if len(left) == 2:
        yield from _partial_moves(left, left[::-1], straight[::-1], right)


def _partial_moves(source: Shape, left: Shape, axes: Shape, right: Shape) -> Iterator[Move]:
    """Yield moves after a permutation of the axes, which gives the shape ``left``."""
    straight = tuple(range(len(left)))
    differing = [axis for axis in straight if left[axis] != right[axis]]
    if not differing:
        for axis in straight:
            if left[axis] > 1:
                for index in (np.arange(left[axis]) - 1, _after(np.arange(1, left[axis]), left[axis])):
                    yield Move(source, source, axes, _alone(index, axis, len(left)), right)
        return
    if len(differing) > _MOST_AXES or 0 in left or 0 in right:
        return
    choices = [_along(left[axis], right[axis]) for axis in differing]
    for picks in itertools.product(*choices):
        indexes: list[Array | None] = [None] * len(left)
        for axis, index in zip(differing, picks, strict=True):
            indexes[axis] = index
        yield Move(source, source, axes, tuple(indexes), right)


def _along(left: int, right: int) -> list[Array]:
    """Return what may have been done along an axis whose sizes differ."""
    if right < left:
        cuts = [np.arange(right), np.arange(left - right, left)]
        if left % right == 0:
            starts = range(right, min(left - right, _MOST_CUTS * right), right)
            cuts += [np.arange(start, start + right) for start in starts]
            cuts.append(np.arange(0, left, left // right))
        return cuts
    pads = []
    if right % left == 0 and left > 1:
        times = right // left
        pads = [
            np.repeat(np.arange(left).reshape(-1, length), times, axis=0).reshape(-1)
            for length in range(1, left + 1)
            if left % length == 0
        ]
    before = np.full(right - left, -1)
    pads += [_after(np.arange(left), right), np.concatenate([before, np.arange(left)])]
    middle = (right - left) // 2
    if middle * 2 == right - left:
        pads.append(np.concatenate([before[:middle], np.arange(left), before[:middle]]))
    return pads


def _after(index: Array, size: int) -> Array:
    return np.concatenate([index, np.full(size - len(index), -1)])


def _alone(index: Array, axis: int, rank: int) -> tuple[Array | None, ...]:
    return tuple(index if other == axis else None for other in range(rank))


def rows_found(left: list[Array | None], right: list[Array | None], shape: Shape) -> Iterator[Move]:
    """Yield moves of rows along one axis, found by the sums of its slices; at least half of them are known.

    Args:
        left: A sum for each slice along each axis of the left tensor.
        right: The same of the right one.
        shape: Shape of the right tensor.
    """
    if len(left) != len(right):
        return
    source = tuple(len(sums) if sums is not None else -1 for sums in left)
    straight = tuple(range(len(left)))
    for axis in straight:
        ours, theirs = left[axis], right[axis]
        others = [other for other in straight if other != axis]
        if ours is None or theirs is None or any(source[other] != shape[other] for other in others):
            continue
        places = {int(value): place for place, value in reversed(list(enumerate(ours.tolist())))}
        index = np.array([places.get(int(value), -1) for value in theirs.tolist()])
        known = index >= 0
        moved = index[known] != np.flatnonzero(known)
        if known.sum() * 2 >= len(index) and len(np.unique(index[known])) > 1 and moved.any():
            indexes = _alone(index, axis, len(left))
            if -1 not in source:
                yield Move(source, source, straight, indexes, shape)


def picks_along(move: Move) -> bool:
    """Return whether a move takes some places of an axis only, or some several times."""
    return (
        move.picked != move.viewed
        or move.partial
        or any(
            index is not None and len(np.unique(index)) != size
            for index, size in zip(move.indexes, move.viewed, strict=True)
        )
    )


def share_values(left: Tensor, sample: Array) -> bool:
    """Return whether most values of a sample of the right tensor are somewhere in the left one."""
    values = np.unique(bits_of(sample).reshape(-1))
    missing = values
    for region in blocks(left):
        bits = bits_of(left.read(region)).reshape(-1)
        missing = np.array([value for value in missing if not (bits == value).any()], values.dtype)
        if len(missing) * 2 < len(values):
            return True
    return False


def name_partial(move: Move, left: Tensor, right: Tensor) -> MoveName:
    """Return what a partial move is called, and what the right tensor holds elsewhere."""
    texts, kinds, bits = [], [], 0.0
    code, here, there = "{}", [":"] * len(move.shape), [":"] * len(move.shape)
    if move.axes != tuple(range(len(move.axes))):
        kinds, texts, code = ["transposed"], ["transposed"], "{}.transpose(1, 0)"
    straight = code
    for axis, index in enumerate(move.indexes):
        if index is None:
            continue
        where = f" along axis {axis}" if len(move.shape) > 1 else ""
        size, count = move.viewed[axis], len(index)
        known = np.flatnonzero(index >= 0)
        taken = index[known]
        if len(known) and bool((np.diff(taken) == 1).all() and (np.diff(known) == 1).all()):
            here[axis] = f"{known[0]}:{known[-1] + 1}"
            there[axis] = f"{taken[0]}:{taken[-1] + 1}"
            kind, text = _straight(known, taken, size, count)
            texts.append(text.replace(",", f"{where},", 1))
        else:
            kind, text, call, cost = _repeated(index, known, size, axis, where)
            here[axis] = "known"
            there[axis] = "order"
            code = call.replace("{}", code)
            texts.append(text)
            bits += cost
        kinds.append(kind)
    cut = any(part != ":" for part in there)
    if move.partial:
        texts[-1] += f", the rest is {_rest(move, left, right)}"
        code = f"right[{', '.join(here)}] = {straight}[{', '.join(there)}]"
    elif code == straight and cut:
        code = f"{straight}[{', '.join(there)}]"
    return MoveName(tuple(kinds), tuple(texts), code, bits)


def _straight(known: Array, taken: Array, size: int, count: int) -> tuple[str, str]:
    """Name one run of rows; the first comma of the text is where the axis is named."""
    if len(known) < count and size == count:
        shift = int(known[0]) - int(taken[0])
        rows = "1 row" if shift == 1 else f"{shift} rows"
        return "shifted rows", f"shifted by {rows}, off by {abs(shift)}"
    more = abs(count - size)
    rows = f"{more} row{'s' if more > 1 else ''} {'more' if count > size else 'less'}"
    if len(known) < count:
        place = "" if known[0] == 0 else " in front" if known[-1] == count - 1 else " on both sides"
        return "padded", f"padded from {size} to {count}, {rows}{place}"
    place = "" if not taken[0] else " in front" if taken[-1] == size - 1 else " on both sides"
    return "cut", f"cut from {size} to {count}, {rows}{place}"


def _repeated(index: Array, known: Array, size: int, axis: int, where: str) -> tuple[str, str, str, float]:
    count = len(index)
    if len(known) == count and count % size == 0:
        times = count // size
        if np.array_equal(index, np.repeat(np.arange(size), times)):
            text = f"every place was repeated {times} times{where}"
            return "repeated", text, f"np.repeat({{}}, {times}, axis={axis})", 0.0
        length = int(np.flatnonzero(np.diff(index) != 1)[0]) + 1
        rows = np.arange(size).reshape(-1, length if size % length == 0 else size)
        if length < size and np.array_equal(index, np.repeat(rows, times, axis=0).reshape(-1)):
            text = f"every block of {length} was repeated {times} times{where}"
            return "repeated", text, f"{{}}[{':, ' * axis}order]", 8.0
        if np.array_equal(index, np.tile(np.arange(size), times)):
            call = f"np.concatenate([{{}}] * {times}, axis={axis})"
            return "repeated", f"tiled {times} times{where}", call, 0.0
    steps = np.diff(index)
    if len(known) == count and count > 1 and (steps == steps[0]).all() and steps[0] > 1:
        text = f"only every {steps[0]}th place was taken{where}"
        return "cut", text, f"{{}}[{':, ' * axis}::{steps[0]}]", 0.0
    at = f"{{}}[{':, ' * axis}order]"
    text = f"its rows were in other places{where} ({len(known)} of {count} are known)"
    return "moved rows", text, at, float(np.log2(max(2, size))) * len(known)


def _rest(move: Move, left: Tensor, right: Tensor) -> str:
    """Return what the places hold that come from nowhere."""
    first = None
    for region in blocks(right, square=True):
        known = move.known(region)
        if known is None or known.all():
            continue
        values = right.read(region)[~known]
        bits = bits_of(values)
        first = values[:1] if first is None else first
        if not (bits == bits_of(first)).all():
            return _copies(move, left, right)
    if first is None:
        return "empty"
    is_zero = not first.view(np.uint8).any()
    return "zeros" if is_zero else f"{first[0]} everywhere"


def _copies(move: Move, left: Tensor, right: Tensor) -> str:
    """Return whether all rows that come from nowhere are the first row of the left tensor, or the last."""
    axes = [n for n, index in enumerate(move.indexes) if index is not None]
    index = move.indexes[axes[0]]
    unknown = np.flatnonzero(index < 0) if index is not None else np.zeros(0, int)
    row_size = right.spec.size // max(1, right.spec.shape[axes[0]])
    if len(axes) == 1 and len(unknown) * row_size <= 1 << 22:
        rows = [bits_of(_row(right, axes[0], int(place))) for place in unknown]
        for place in (0, move.viewed[axes[0]] - 1):
            row = bits_of(_row(left, move.axes[axes[0]], place).transpose(move.axes))
            if all(np.array_equal(row, other) for other in rows):
                return f"copies of row {place}"
    return "other values"


def _row(tensor: Tensor, axis: int, place: int) -> Array:
    region = list(regions.full(tensor.spec.shape))
    region[axis] = slice(place, place + 1, 1)
    return tensor.read(tuple(region))
