"""What ``inspect`` shows of how a file's names differ from those of a plain dotted file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge_core.errors import BridgeError
from bridge_core.plugins import Registry, names_of
from bridge_core.state import FlatState

__all__ = ["TreeNames", "tree_names"]


@dataclass(frozen=True)
class TreeNames:
    """The form of a file's names.

    Args:
        separator: What joins their parts in the file, where that is not a dot; else empty.
        boxes: Last parts that only name the value in its box.
        boxed: Number of tensors in boxes.
        tensors: Number of tensors.
    """

    separator: str
    boxes: tuple[str, ...]
    boxed: int
    tensors: int

    def __str__(self) -> str:
        """Return the form as text."""
        texts = [f"joined by {self.separator!r} in the file"] if self.separator else []
        if self.boxes:
            number = "" if self.boxed == self.tensors else f"{self.boxed} "
            texts.append(f"{number}values in boxes named {' or '.join(map(repr, self.boxes))}")
        return ", ".join(texts)

    def to_json(self) -> dict[str, Any]:
        """Return the form as plain data."""
        document: dict[str, Any] = {"separator": self.separator or "."}
        return {**document, "boxes": list(self.boxes), "boxed": self.boxed}


def tree_names(state: FlatState, registry: Registry) -> TreeNames | None:
    """Return the form of a state's names; None if they are plain dotted names.

    Args:
        state: The state of a file.
        registry: Where frameworks are found.
    """
    framework = registry.frameworks.get(state.layout or "")
    boxed: frozenset[tuple[str, ...]] = frozenset()
    if framework is not None:
        try:
            boxed = names_of(state, framework).boxed
        except BridgeError:  # a conversion reports what is unclear about the names
            boxed = frozenset()
    separator = state.metadata.provenance.get("separator", "")
    boxes = tuple(sorted({key[-1] for key in boxed}))
    return TreeNames(separator, boxes, len(boxed), len(state)) if separator or boxes else None
