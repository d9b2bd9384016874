"""Whether the layers that a composite one holds are linear layers of their own, axis by axis.

An attention holds linear layers, in its own neutral form as in theirs. A kind of a plugin may have the axes
of its parts in another order; then they are not linear layers of the framework, whatever their names.
"""

from __future__ import annotations

from bridge_core.axes import parse_axes
from bridge_core.layers import LayerTransform
from bridge_core.plugins import Registry

__all__ = ["parts_are_linear"]

_KERNEL = "kernel"


def parts_are_linear(transform: LayerTransform, registry: Registry) -> bool:
    """Return whether each kernel of a composite layer is turned as the framework's linear kernel is.

    Args:
        transform: The composite layer in a framework.
        registry: Where kinds and transforms are found.
    """
    kinds = registry.kinds
    usual = next(
        (
            leaf
            for other in registry.transforms_of.get(transform.framework, ())
            if other.kind == "linear" and not other.needs_module
            for leaf in other.leaves
            if leaf.role == _KERNEL
        ),
        None,
    )
    if usual is None or transform.kind not in kinds:
        return True
    turn = _turn(usual.axes, kinds["linear"].leaves[_KERNEL])
    return all(
        _turn(leaf.axes_of(part), kinds[transform.kind].leaves[role]) == turn
        for leaf in transform.leaves
        for part, role in enumerate(leaf.roles)
        if role.rpartition(".")[2] == _KERNEL
    )


def _turn(native: str, neutral: str) -> tuple[int, ...]:
    """Return where each neutral axis is among the native ones.

    >>> _turn("out in", "in out")
    (1, 0)
    """
    names = [axis.name for axis in parse_axes(native) if axis.name != "1"]
    return tuple(names.index(axis.name) for axis in parse_axes(neutral) if axis.name in names)
