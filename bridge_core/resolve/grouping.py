"""Grouping a flat state into layers: the leaves at one path, and what is known of that path.

Evidence is about layers and not about single tensors. A leaf may be stored in a nested module, or elsewhere
altogether, so a key's last part does not always name it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.axes import Shape
from bridge_core.errors import KeyConflict
from bridge_core.layers import LayerTransform
from bridge_core.plugins import Framework, Relocating, names_of
from bridge_core.state import (
    FlatState,
    Key,
    LayerInfo,
    LeafKey,
    ModuleInfo,
    TensorSpec,
    VariableCollections,
    join_key,
    leaf_path,
    module_path,
)

__all__ = ["Group", "group_state", "key_maker", "note_children", "note_shapes"]


@dataclass(slots=True)
class Group:
    """The leaves at one path of a state.

    Args:
        path: The path, without a collection.
        keys: Leaf name (dotted below the path) -> key in the state.
        specs: Leaf name -> spec.
        origin: The path before rules renamed its keys.
        has_children: Whether there are other layers below the path.
        module: The live module's type, if known.
        info: What the state's metadata contains about the path.
        shapes: Leaf names and shapes, one object for all groups of a state in which they are equal, so that
            its identity may be compared; empty until all leaves are there.
    """

    path: Key
    keys: dict[str, Key] = field(default_factory=dict)
    specs: dict[str, TensorSpec] = field(default_factory=dict)
    origin: Key = ()
    has_children: bool = False
    module: ModuleInfo | None = None
    info: LayerInfo | None = None
    shapes: tuple[tuple[str, Shape], ...] = ()


def group_state(
    state: FlatState,
    framework: Framework,
    transforms: Iterable[LayerTransform],
    names: Mapping[Key, Key] | None = None,
    split_paths: Collection[Key] = (),
    collections: VariableCollections | None = None,
) -> dict[Key, Group]:
    """Group a state's keys by layer path, in the state's order.

    Args:
        state: The state.
        framework: The framework of its layout.
        transforms: The framework's; they name the leaves that are stored in nested modules.
        names: Key -> name to group it by (without a collection), where a rule renames it.
        split_paths: Paths whose nested modules are layers of their own.
        collections: The collections and boxes in its keys, if they are known.

    Raises:
        KeyConflict: Two collections hold a leaf of one name at one path, or the keys do not show whether they
            begin with collections.
    """
    collections = names_of(state, framework) if collections is None else collections
    renamed = names or {}
    new_names = collections.names(state)
    new_names.update((key, name) for key, name in renamed.items() if key in state)
    specs_of = state.specs()
    specs = specs_of
    if renamed or collections.present or collections.boxed:
        specs = {name: specs_of[key] for key, name in new_names.items()}
    modules, layers = state.metadata.modules, state.metadata.layers
    owner = _LayerPaths(framework, tuple(transforms), specs, split_paths, modules, layers).owner
    groups: dict[Key, Group] = {}
    for key, name in new_names.items():
        path, leaf = owner(name)
        group = groups.get(path)
        if group is None:
            old_path, module = path, None
            if modules or renamed:
                old_name = collections.strip(key)
                old_path = old_name[: -leaf.count(".") - 1] if key in renamed else path
                module = modules.get(old_path)
                if modules and module is None and leaf_path(path, leaf) != name:
                    # The layer is elsewhere, its leaf is in the module.
                    module = modules.get(module_path(old_name))
            info = layers.get(old_path) if layers else None
            groups[path] = Group(path, {leaf: key}, {leaf: specs[name]}, old_path, False, module, info)
            continue
        if leaf in group.keys:
            raise _two_for_one(group.keys[leaf], key, name, state)
        group.keys[leaf] = key
        group.specs[leaf] = specs[name]
    note_shapes(groups)
    note_children(groups)
    return groups


def _two_for_one(one: Key, other: Key, name: Key, state: FlatState) -> KeyConflict:
    return KeyConflict(
        f"expected one key for each leaf, got two for {join_key(name)!r}: {join_key(one)!r} and "
        f"{join_key(other)!r}.",
        path=state.metadata.provenance.get("path"),
        hint=(
            f"Leave one of {one[0]!r} and {other[0]!r} out, in Python: "
            f"bridge_core.open_state(path).select(lambda key: key[0] != {other[0]!r})."
            if one[0] != other[0]
            else "Rename one of them by a rule, rules=... (--rules FILE)."
        ),
    )


def note_shapes(groups: Mapping[Key, Group]) -> None:
    """Note in every group what its leaves are, once all of them are there."""
    known: dict[tuple[tuple[str, Shape], ...], tuple[tuple[str, Shape], ...]] = {}
    for group in groups.values():
        shapes = tuple([(name, spec.shape) for name, spec in group.specs.items()])
        group.shapes = known.setdefault(shapes, shapes)


def note_children(groups: Mapping[Key, Group]) -> None:
    """Note in every group whether another group is below its path."""
    above: set[Key] = set()
    for path in groups:
        while path and (path := path[:-1]) not in above:
            above.add(path)
            if path in groups:
                groups[path].has_children = True


def key_maker(framework: Framework) -> Callable[[Key, str], Key]:
    """Return the function from a layer's path and a leaf name to the leaf's key, without a collection."""
    relocate = framework.spell if isinstance(framework, Relocating) else None

    def make_key(path: Key, leaf: str) -> Key:
        relocated = relocate(path, leaf) if relocate is not None else None
        return relocated if relocated is not None else leaf_path(path, leaf)

    return make_key


class _LayerPaths:
    """Finds the layer that each key belongs to.

    A leaf name may contain nested modules; it counts only where all leaves that its layer needs are present,
    so that a module which merely has such a name has its own leaves. A composite layer, whose parts could
    be layers by themselves, counts only where the module's type, the metadata or the names prove it.
    """

    def __init__(
        self,
        framework: Framework,
        transforms: tuple[LayerTransform, ...],
        specs: Mapping[Key, TensorSpec],
        split_paths: Collection[Key],
        modules: Mapping[Key, ModuleInfo],
        layers: Mapping[Key, LayerInfo],
    ) -> None:
        self._modules = modules
        self._layers = layers
        self._listed = {name for transform in transforms for name in transform.modules}
        self._specs = specs
        self._split_paths = split_paths
        self._complete: dict[tuple[Key, str], bool] = {}
        self._relocated = framework.place if isinstance(framework, Relocating) else None
        self._nested: dict[Key, list[LayerTransform]] = {}
        for transform in transforms:
            for leaf in transform.leaves:
                if len(leaf.parts) > 1:
                    self._nested.setdefault(leaf.parts, []).append(transform)
        self._widths = sorted({len(parts) for parts in self._nested}, reverse=True)
        self._parents = {parts[-2] for parts in self._nested}

    def owner(self, key: Key) -> LeafKey:
        """Return the layer path and the leaf name of a key."""
        relocated = self._relocated(key, self._specs) if self._relocated is not None else None
        if relocated is not None:
            return relocated
        if len(key) > 1 and key[-2] in self._parents:
            for width in self._widths:
                path, tail = key[:-width], key[-width:]
                for transform in self._nested.get(tail, ()):
                    if self._is_complete(path, transform):
                        return path, ".".join(tail)
        return key[:-1], key[-1]

    def _is_complete(self, path: Key, transform: LayerTransform) -> bool:
        complete = self._complete.get((path, transform.name))
        if complete is None:
            complete = self._complete[path, transform.name] = self._has_leaves(path, transform)
        return complete

    def _has_leaves(self, path: Key, transform: LayerTransform) -> bool:
        if path in self._split_paths:
            return False
        shapes = {}
        for leaf in transform.leaves:
            spec = self._specs.get((*path, *leaf.parts))
            if spec is not None:
                shapes[leaf.name] = spec.shape
            elif not leaf.optional:
                return False
        if transform.is_composite and not self._is_known(path, transform):
            return False
        return transform.fits(shapes)

    def _is_known(self, path: Key, transform: LayerTransform) -> bool:
        """Return whether there is evidence that a path holds one composite layer, and not just its parts."""
        module, info = self._modules.get(path), self._layers.get(path)
        if module is not None and any(name in self._listed for name in module.types):
            return any(name in transform.modules for name in module.types)
        if info is not None and info.kind is not None:
            return info.kind == transform.kind
        parts = {leaf_path(path, leaf.name)[:-1] for leaf in transform.leaves} - {path}
        if any(self._has_own_type(part) for part in parts):
            return False
        return transform.identifying_leaves is not None

    def _has_own_type(self, path: Key) -> bool:
        module = self._modules.get(path)
        return module is not None and any(name in self._listed for name in module.types)
