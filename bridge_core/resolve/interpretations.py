"""Interpretations: one way to read a group of leaves, with the ops that bring each leaf to a common form.

An undecided layer has several interpretations, a decided one has one and perhaps a fallback. Source and
target are compared in the common form: they match if an interpretation of each has the same kind, the same
leaves and shapes that agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bridge_core.axes import Binding, Shape, bind_axes
from bridge_core.layers import (
    Factors,
    LayerKind,
    LayerTransform,
    Leaf,
    cut_of,
    from_neutral_ops,
    part_shape,
    to_neutral_ops,
)
from bridge_core.ops import Op, Split, chain_specs, inverse_chain
from bridge_core.resolve.evidence import PARAMETER, Detection
from bridge_core.state import TensorSpec

__all__ = [
    "Interpretation",
    "LeafUse",
    "Role",
    "layout_interpretation",
    "native_interpretations",
    "neutral_interpretation",
    "parameter_interpretation",
    "transform_interpretation",
]

Role = tuple[bool, str]
"""``(True, role of the kind)`` or ``(False, name of a leaf that is copied unchanged)``."""


@dataclass(frozen=True)
class LeafUse:
    """One leaf in an interpretation, or one part of it.

    Args:
        name: Leaf name in the group.
        ops: From the group's layout to the common form.
        shape: Shape in the common form.
        cut: The op that cuts the leaf into parts; None if it is one part.
        part: Number of this part.
        added_leaves: Role that is added into this one if the other side has it.
        full_shape: Shape of the leaf with all its parts, in the group's layout.
    """

    name: str
    ops: tuple[Op, ...]
    shape: Shape
    cut: Split | None = None
    part: int = 0
    added_leaves: str | None = None
    full_shape: Shape = ()


@dataclass(frozen=True)
class Interpretation:
    """One way to read a group.

    Args:
        kind: Layer kind, or ``parameter``.
        transform: Name of the native transform that has this layout; None for parameters and neutral layers.
        leaves: Role -> its leaf.
        fallback: Whether it contradicts weak evidence and is used only if nothing else fits.
        axis_splits: Axis of the kind -> the sizes into which it is split here.
        zeros: Roles that are zeros if the other side has none.
    """

    kind: str
    transform: str | None
    leaves: Mapping[Role, LeafUse]
    fallback: bool = False
    axis_splits: Mapping[str, Shape] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()


def parameter_interpretation(specs: Mapping[str, TensorSpec], *, fallback: bool = False) -> Interpretation:
    """Return the interpretation in which every leaf is copied unchanged."""
    leaves = {(False, name): LeafUse(name, (), spec.shape) for name, spec in specs.items()}
    return Interpretation(PARAMETER, None, leaves, fallback)


def transform_interpretation(
    transform: LayerTransform,
    kind: LayerKind,
    shapes: Mapping[str, Shape],
    axis_splits: Mapping[str, Shape],
) -> Interpretation | None:
    """Return the interpretation in which a layer has a transform's layout; None if its shapes do not fit.

    Args:
        transform: The layout.
        kind: The layer's kind.
        shapes: Leaf name -> shape; leaves that the transform does not name are copied unchanged.
        axis_splits: How axes are split, where the shapes do not determine it.
    """
    leaves: dict[Role, LeafUse] = {}
    native_leaves = transform.by_name()
    split = tuple(sorted(axis_splits.items()))
    for name, shape in shapes.items():
        leaf = native_leaves.get(name)
        uses = {(False, name): LeafUse(name, (), shape)} if leaf is None else _uses(leaf, kind, shape, split)
        if uses is None:
            return None
        leaves.update(uses)
    return Interpretation(kind.name, transform.name, leaves, False, axis_splits, frozenset(kind.zeros))


def _uses(leaf: Leaf, kind: LayerKind, shape: Shape, axis_splits: Factors) -> dict[Role, LeafUse] | None:
    """Return the parts of a native leaf by role; None if its shape does not fit."""
    cut = cut_of(leaf, shape)
    uses: dict[Role, LeafUse] = {}
    for part, role in enumerate(leaf.roles):
        ops_and_shape = to_neutral_ops(
            leaf, kind.leaves[role], part_shape(leaf, shape), part=part, axis_splits=axis_splits
        )
        if ops_and_shape is None:
            return None
        added_leaves = leaf.added_leaves[part] if leaf.added_leaves else None
        uses[True, role] = LeafUse(leaf.name, *ops_and_shape, cut, part, added_leaves, shape)
    return uses


def layout_interpretation(
    transform: LayerTransform,
    kind: LayerKind,
    shapes: Mapping[str, Shape],
    axis_splits: Mapping[str, Shape],
) -> Interpretation | None:
    """Return the interpretation of a layer that a transform writes; None if it cannot.

    Args:
        transform: The layout to write.
        kind: The layer's kind.
        shapes: Role -> neutral shape.
        axis_splits: How axes of the kind are split.
    """
    rank = max(map(len, shapes.values()), default=0)
    split = tuple(sorted(axis_splits.items()))
    shapes = {**shapes, **_zero_shapes(transform, kind, shapes)}
    native_shapes: dict[str, Shape] = {}
    for leaf in transform.leaves:
        if leaf.optional and not any(role in shapes for role in leaf.roles):
            continue
        parts = [
            from_neutral_ops(leaf, kind.leaves[role], shapes[role], rank, part=part, axis_splits=split)
            if role in shapes
            else None
            for part, role in enumerate(leaf.roles)
        ]
        part_shapes = {part[1] for part in parts if part is not None}
        if None in parts or len(part_shapes) != 1:
            return None
        (native,) = part_shapes
        if len(parts) > 1:
            axis = leaf.cut_axis
            native = (*native[:axis], native[axis] * len(parts), *native[axis + 1 :])
        native_shapes[leaf.name] = native
    return transform_interpretation(transform, kind, native_shapes, axis_splits)


def _zero_shapes(transform: LayerTransform, kind: LayerKind, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the neutral shapes of missing leaves that the layout needs, and that zeros can stand for."""
    sizes = {
        axis: n
        for role, shape in shapes.items()
        for axis, axis_sizes in (bind_axes(kind.leaves[role], shape) or {}).items()
        for n in axis_sizes
    }
    has_some = any(role in shapes for role in kind.zeros)
    zeros: dict[str, Shape] = {}
    for leaf in transform.leaves:
        missing = [role for role in leaf.roles if role not in shapes]
        if set(missing) <= set(kind.zeros) and (has_some or not leaf.optional):
            for role in missing:
                names = kind.leaves[role].split()
                if all(name in sizes for name in names):
                    zeros[role] = tuple(sizes[name] for name in names)
    return zeros


