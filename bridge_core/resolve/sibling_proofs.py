"""The layers of one state as evidence about each other: a reading that one denies, others do not prove.

In a file whose layers have their weights as ``in out``, a bias denies ``out in`` wherever the sizes differ.
A square weight of that file fits both orders, so its fitting proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

from bridge_core.axes import Shape, bind, parse_axes
from bridge_core.layers import LayerTransform
from bridge_core.state import Key

if TYPE_CHECKING:
    from bridge_core.resolve.evidence import Detection
    from bridge_core.resolve.grouping import Group

__all__ = ["SiblingProofs"]


class SiblingProofs:
    """Which layers deny a reading, and which proofs by names and shapes are void because of that.

    For a layer that only allows its reading, the nearest module around it counts that holds a layer which
    denies it or proves it.

    Args:
        transforms: The framework's.
        groups: The state's groups by path.
        detections: What they were found to be, each by itself.
    """

    def __init__(
        self,
        transforms: Iterable[LayerTransform],
        groups: Mapping[Key, Group],
        detections: Mapping[Key, Detection],
    ) -> None:
        self._groups = groups
        self._detections = detections
        self._denied: dict[str, set[Key]] = {}
        self._proven: dict[str, set[Key]] = {}
        self._signatures: dict[int, tuple[str, ...]] = {}
        self._allowing: dict[object, bool] = {}
        provable = [t for t in transforms if t.identifying_leaves is not None and not t.needs_module]
        for path, group in groups.items():
            detection = detections[path]
            if detection.transform is None and detection.evidence in ("undecided", "unclaimed"):
                for name in self._denies(group, provable):
                    self._denied.setdefault(name, set()).update(path[:depth] for depth in range(len(path)))
        if self._denied:
            for path, detection in detections.items():
                transform = detection.transform
                if transform is not None and transform.name in self._denied and not self._only_allows(path):
                    prefixes = (path[:depth] for depth in range(len(path)))
                    self._proven.setdefault(transform.name, set()).update(prefixes)

    @property
    def any_denied(self) -> bool:
        """Whether any layer denies a reading."""
        return bool(self._denied)

    def is_void(self, path: Key) -> bool:
        """Return whether names and shapes decided a layer, and another layer denies that they prove it."""
        detection = self._detections[path]
        name = detection.transform.name if detection.transform is not None else ""
        if detection.evidence != "structure" or name not in self._denied or not self._only_allows(path):
            return False
        denied, proven = self._denied[name], self._proven.get(name, set())
        for depth in range(len(path) - 1, -1, -1):
            if path[:depth] in denied:
                return True
            if path[:depth] in proven:
                return False
        return () in denied

    def _denies(self, group: Group, transforms: Iterable[LayerTransform]) -> tuple[str, ...]:
        signature = id(group.shapes)
        if signature not in self._signatures:
            shapes = dict(group.shapes)
            self._signatures[signature] = tuple(t.name for t in transforms if _denies(t, shapes))
        return self._signatures[signature]

    def _only_allows(self, path: Key) -> bool:
        """Return whether the layer's shapes would also fit its transform with two axes exchanged."""
        transform = self._detections[path].transform
        if transform is None or self._detections[path].evidence != "structure":
            return False
        signature = (transform.name, id(self._groups[path].shapes))
        if signature not in self._allowing:
            self._allowing[signature] = _only_allows(transform, dict(self._groups[path].shapes))
        return self._allowing[signature]


def _only_allows(transform: LayerTransform, shapes: Mapping[str, Shape]) -> bool:
    """Return whether shapes that fit a transform would also fit it with two axes exchanged."""
    leaves = [leaf for leaf in transform.leaves if leaf.name in shapes]
    (binding, *_) = transform.bindings({leaf.name: shapes[leaf.name] for leaf in leaves})
    axes_of = [{axis.name for axis in parse_axes(leaf.axes)} for leaf in leaves]
    largest = max(leaves, key=lambda leaf: len(shapes[leaf.name]))
    names = [axis.name for axis in parse_axes(largest.axes)]
    shared = {name for name in names if sum(name in axes for axes in axes_of) > 1}
    if len(names) < 2:
        return False
    sizes = {name: binding[name] for name in names if name in binding}
    return not any(
        all(prod(sizes[name]) not in sizes[other] for other in sizes if other != name) for name in shared
    )


def _denies(transform: LayerTransform, shapes: Mapping[str, Shape]) -> bool:
    """Return whether each leaf fits a transform by itself, and together they do not."""
    leaves = [leaf for leaf in transform.leaves if leaf.name in shapes]
    if len(leaves) < 2 or any(not leaf.optional and leaf.name not in shapes for leaf in transform.leaves):
        return False
    if max(len(parse_axes(leaf.axes)) for leaf in leaves) < 2:
        return False
    if not all(bind(leaf.axes, shapes[leaf.name]) for leaf in leaves):
        return False
    return not transform.fits({leaf.name: shapes[leaf.name] for leaf in leaves})
