"""Whether leaves fit a layer transform, by their shapes and by the settings of their live module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from bridge_core.axes import Binding, parse_axes
from bridge_core.layers.transforms import LayerTransform
from bridge_core.state import ModuleInfo

__all__ = [
    "agrees",
    "describes",
    "fits",
    "leaves_of",
    "same_order",
    "splits_agree",
    "stated_splits",
    "usual_transforms",
]

Shapes = Mapping[str, tuple[int, ...]]


def describes(transform: LayerTransform, module: ModuleInfo, shapes: Shapes, has_children: bool) -> bool:
    """Return whether a transform fits a module's settings and its leaves."""
    return (
        agrees(transform, module)
        and fits(transform, shapes, has_children)
        and _has_sizes(transform, module, shapes)
        and _has_parts(transform, module, shapes)
    )


def agrees(transform: LayerTransform, module: ModuleInfo) -> bool:
    """Return whether a module has the settings that a transform asks for."""
    return all(
        module.settings.get(name, value if not value else None) == value
        for name, value in transform.settings.items()
    )


def _has_sizes(transform: LayerTransform, module: ModuleInfo, shapes: Shapes) -> bool:
    """Return whether the weights have the sizes that a module's settings state, and not in another order."""
    stated = {
        axis: value
        for axis, name in transform.axis_sizes.items()
        if type(value := module.settings.get(name)) is int
    }
    if len(stated) < 2:
        return True
    present = {name: shapes[name] for name in leaves_of(transform, shapes)}
    for binding in transform.bindings(present):
        sizes = {axis: prod(binding[axis]) for axis in stated if axis in binding}
        if (
            sizes.keys() == stated.keys()
            and sizes != stated
            and sorted(sizes.values()) == sorted(stated.values())
        ):
            return False
    return True


def _has_parts(transform: LayerTransform, module: ModuleInfo, shapes: Shapes) -> bool:
    """Return whether axes can be split as a module's settings state: a stack of layers has one more part."""
    known = stated_splits(transform, module)
    if not known:
        return True
    bindings = transform.bindings({name: shapes[name] for name in leaves_of(transform, shapes)})
    return any(splits_agree(transform, transform.split_axes(binding), known) for binding in bindings)


def stated_splits(transform: LayerTransform, module: ModuleInfo) -> Binding:
    """Return how axes are split by a module's settings: the sizes, or the number of parts."""
    splits: Binding = {}
    for axis, names in transform.axis_splits.items():
        for name in names.split():
            value = module.settings.get(name)
            sizes = value if isinstance(value, tuple) else (value,)
            if sizes and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
                splits[axis] = sizes
    return splits


def splits_agree(transform: LayerTransform, split: Binding, known: Binding) -> bool:
    """Return whether axes are split into the known sizes, or into the known number of parts.

    A number is the size of an axis that may be one axis here. It is the number of parts of one that is always
    several here, as ``heads/2``: the first of its sizes.
    """
    several = {axis.name for leaf in transform.leaves for axis in parse_axes(leaf.axes) if axis.split > 1}
    for axis, sizes in split.items():
        stated = known.get(axis, sizes)
        if stated != sizes and not (axis in several and len(stated) == 1 and stated == sizes[:1]):
            return False
    return True


def same_order(one: LayerTransform, other: LayerTransform) -> bool:
    """Return whether the leaves that two transforms of a kind share have one order of axes."""
    known = other.by_name()
    return all(
        [axis.members for axis in parse_axes(leaf.axes) if axis.name != "1"]
        == [axis.members for axis in parse_axes(known[leaf.name].axes) if axis.name != "1"]
        and leaf.flip == known[leaf.name].flip
        for leaf in one.leaves
        if leaf.name in known
    )


def usual_transforms(transforms: Iterable[LayerTransform], kind: str) -> tuple[LayerTransform, ...]:
    """Return the transforms of a kind that a layer may have which is known to be of the kind.

    Those that only a module's type shows are left out, unless there are no others: what looks like a layer of
    another kind then has a rule, a record or a source that shows what it is.
    """
    of_kind = tuple(transform for transform in transforms if transform.kind == kind)
    return tuple(transform for transform in of_kind if not transform.needs_module) or of_kind


def leaves_of(transform: LayerTransform, shapes: Shapes) -> tuple[str, ...]:
    """Return the names of a transform's leaves that are present."""
    return tuple(leaf.name for leaf in transform.leaves if leaf.name in shapes)


def fits(transform: LayerTransform, shapes: Shapes, has_children: bool) -> bool:
    """Return whether leaves of these names and shapes can be a layer in a transform's layout."""
    present = {name: shapes[name] for name in leaves_of(transform, shapes)}
    if not present or (transform.only_leaves and (has_children or len(present) != len(shapes))):
        return False
    return transform.fits(present)
