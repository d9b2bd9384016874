"""Views: one way to read a group of leaves, with the ops that bring each to a common form.

A layer that is still undecided has several views, a decided one has one and a fallback. Source and target
belong together where a view of each has one kind, the same leaves, and shapes that meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from bridge_core.resolve.evidence import PARAMETER, Reading
from bridge_core.state import TensorSpec

__all__ = [
    "Common",
    "Place",
    "Role",
    "View",
    "form_view",
    "native_views",
    "neutral_view",
    "parameter_view",
    "transform_view",
]

Role = tuple[bool, str]
"""``(True, role of the kind)`` or ``(False, name of a leaf that goes as it is)``."""


@dataclass(frozen=True)
class Place:
    """One leaf in a view, or one part of it.

    Args:
        name: Leaf name in the group.
        ops: From the group's form to the common form.
        shape: Shape in the common form.
        cut: What cuts the leaf into parts; None if it is one.
        part: Which part this is.
        added_leaves: Role that is added into this one where the other side has it.
        whole: Shape of the whole leaf in the group's form.
    """

    name: str
    ops: tuple[Op, ...]
    shape: Shape
    cut: Split | None = None
    part: int = 0
    added_leaves: str | None = None
    whole: Shape = ()


Common = Mapping[Role, Place]


@dataclass(frozen=True)
class View:
    """One reading of a group.

    Args:
        kind: Layer kind, or ``parameter``.
        transform: Name of the native transform that spells it so; None for parameters.
        leaves: Role -> place.
        fallback: Whether it contradicts weak evidence and is used only where nothing else fits.
        factors: Axis of the kind -> the sizes into which it is split here.
        zeros: Roles that are zeros where the other side has none.
    """

    kind: str
    transform: str | None
    leaves: Common
    fallback: bool = False
    axis_splits: Mapping[str, Shape] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()


def parameter_view(specs: Mapping[str, TensorSpec], *, fallback: bool = False) -> View:
    """Return the view in which every leaf goes as it is."""
    leaves = {(False, name): Place(name, (), spec.shape) for name, spec in specs.items()}
    return View(PARAMETER, None, leaves, fallback)


def transform_view(
    transform: LayerTransform,
    kind: LayerKind,
    specs: Mapping[str, TensorSpec],
    axis_splits: Binding | None = None,
) -> View | None:
    """Return the view in which the leaves that a transform names are its layer; None if they do not fit.

    Args:
        transform: How the leaves are spelt.
        kind: The layer's kind.
        specs: The leaves.
        factors: How axes are split, where the shapes leave that open.
    """
    leaves: dict[Role, Place] = {}
    names = transform.by_name()
    split = tuple(sorted((axis_splits or {}).items()))
    for name, spec in specs.items():
        leaf = names.get(name)
        if leaf is None:
            leaves[False, name] = Place(name, (), spec.shape)
            continue
        places = _places(leaf, kind, spec.shape, split)
        if places is None:
            return None
        leaves.update(places)
    return View(kind.name, transform.name, leaves, False, axis_splits or {}, frozenset(kind.zeros))


def _places(leaf: Leaf, kind: LayerKind, shape: Shape, axis_splits: Factors) -> dict[Role, Place] | None:
    """Return where each role of a native leaf stands; None if its shape does not fit."""
    cut = cut_of(leaf, shape)
    found: dict[Role, Place] = {}
    for part, role in enumerate(leaf.roles):
        moved = to_neutral_ops(
            leaf, kind.leaves[role], part_shape(leaf, shape), part=part, axis_splits=axis_splits
        )
        if moved is None:
            return None
        added_leaves = leaf.added_leaves[part] if leaf.added_leaves else None
        found[True, role] = Place(leaf.name, *moved, cut, part, added_leaves, shape)
    return found


def form_view(
    transform: LayerTransform,
    kind: LayerKind,
    shapes: Mapping[str, Shape],
    axis_splits: Mapping[str, Shape],
) -> View | None:
    """Return the view of the leaves that a transform makes of a kind's leaves; None if it cannot.

    Args:
        transform: The form to write.
        kind: The layer's kind.
        shapes: Role -> neutral shape.
        factors: How axes of the kind are split.
    """
    rank = max(map(len, shapes.values()), default=0)
    split = tuple(sorted(axis_splits.items()))
    leaves: dict[Role, Place] = {}
    shapes = {**shapes, **_zeros(transform, kind, shapes)}
    for leaf in transform.leaves:
        if not any(role in shapes for role in leaf.roles):
            if leaf.optional:
                continue
            return None
        if any(role not in shapes for role in leaf.roles):
            return None
        parts = []
        for part, role in enumerate(leaf.roles):
            moved = from_neutral_ops(
                leaf, kind.leaves[role], shapes[role], rank, part=part, axis_splits=split
            )
            if moved is None:
                return None
            parts.append(moved[1])
        if any(shape != parts[0] for shape in parts):
            return None
        axis = leaf.cut_axis if len(parts) > 1 else 0
        whole = parts[0]
        if len(parts) > 1:
            whole = (*whole[:axis], whole[axis] * len(parts), *whole[axis + 1 :])
        places = _places(leaf, kind, whole, split)
        if places is None:
            return None
        leaves.update(places)
    return View(kind.name, transform.name, leaves, False, dict(axis_splits), frozenset(kind.zeros))


def _zeros(transform: LayerTransform, kind: LayerKind, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the neutral shapes of leaves that the form needs, the layer lacks, and zeros stand for."""
    sizes = {
        axis: n
        for role, shape in shapes.items()
        for axis, found in (bind_axes(kind.leaves[role], shape) or {}).items()
        for n in found
    }
    partly = any(role in shapes for role in kind.zeros)
    found: dict[str, Shape] = {}
    for leaf in transform.leaves:
        lacking = [role for role in leaf.roles if role not in shapes]
        if set(lacking) <= set(kind.zeros) and (partly or not leaf.optional):
            for role in lacking:
                names = kind.leaves[role].split()
                if all(name in sizes for name in names):
                    found[role] = tuple(sizes[name] for name in names)
    return found


