"""Warnings where frameworks disagree about the order of axes, and shapes cannot show it.

One framework has channels first, another last. A tensor with a flattened feature map for an axis, or with
the axes of one, is then the same numbers in another order: its shape fits, its outputs do not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge_core.plan import PlanWarning
from bridge_core.plugins import Framework, Registry
from bridge_core.resolve.flattening import Flattening, Width, flattenings, width_of
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.state import FlatState, Key, VariableCollections, join_key, module_path

__all__ = ["AxisOrder", "MovedLayer"]

_MAPS = {2: "c l", 3: "c h w", 4: "c d h w"}
"""Axes of a norm over channels and space."""

_SURE = 3
"""Axes of a norm from which on it surely is one over space."""

_NO_LITERAL = re.compile(r'["\\{}*]|[^\x20-\x7e]')
"""What a pattern in a rule file does not take literally."""


class MovedLayer(NamedTuple):
    """A layer that a plan moves."""

    layer: NeutralLayer
    outcome: Outcome
    names: Mapping[str, Key]
    """Leaf name in the target -> key."""

    def key(self, role: str) -> Key:
        """Return the neutral key of a leaf of the layer."""
        return self.layer.group.keys[self.outcome.source.leaves[True, role].name]


class _Leaf(NamedTuple):
    """A leaf as a rule names it."""

    source: str
    target: str
    source_axes: str
    target_axes: str

    @property
    def is_plain(self) -> bool:
        """Whether it is the same without its layer."""
        return self.source.rpartition(".")[2] == self.target.rpartition(".")[2] and (
            self.source_axes == self.target_axes
        )


@dataclass
class AxisOrder:
    """Finds the axes that two frameworks may order differently.

    Args:
        registry: Where kinds, transforms and adapters are found.
        framework: The target's adapter.
        origin: Neutral key -> source key of the conversion, which rules see.
        shown: Gives the name that a message shows for a neutral key.
        collections: The collections of the target's keys.
        has_template: Whether the target's shapes are known, so that other shapes are refused.
        order: Gives the paths of all layers, in the order in which they run.
        moved: Path -> a layer that the plan moves.
    """

    registry: Registry
    framework: Framework
    origin: Mapping[Key, Key]
    shown: Callable[[Key], str]
    collections: VariableCollections = field(default_factory=VariableCollections)
    has_template: bool = False
    order: Callable[[], Sequence[Key]] = tuple
    moved: dict[Key, MovedLayer] = field(default_factory=dict)

    def add(self, layer: NeutralLayer, outcome: Outcome, names: Mapping[str, Key]) -> None:
        """Note a layer that the plan moves; ``names`` are the target's keys by leaf name."""
        self.moved[layer.group.path] = MovedLayer(layer, outcome, names)

    def warnings(self, state: FlatState, ruled: Iterable[Iterable[Key]]) -> tuple[PlanWarning, ...]:
        """Return the warnings about the layers that are moved.

        Args:
            state: The neutral state.
            ruled: Keys that rules rearrange, rule by rule.
        """
        if not _channels(self.framework):
            return ()
        widths: dict[Key, Width] = {}
        readings = {id(one.outcome.source): one.outcome.source for one in self.moved.values()}
        width_of_reading = {key: width_of(reading, self.registry.kinds) for key, reading in readings.items()}
        roles = {width.role for width in width_of_reading.values() if width is not None}
        if "map" not in roles and not {"conv", "dense"} <= roles:
            return ()
        crossing: dict[object, Framework | None] = {}
        maps: list[tuple[MovedLayer, Framework]] = []
        other = None
        for path, one in self.moved.items():
            width = width_of_reading[id(one.outcome.source)]
            if width is not None:
                widths[path] = width
            family = one.layer.family
            if family not in crossing:
                crossing[family] = self._other(one.layer)
            found = crossing[family]
            other = other or found
            if found is not None and width is not None and width.role == "map":
                maps.append((one, found))
        if other is None:
            return ()
        taken = [key for keys in ruled for key in keys]
        ends = {module_path(key) for key in taken}
        sizes = {size for key in taken for size in state.spec(key).shape}
        widths = {path: width for path, width in widths.items() if path not in ends}
        found_flat = flattenings(self.order, widths, sizes)
        collections = functools.cache(self._collections)
        result = []
        for flat in found_flat:
            source = self._other(self.moved[flat.layer].layer)
            if source is not None:
                result.append(self._flatten(flat, source, collections(source.name)))
        channels = {width.outputs for width in widths.values() if width.role == "conv"}
        for one, source in maps:
            warning = self._norm(one, source, collections(source.name), channels)
            if warning is not None:
                result.append(warning)
        return tuple(result)

    def _other(self, layer: NeutralLayer) -> Framework | None:
        """Return the framework that a layer comes from, if it has channels in another place."""
        names = [*layer.transforms, *(c.framework for c in layer.candidates if c is not None)]
        names = [name for name in names if name != "neutral"] or [layer.origin] * bool(layer.origin)
        if not names:  # made by hand: it may come from any
            names = [name for name in self.registry.frameworks if name != self.framework.name]
        here = self.framework
        if here.name in names:
            return None
        for name in names:
            found = self.registry.frameworks.get(name)
            if found is not None and _channels(found) not in ("", _channels(here)):
                return found
        return None

    def _collections(self, source: str) -> VariableCollections:
        known = self.registry.frameworks[source].collections
        present = bool(self.origin) and all(key[0] in known for key in self.origin.values())
        return VariableCollections(known, present)

    def _leaf(
        self, one: MovedLayer, role: str, source: Framework, collections: VariableCollections
    ) -> _Leaf | None:
        """Return a leaf as a rule names it; None if a rule of one equation does not move it."""
        layer, outcome, registry = one.layer, one.outcome, self.registry
        use, target = outcome.source.leaves.get((True, role)), outcome.target.leaves.get((True, role))
        transform = registry.transforms.get(outcome.target.transform or "")
        if (
            use is None
            or target is None
            or transform is None
            or use.cut is not None
            or target.cut is not None
        ):
            return None
        key = one.key(role)
        origin = self.origin.get(key, key)
        if outcome.source.transform is None and origin == key:
            source_axes: str | None = registry.kinds[outcome.source.kind].leaves[role]
        else:
            name = outcome.source.transform or layer.transforms.get(source.name, "")
            source_axes = _axes(registry, name, role)
        target_axes = _axes(registry, transform.name, role)
        if source_axes is None or target_axes is None:
            return None
        target_name = join_key(self.collections.strip(one.names[target.name]))
        named = join_key(collections.strip(origin))
        if _NO_LITERAL.search(named + target_name):
            return None
        return _Leaf(named, target_name, source_axes, target_axes)

    def _flatten(self, flat: Flattening, source: Framework, collections: VariableCollections) -> PlanWarning:
        here = _channels(self.framework)
        turned = ("(c s)", "(s c)") if here == "last" else ("(s c)", "(c s)")
        size = flat.channels * flat.places
        sizes = f"{{ c = {flat.channels}, s = {flat.places} }}"
        rules: list[str | None] = []
        keys: list[Key] = []
        for path in (flat.layer, *flat.norms):
            one = self.moved[path]
            kind = self.registry.kinds[one.outcome.source.kind]
            if path != flat.layer and kind.auxiliary_tensors:
                rules.append(None)  # without its layer nothing makes them
            for is_leaf, role in one.outcome.source.leaves:
                axes = kind.leaves[role].replace("*", "").split() if is_leaf else []
                axis = flat.axis if path == flat.layer else axes[0] if axes else ""
                leaf = self._leaf(one, role, source, collections) if is_leaf else None
                if axis in axes:
                    keys.append(one.key(role))
                    equation = _equation(leaf, axis, turned) if leaf is not None else None
                    rules.append(_rule(leaf, equation, sizes) if leaf and equation else None)
                elif is_leaf and (leaf is None or not leaf.is_plain):
                    rules.append(None)  # it means nothing without the leaves that a rule takes away
        main = self.shown(keys[0])
        feature_map = f"the feature map of {join_key(flat.neighbour)} ({flat.channels} channels)"
        if flat.axis == "in":
            what = f"if {feature_map} is flattened into its {size} inputs"
        else:
            what = f"if its {size} outputs are unflattened into {feature_map}"
        reason = f"{source.name} flattens with channels {_channels(source)}, {self.framework.name} {here}"
        way = f"reorder that axis ({flat.channels} channels, {flat.places} places) by hand"
        return _warning(
            "flatten", f"{main}: {what}, its outputs will differ, since {reason}", keys, rules, way
        )

    def _norm(
        self,
        one: MovedLayer,
        source: Framework,
        collections: VariableCollections,
        channels: Collection[int],
    ) -> PlanWarning | None:
        roles = [role for is_leaf, role in one.outcome.source.leaves if is_leaf]
        shape = one.outcome.source.leaves[True, roles[0]].shape
        if self.has_template and len(set(shape)) > 1:
            return None  # the target's norm has this very shape, and the other order would be another
        if len(shape) < _SURE and not any(size in channels for size in shape):
            return None  # of two axes none need be channels
        here = _channels(self.framework)
        names = _MAPS.get(len(shape), "").split()
        first, last = " ".join(names), " ".join((*names[1:], *names[:1]))
        equation = f'"{first} -> {last}"' if here == "last" else f'"{last} -> {first}"'
        keys = [one.key(role) for role in roles]
        leaves = [self._leaf(one, role, source, collections) for role in roles]
        rules = [_rule(leaf, equation, "") if leaf is not None and names else None for leaf in leaves]
        main = self.shown(keys[0])
        sizes = " x ".join(map(str, shape))
        what = (
            f"{main}: if one of the norm's axes ({sizes}) is the channels, its outputs will differ, since "
            f"{source.name} has channels {_channels(source)}, {self.framework.name} {here}"
        )
        return _warning("norm_axes", what, keys, rules, "move that axis by hand")


