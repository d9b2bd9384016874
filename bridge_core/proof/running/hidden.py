"""Differences of two models that rounding hides in these values: what float64 shows of equal outputs."""

from __future__ import annotations

import math
import re

from bridge_core.proof.causes import Cause
from bridge_core.proof.running.proof_report import Hidden
from bridge_core.proof.running.search import Search

__all__ = ["SHARP", "hidden_difference"]

SHARP = 1e-10
"""Relative error of a float64 run up to which arrays are equal in any case."""
_CLEAR = 100.0
"""By this factor the error must jump at one module, and fall with the cause mended."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def hidden_difference(search: Search, error: float) -> Hidden | None:
    """Return what makes the outputs differ in float64; None if no cause is confirmed beyond doubt.

    Constants that a model holds in float32 make float64 runs differ, too. So the error has to jump at one
    module, and a known cause has to explain it.

    Args:
        search: Both models with their weights.
        error: Error of the outputs in float64.
    """
    found = search.found("float64", max(SHARP, error / _CLEAR))
    first = found.first
    if first is None:
        return None
    before = first.input_error or 0.0
    causes = tuple(
        cause
        for cause in found.causes
        if cause.target != "unknown"
        and not _of_one_constant(cause)
        and cause.error_with <= cause.error_without / _CLEAR
        and cause.error_without > _CLEAR * before
    )
    return Hidden(error, first, causes) if causes else None


def _of_one_constant(cause: Cause) -> bool:
    """Return whether both values are one number, which a side holds in float32."""
    ours, theirs = (_NUMBER.findall(text) for text in (cause.source, cause.target))
    same_words = _NUMBER.sub("", cause.source) == _NUMBER.sub("", cause.target)
    return (
        bool(ours)
        and same_words
        and len(ours) == len(theirs)
        and all(math.isclose(float(a), float(b), rel_tol=1e-6) for a, b in zip(ours, theirs, strict=True))
    )
