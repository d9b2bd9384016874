"""Grouping a flat state into layers: the leaves that stand at one path, and what is known there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.errors import KeyConflict
from bridge_core.interfaces import Framework
from bridge_core.keys import Key
from bridge_core.layers import LayerTransform
from bridge_core.metadata import LayerInfo, ModuleInfo
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["Group", "collection_of_role", "group_state", "has_heads"]


@dataclass
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
    suffixes = _nested_leaves(transforms)
    widths = sorted({len(suffix) for suffix in suffixes}, reverse=True)
    renamed = names or {}
    groups: dict[Key, Group] = {}
    modules, layers = state.metadata.modules, state.metadata.layers
    for key in state:
        head, rest = (key[0], key[1:]) if heads else ("", key)
        rest = renamed.get(key, rest)
        width = next((n for n in widths if rest[-n:] in suffixes), 1)
        path, leaf = rest[:-width], ".".join(rest[-width:])
        group = groups.get(path)
        if group is None:
            group = groups[path] = Group(path, module=modules.get(path), info=layers.get(path))
        if leaf in group.keys:
            raise KeyConflict(f"{group.keys[leaf]!r} and {key!r} both stand for one leaf.", key=key)
        group.keys[leaf] = key
        group.specs[leaf] = state.spec(key)
        group.collections[leaf] = head or state.metadata.collections.get(key, "")
    for path in groups:
        for depth in range(len(path)):
            parent = groups.get(path[:depth])
            if parent is not None:
                parent.has_children = True
    return groups


def _nested_leaves(transforms: Iterable[LayerTransform]) -> Mapping[Key, None]:
    return {leaf.parts: None for transform in transforms for leaf in transform.leaves if len(leaf.parts) > 1}
