"""Checks that transforms name what their kinds have: a mistyped name fits no tensor, or a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.axes import parse_axes
from bridge_core.errors import PluginError
from bridge_core.layers.kinds import LayerKind
from bridge_core.layers.transforms import LayerTransform, Leaf
from bridge_core.messages import nearest

__all__ = ["check_transforms"]


def check_transforms(transforms: Iterable[LayerTransform], kinds: Mapping[str, LayerKind]) -> None:
    """Check that transforms name only what their kinds and their own leaves have.

    Args:
        transforms: The transforms.
        kinds: Name -> kind.

    Raises:
        PluginError: One names a kind, role, axis or leaf that does not exist.
    """
    for transform in transforms:
        kind = kinds.get(transform.kind)
        if kind is None:
            raise PluginError(
                f"transform {transform.name!r}: unknown kind {transform.kind!r}.",
                hint=nearest(transform.kind, kinds, listing="Installed"),
            )
        for leaf in transform.leaves:
            for part, role in enumerate(leaf.roles):
                _check_role(transform, leaf, part, role, kind)
            for role in filter(None, leaf.added_leaves):
                _check_name(transform, f"leaf {leaf.name!r}: role", role, kind.leaves)
        _check_options(transform, kind)


def _check_role(transform: LayerTransform, leaf: Leaf, part: int, role: str, kind: LayerKind) -> None:
    where = f"leaf {leaf.name!r}"
    _check_name(transform, f"{where}: role", role, kind.leaves)
    of_kind = {axis.name: axis for axis in parse_axes(kind.leaves[role])}
    for axis in parse_axes(leaf.axes_of(part)):
        if axis.name == "1":
            continue
        _check_name(transform, f"{where}: axis", axis.name, of_kind)
        if axis.spread and not of_kind[axis.name].spread:
            raise PluginError(
                f"transform {transform.name!r}: {where}: expected the one axis {axis.name!r}, as in {role!r} "
                f"of the kind {kind.name!r}, got '{axis.spread}{axis.name}', which is any number of axes."
            )
    for name in leaf.flip:
        _check_name(transform, f"{where}: flipped axis", name, of_kind)


def _check_options(transform: LayerTransform, kind: LayerKind) -> None:
    for name in transform.identifying_leaves or ():
        _check_name(transform, "identifying_leaves", name, transform.by_name())
    for name in transform.unsupported_leaves:
        _check_name(transform, "unsupported_leaves", name, kind.leaves)
    axes = {axis.name for text in kind.leaves.values() for axis in parse_axes(text)}
    equal = [name for pair in transform.equal_axes for name in pair]
    for option, names in (
        ("axis_sizes", transform.axis_sizes),
        ("axis_splits", transform.axis_splits),
        ("independent_axes", transform.independent_axes),
        ("equal_axes", equal),
    ):
        for name in names:
            _check_name(transform, option, name, axes)


def _check_name(transform: LayerTransform, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise PluginError(
            f"transform {transform.name!r} of the kind {transform.kind!r}: {what} {name!r} does not exist.",
            hint=nearest(name, known),
        )
