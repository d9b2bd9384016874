"""Records of layers that meet another record or a new tensor at their path.

Leaves that have the axes of a framework because no kind was decided remain recorded as unclaimed leaves of
that framework, so that they are not taken for neutral leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from bridge_core.state.keys import Key
from bridge_core.state.metadata import LayerInfo

__all__ = ["Records", "agreed_info", "has_open_axes", "joined_info", "named_leaves", "open_record", "opened"]

T = TypeVar("T")

_CERTAINTY = ("rule", "module", "template", "metadata", "structure", "name", "guess", "undecided")


class Records(dict[Key, T | None]):
    """Path -> record; None at a path whose records cannot be joined."""

    def __init__(self, join: Callable[[T, T], T | None]) -> None:
        super().__init__()
        self._join = join

    def add(self, path: Key | None, record: T | None) -> None:
        """Add a record; a path of None adds nothing."""
        if path is None:
            return
        if path in self:
            known = self[path]
            record = self._join(known, record) if known is not None and record is not None else None
        self[path] = record

    def remaining(self) -> dict[Key, T]:
        """Return the records that are not forgotten."""
        return {path: record for path, record in self.items() if record is not None}


def open_record(records: Records[LayerInfo], path: Key, key: Key, is_neutral: bool) -> None:
    """Update the record of a path that gets a leaf which the record does not name."""
    info = records.get(path)
    if info is not None:
        name = ".".join(key[len(path) :])
        is_open = is_neutral and has_open_axes(info)
        records[path] = opened(info, (*named_leaves(info), name)) if is_open else None


def agreed_info(one: LayerInfo, other: LayerInfo) -> LayerInfo | None:
    """Join two records of one layer, with the weaker evidence; None if they differ."""
    leaves = tuple(dict.fromkeys((*one.leaves, *other.leaves)))
    unclaimed = tuple(
        name for name in dict.fromkeys((*one.unclaimed, *other.unclaimed)) if name not in leaves
    )
    weaker = max((one, other), key=lambda info: _rank(info.evidence))
    first, second = (
        replace(info, leaves=leaves, unclaimed=unclaimed, evidence=weaker.evidence) for info in (one, other)
    )
    return first if first == second else None


def joined_info(one: LayerInfo, other: LayerInfo) -> LayerInfo | None:
    """Join two records of a neutral layer; if they differ, the result has only open leaves."""
    agreed = agreed_info(one, other)
    if agreed is not None or not (has_open_axes(one) or has_open_axes(other)):
        return agreed
    origin = one.origin if one.origin == other.origin else ""
    return replace(opened(one, (*named_leaves(one), *named_leaves(other))), origin=origin)


def has_open_axes(info: LayerInfo) -> bool:
    """Return whether leaves of a record have the axes of the framework that they come from."""
    return info.kind in (None, "parameter") or bool(info.unclaimed)


def opened(info: LayerInfo, names: tuple[str, ...]) -> LayerInfo:
    """Return a record of unclaimed leaves: their names and origin, without a kind."""
    unclaimed = tuple(dict.fromkeys(names))
    return LayerInfo(None, "unclaimed", (), unclaimed=unclaimed, origin=info.origin, doubted=True)


def named_leaves(info: LayerInfo) -> tuple[str, ...]:
    """Return the names of all leaves in a record, unclaimed ones included."""
    return (*info.leaves, *info.unclaimed) if info.unclaimed else info.leaves


def _rank(evidence: str) -> int:
    return _CERTAINTY.index(evidence) if evidence in _CERTAINTY else len(_CERTAINTY)
