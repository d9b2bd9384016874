"""Grouping a flat state into layers: the leaves that stand at one path, and what is known there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.errors import KeyConflict
from bridge_core.layers import LayerTransform
from bridge_core.plugins import Framework, Relocating
from bridge_core.state import FlatState, Key, LayerInfo, ModuleInfo, TensorSpec

__all__ = ["Group", "collection_of_role", "group_state", "has_heads", "speller"]


@dataclass(slots=True)
class Group:
    """What stands at one path of a state.

    Args:
        path: The path, without a collection head.
        origin: The path before rules renamed its keys.
        keys: Leaf name (dotted below the path) -> key in the state.
        specs: Leaf name -> spec.
        collections: Leaf name -> head it stood under.
        has_children: Whether other layers stand below the path.
        module: The live module's type, if known.
        info: What the state's metadata says.
    """

    path: Key
    keys: dict[str, Key] = field(default_factory=dict)
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    collections: dict[str, str] = field(default_factory=dict)
    origin: Key = ()
    has_children: bool = False
    module: ModuleInfo | None = None
    info: LayerInfo | None = None


def has_heads(state: FlatState, framework: Framework) -> bool:
    """Tell whether the keys begin with a collection, as ``("params", ...)``."""
    if not framework.collections:
        return False
    form = state.metadata.tree_form.get(framework.name)
    if form is not None:
        return form == "variables"
    heads = {key[0] for key in state if len(key) > 1}
    return next(iter(framework.collections)) in heads or (bool(heads) and heads <= set(framework.collections))


def collection_of_role(framework: Framework, kind: str | None, role: str) -> str:
    """Return the collection in which a role usually stands; empty where there are none."""
    if not framework.collections:
        return ""
    if kind is not None:
        for name, roles in framework.collections.items():
            if role in roles:
                return name
    return next(iter(framework.collections))


def group_state(
    state: FlatState,
    framework: Framework,
    transforms: Iterable[LayerTransform],
    names: Mapping[Key, Key] | None = None,
    apart: Collection[Key] = (),
) -> dict[Key, Group]:
    """Group a state's keys by layer path, in the state's order.

    Args:
        state: The state.
        framework: Whose layout it is in.
        transforms: The framework's; they tell which leaf names reach into nested modules.
        names: Key -> name to group it by (without a head), where a rule renames it.
        apart: Paths at which nested modules are layers of their own.

    Raises:
        KeyConflict: Two collections hold a leaf of one name at one path.
    """
    heads = has_heads(state, framework)
    renamed = names or {}
    rests = {key: renamed.get(key) or (key[1:] if heads else key) for key in state}
    places = _Places(framework, transforms, {rest: state.spec(key) for key, rest in rests.items()}, apart)
    groups: dict[Key, Group] = {}
    modules, layers = state.metadata.modules, state.metadata.layers
    for key, rest in rests.items():
        path, leaf = places.of(rest)
        group = groups.get(path)
        if group is None:
            before = key[1:] if heads else key
            old = before[: -leaf.count(".") - 1] if key in renamed else path
            module = modules.get(old)
            if module is None and (*path, *leaf.split(".")) != rest:
                module = modules.get(before[:-1])  # the leaf stands in its module, and the layer elsewhere
            group = groups[path] = Group(path, origin=old, module=module, info=layers.get(old))
        if leaf in group.keys:
            raise KeyConflict(f"{group.keys[leaf]!r} and {key!r} both stand for one leaf.", key=key)
        group.keys[leaf] = key
        group.specs[leaf] = state.spec(key)
        group.collections[leaf] = key[0] if heads else state.metadata.collections.get(key, "")
    for path in groups:
        for depth in range(len(path)):
            parent = groups.get(path[:depth])
            if parent is not None:
                parent.has_children = True
    return groups


def speller(framework: Framework) -> Callable[[Key, str], Key]:
    """Return what gives the key, without a head, of a layer's leaf."""
    spell = framework.spell if isinstance(framework, Relocating) else None

    def spelt(path: Key, leaf: str) -> Key:
        placed = spell(path, leaf) if spell is not None else None
        return placed if placed is not None else (*path, *leaf.split("."))

    return spelt


class _Places:
    """Tells the layer path and the leaf name of each key.

    A leaf name may reach into nested modules; it counts only where everything that its layer needs stands
    there, so that a module which merely has such a name keeps its own leaves.
    """

    def __init__(
        self,
        framework: Framework,
        transforms: Iterable[LayerTransform],
        specs: Mapping[Key, TensorSpec],
        apart: Collection[Key],
    ) -> None:
        self._present = specs
        self._apart = apart
        self._whole: dict[tuple[Key, str], bool] = {}
        self._place = framework.place if isinstance(framework, Relocating) else None
        self._nested: dict[Key, list[LayerTransform]] = {}
        for transform in transforms:
            for leaf in transform.leaves:
                if len(leaf.parts) > 1:
                    self._nested.setdefault(leaf.parts, []).append(transform)
        self._widths = sorted({len(parts) for parts in self._nested}, reverse=True)

    def of(self, key: Key) -> tuple[Key, str]:
        placed = self._place(key, self._present) if self._place is not None else None
        if placed is not None:
            return placed
        for width in self._widths:
            path, tail = key[:-width], key[-width:]
            if any(self._is_whole(path, transform) for transform in self._nested.get(tail, ())):
                return path, ".".join(tail)
        return key[:-1], key[-1]

    def _is_whole(self, path: Key, transform: LayerTransform) -> bool:
        known = self._whole.get((path, transform.name))
        if known is None:
            known = self._whole[path, transform.name] = self._stands(path, transform)
        return known

    def _stands(self, path: Key, transform: LayerTransform) -> bool:
        if path in self._apart:
            return False
        shapes = {}
        for leaf in transform.leaves:
            spec = self._present.get((*path, *leaf.parts))
            if spec is not None:
                shapes[leaf.name] = spec.shape
            elif not leaf.optional:
                return False
        return transform.fits(shapes)
