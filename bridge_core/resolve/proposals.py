"""What a source has left over and a template is missing, paired by shape: the rename rules to propose.

Nothing is converted by them. They are proposed only where shapes, sibling sets and the order of numbers leave
one way, and `bridge_core.conversion` plans with them before anybody sees them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass

from bridge_core.plan import Proposal, ProposedRename
from bridge_core.resolve.alignment import Sides
from bridge_core.resolve.evidence import PARAMETER, Detection
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.list_order import without_contradictions
from bridge_core.resolve.name_folding import folded_renames
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.path_matching import PathMatch
from bridge_core.resolve.path_names import normal_form
from bridge_core.resolve.tree_pairs import Leftover, pair_leftovers
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["Remains", "proposed_renames"]

_MOST_TESTS = 4096
"""How many pairs of shapes are compared; models have tens of shapes."""


@dataclass(frozen=True)
class Remains:
    """What a plan towards a template could not pair.

    Args:
        sides: The layers of both.
        unexpected: Keys of the source that no target takes.
        missing: Target keys that no source fills.
        used: Keys of the source that a target takes.
        filled: Target keys that are filled.
        fits: Returns whether a source's layer has all that a layer of the template needs, and nothing else,
            by their paths.
        kept_name: Returns whether a layer of the source still has the name that it has there.
    """

    sides: Sides
    unexpected: Collection[Key]
    missing: Collection[Key]
    used: Collection[Key]
    filled: Collection[Key]
    fits: Callable[[Key, Key], bool]
    kept_name: Callable[[NeutralLayer], bool]


def proposed_renames(remains: Remains) -> Proposal | None:
    """Return the rules that pair what is left in the only possible way, or None."""
    sides = remains.sides
    match = sides.match
    layers = {
        path: layer
        for path, layer in sides.layers.items()
        if _is_left(layer.group, remains.unexpected, remains.used)
    }
    groups = {
        path: group
        for path, group in sides.groups.items()
        if _is_left(group, remains.missing, remains.filled)
    }
    layers = {path: layer for path, layer in layers.items() if remains.kept_name(layer)}
    names = _Names.of(match, layers, groups)
    if names is None:
        return None
    labels = _labels(layers, groups, remains.fits)
    pairs: dict[Key, Key] = {}
    if labels is not None:
        pairs = _paired(
            {path: (names.source(path), labels[0][path]) for path in layers},
            {path: (names.target(path), labels[1][path]) for path in groups},
            remains.fits,
        )
        known = {s: t for s, t in match.targets.items() if s not in layers and t not in groups}
        pairs = without_contradictions(pairs, known)
    partners = set(pairs.values())
    others = (
        [names.written(path)[0] for path in sides.layers if path not in pairs],
        [names.written(path)[1] for path in sides.groups if path not in partners],
    )
    renames = folded_renames(
        {names.written(s)[0]: names.written(t)[1] for s, t in pairs.items()}, others, "*"
    )
    leaves = _leaf_renames(remains, names, pairs if renames else {})
    if not renames and not leaves:
        return None
    return Proposal((*renames, *leaves), names.prefixes)


@dataclass(frozen=True)
class _Names:
    """The names of both sides, where one side has a prefix.

    A prefix of one side is stated in the rule file, so that its rules hold in both directions; prefixes that
    are exchanged for each other are written out.

    Args:
        removed: The source's prefix.
        added: The target's prefix.
    """

    removed: Key
    added: Key

    @classmethod
    def of(cls, match: PathMatch, source: Collection[Key], target: Collection[Key]) -> _Names | None:
        """Return the names, or None if some have not the prefix that is stated."""
        sides = ((match.removed, source), (match.added, target))
        if not (match.removed and match.added) and any(
            _cut(path, prefix) is None for prefix, paths in sides for path in paths
        ):
            return None
        return cls(match.removed, match.added)

    @property
    def prefixes(self) -> tuple[str, str]:
        """What the rule file states."""
        return ("", "") if self.removed and self.added else (join_key(self.removed), join_key(self.added))

    def source(self, path: Key) -> Key:
        """Return the form of a source's path that is compared."""
        return path

    def target(self, path: Key) -> Key:
        """Return a target's path as the source would have it."""
        inner = _cut(path, self.added)
        return path if inner is None or not (self.removed or self.added) else self.removed + inner

    def written(self, path: Key) -> tuple[Key, Key]:
        """Return a path as a rule writes it: one of the source, one of the target."""
        if self.removed and self.added:
            return path, path
        source, target = (_cut(path, prefix) for prefix in (self.removed, self.added))
        return path if source is None else source, path if target is None else target


def _cut(path: Key, prefix: Key) -> Key | None:
    """Return a path without a prefix in its normal form; None if it has another."""
    length = next((n for n in range(len(path) + 1) if normal_form(path[:n]) == prefix), None)
    return None if length is None else path[length:]


