"""Finding the known causes at a site: each finder is asked, and only what computing confirms is returned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from bridge_core.proof.causes.attention import attention_causes
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.junctions import junction_causes
from bridge_core.proof.causes.layers import layer_causes
from bridge_core.proof.causes.measures import improves, relative_error, rounding
from bridge_core.proof.causes.sides import both_sides, inner_sites
from bridge_core.proof.causes.site import Site
from bridge_core.proof.causes.tails import tail_causes

__all__ = ["find_causes"]


def find_causes(site: Site) -> tuple[Cause, ...]:
    """Return the known mistakes that explain why two models part at a site, the best first.

    A cause is returned only if the target, computed as the source does, is equal up to rounding and the
    target unchanged is not.

    Args:
        site: The place where they first part, with the arrays that were recorded there.
    """
    recorded = both_sides(site)
    if recorded is None:
        return ()
    sides = recorded
    limit = rounding(site, *(np.zeros((), dtype) for dtype in sides[0].dtypes))
    if relative_error(sides[0].observed, sides[1].observed) <= site.control:
        return ()
    unknown: tuple[Cause, ...] = ()
    for inner in inner_sites(site):
        inside = find_causes(inner)
        named = tuple(cause for cause in inside if cause.target != "unknown")
        if named:
            return named
        unknown = unknown or inside
    finders: tuple[Callable[[], Iterator[Cause]], ...] = (
        lambda: attention_causes(site),
        lambda: layer_causes(site, sides, limit),
        lambda: junction_causes(site, sides, limit),
        lambda: tail_causes(site, sides, limit),
    )
    for finder in finders:
        causes: dict[str, Cause] = {}
        for cause in _asked(finder):
            if improves(cause.error_with, cause.error_without, limit):
                causes.setdefault(cause.code, cause)
        named = tuple(cause for cause in causes.values() if cause.target != "unknown")
        if named:
            return named
        unknown = unknown or tuple(causes.values())
    return unknown


def _asked(finder: Callable[[], Iterator[Cause]]) -> list[Cause]:
    """Return a finder's causes; what was recorded may have any shape, and then nothing is known."""
    causes: list[Cause] = []
    unfit = (ArithmeticError, IndexError, KeyError, ValueError, np.linalg.LinAlgError)
    with np.errstate(all="ignore"), contextlib.suppress(*unfit):
        causes.extend(finder())
    return causes
