"""Layer kinds and layer transforms: what a layer's weights are, whatever framework they come from.

A `LayerKind` names the axes of each leaf in neutral form. A `LayerTransform` says how one framework
spells the same leaves: other names, another order of axes. Both are data; the ops follow from the axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from bridge_core.errors import PluginError
from bridge_core.keys import Key
from bridge_core.tensors import TensorSpec

__all__ = ["LayerKind", "LayerTransform", "Leaf", "bind_axes"]


@dataclass(frozen=True)
class LayerKind:
    """The neutral layout of a layer type.

    Args:
        name: E.g. ``"conv"``.
        leaves: Leaf name -> axis names, e.g. ``{"kernel": "+k in out", "bias": "out"}``. ``*k`` stands
            for any number of axes, ``+k`` for one or more.
        residuals: Leaves that some frameworks have no place for, with the spec of the value (all
            zeros) that stands in where none was kept.

    Raises:
        PluginError: An axis is named twice in a leaf, or a residual is no leaf.
    """

    name: str
    leaves: Mapping[str, str]
    residuals: Mapping[str, TensorSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check."""
        for leaf, axes in self.leaves.items():
            _check_axes(f"kind {self.name!r}, leaf {leaf!r}", axes)
        for leaf in self.residuals:
            if leaf not in self.leaves:
                raise PluginError(f"kind {self.name!r}: residual {leaf!r} is no leaf of it.")


@dataclass(frozen=True)
class Leaf:
    """One leaf of a layer in a framework's own spelling.

    Args:
        name: Native name; dots where it stands in nested modules, e.g. ``parametrizations.weight.original0``.
        role: Name of the leaf in the kind.
        axes: Native axes by the kind's names; ``1`` for an axis of size one that the kind lacks. An
            axis that the kind has and this lacks must have size one.
        flip: Axes (``k`` for all of ``*k``) that run the other way.
        optional: Whether the layer may lack it.
    """

    name: str
    role: str
    axes: str
    flip: tuple[str, ...] = ()
    optional: bool = False

    @property
    def parts(self) -> Key:
        """The name as parts below the layer's path."""
        return tuple(self.name.split("."))


@dataclass(frozen=True)
class LayerTransform:
    """How one framework spells one kind.

    Args:
        name: ``"<framework>.<what>"``, e.g. ``"torch.linear"``. The first transform registered for a
            framework and kind whose axes fit is the one used to write without a template.
        kind: Name of the kind.
        leaves: The leaves.
        modules: Qualified names of module types, subclasses included, whose leaves these are.
        settings: Options that the module must have, e.g. ``{"transpose_kernel": True}``.
        certain_with: Native leaf names; where all of them stand together and fit, names and shapes
            alone prove the kind. None: they never do. Empty: they always do.
        exclusive: Fits only where the layer's path holds nothing else, neither leaf nor layer.
        hints: Words in a path that make this the likely reading: a guess, never evidence.
        needs_template: Whether only a template can tell where its leaves stand.

    Raises:
        PluginError: The name has no framework, or two leaves have one name or role.
    """

    name: str
    kind: str
    leaves: tuple[Leaf, ...]
    modules: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    certain_with: tuple[str, ...] | None = None
    exclusive: bool = False
    hints: tuple[str, ...] = ()
    needs_template: bool = False

    def __post_init__(self) -> None:
        """Check."""
        if "." not in self.name:
            raise PluginError(f"transform {self.name!r}: a name reads '<framework>.<what>'.")
        for kind in ("name", "role"):
            values = [getattr(leaf, kind) for leaf in self.leaves]
            if len(set(values)) != len(values):
                raise PluginError(f"transform {self.name!r}: two leaves share a {kind}.")
        for leaf in self.leaves:
            _check_axes(f"transform {self.name!r}, leaf {leaf.name!r}", leaf.axes)
        object.__setattr__(self, "_by_name", {leaf.name: leaf for leaf in self.leaves})
        object.__setattr__(self, "_by_role", {leaf.role: leaf for leaf in self.leaves})

    @property
    def framework(self) -> str:
        """The framework it belongs to."""
        return self.name.partition(".")[0]

    def by_name(self) -> Mapping[str, Leaf]:
        """Native name -> leaf."""
        return cast("Mapping[str, Leaf]", self.__dict__["_by_name"])

    def by_role(self) -> Mapping[str, Leaf]:
        """Role -> leaf."""
        return cast("Mapping[str, Leaf]", self.__dict__["_by_role"])

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Tell whether leaves of these native names and shapes can be this layer."""
        known = self.by_name()
        if any(not leaf.optional and leaf.name not in shapes for leaf in self.leaves):
            return False
        sizes: dict[str, tuple[int, ...]] = {}
        for name, shape in shapes.items():
            bound = bind_axes(known[name].axes, shape)
            if bound is None:
                return False
            for axis, size in bound.items():
                if sizes.setdefault(axis, size) != size:
                    return False
        return True


def bind_axes(axes: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]] | None:
    """Return the sizes that each axis name stands for, or None if the shape does not fit.

    >>> bind_axes("out in +k", (8, 4, 3, 3))
    {'out': (8,), 'in': (4,), 'k': (3, 3)}
    >>> bind_axes("out in +k", (8, 4)) is None
    True
    """
    names = axes.split()
    spare = len(shape) - sum(name[0] not in "*+" for name in names)
    variadic = sum(name[0] in "*+" for name in names)
    least = sum(name[0] == "+" for name in names)
    if spare < least or (spare > 0 and not variadic):
        return None
    bound: dict[str, tuple[int, ...]] = {}
    position = 0
    for name in names:
        width = spare if name[0] in "*+" else 1
        sizes = tuple(shape[position : position + width])
        position += width
        if name.lstrip("*+") == "1":
            if any(n != 1 for n in sizes):
                return None
            continue
        bound[name.lstrip("*+")] = sizes
    return bound


def _check_axes(where: str, axes: str) -> None:
    names = [name.lstrip("*+") for name in axes.split() if name.lstrip("*+") != "1"]
    if len(set(names)) != len(names):
        raise PluginError(f"{where}: an axis is named twice in {axes!r}.")
    if sum(name[0] in "*+" for name in axes.split()) > 1:
        raise PluginError(f"{where}: {axes!r} holds more than one '*' or '+'.")
