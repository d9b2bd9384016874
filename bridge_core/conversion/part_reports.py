"""Reports of conversions in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PartReport", "WorkStatus"]


@dataclass(frozen=True)
class PartReport:
    """What running one part did.

    Args:
        part: The number of the part.
        parts: How many parts the list has.
        written: Names of the files that were written.
        finished_before: Names of the files that were complete already.
        total_bytes: Size of the files of the part.
    """

    part: int
    parts: int
    written: tuple[str, ...]
    finished_before: tuple[str, ...]
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "part": self.part,
            "parts": self.parts,
            "written": list(self.written),
            "finished_before": list(self.finished_before),
            "total_bytes": self.total_bytes,
        }


@dataclass(frozen=True)
class WorkStatus:
    """How far a work list is.

    Args:
        missing: Number of a part -> names of its files that are not complete; parts that are complete are
            left out.
        files: How many files the list has.
        parts: How many parts the list has.
        finished: Whether the work was finished: the index and the manifest are written.
    """

    missing: Mapping[int, tuple[str, ...]]
    files: int
    parts: int
    finished: bool

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {
            "finished": self.finished,
            "parts": self.parts,
            "files": self.files,
            "missing": {str(part): list(names) for part, names in self.missing.items()},
        }
