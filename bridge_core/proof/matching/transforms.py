"""The ways in which a tensor of one framework may be one of another: axes of known layers, or unchanged."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bridge_core.plugins import Registry

__all__ = ["UNCHANGED", "Way", "Ways", "ways_between"]


@dataclass(frozen=True)
class Way:
    """How a leaf of a layer kind is stored on both sides.

    Args:
        kind: Name of the layer kind; empty for a tensor that belongs to no layer.
        role: The leaf in the kind.
        source: The source's axes, as in `bridge_core.layers.Leaf`; empty where both are unchanged.
        target: The target's axes.
        source_leaf: The leaf's own name at the source; empty if it has none.
        target_leaf: The same of the target.
        flip: Axes that one side stores in reverse order.
        hints: Words in a path that suggest it.
        source_types: Types of modules that store it so.
        target_types: The same of the target.
        identity: Whether nothing moves.
    """

    kind: str = ""
    role: str = ""
    source: str = ""
    target: str = ""
    source_leaf: str = ""
    target_leaf: str = ""
    flip: frozenset[str] = frozenset()
    hints: tuple[str, ...] = ()
    source_types: frozenset[str] = frozenset()
    target_types: frozenset[str] = frozenset()
    identity: bool = False
    by_module: bool = False
    """Whether only a live module's type shows it."""
    is_einsum: bool = False
    """Whether heads are the first axis of one side, as in ``(h d) in -> h in d`` of an einsum."""


@dataclass(frozen=True)
class Ways:
    """All ways between two layouts.

    Args:
        all: The ways, the unchanged copy last.
        source_roles: Last part of a leaf's name at the source -> the roles that it may have.
        target_roles: The same of the target.
        source_collections: Collection -> the roles in it; empty if the source has none.
        target_collections: The same of the target.
    """

    all: tuple[Way, ...]
    source_roles: Mapping[str, frozenset[tuple[str, str]]]
    target_roles: Mapping[str, frozenset[tuple[str, str]]]
    source_collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    target_collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested: tuple[str, ...] = ()
    """Ends of the names of leaves that are in modules inside their layer, such as ``.scales.kernel``."""

    @functools.cached_property
    def linear(self) -> tuple[Way, ...]:
        """The ways of linear layers that need no live module's type."""
        return tuple(way for way in self.all if way.kind == "linear" and not way.by_module)


UNCHANGED = Way(identity=True)
EINSUM = Way(is_einsum=True)


@functools.lru_cache(maxsize=16)
def _of_layout(registry: Registry, layout: str) -> tuple[tuple[Way, ...], Mapping[str, tuple[str, ...]]]:
    """Return the leaves of one layout, as ways whose target is not set, and its collections."""
    framework = registry.frameworks.get(layout)
    leaves = []
    for transform in registry.checked_transforms_of.get(layout, ()):
        for leaf in transform.leaves:
            if len(leaf.roles) > 1 or leaf.added_leaves:
                continue
            leaves.append(
                Way(
                    transform.kind,
                    leaf.roles[0],
                    leaf.axes,
                    source_leaf=leaf.parts[-1],
                    flip=frozenset(leaf.flip),
                    hints=transform.hints,
                    source_types=frozenset(transform.modules),
                    by_module=transform.needs_module,
                )
            )
    if layout == "neutral":
        for kind in registry.kinds.values():
            leaves.extend(
                Way(kind.name, role, axes, source_leaf=role.rpartition(".")[2])
                for role, axes in kind.leaves.items()
            )
    return tuple(leaves), dict(framework.collections) if framework is not None else {}


@functools.lru_cache(maxsize=16)
def ways_between(registry: Registry, source: str, target: str) -> Ways:
    """Return the ways between two layouts, as their layers' transforms show."""
    one, source_collections = _of_layout(registry, source)
    other, target_collections = _of_layout(registry, target)
    by_role: dict[tuple[str, str], list[Way]] = defaultdict(list)
    for way in other:
        by_role[way.kind, way.role].append(way)
    joined = [
        Way(
            first.kind,
            first.role,
            first.source,
            second.source,
            first.source_leaf,
            second.source_leaf,
            first.flip ^ second.flip,
            (*first.hints, *second.hints),
            first.source_types,
            second.source_types,
            by_module=first.by_module or second.by_module,
        )
        for first in one
        for second in by_role[first.kind, first.role]
    ]
    return Ways(
        (*joined, EINSUM, UNCHANGED),
        _roles(one),
        _roles(other),
        source_collections,
        target_collections,
        tuple({name for layout in (source, target) for name in _nested(registry, layout)}),
    )


def _nested(registry: Registry, layout: str) -> Iterator[str]:
    for transform in registry.checked_transforms_of.get(layout, ()):
        kind = registry.kinds.get(transform.kind)
        if kind is not None and not kind.composite:
            yield from (f".{leaf.name}" for leaf in transform.leaves if len(leaf.parts) > 1)


def _roles(leaves: tuple[Way, ...]) -> dict[str, frozenset[tuple[str, str]]]:
    roles: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for leaf in leaves:
        roles[leaf.source_leaf].add((leaf.kind, leaf.role))
    return {name: frozenset(values) for name, values in roles.items()}
