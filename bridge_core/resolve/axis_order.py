"""Warnings where frameworks disagree about the order of axes, and shapes cannot show it.

One framework keeps channels first, another last. A tensor whose axis is a flattened feature map, or whose axes
are those of a feature map, is then the same numbers in another order: its shape fits, its outputs do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge_core.axes import Shape
from bridge_core.plan import PlanWarning
from bridge_core.plugins import Framework, Registry
from bridge_core.resolve.flattening import Flattening, Width, flattenings, width_of
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.state import Key, VariableCollections, join_key, module_path

__all__ = ["AxisOrder", "MovedLayer"]

_MAPS = {2: "c l", 3: "c h w", 4: "c d h w"}
"""Axes of a norm over channels and space."""


class MovedLayer(NamedTuple):
    """A layer that a plan moves."""

    layer: NeutralLayer
    outcome: Outcome
    names: Mapping[str, Key]
    """Leaf name in the target -> key."""


class _Leaf(NamedTuple):
    """A leaf as a rule names it."""

    key: Key
    source: str
    target: str
    source_axes: str
    target_axes: str


@dataclass(frozen=True)
class AxisOrder:
    """Finds what two frameworks may order otherwise.

    Args:
        registry: Where kinds, transforms and adapters are found.
        framework: The target's adapter.
        origin: Neutral key -> key in the original source.
        strip: Gives a target key without its collection.
        has_template: Whether the target's shapes are known, so that other shapes are refused.
    """

    registry: Registry
    framework: Framework
    origin: Mapping[Key, Key]
    strip: Callable[[Key], Key]
    has_template: bool

    def warnings(
        self, order: Callable[[], Sequence[Key]], moved: Mapping[Key, MovedLayer], ruled: Mapping[Key, Shape]
    ) -> tuple[PlanWarning, ...]:
        """Return the warnings about layers that are moved.

        Args:
            order: Gives the paths of all layers, in the order in which they run.
            moved: Path -> layer.
            ruled: Keys of tensors that rules rearrange -> shape.
        """
        if not getattr(self.framework, "channels", ""):
            return ()
        widths: dict[Key, Width] = {}
        made: dict[int, Width | None] = {}
        crossing: dict[int, Framework | None] = {}
        maps: list[tuple[MovedLayer, Framework]] = []
        other = None
        for path, one in moved.items():
            reading = one.outcome.source
            if id(reading) not in made:
                made[id(reading)] = width_of(reading, self.registry.kinds)
            width = made[id(reading)]
            if width is not None:
                widths[path] = width
            signature = id(one.layer.interpretations)
            if signature not in crossing:
                crossing[signature] = self._other(one.layer)
            found = crossing[signature]
            other = other or found
            if found is not None and width is not None and width.role == "map":
                maps.append((one, found))
        if other is None:
            return ()
        ends = {module_path(key) for key in ruled}
        sizes = {size for shape in ruled.values() for size in shape}
        widths = {path: width for path, width in widths.items() if path not in ends}
        found_flat = flattenings(order, widths, sizes)
        names = list(self.origin.values()) or [key for one in moved.values() for key in one.layer.group.keys.values()]
        result = []
        for flat in found_flat:
            source = self._other(moved[flat.layer].layer)
            if source is not None:
                result.append(self._flatten(flat, moved, source, self._collections(source, names)))
        for one, source in maps:
            warning = self._norm(one, source, self._collections(source, names))
            if warning is not None:
                result.append(warning)
        return tuple(result)

    def _other(self, layer: NeutralLayer) -> Framework | None:
        """Return the framework that a layer comes from, if it orders channels otherwise."""
        names = [*layer.transforms, *(c.framework for c in layer.candidates if c is not None)]
        here = self.framework
        if here.name in names:
            return None
        for name in names:
            found = self.registry.frameworks.get(name)
            channels = getattr(found, "channels", "")
            if found is not None and channels and channels != getattr(here, "channels", ""):
                return found
        return None

    def _collections(self, source: Framework, keys: list[Key]) -> VariableCollections:
        present = bool(source.collections) and all(key[0] in source.collections for key in keys)
        return VariableCollections(source.collections, present and bool(self.origin))

    def _leaf(
        self, one: MovedLayer, role: str, source: Framework, collections: VariableCollections
    ) -> _Leaf | None:
        """Return a leaf as a rule names it; None if a rule of one equation does not move it."""
        layer, outcome, registry = one.layer, one.outcome, self.registry
        use, target = outcome.source.leaves.get((True, role)), outcome.target.leaves.get((True, role))
        transform = registry.transforms.get(outcome.target.transform or "")
        if use is None or target is None or transform is None or use.cut is not None or target.cut is not None:
            return None
        key = layer.group.keys[use.name]
        origin = self.origin.get(key, key)
        if outcome.source.transform is None and origin == key:
            source_axes: str | None = registry.kinds[outcome.source.kind].leaves[role]
        else:
            name = outcome.source.transform or layer.transforms.get(source.name, "")
            source_axes = _axes(registry, name, role)
        target_axes = _axes(registry, transform.name, role)
        if source_axes is None or target_axes is None:
            return None
        made = join_key(self.strip(one.names[target.name]))
        return _Leaf(key, join_key(collections.strip(origin)), made, source_axes, target_axes)

    def _flatten(
        self,
        flat: Flattening,
        moved: Mapping[Key, MovedLayer],
        source: Framework,
        collections: VariableCollections,
    ) -> PlanWarning:
        one = moved[flat.layer]
        groups = {"first": "(c s)", "last": "(s c)"}
        turned = (groups[source.channels], groups[self.framework.channels])  # type: ignore[attr-defined]
        sizes = f"{{ c = {flat.channels}, s = {flat.places} }}"
        rules: list[str] = []
        keys: list[Key] = []
        complete = True
        shown = ""
        for path in (flat.layer, *flat.norms):
            layer = moved[path]
            for is_leaf, role in layer.outcome.source.leaves:
                axes = self.registry.kinds[layer.outcome.source.kind].leaves.get(role, "") if is_leaf else ""
                name = flat.axis if path == flat.layer else axes.lstrip("*")
                if not name or name not in axes.replace("*", " ").split():
                    complete = complete and axes in ("", "out")
                    continue
                keys.append(layer.layer.group.keys[layer.outcome.source.leaves[True, role].name])
                leaf = self._leaf(layer, role, source, collections)
                sides = leaf and _equation(leaf, name, turned)
                if leaf is None or sides is None:
                    complete = False
                    continue
                rules.append(_rule(leaf, sides, sizes))
                shown = shown or f'{sides} with sizes {sizes}'
        main = join_key(collections.strip(self.origin.get(keys[0], keys[0])))
        beside = join_key(flat.beside)
        where = (
            f"if the feature map of {beside!r} ({flat.channels} channels) is flattened into its "
            f"{flat.channels * flat.places} inputs"
            if flat.axis == "in"
            else f"if its {flat.channels * flat.places} outputs are the flattened feature map that {beside!r} "
            f"({flat.channels} channels) takes"
        )
        order = f"{source.name} flattens channels {source.channels}, {self.framework.name} channels "  # type: ignore[attr-defined]
        order += f"{self.framework.channels}"  # type: ignore[attr-defined]
        if rules and complete:
            first = rules[0].replace("\n", ", ").removeprefix("[[rule]], ").rstrip(", ")
            more = f" (and {len(rules) - 1} more like it)" if len(rules) > 1 else ""
            what = f"reorder it by the rule {first}{more}"
        else:
            what = f"reorder that axis, {flat.channels} channels by {flat.places} places, by hand"
        message = f"{main}: {where}, the outputs will differ: {order}. Where it is so, {what}."
        return PlanWarning("flatten", message, tuple(keys), "\n".join(rules) if complete else "")

    def _norm(
        self, one: MovedLayer, source: Framework, collections: VariableCollections
    ) -> PlanWarning | None:
        leaves = one.outcome.source.leaves
        shape = next(use.shape for (is_leaf, _), use in leaves.items() if is_leaf)
        if self.has_template and len(set(shape)) > 1:
            return None  # the target's norm has this very shape, and the other order would be another
        names = _MAPS.get(len(shape), "").split()
        first, last = " ".join(names), " ".join((*names[1:], *names[:1]))
        sides = (first, last) if source.channels == "first" else (last, first)  # type: ignore[attr-defined]
        rules, keys = [], []
        for is_leaf, role in leaves:
            if is_leaf:
                keys.append(one.layer.group.keys[leaves[True, role].name])
                leaf = self._leaf(one, role, source, collections)
                if leaf is not None and names:
                    rules.append(_rule(leaf, f'"{sides[0]} -> {sides[1]}"', ""))
        main = join_key(collections.strip(self.origin.get(keys[0], keys[0])))
        sizes = " x ".join(map(str, shape))
        rule = rules[0].replace("\n", ", ").removeprefix("[[rule]], ").rstrip(", ") if rules else ""
        what = (
            f"If one of them is the channels, use the rule {rule}" + (" (and one for the bias)" if len(rules) > 1 else "")
            if rule
            else "If one of them is the channels, move it by hand"
        )
        message = (
            f"{main}: the norm has {len(shape)} axes ({sizes}), and {source.name} keeps channels "
            f"{source.channels}, {self.framework.name} {self.framework.channels}. {what}."  # type: ignore[attr-defined]
        )
        return PlanWarning("norm_axes", message, tuple(keys), "\n".join(rules))


def _axes(registry: Registry, transform: str, role: str) -> str | None:
    """Return the axes of a leaf that has one role; None if there is no such leaf, or it is stored reversed."""
    known = registry.transforms.get(transform)
    leaves: Iterator[str] = (
        leaf.axes for leaf in (known.leaves if known else ()) if leaf.role == role and not leaf.flip
    )
    return next(leaves, None)


def _equation(leaf: _Leaf, axis: str, turned: tuple[str, str]) -> str | None:
    """Return the equation in which one axis of a leaf is turned; None if a leaf splits or lacks it."""
    sides = []
    for axes, group in zip((leaf.source_axes, leaf.target_axes), turned, strict=True):
        names = [name.lstrip("*+") if name.lstrip("*+") == axis else name for name in axes.split()]
        if axis not in names or any(not name.isidentifier() for name in names):
            return None
        sides.append(" ".join(group if name == axis else name for name in names))
    return f'"{sides[0]} -> {sides[1]}"'


def _rule(leaf: _Leaf, equation: str, sizes: str) -> str:
    lines = ["[[rule]]", f'source = "{leaf.source}"', f'target = "{leaf.target}"', f"rearrange = {equation}"]
    return "\n".join([*lines, *([f"sizes = {sizes}"] if sizes else []), ""])
