"""Layer kinds and layer transforms: what a layer's weights are, whatever framework they come from.

A `LayerKind` names the axes of each leaf in neutral form. A `LayerTransform` says how one framework
spells the same leaves: other names, another order of axes. Both are data; the ops follow from the axes.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, cast

from bridge_core.axes import Binding, Shape, bind, parse_axes
from bridge_core.errors import PluginError
from bridge_core.public import renamed
from bridge_core.state import Key

__all__ = ["LayerTransform", "Leaf"]


@renamed(absorbs="added_leaves")
@dataclass(frozen=True)
class Leaf:
    """One leaf of a layer in a framework's own spelling.

    Args:
        name: Native name; dots where it stands in nested modules, e.g. ``parametrizations.weight.original0``.
        role: Name of the leaf in the kind; several for a tensor that holds them one after another.
        axes: Native axes by the names of the kind, as `bridge_core.axes` reads them; ``1`` for an axis of
            size one that the kind does not have. An axis that only the kind has must have size one. Of
            several roles, the axis along which they follow each other is a group with a name for each, e.g.
            ``(heads heads heads) in``.
        flip: Axes (``k`` for all of ``*k``) that run the other way.
        optional: Whether the layer may lack it.
        added_leaves: Roles, one for each of its own, that are added into it where they exist. The parts are
            kept in the metadata, so that the way back restores them.

    Raises:
        PluginError: Roles, parts and what is absorbed are not equally many.
    """

    name: str
    role: str | tuple[str, ...]
    axes: str
    flip: tuple[str, ...] = ()
    optional: bool = False
    added_leaves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the axes hold as many parts as there are roles, and added leaves."""
        for what in (self.name, self.axes, *self.roles):
            if not isinstance(what, str):
                raise PluginError(f"leaf {self.name!r}: name, roles and axes are texts, got {what!r}.")
        groups = [axis.members for axis in parse_axes(self.axes) if len(axis.members) > 1]
        if [len(group) for group in groups] != [len(self.roles)] * (len(self.roles) > 1):
            raise PluginError(f"leaf {self.name!r}: {self.axes!r} does not hold {len(self.roles)} parts.")
        if self.added_leaves and len(self.added_leaves) != len(self.roles):
            raise PluginError(
                f"leaf {self.name!r}: it added_leaves {len(self.added_leaves)} of {len(self.roles)}."
            )

    @property
    def parts(self) -> Key:
        """The name as parts below the layer's path."""
        return tuple(self.name.split("."))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles, one or several."""
        return (self.role,) if isinstance(self.role, str) else self.role

    def axes_of(self, index: int) -> str:
        """Return the axes of one of its parts."""
        axes = parse_axes(self.axes)
        if len(self.roles) == 1:
            return self.axes
        group = next(axis for axis in axes if len(axis.members) > 1)
        return self.axes.replace(f"({' '.join(group.members)})", group.members[index])

    @property
    def cut_axis(self) -> int:
        """The place of the axis along which several roles stand."""
        return next(i for i, axis in enumerate(parse_axes(self.axes)) if len(axis.members) > 1)


@renamed(
    certain_with="identifying_leaves",
    exclusive="only_leaves",
    free="independent_axes",
    same="equal_axes",
    factors="axis_splits",
    refused="unsupported",
    lacks="unsupported_leaves",
)
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
        axis_sizes: Axis of the kind -> the module's setting that states its size. A module whose weights
            have these sizes in another order is not such a layer.
        identifying_leaves: Native leaf names; where all of them stand together and fit, names and shapes
            alone prove the kind. None: they never do. Empty: they always do.
        only_leaves: Fits only where the layer's path holds nothing else, neither leaf nor layer.
        hints: Words in a path that make this the likely reading: a guess, never evidence.
        needs_template: Whether only a template can tell where its leaves stand.
        needs_module: Whether only a live module's type shows it: its leaves look like another's.
        free: Axes that may differ from leaf to leaf.
        same: Pairs of axes that have one size.
        factors: Axis of the kind -> the module's setting that tells into how many equal parts another
            framework may split it, e.g. heads.
        refused: Why no other framework can take this; the leaves then go as they are, and no further.
        lacks: Role of the kind -> why this framework has no place for it.
        misfit_note: What to know of modules of these types that fit no transform; a part of the refusal.

    Raises:
        PluginError: The name has no framework, or two leaves have one name or role.
    """

    name: str
    kind: str
    leaves: tuple[Leaf, ...]
    modules: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    identifying_leaves: tuple[str, ...] | None = None
    only_leaves: bool = False
    hints: tuple[str, ...] = ()
    needs_template: bool = False
    needs_module: bool = False
    independent_axes: tuple[str, ...] = ()
    equal_axes: tuple[tuple[str, str], ...] = ()
    axis_splits: Mapping[str, str] = field(default_factory=dict)
    unsupported: str = ""
    unsupported_leaves: Mapping[str, str] = field(default_factory=dict)
    axis_sizes: Mapping[str, str] = field(default_factory=dict)
    misfit_note: str = ""

    def __post_init__(self) -> None:
        """Check the name, and that no two leaves share a name or a role; index the leaves by both."""
        if isinstance(self.modules, str) or not all(isinstance(name, str) for name in self.modules):
            raise PluginError(f"transform {self.name!r}: modules is a tuple of names, got {self.modules!r}.")
        if not all(isinstance(leaf, Leaf) for leaf in self.leaves):
            raise PluginError(f"transform {self.name!r}: leaves is a tuple of Leaf, got {self.leaves!r}.")
        object.__setattr__(self, "modules", tuple(self.modules))
        object.__setattr__(self, "leaves", tuple(self.leaves))
        if "." not in self.name:
            raise PluginError(f"transform {self.name!r}: a name reads '<framework>.<what>'.")
        names = [leaf.name for leaf in self.leaves]
        roles = [role for leaf in self.leaves for role in (*leaf.roles, *leaf.added_leaves)]
        for what, values in (("name", names), ("role", roles)):
            if len(set(values)) != len(values):
                raise PluginError(f"transform {self.name!r}: two leaves share a {what}.")
        object.__setattr__(self, "_by_name", {leaf.name: leaf for leaf in self.leaves})

    @property
    def framework(self) -> str:
        """The framework it belongs to."""
        return self.name.partition(".")[0]

    @property
    def is_composite(self) -> bool:
        """Whether it has leaves in nested modules for roles of layers inside its kind."""
        return any(len(leaf.parts) > 1 and any("." in role for role in leaf.roles) for leaf in self.leaves)

    def by_name(self) -> Mapping[str, Leaf]:
        """Native name -> leaf."""
        return cast("Mapping[str, Leaf]", self.__dict__["_by_name"])

    def has_names(self, names: Container[str]) -> bool:
        """Tell whether every leaf that the layer needs is among some native names."""
        return all(leaf.optional or leaf.name in names for leaf in self.leaves)

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        """Tell whether leaves of these native names and shapes can be this layer."""
        return bool(self.bindings(shapes))

    def bindings(self, shapes: Mapping[str, Shape]) -> tuple[Binding, ...]:
        """Return every way to bind the axis names to leaves of these native names and shapes."""
        known = self.by_name()
        if not self.has_names(shapes):
            return ()
        found: list[Binding] = [{}]
        for name, shape in shapes.items():
            ways = bind(known[name].axes, shape)
            joined = (self._joined(binding, dict(way)) for binding in found for way in ways)
            found = [binding for binding in joined if binding is not None]
        return tuple(binding for binding in found if self._holds(binding, shapes))

    def _joined(self, one: Binding, other: Binding) -> Binding | None:
        for axis, sizes in other.items():
            if axis not in self.independent_axes and one.get(axis, sizes) != sizes:
                return None
        return {**one, **other}

    def _holds(self, binding: Binding, shapes: Mapping[str, Shape]) -> bool:
        """Tell whether equal axes are equal, and an axis that may be split is split somewhere."""
        for one, other in self.equal_axes:
            if one in binding and other in binding and prod(binding[one]) != prod(binding[other]):
                return False
        axes = [axis for name in shapes for axis in parse_axes(self.by_name()[name].axes)]
        splits = {axis.name for axis in axes if axis.split == 0}
        return not splits or any(len(binding[name]) > 1 for name in splits)

    def split_axes(self, binding: Binding) -> Binding:
        """Return, of a binding, the axes that this framework splits."""
        split = {axis.name for leaf in self.leaves for axis in parse_axes(leaf.axes) if axis.split != 1}
        return {axis: sizes for axis, sizes in binding.items() if axis in split}
