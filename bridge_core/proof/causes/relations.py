"""Causes seen from the two observed arrays only: one is the other, scaled or with its features reordered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.layers import precision_of
from bridge_core.proof.causes.linears import likely
from bridge_core.proof.causes.measures import relative_error
from bridge_core.proof.causes.sides import Side
from bridge_core.proof.causes.site import Site
from bridge_core.state import Array

__all__ = ["related"]


def related(site: Site, sides: tuple[Side, Side]) -> Iterator[Cause]:
    """Yield how the target's array is related to the source's, where neither is known to be computed."""
    source, target = sides[0].observed, sides[1].observed
    if source.shape != target.shape or source.dtype.kind != "f" or not source.size:
        return
    without = relative_error(source, target)
    where = ".".join(map(str, site.target.path)) or "the model"
    squares = float(np.sum(target * target))
    factor = float(np.sum(source * target)) / squares if squares else 0.0
    factor = likely(factor, (source.shape[-1],), 1e-5, precision_of(sides[0]))
    if factor not in (0.0, 1.0):
        yield Cause(
            "scale",
            f"The source's values are the target's times {factor:g}.",
            f"{factor:g}",
            "1",
            without,
            relative_error(source, factor * target),
            f"In the target, at {where}: multiply by {factor:g}.",
        )
    order = feature_order(source, target)
    if order is not None:
        text = order_text(order)
        yield Cause(
            "feature_order",
            f"The target's features are the source's in another order: {text}.",
            "0, 1, 2, ...",
            text,
            without,
            relative_error(source, target[..., np.argsort(order)]),
            f"In the target, at {where}: put the features in the source's order.",
        )


def feature_order(source: Array, target: Array) -> Array | None:
    """Return the order with ``target = source[..., order]`` of the last axis; None if there is none.

    >>> feature_order(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[2.0, 1.0], [5.0, 3.0]]))
    array([1, 0])
    """
    left, right = (array.reshape(-1, array.shape[-1]) for array in (source, target))
    if left.shape[1] < 2:
        return None
    signs = np.cos(np.arange(1, len(left) + 1))  # any fixed weights: one number for each feature
    first, second = signs @ left, signs @ right
    order = np.empty(left.shape[1], np.int64)
    order[np.argsort(second, kind="stable")] = np.argsort(first, kind="stable")
    return None if (order == np.arange(order.size)).all() else order


def order_text(order: Array) -> str:
    """Return an order of features for people: its rule, if it has a simple one, else its first numbers."""
    size = order.size
    for parts in (n for n in range(2, size) if size % n == 0):
        if (order == np.arange(size).reshape(parts, -1).T.reshape(-1)).all():
            return f"({size // parts} {parts}) instead of ({parts} {size // parts})"
    if (order == np.arange(size)[::-1]).all():
        return "reversed"
    return ", ".join(map(str, order[:8])) + ", ..."
