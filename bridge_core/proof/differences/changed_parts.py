"""The parts of two tensors that differ, such as one head, where all else is equal bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, blocks, summary
from bridge_core.proof.differences.relation import Relation
from bridge_core.state import Array, LazyTensor, Region, Tensor, TensorSpec, region_shape

__all__ = ["part_of", "relation_in_parts"]

_MOST_PARTS = 8
_LONGEST = 1 << 22
"""The longest axis of which each place is remembered; of a longer one, only the first and the last."""

_SIDES = re.compile(r"\b(left|right)\b")


def relation_in_parts(
    left: Tensor, right: Tensor, largest: float, relate: Callable[[Tensor, Tensor], Relation | None]
) -> Relation | None:
    """Return what was done to one part, or in the same way to several, where all else is equal bit for bit.

    Args:
        left: A tensor.
        right: Another of the same shape and dtype.
        largest: The largest absolute value of the right tensor.
        relate: Returns what the right one of two parts is of the left one; None if nothing is known to hold.
    """
    unnamed = None
    for boxes in _changed_boxes(left, right):
        relations: list[Relation] = []
        for box in boxes:
            part = part_of(right, box)
            relation = relate(part_of(left, box), part)
            if relation is None or not _is_like(relations, relation):
                break
            share = summary(part).largest / largest if relation.error and largest else 1.0
            relations.append(replace(relation, error=relation.error * share))
        else:
            joined = _joined(boxes, relations, right.spec.shape)
            if relations[0].kind != "reordered":
                return joined
            unnamed = unnamed or joined
    return unnamed


def _changed_boxes(left: Tensor, right: Tensor) -> Iterator[tuple[Region, ...]]:
    """Yield the smallest box that holds all elements that differ, then several boxes along one axis.

    Nothing is yielded where that box is the entire tensor, or empty. Both tensors are read once.

    Args:
        left: A tensor.
        right: Another of the same shape and dtype.
    """
    shape = right.spec.shape
    places = _changed_places(left, right)
    if not shape or any(not len(changed) for changed in places):
        return
    box = tuple(slice(int(changed[0]), int(changed[-1]) + 1, 1) for changed in places)
    if region_shape(box) != shape:
        yield (box,)
    for axis, changed in enumerate(places):
        ends = np.flatnonzero(np.diff(changed) > 1)
        if shape[axis] <= _LONGEST and 0 < len(ends) < _MOST_PARTS:
            starts, stops = changed[[0, *(ends + 1)]], changed[[*ends, -1]] + 1
            yield tuple(
                (*box[:axis], slice(int(start), int(stop), 1), *box[axis + 1 :])
                for start, stop in zip(starts, stops, strict=True)
            )


def _changed_places(left: Tensor, right: Tensor) -> list[Array]:
    """Return, for each axis, the places whose slices differ; of a very long axis the first and the last."""
    shape = right.spec.shape
    flags = [np.zeros(size if size <= _LONGEST else 0, bool) for size in shape]
    ends = [(size, -1) for size in shape]
    for region in blocks(right):
        unequal = bits_of(left.read(region)) != bits_of(right.read(region))
        if not unequal.any():
            continue
        for axis, along in enumerate(region):
            changed = unequal.any(axis=tuple(other for other in range(len(shape)) if other != axis))
            if len(flags[axis]):
                flags[axis][along] |= changed
            at = np.flatnonzero(changed) + along.start
            ends[axis] = min(ends[axis][0], int(at[0])), max(ends[axis][1], int(at[-1]))
    return [
        np.flatnonzero(flag) if len(flag) else np.array([first, last] if last >= 0 else [], np.int64)
        for flag, (first, last) in zip(flags, ends, strict=True)
    ]


def part_of(tensor: Tensor, box: Region) -> Tensor:
    """Return a part of a tensor, read when it is asked for."""

    def read(region: Region) -> Array:
        pairs = zip(box, region, strict=True)
        return tensor.read(tuple(slice(b.start + r.start, b.start + r.stop, 1) for b, r in pairs))

    return LazyTensor(TensorSpec(region_shape(box), tensor.spec.dtype), read)


def _is_like(relations: Sequence[Relation], other: Relation) -> bool:
    return all((one.text, one.reverse) == (other.text, other.reverse) for one in relations)


def _joined(boxes: Sequence[Region], relations: Sequence[Relation], shape: tuple[int, ...]) -> Relation:
    """Return one relation for several parts that were changed in the same way."""
    first = relations[0]
    texts = [_index_text(box, shape) for box in boxes]
    where = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    codes = (_SIDES.sub(rf"\g<1>{text}", one.code) for text, one in zip(texts, relations, strict=True))
    return replace(
        first,
        kind="in part",
        text=f"{first.text}, only in {where}",
        code="; ".join(codes),
        kinds=("in part", *(first.kinds or (first.kind,))),
        error=max(one.error for one in relations),
    )


def _index_text(box: Region, shape: tuple[int, ...]) -> str:
    """Return a box as numpy's index.

    >>> _index_text((slice(0, 4, 1), slice(2, 3, 1), slice(0, 5, 1)), (4, 8, 5))
    '[:, 2:3]'
    """
    parts = [
        ":" if (along.start, along.stop) == (0, size) else f"{along.start}:{along.stop}"
        for along, size in zip(box, shape, strict=True)
    ]
    while parts[-1:] == [":"]:
        parts.pop()
    return f"[{', '.join(parts)}]"
