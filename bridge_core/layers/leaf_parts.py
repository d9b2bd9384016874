"""From a native leaf to the neutral leaves that it holds."""

from __future__ import annotations

from bridge_core.axes import Binding, Shape
from bridge_core.errors import PluginError
from bridge_core.layers.kinds import LayerKind
from bridge_core.layers.leaf_ops import part_shape, to_neutral_ops
from bridge_core.layers.transforms import Leaf
from bridge_core.ops import Op

__all__ = ["part_ops"]


def part_ops(
    leaf: Leaf, kind: LayerKind, shape: Shape, axis_splits: Binding
) -> tuple[tuple[tuple[Op, ...], Shape], ...]:
    """Return the ops from each part of a leaf to its neutral leaf, and that leaf's shape.

    Raises:
        PluginError: The leaf fits its own axes, and these do not fit those of the kind.
    """
    split = tuple(sorted(axis_splits.items()))
    parts = []
    for part, role in enumerate(leaf.roles):
        ops_and_shape = to_neutral_ops(
            leaf, kind.leaves[role], part_shape(leaf, shape), part=part, axis_splits=split
        )
        if ops_and_shape is None:
            raise PluginError(
                f"leaf {leaf.name!r} of shape {list(shape)}: expected axes that fit {kind.leaves[role]!r}, "
                f"those of {role!r} in the kind {kind.name!r}, got {leaf.axes!r}."
            )
        parts.append(ops_and_shape)
    return tuple(parts)
