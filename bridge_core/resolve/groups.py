"""Grouping a flat state into layers: the leaves that stand at one path, and what is known there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.errors import KeyConflict
from bridge_core.interfaces import Framework, Relocating
from bridge_core.keys import Key
from bridge_core.layers import LayerTransform
from bridge_core.metadata import LayerInfo, ModuleInfo
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["Group", "collection_of_role", "group_state", "has_heads"]


@dataclass(slots=True)
class Group:
    """What stands at one path of a state.

    Args:
        path: The path, without a collection head.
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
    has_children: bool = False
    module: ModuleInfo | None = None
    info: LayerInfo | None = None


def has_heads(state: FlatState, framework: Framework) -> bool:
    """Tell whether the keys begin with a collection, as ``("params", ...)``."""
    if not framework.collections:
        return False
    form = state.metadata.forms.get(framework.name)
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
) -> dict[Key, Group]:
    """Group a state's keys by layer path, in the state's order.

    Args:
        state: The state.
        framework: Whose layout it is in.
        transforms: The framework's; they tell which leaf names reach into nested modules.
        names: Key -> name to group it by (without a head), where a rule renames it.

    Raises:
        KeyConflict: Two collections hold a leaf of one name at one path.
    """
    heads = has_heads(state, framework)
    renamed = names or {}
    rests = {key: renamed.get(key) or (key[1:] if heads else key) for key in state}
    places = _Places(framework, transforms, rests.values())
    groups: dict[Key, Group] = {}
    modules, layers = state.metadata.modules, state.metadata.layers
    for key, rest in rests.items():
        path, leaf = places.of(rest)
        group = groups.get(path)
        if group is None:
            group = groups[path] = Group(path, module=modules.get(path), info=layers.get(path))
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


class _Places:
    """Tells the layer path and the leaf name of each key.

    A leaf name may reach into nested modules; it counts only where everything that its layer needs stands
    there, so that a module which merely has such a name keeps its own leaves.
    """

    def __init__(
        self, framework: Framework, transforms: Iterable[LayerTransform], keys: Iterable[Key]
    ) -> None:
        self._present = frozenset(keys)
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
        needed = (leaf.parts for leaf in transform.leaves if not leaf.optional)
        return all((*path, *parts) in self._present for parts in needed)
