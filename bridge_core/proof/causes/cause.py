"""Cause: why two models compute different outputs from the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Cause"]


@dataclass(frozen=True)
class Cause:
    """One known mistake, tried by computing at the place where the outputs first differ.

    Errors are the largest absolute difference divided by the largest absolute value of the source.

    Args:
        code: Short name of the kind, e.g. ``"epsilon"``; stable.
        text: What differs, one sentence with both values.
        source: The source's value, for people and in JSON, e.g. ``"1e-05"``.
        target: The target's value.
        error_without: Error of the unchanged target.
        error_with: Error of the target computed as the source does.
        mend: What to write where, one sentence, e.g. ``"In the target: nn.LayerNorm(epsilon=1e-05)."``
    """

    code: str
    text: str
    source: str
    target: str
    error_without: float
    error_with: float
    mend: str

    def to_json(self) -> dict[str, Any]:
        """Return the cause as plain data."""
        return {
            "code": self.code,
            "text": self.text,
            "source": self.source,
            "target": self.target,
            "error_without": self.error_without,
            "error_with": self.error_with,
            "mend": self.mend,
        }