def native_interpretations(
    detection: Detection, kinds: Mapping[str, LayerKind], specs: Mapping[str, TensorSpec]
) -> tuple[Interpretation, ...]:
    """Return every interpretation of a group in a framework's layout that its detection leaves possible."""
    if detection.transform is not None:
        interpretations = [*_bound(detection.transform, kinds, specs, detection.axis_splits)]
        if detection.evidence in ("structure", "metadata", "guess"):
            interpretations.append(parameter_interpretation(specs, fallback=True))
        return tuple(interpretations)
    if not detection.candidates:
        return (parameter_interpretation(specs),)
    interpretations = []
    has_parameter = False
    for candidate in detection.candidates:
        if candidate is None or candidate.unsupported:
            has_parameter = True
            interpretations.append(parameter_interpretation(specs))
        else:
            interpretations += _bound(candidate, kinds, specs, None)
    if not has_parameter:
        interpretations.append(parameter_interpretation(specs, fallback=True))
    return tuple(interpretations)


def _bound(
    transform: LayerTransform,
    kinds: Mapping[str, LayerKind],
    specs: Mapping[str, TensorSpec],
    axis_splits: Binding | None,
) -> Iterator[Interpretation]:
    """Yield an interpretation for each way to bind the transform's axes, or for the one that is known."""
    shapes = {name: spec.shape for name, spec in specs.items()}
    if axis_splits is None:
        native_leaves = transform.by_name()
        bindings: Iterable[Binding] = transform.bindings(
            {name: shape for name, shape in shapes.items() if name in native_leaves}
        )
    else:
        bindings = (axis_splits,)
    for binding in bindings:
        split = transform.split_axes(binding)
        interpretation = transform_interpretation(transform, kinds[transform.kind], shapes, split)
        if interpretation is not None:
            yield interpretation


def neutral_interpretation(
    kind: LayerKind,
    specs: Mapping[str, TensorSpec],
    layer_leaves: Iterable[str],
    axis_splits: Mapping[str, Shape],
    *,
    raw: LayerTransform | None = None,
) -> Interpretation | None:
    """Return the interpretation of a decided neutral layer.

    Args:
        kind: Its kind.
        specs: Leaf name -> spec; names of the kind's leaves, and of parameters at the same path.
        layer_leaves: Names of the leaves that belong to the kind.
        axis_splits: How its axes are split where it comes from.
        raw: Interpret the layer as the plain parameters that this transform names: a fallback.
    """
    own = set(layer_leaves)
    leaves: dict[Role, LeafUse] = {
        (name in own, name): LeafUse(name, (), spec.shape) for name, spec in specs.items()
    }
    if raw is None:
        return Interpretation(kind.name, None, leaves, False, axis_splits, frozenset(kind.zeros))
    native = layout_interpretation(raw, kind, {name: specs[name].shape for name in own}, axis_splits)
    if (
        native is None
        or {role for _, role in native.leaves} != own
        or any(use.cut or use.added_leaves for use in native.leaves.values())
    ):
        return None
    parameters = {role: use for role, use in leaves.items() if not role[0]}
    for (_, role), use in native.leaves.items():
        back = inverse_chain(use.ops)
        (spec,) = chain_specs((TensorSpec(use.shape, specs[role].dtype),), back)
        parameters[False, use.name] = LeafUse(role, back, spec.shape)
    return Interpretation(PARAMETER, None, parameters, fallback=True)
