"""Views: one way to read a group of leaves, with the ops that bring each to a common form.

A layer that is still undecided has several views, a decided one has one and a fallback. Source and target
belong together where a view of each has one kind, the same leaves, and shapes that meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.ops import Op
from bridge_core.resolve.axes import from_neutral_ops, to_neutral_ops
from bridge_core.resolve.reading import PARAMETER, Reading
from bridge_core.tensors import TensorSpec

__all__ = [
    "Common",
    "Place",
    "Role",
    "View",
    "native_views",
    "neutral_view",
    "parameter_view",
    "transform_view",
]

Role = tuple[bool, str]
"""``(True, role of the kind)`` or ``(False, name of a leaf that goes as it is)``."""


@dataclass(frozen=True)
class Place:
    """One leaf in a view.

    Args:
        name: Leaf name in the group.
        ops: From the group's form to the common form.
        shape: Shape in the common form.
    """

    name: str
    ops: tuple[Op, ...]
    shape: tuple[int, ...]


Common = Mapping[Role, Place]


@dataclass(frozen=True)
class View:
    """One reading of a group.

    Args:
        kind: Layer kind, or ``parameter``.
        transform: Name of the native transform that spells it so; None for parameters.
        leaves: Role -> place.
        fallback: Whether it contradicts weak evidence and is used only where nothing else fits.
    """

    kind: str
    transform: str | None
    leaves: Common
    fallback: bool = False


def parameter_view(specs: Mapping[str, TensorSpec], *, fallback: bool = False) -> View:
    """Return the view in which every leaf goes as it is."""
    leaves = {(False, name): Place(name, (), spec.shape) for name, spec in specs.items()}
    return View(PARAMETER, None, leaves, fallback)


def transform_view(
    transform: LayerTransform, kind: LayerKind, specs: Mapping[str, TensorSpec]
) -> View | None:
    """Return the view in which the leaves that a transform names are its layer; None if they do not fit."""
    leaves: dict[Role, Place] = {}
    names = transform.by_name()
    for name, spec in specs.items():
        leaf = names.get(name)
        if leaf is None:
            leaves[False, name] = Place(name, (), spec.shape)
            continue
        moved = to_neutral_ops(leaf, kind.leaves[leaf.role], spec.shape)
        if moved is None:
            return None
        leaves[True, leaf.role] = Place(name, *moved)
    return View(kind.name, transform.name, leaves)


def native_views(
    reading: Reading, kinds: Mapping[str, LayerKind], specs: Mapping[str, TensorSpec]
) -> tuple[View, ...]:
    """Return every view of a group in a framework's own form, by what its reading leaves open."""
    if reading.transform is not None:
        decided = transform_view(reading.transform, kinds[reading.transform.kind], specs)
        views = [decided] if decided is not None else []
        if reading.evidence in ("structure", "metadata", "guess"):
            views.append(parameter_view(specs, fallback=True))
        return tuple(views)
    if not reading.candidates:
        return (parameter_view(specs),)
    return tuple(_candidate_views(reading.candidates, kinds, specs))


def _candidate_views(
    candidates: Iterable[LayerTransform | None],
    kinds: Mapping[str, LayerKind],
    specs: Mapping[str, TensorSpec],
) -> Iterable[View]:
    found_parameter = False
    for candidate in candidates:
        if candidate is None:
            found_parameter = True
            yield parameter_view(specs)
        else:
            view = transform_view(candidate, kinds[candidate.kind], specs)
            if view is not None:
                yield view
    if not found_parameter:
        yield parameter_view(specs, fallback=True)


def neutral_view(
    kind: LayerKind,
    specs: Mapping[str, TensorSpec],
    claimed: Iterable[str],
    *,
    raw: LayerTransform | None = None,
) -> View | None:
    """Return the view of a decided neutral layer.

    Args:
        kind: Its kind.
        specs: Leaf name -> spec; names of the kind's leaves, and of parameters beside them.
        claimed: Which of them belong to the kind.
        raw: Read the layer back as the plain parameters that this transform spells: a fallback.
    """
    claimed = set(claimed)
    leaves: dict[Role, Place] = {}
    rank = max((len(specs[name].shape) for name in claimed), default=0)
    for name, spec in specs.items():
        if name not in claimed:
            leaves[False, name] = Place(name, (), spec.shape)
        elif raw is None:
            leaves[True, name] = Place(name, (), spec.shape)
        else:
            leaf = raw.by_role().get(name)
            if leaf is None:
                return None
            moved = from_neutral_ops(leaf, kind.leaves[name], spec.shape, rank)
            if moved is None:
                return None
            leaves[False, leaf.name] = Place(name, *moved)
    if raw is not None:
        return View(PARAMETER, None, leaves, fallback=True)
    return View(kind.name, None, leaves)
