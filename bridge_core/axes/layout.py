"""From one layout of a tensor to another: which axes are split, permuted and joined.

All permutations are made here, both for equations and for the leaves of layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from bridge_core.ops import Op, Permute, Reshape, simplify_chain

__all__ = ["Layout", "layout_ops"]

Layout = tuple[tuple[str, ...], ...]
"""The axes of a tensor, each a row-major product of names; empty for an axis of size one."""


def layout_ops(source: Layout, target: Layout, sizes: Mapping[str, int]) -> tuple[Op, ...]:
    """Return the shortest chain from one layout of a tensor to another.

    Args:
        source: The tensor's axes. Every name occurs once.
        target: The axes of the result, of the same names.
        sizes: Axis name -> its size.

    >>> print(*layout_ops((("out",), ("in",)), (("in",), ("out",)), {"in": 2, "out": 3}))
    permute([1, 0])
    >>> print(*layout_ops((("in",), ("h", "d")), (("in",), ("h",), ("d",)), {"in": 2, "h": 3, "d": 4}))
    reshape([2, 12], [2, 3, 4])
    """
    if source == target:
        return ()
    chain = _chain(source, target, sizes)
    if () not in source or source.count(()) != target.count(()):
        return chain
    chains = chain, _chain(_numbered(source), _numbered(target), sizes)
    return min(chains, key=lambda chain: (len(chain), sum(isinstance(op, Permute) for op in chain)))


def _chain(source: Layout, target: Layout, sizes: Mapping[str, int]) -> tuple[Op, ...]:
    """Return a chain that permutes the longest runs of names that both layouts share."""
    follows = {pair for run in target for pair in itertools.pairwise(run)}
    units: list[tuple[str, ...]] = []
    for run in source:
        for i, name in enumerate(run):
            if i and (run[i - 1], name) in follows:
                units[-1] += (name,)
            else:
                units.append((name,))
    order = {name: i for i, unit in enumerate(units) for name in unit}
    axes = tuple(dict.fromkeys(order[name] for run in target for name in run))
    shape = _shape(units, sizes)
    return simplify_chain(
        (
            Reshape(_shape(source, sizes), shape),
            Permute(axes),
            Reshape(tuple(shape[axis] for axis in axes), _shape(target, sizes)),
        )
    )


def _shape(layout: Sequence[tuple[str, ...]], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(sizes.get(name, 1) for name in run) for run in layout)


def _numbered(layout: Layout) -> Layout:
    """Return the layout with a name, which has no size, for each axis of size one."""
    ones = itertools.count()
    return tuple(run or (f"1#{next(ones)}",) for run in layout)
