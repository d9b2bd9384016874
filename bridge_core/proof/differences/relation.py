"""Relation: what turned one tensor into another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bridge_core.state import Key, join_key

__all__ = ["Relation"]


@dataclass(frozen=True)
class Relation:
    """What one tensor is of another, as it holds for every element.

    Args:
        kind: Short name of the kind, e.g. ``"transposed"``; stable. Of several steps, that of the first.
        text: What completes "as if ...", e.g. ``"transposed"`` or ``"scaled by 0.125"``.
        code: The same in numpy, e.g. ``"right = left.transpose(1, 0)"``.
        kinds: The kinds of all steps, in order.
        error: Largest absolute difference divided by the largest absolute value of the right tensor: 0.0
            where the relation holds exactly, else what rounding leaves.
        reverse: Whether the left tensor is what the text describes, made of the right one.
        other: The key of the left tensor, if that is not the right tensor's own key.
        others: The keys of the left tensors, if the right one consists of several.
    """

    kind: str
    text: str
    code: str
    kinds: tuple[str, ...] = ()
    error: float = 0.0
    reverse: bool = False
    other: Key | None = None
    others: tuple[Key, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the relation holds for every element without rounding."""
        return self.error == 0

    def told(self, left: str = "left", right: str = "right") -> str:
        """Return the relation as a clause, e.g. ``"as if transposed"``.

        Args:
            left: What the left tensor's state is called.
            right: What the right one is called.
        """
        if self.other is not None:
            return f"as if it were {left}'s {join_key(self.other)}{self.changed}"
        return f"as if {self.sided(self.text, left, right)}"

    def sided(self, text: str, left: str = "left", right: str = "right") -> str:
        """Return a text about the relation with the side that it is about."""
        # Without a side, a text is about the right tensor.
        if self.kind == "constant":
            return f"{left if self.reverse else right} was {text}"
        return f"{left} were {right} {text}" if self.reverse else text

    @property
    def changed(self) -> str:
        """What was done to another tensor's content, after a comma; empty for nothing."""
        return f", {self.text}" if self.text != "equal" else ""

    def to_json(self) -> dict[str, Any]:
        """Return the relation as plain data."""
        return {
            "kind": self.kind,
            "kinds": list(self.kinds or (self.kind,)),
            "text": self.text,
            "code": self.code,
            "exact": self.exact,
            "error": self.error,
            "reverse": self.reverse,
            "other": None if self.other is None else join_key(self.other),
            **({"others": [join_key(key) for key in self.others]} if self.others else {}),
        }
