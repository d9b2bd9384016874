"""The names of a tensor's axes, where the layer that it belongs to is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bridge_core.errors import BridgeError
from bridge_core.state import FlatState, Key, StateMetadata

if TYPE_CHECKING:
    from bridge_core.axes import Shape
    from bridge_core.plugins import Registry

__all__ = ["axis_names"]


def axis_names(state: FlatState, registry: Registry) -> dict[Key, tuple[str, ...]]:
    """Return key -> one name for each axis of the tensor, in the tensor's own order.

    The names are those of the layer kinds. Axes that are one axis of the kind are numbered, as ``k0`` and
    ``k1`` of a convolution; an axis that holds several parts has their names, as ``(q k v)`` or
    ``4*hidden``; ``1`` is an axis of size one that the kind does not have. Tensors of layers that neither
    the metadata nor names and shapes show are left out. No value is read.

    Args:
        state: The state, in any layout; without a layout there are no names.
        registry: Where kinds and transforms are found.
    """
    if state.layout is None:
        return {}
    try:
        notations = dict(_neutral(state, registry) if state.layout == "neutral" else _native(state, registry))
    except BridgeError:  # a conversion reports what is wrong
        return {}
    names = {key: _names(notation, state.spec(key).shape) for key, notation in notations.items()}
    return {key: names[key] for key in state if names.get(key)}


def _neutral(state: FlatState, registry: Registry) -> Iterator[tuple[Key, str]]:
    """Yield the keys of recorded layers with their axes in neutral form."""
    for key in state:
        role, kind, _ = _leaf(key, state.metadata, "")
        if kind in registry.kinds and role in registry.kinds[kind].leaves:
            yield key, registry.kinds[kind].leaves[role]


def _native(state: FlatState, registry: Registry) -> Iterator[tuple[Key, str]]:
    """Yield the keys of layers that evidence shows, with their axes in the framework's layout."""
    from bridge_core.resolve.to_neutral import plan_to_neutral

    layout = state.layout or ""
    with registry.foreign_failures("frameworks", layout, "show the axes of tensors"):
        plan = plan_to_neutral(state, registry)
    for step in plan.steps:
        if len(step.sources) != 1 or not step.targets:
            continue
        role, _, name = _leaf(step.targets[0], plan.metadata, layout)
        if name in registry.transforms:
            leaves = registry.transforms[name].leaves
            yield from ((step.sources[0], leaf.axes) for leaf in leaves if role in leaf.roles)


def _leaf(key: Key, metadata: StateMetadata, framework: str) -> tuple[str, str, str]:
    """Return a leaf's role, its layer's kind, and the framework's transform; empty if they are unknown."""
    path, role = metadata.owner(key)
    info = metadata.layers.get(path)
    if info is None or role not in info.leaves:
        return role, "", ""
    return role, info.kind or "", info.transforms.get(framework, "")


def _names(notation: str, shape: Shape) -> tuple[str, ...]:
    """Return a name for each axis of a shape; empty if the notation does not determine them.

    It does not if it fits in several ways, or if it is one name for any number of axes, as a norm's: the
    first of these may be that of a stack of layers.

    >>> _names("out in +k", (8, 4, 3, 3))
    ('out', 'in', 'k0', 'k1')
    >>> _names("in heads/2", (64, 4, 16))
    ('in', 'heads0', 'heads1')
    >>> _names("*features", (4, 8))
    ()
    >>> _names("(q k v) in", (12, 8)), _names("(hidden hidden) in", (12, 8))
    (('(q k v)', 'in'), ('2*hidden', 'in'))
    """
    from bridge_core.axes import bind_axes, parse_axes

    sizes, axes = bind_axes(notation, shape), parse_axes(notation)
    if sizes is None or (len(axes) == 1 < len(shape) and axes[0].spread):
        return ()
    names: list[str] = []
    for axis in axes:
        if len(axis.members) > 1:
            is_one = len(set(axis.members)) == 1
            names.append(f"{len(axis.members)}*{axis.name}" if is_one else f"({' '.join(axis.members)})")
        elif axis.name == "1" or len(sizes[axis.name]) == 1:
            names.append(axis.name)
        else:
            names += [f"{axis.name}{number}" for number in range(len(sizes[axis.name]))]
    return tuple(names)
