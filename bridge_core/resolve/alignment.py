"""Which layers of a source belong to which of a template, composite ones as the other side has them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from bridge_core.layers import LayerTransform
from bridge_core.resolve.composite_parts import parts_are_linear
from bridge_core.resolve.evidence import Detection, Detector
from bridge_core.resolve.grouping import Group, group_state
from bridge_core.resolve.neutral_layers import NeutralLayer, neutral_layers
from bridge_core.resolve.path_matching import PathMatch, match_paths
from bridge_core.resolve.path_names import renamed
from bridge_core.resolve.request import Request
from bridge_core.resolve.stack_paths import Stacks, summed_kinds
from bridge_core.state import FlatState, Key, VariableCollections

__all__ = ["Alignment", "Sides"]


@dataclass(frozen=True)
class Sides:
    """The layers of source and template, and which belong together."""

    layers: Mapping[Key, NeutralLayer]
    groups: Mapping[Key, Group]
    detections: Mapping[Key, Detection]
    match: PathMatch

    def agree(self, path: Key) -> bool:
        """Return whether a layer of the source matches one of its kind."""
        target = self.match.targets.get(path)
        transform = self.detections[target].transform if target is not None else None
        return transform is not None and transform.kind == self.layers[path].kind

    def with_pairs(self, pairs: Mapping[Key, Key]) -> Sides:
        """Return the sides with further layers that belong together."""
        if not pairs:
            return self
        taken = {*pairs.values()}
        targets = {path: target for path, target in self.match.targets.items() if target not in taken}
        targets |= pairs
        return replace(self, match=replace(self.match, targets=targets))


class Alignment:
    """Matches the layers of a source to those of a template.

    Args:
        request: What was asked for.
        detector: Decides what the template's groups are.
        collections: The collections of the template's keys.
    """

    def __init__(self, request: Request, detector: Detector, collections: VariableCollections) -> None:
        self._request = request
        self._detector = detector
        self._collections = collections
        kinds = request.registry.kinds
        self._composite_kinds = {name for name, kind in kinds.items() if kind.composite}
        self._summed_kinds = summed_kinds(request.registry.transforms.values())

    def of(self, like: FlatState) -> Sides:
        """Match the layers of both sides, composite ones in the form that the other side has.

        A composite layer, as an attention, is one layer where both sides have it so. Where one side has its
        parts as layers of their own, the other side's layer is split.
        """
        sides = self._sides(like, {}, (), ())
        composites = {
            detection.transform.kind: detection.transform
            for detection in sides.detections.values()
            if detection.transform is not None and detection.transform.kind in self._composite_kinds
        }
        merged_paths = self._complete_parts(composites)
        if merged_paths:
            sides = self._sides(like, merged_paths, (), ())
        of_source = {
            path: layer.kind for path, layer in sides.layers.items() if layer.kind in self._composite_kinds
        }
        of_target = {
            path: detection.transform.kind
            for path, detection in sides.detections.items()
            if detection.transform is not None and detection.transform.kind in self._composite_kinds
        }
        agreeing = {path: sides.match.targets[path] for path in of_source if sides.agree(path)}
        entire = {**agreeing, **self._paired_stacks(sides, of_source, of_target)}
        while True:
            source_split = {
                path for path in {*of_source} - {*entire} if self._falls_apart(sides.layers[path])
            }
            target_split = {*of_target} - {*entire.values()}
            split = sides
            if source_split or target_split:
                unsplit = {path: kind for path, kind in merged_paths.items() if path not in source_split}
                split = self._sides(like, unsplit, source_split, target_split)
            in_part = self._matched_in_part(split.match, of_source, of_target, entire)
            if not in_part:
                return split.with_pairs({path: entire[path] for path in {*entire} - {*agreeing}})
            entire |= in_part

    def _paired_stacks(
        self,
        sides: Sides,
        of_source: Mapping[Key, str],
        of_target: Mapping[Key, str],
    ) -> dict[Key, Key]:
        """Return the recurrent layers that belong together under other names: a stack, and its cells."""
        ours, theirs = (
            {path: kind for path, kind in kinds.items() if kind in self._summed_kinds and path not in taken}
            for kinds, taken in (
                (of_source, {*sides.match.targets}),
                (of_target, {*sides.match.targets.values()}),
            )
        )
        if not ours or not theirs:
            return {}
        match, registry = sides.match, self._request.registry
        cells = [t for t in registry.transforms.values() if t.kind in self._summed_kinds]
        names = {path: renamed(path, match.removed, match.added) for path in ours}
        return Stacks(ours, cells, names).paired(Stacks(theirs, cells))

    def _matched_in_part(
        self,
        match: PathMatch,
        of_source: Mapping[Key, str],
        of_target: Mapping[Key, str],
        entire: Mapping[Key, Key],
    ) -> dict[Key, Key]:
        """Return the split layers whose parts went to those of one layer of their kind.

        Where a layout adds leaves of two parts, such as the biases of a recurrent cell, a match of the parts
        would lose one of them.
        """
        taken = {*entire.values()}
        sources, owners = (
            {path for path, kind in kinds.items() if kind in self._summed_kinds and path not in left_out}
            for kinds, left_out in ((of_source, {*entire}), (of_target, taken))
        )
        owner_of: dict[Key, set[Key]] = {}
        for part, target in match.targets.items() if sources and owners else ():
            source = next((part[:n] for n in range(len(part), -1, -1) if part[:n] in sources), None)
            owner = next((target[:n] for n in range(len(target), -1, -1) if target[:n] in owners), None)
            if source is not None and owner is not None:
                owner_of.setdefault(source, set()).add(owner)
        pairs: dict[Key, Key] = {}
        for source, reached in owner_of.items():
            owner = next(iter(reached))
            if len(reached) == 1 and owner not in taken and of_source[source] == of_target[owner]:
                pairs[source] = owner
                taken.add(owner)
        return pairs

    def _sides(
        self,
        like: FlatState,
        merged_paths: Mapping[Key, str],
        source_split: Collection[Key],
        target_split: Collection[Key],
    ) -> Sides:
        request = self._request
        layers = request.layers
        if merged_paths or source_split:
            layers = neutral_layers(
                request.state,
                request.registry,
                request.rules,
                merged_paths=merged_paths,
                split_paths=source_split,
            )
        groups = group_state(
            like,
            request.framework,
            request.transforms,
            split_paths=target_split,
            collections=self._collections,
        )
        detections = self._detector.detect_all(groups)
        match = self._match(layers, groups)
        if match.rivals is not None and match.rivals.side == "source":
            # Of two copies the caller may have said which one is not wanted.
            converted = {path: layer for path, layer in layers.items() if not self._may_leave_out(layer)}
            if 0 < len(converted) < len(layers):
                match = self._match(converted, groups)
        return Sides(layers, groups, detections, match)

    def _match(self, layers: Mapping[Key, NeutralLayer], groups: Mapping[Key, Group]) -> PathMatch:
        return match_paths(layers, groups, lambda s, t: _largest(layers[s].group) == _largest(groups[t]))

    def _may_leave_out(self, layer: NeutralLayer) -> bool:
        permissions, names_of = self._request.permissions, self._request.names_of
        return bool(permissions.allow_unexpected) and all(
            permissions.may_leave_out(*names_of(key)) for key in layer.group.keys.values()
        )

    def _falls_apart(self, layer: NeutralLayer) -> bool:
        """Return whether the parts of a composite layer are linear layers in neutral form, too."""
        transforms = map(self._request.registry.transforms.get, layer.transforms.values())
        return all(
            parts_are_linear(transform, self._request.registry)
            for transform in transforms
            if transform is not None and transform.kind == layer.kind
        )

    def _complete_parts(self, composites: Mapping[str, LayerTransform]) -> dict[Key, str]:
        """Return the source's paths with all parts of a composite kind that the template has as one layer."""
        state = self._request.state
        paths: dict[Key, str] = {}
        for kind, transform in composites.items():
            if not parts_are_linear(transform, self._request.registry):
                continue
            zeros = self._request.registry.kinds[kind].zeros
            roles = [role for leaf in transform.leaves if not leaf.optional for role in leaf.roles]
            needed = [role.split(".") for role in roles if role not in zeros]
            tail, rest = tuple(needed[0] if needed else ()), needed[1:]
            if not tail:
                continue
            for key in state:
                path = key[: -len(tail)]
                if key[-len(tail) :] == tail and all((*path, *role) in state for role in rest):
                    paths.setdefault(path, kind)
        return paths


def _largest(group: Group) -> int:
    """Return how many values the largest leaf has, which is the same in every layout."""
    return max(math.prod(spec.shape) for spec in group.specs.values())