def _channels(framework: Framework | None) -> str:
    """Return where a framework's feature maps have their channels; empty if that is not known."""
    return getattr(framework, "channels", "")


def _warning(code: str, what: str, keys: Iterable[Key], rules: Sequence[str | None], way: str) -> PlanWarning:
    """Return the warning with its rules, if they are complete, and otherwise with another way on."""
    texts = [rule for rule in rules if rule is not None]
    if not texts or len(texts) < len(rules):
        return PlanWarning(code, f"{what}. If so, {way}.", tuple(keys))
    first = ", ".join(texts[0].splitlines()[1:])
    more = f"; {len(texts) - 1} more like it for its other tensors" if len(texts) > 1 else ""
    message = f"{what}. If so, pass rules= (--rules FILE) with {first}{more}."
    return PlanWarning(code, message, tuple(keys), "\n".join(texts))


def _axes(registry: Registry, transform: str, role: str) -> str | None:
    """Return the axes of a leaf that has one role; None if there is none, or it is stored reversed."""
    known = registry.transforms.get(transform)
    leaves: Iterator[str] = (
        leaf.axes for leaf in (known.leaves if known else ()) if leaf.role == role and not leaf.flip
    )
    return next(leaves, None)


def _equation(leaf: _Leaf, axis: str, turned: tuple[str, str]) -> str | None:
    """Return the equation that turns one axis of a leaf; None if a side splits it or does not have it."""
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