def _is_left(group: Group, left: Collection[Key], taken: Collection[Key]) -> bool:
    """Return whether nothing of a layer has a partner."""
    keys = group.keys.values()
    return any(key in left for key in keys) and not any(key in taken for key in keys)


def _labels(
    layers: Mapping[Key, NeutralLayer], groups: Mapping[Key, Group], fits: Callable[[Key, Key], bool]
) -> tuple[dict[Key, Hashable], dict[Key, Hashable]] | None:
    """Return path -> label of both sides, equal where layers might be partners; None if that is too much.

    Layers that are alike are compared once, and only with those that have a leaf of as many values.
    """
    source: defaultdict[Hashable, list[Key]] = defaultdict(list)
    target: defaultdict[Hashable, list[Key]] = defaultdict(list)
    for path, layer in layers.items():
        source[id(layer.interpretations), layer.group.shapes].append(path)
    for path, group in groups.items():
        target[group.shapes].append(path)
    by_size: defaultdict[int, list[Hashable]] = defaultdict(list)
    for alike, (path, *_) in target.items():
        by_size[_largest(groups[path].specs)].append(alike)
    root: dict[Hashable, Hashable] = {}

    def find(label: Hashable) -> Hashable:
        while root.get(label, label) != label:
            label = root[label]
        return label

    tests = 0
    for kind, (path, *_) in source.items():
        for alike in by_size[_largest(layers[path].group.specs)]:
            tests += 1
            if tests > _MOST_TESTS:
                return None
            if fits(path, target[alike][0]):
                root[find(("target", alike))] = find(("source", kind))
    return (
        {path: find(("source", kind)) for kind, paths in source.items() for path in paths},
        {path: find(("target", alike)) for alike, paths in target.items() for path in paths},
    )


def _paired(
    source: Mapping[Key, tuple[Key, Hashable]],
    target: Mapping[Key, tuple[Key, Hashable]],
    fits: Callable[[Key, Key], bool],
) -> dict[Key, Key]:
    names, partners = list(source), list(target)
    pairs = pair_leftovers(
        [Leftover(*source[name]) for name in names],
        [Leftover(*target[name]) for name in partners],
        lambda one, other: fits(names[one], partners[other]),
    )
    return {names[one]: partners[other] for one, other in pairs.items()}


def _largest(specs: Mapping[str, TensorSpec]) -> int:
    return max(math.prod(spec.shape) for spec in specs.values())


def _leaf_renames(remains: Remains, names: _Names, paired: Mapping[Key, Key]) -> tuple[ProposedRename, ...]:
    """Return rules for plain parameters, which are copied unchanged, so that equal axes must not repeat."""
    sides = remains.sides
    source: dict[Key, tuple[Key, Hashable]] = {}
    target: dict[Key, tuple[Key, Hashable]] = {}
    for path, layer in sides.layers.items():
        if path in paired or not remains.kept_name(layer):
            continue
        for name, key in layer.group.keys.items():
            if key in remains.unexpected and (layer.kind in (None, PARAMETER) or name not in layer.leaves):
                source[key] = ((*path, *name.split(".")), layer.group.specs[name].shape)
    partners = set(paired.values())
    for path, group in sides.groups.items():
        if path in partners:
            continue
        for name, key in group.keys.items():
            if key in remains.missing and _is_parameter(sides.detections[path], name):
                target[key] = ((*path, *name.split(".")), group.specs[name].shape)
    if not source or not target:
        return ()
    pairs = _paired(
        {key: (names.source(name), shape) for key, (name, shape) in source.items()},
        {key: (names.target(name), shape) for key, (name, shape) in target.items()},
        lambda one, _: _is_turned_never(source[one][1]),
    )
    known = {s: t for s, t in sides.match.targets.items() if s not in paired and t not in partners}
    named_paths = {source[s][0]: target[t][0] for s, t in pairs.items()}
    kept = without_contradictions(named_paths, _plain_pairs(remains, known))
    pairs = {s: t for s, t in pairs.items() if source[s][0] in kept}
    named = {names.written(source[s][0])[0]: names.written(target[t][0])[1] for s, t in pairs.items()}
    return folded_renames(named)


def _plain_pairs(remains: Remains, matched: Mapping[Key, Key]) -> dict[Key, Key]:
    """Return the paths of leaves that have a partner of their own name, in layers that belong together."""
    return {
        (*path, *name.split(".")): (*partner, *name.split("."))
        for path, partner in matched.items()
        for name, key in remains.sides.layers[path].group.keys.items()
        if key in remains.used
    }


def _is_parameter(detection: Detection, name: str) -> bool:
    return detection.is_parameters or name not in detection.leaves


def _is_turned_never(shape: object) -> bool:
    """Return whether an order of the axes shows in their sizes."""
    sizes = [size for size in shape if size != 1] if isinstance(shape, tuple) else []
    return len(set(sizes)) == len(sizes)