def native_views(
    reading: Reading, kinds: Mapping[str, LayerKind], specs: Mapping[str, TensorSpec]
) -> tuple[View, ...]:
    """Return every view of a group in a framework's own form, by what its reading leaves open."""
    if reading.transform is not None:
        views = list(_transform_views(reading.transform, kinds, specs, reading.axis_splits))
        if reading.evidence in ("structure", "metadata", "guess"):
            views.append(parameter_view(specs, fallback=True))
        return tuple(views)
    if not reading.candidates:
        return (parameter_view(specs),)
    return tuple(_candidate_views(reading.candidates, kinds, specs))


def _transform_views(
    transform: LayerTransform,
    kinds: Mapping[str, LayerKind],
    specs: Mapping[str, TensorSpec],
    axis_splits: Binding | None,
) -> Iterable[View]:
    """Yield a view for each way to bind the transform's axes; for the known way alone if there is one."""
    claimed = {name: spec.shape for name, spec in specs.items() if name in transform.by_name()}
    ways = transform.bindings(claimed) if axis_splits is None else (axis_splits,)
    for way in ways:
        view = transform_view(transform, kinds[transform.kind], specs, transform.split_axes(way))
        if view is not None:
            yield view


def _candidate_views(
    candidates: Iterable[LayerTransform | None],
    kinds: Mapping[str, LayerKind],
    specs: Mapping[str, TensorSpec],
) -> Iterable[View]:
    found_parameter = False
    for candidate in candidates:
        if candidate is None or candidate.unsupported:
            found_parameter = True
            yield parameter_view(specs)
        else:
            yield from _transform_views(candidate, kinds, specs, None)
    if not found_parameter:
        yield parameter_view(specs, fallback=True)


def neutral_view(
    kind: LayerKind,
    specs: Mapping[str, TensorSpec],
    claimed: Iterable[str],
    axis_splits: Mapping[str, Shape],
    *,
    raw: LayerTransform | None = None,
) -> View | None:
    """Return the view of a decided neutral layer.

    Args:
        kind: Its kind.
        specs: Leaf name -> spec; names of the kind's leaves, and of parameters beside them.
        claimed: Which of them belong to the kind.
        factors: How its axes are split where it comes from.
        raw: Read the layer back as the plain parameters that this transform spells: a fallback.
    """
    claimed = set(claimed)
    leaves: dict[Role, Place] = {
        (name in claimed, name): Place(name, (), spec.shape) for name, spec in specs.items()
    }
    zeros = frozenset(kind.zeros)
    if raw is None:
        return View(kind.name, None, leaves, False, axis_splits, zeros)
    shapes = {name: specs[name].shape for name in claimed}
    spelt = form_view(raw, kind, shapes, axis_splits)
    covered = spelt is not None and {role[1] for role in spelt.leaves} == claimed
    if (
        spelt is None
        or not covered
        or any(place.cut or place.added_leaves for place in spelt.leaves.values())
    ):
        return None
    own = {role: place for role, place in leaves.items() if not role[0]}
    for role, place in spelt.leaves.items():
        back = inverse_chain(place.ops)
        (made,) = chain_specs((TensorSpec(place.shape, specs[role[1]].dtype),), back)
        own[False, place.name] = Place(role[1], back, made.shape)
    return View(PARAMETER, None, own, fallback=True)
