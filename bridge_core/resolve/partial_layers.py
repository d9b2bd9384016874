"""Reads some leaves of a layer as the kind that the other side has, where the leaves prove nothing.

A file without a batch norm's statistics holds what looks like a norm; next to a template that has all of
it, the leaves that are there are still the batch norm's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bridge_core.axes import bind_axes
from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.resolve.evidence import PARAMETER, Detection
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.interpretations import Interpretation, LeafUse, Role, transform_interpretation
from bridge_core.resolve.neutral_layers import NeutralLayer

__all__ = ["partial_source", "partial_target"]

_STRONG = ("rule", "module", "metadata")
"""Evidence that decides what a layer is, whatever the other side has."""


def partial_target(
    layer: NeutralLayer,
    kind: LayerKind,
    group: Group,
    detection: Detection,
    transforms: Iterable[LayerTransform],
    *,
    needs_module: bool,
) -> tuple[Interpretation, ...]:
    """Read a template as the source's kind, though its names and shapes do not suggest that.

    Args:
        layer: The source's layer.
        kind: Its kind.
        group: The template's leaves, which may be some of the layer's.
        detection: What the group is; strong evidence is not overruled.
        transforms: The layouts of the template's framework.
        needs_module: Whether to read it in layouts that only a module's type shows, or in the others.
    """
    if layer.kind == PARAMETER or detection.evidence in _STRONG or detection.misfits:
        return ()
    shapes = {name: spec.shape for name, spec in group.specs.items()}
    interpretations = (
        transform_interpretation(transform, kind, shapes, {})
        for transform in transforms
        if transform.kind == layer.kind
        and transform.needs_module == needs_module
        and shapes.keys() <= transform.by_name().keys()
    )
    return tuple(i for i in interpretations if i is not None)


def partial_source(
    layer: NeutralLayer, kind: LayerKind, transforms: Mapping[str, Iterable[LayerTransform]]
) -> Iterator[Interpretation]:
    """Yield the readings of a source's leaves as some of the leaves of a template's kind.

    Leaves of the layer that the source was taken for have neutral names, the others those of its framework.
    Of the first only those with one axis are read: the others may have another order of axes in this kind.

    Args:
        layer: The source's layer; strong evidence is not overruled, and what is doubted stays so.
        kind: The template's kind.
        transforms: Framework -> its layouts.
    """
    if layer.evidence in _STRONG or layer.misfits or layer.missing or layer.doubted:
        return
    shapes = {name: spec.shape for name, spec in layer.group.specs.items()}
    own = set(layer.leaves) if layer.kind is not None else set()
    # What the metadata stores of a layer comes back under its neutral name, whatever the layer is taken for.
    named_neutrally = own | (shapes.keys() & kind.auxiliary_tensors.keys())
    neutral = {name for name in named_neutrally if _is_one_axis(kind, name, shapes[name])}
    for transform in transforms.get(layer.origin, ()):
        if transform.kind == kind.name and not transform.needs_module:
            native = {name: shape for name, shape in shapes.items() if name not in own}
            named = {name: shape for name, shape in native.items() if name in transform.by_name()}
            read = transform_interpretation(transform, kind, named, {}) if named else None
            if read is not None:
                yield _joined(kind, read.leaves, neutral, shapes)
    if neutral and not layer.unclaimed:
        yield _joined(kind, {}, neutral, shapes)


def _is_one_axis(kind: LayerKind, role: str, shape: tuple[int, ...]) -> bool:
    """Return whether a leaf fits a role of a kind, and cannot be turned."""
    return len(shape) < 2 and role in kind.leaves and bind_axes(kind.leaves[role], shape) is not None


def _joined(
    kind: LayerKind,
    read: Mapping[Role, LeafUse],
    neutral: set[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> Interpretation:
    """Return the reading of leaves that a layout names, of some with neutral names, and of the rest."""
    leaves = dict(read)
    taken = {use.name for use in read.values()}
    for name, shape in shapes.items():
        if name not in taken:
            is_role = name in neutral and (True, name) not in leaves
            leaves[is_role, name] = LeafUse(name, (), shape)
    return Interpretation(kind.name, None, leaves, fallback=True, zeros=frozenset(kind.zeros))
