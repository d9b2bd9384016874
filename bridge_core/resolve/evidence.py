"""Evidence: what a group of leaves is, from the strongest evidence to the weakest.

Shapes often fit several layers, so the kinds of evidence are used in a fixed order: an explicit rule, the
live module's type, stored metadata, and what names and shapes prove by themselves. A layer that none of these
decides is undecided, and has candidates; the target's template is used later, and a guess by names must be
allowed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from bridge_core.axes import Binding, parse_axes
from bridge_core.layers import (
    LayerTransform,
    agrees,
    describes,
    fits,
    leaves_of,
    same_order,
    splits_agree,
    stated_splits,
    usual_transforms,
)
from bridge_core.messages import nearest
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.rule_names import unmatched_labels
from bridge_core.resolve.sibling_proofs import SiblingProofs
from bridge_core.state import Key, LayerInfo, ModuleInfo, join_key

if TYPE_CHECKING:
    from bridge_core.rules import PatternIndex, Rule

__all__ = ["PARAMETER", "Detector", "Detection", "guess"]

PARAMETER = "parameter"
"""Kind and candidate of leaves that are copied unchanged."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Detection:
    """What a group is by the evidence.

    Args:
        evidence: The evidence that decided it; ``undecided`` if several readings remain, ``unclaimed``
            without evidence.
        transform: The layer; None for plain parameters, and while undecided or unclaimed.
        candidates: What it may be while undecided; None among them is plain parameters.
        leaves: Names of the leaves that belong to the layer. While undecided, those of every candidate.
        axis_splits: Axis of the kind -> the sizes into which it is split here, or may be split elsewhere.
        rule: The rule that decided it, if one did.
        misfits: Of an unclaimed group, the transforms for its module's type, which its leaves do not fit.
        missing: Of an unclaimed group, the kind or transform that the metadata names and no plugin provides.
        origin: Of an unclaimed group, the framework that it was copied from unchanged, by its metadata.
        doubted: Of an undecided group, whether the order of the axes may be another than names suggest: its
            module is of an unknown type, or a layer next to it denies the order.
    """

    evidence: str
    transform: LayerTransform | None = None
    candidates: tuple[LayerTransform | None, ...] = ()
    leaves: tuple[str, ...] = ()
    axis_splits: Binding = field(default_factory=dict)
    rule: Rule | None = None
    misfits: tuple[LayerTransform, ...] = ()
    missing: str = ""
    origin: str = ""
    doubted: bool = False

    @property
    def is_parameters(self) -> bool:
        """Whether there is evidence that the leaves are plain parameters."""
        return self.transform is None and not self.candidates and self.evidence != "unclaimed"

    @property
    def candidate_names(self) -> tuple[str, ...]:
        """Names of the candidates' transforms, as metadata stores them."""
        return tuple(c.name if c is not None else PARAMETER for c in self.candidates)


class Detector:
    """Decides what groups of one framework are; equal groups are looked at once.

    Args:
        transforms: The framework's transforms, in the order of registration.
        framework: Its name.
        rules: Rules that fix kinds.
    """

    def __init__(
        self, transforms: Iterable[LayerTransform], framework: str, rules: Iterable[Rule] = ()
    ) -> None:
        self.transforms = tuple(transforms)
        self.framework = framework
        self.rules = tuple(rule for rule in rules if rule.kind is not None)
        self._matched_rules: set[int] = set()
        self._by_module: dict[str, list[LayerTransform]] = {}
        for transform in self.transforms:
            for module in transform.modules:
                self._by_module.setdefault(module, []).append(transform)
        self._names = {transform.name for transform in self.transforms}
        self._kinds = {transform.kind for transform in self.transforms}
        self._structures: dict[object, tuple[Detection, object]] = {}
        self._by_names: dict[object, Detection] = {}
        self._records: dict[object, Detection | None] = {}

    def detect_all(self, groups: Mapping[Key, Group]) -> dict[Key, Detection]:
        """Return what the groups of a state are.

        What one layer of a state denies, others that only allow it do not prove: a square weight may have
        either order of axes.
        """
        detections = {}
        for path, group in groups.items():
            is_bare = group.module is None and group.info is None and not self.rules
            detections[path] = self._by_names_and_shapes(group) if is_bare else self.detect(group)
        proofs = SiblingProofs(self.transforms, groups, detections)
        if proofs.any_denied:
            for path, detection in detections.items():
                if proofs.is_void(path):
                    transform = detection.transform
                    detections[path] = replace(_undecided(detection.leaves, transform, None), doubted=True)
        return detections

    def detect(self, group: Group) -> Detection:
        """Return what the group is.

        A live module of a type that no transform names shows that shapes are not to be trusted: what they
        suggest is undecided.

        Raises:
            RuleError: A rule names a kind that does not fit.
        """
        rule = self.rule_of(group.path, group.origin)
        if rule is not None:
            return self._by_rule(rule, group, dict(group.shapes))
        detection = None
        if group.module is not None:
            detection = self._by_type(group.module, group, dict(group.shapes))
        info = group.info
        if detection is None and info is not None:
            if info.kind is not None:
                detection = self._by_metadata(info, group)
            elif info.evidence == "unclaimed" and group.specs.keys() <= set(info.unclaimed):
                detection = Detection("unclaimed", origin=info.origin)
        if detection is not None:
            return detection
        structural = self._by_names_and_shapes(group)
        if group.module is None:
            return structural
        if structural.transform is not None:
            structural = _undecided(structural.leaves, structural.transform, None)
        return replace(structural, doubted=True) if structural.candidates else structural

    def rule_of(self, *paths: Key) -> Rule | None:
        """Return the rule that fixes the kind of a layer, by any of the paths that it has or had.

        Raises:
            RuleError: Two rules give it two kinds.
        """
        if not self.rules:
            return None
        deciding_rule: Rule | None = None
        numbers = {number for path in paths for number in self._rule_index.candidates(path)}
        for number in sorted(numbers):
            rule = self.rules[number]
            if not any(rule.source.match(path) is not None for path in paths):
                continue
            self._matched_rules.add(number)
            if deciding_rule is None:
                deciding_rule = rule
            elif rule.kind != deciding_rule.kind and not rule.fallback:
                from bridge_core.resolve.rule_binding import rule_conflict

                raise rule_conflict(rule, deciding_rule, "match", paths[0])
        return deciding_rule

    @functools.cached_property
    def _rule_index(self) -> PatternIndex:
        from bridge_core.rules import PatternIndex  # most conversions have no rules

        return PatternIndex(rule.sources for rule in self.rules)

    def unmatched_rules(self) -> tuple[str, ...]:
        """Return the labels of rules that had to match a layer and did not."""
        return unmatched_labels(
            (rule, number in self._matched_rules or rule.optional) for number, rule in enumerate(self.rules)
        )

    def _by_rule(self, rule: Rule, group: Group, shapes: Shapes) -> Detection:
        kinds = dict.fromkeys((*(t.kind for t in self.transforms), PARAMETER))
        if rule.kind not in kinds:
            error = rule.error(f"unknown kind {rule.kind!r} of layers in {self.framework}.")
            error.hint = nearest(rule.kind or "", kinds)
            raise error
        if rule.kind == PARAMETER:
            return Detection("rule", rule=rule)
        usual = usual_transforms(self.transforms, rule.kind or "")
        fitting = [t for t in usual if fits(t, shapes, group.has_children)]
        if not fitting:
            leaves = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            named = f"the layer {join_key(group.path)!r}"
            raise rule.error(
                f"expected leaves of the kind {rule.kind!r} in {named}, got {leaves}.",
                group.path,
            )
        return replace(_decided("rule", _widest(fitting, shapes), shapes, group), rule=rule)

    def _by_type(self, module: ModuleInfo, group: Group, shapes: Shapes) -> Detection | None:
        """Return what the module's type shows; the most derived type that some transform lists decides."""
        listed = next((self._by_module[name] for name in module.types if name in self._by_module), None)
        if listed is None:
            return None
        kinds = {t.kind for t in listed}
        described = [t for t in listed if agrees(t, module) and t.has_names(shapes)]
        alike = [
            t
            for t in self.transforms
            if t.kind in kinds
            and t not in listed
            and not t.needs_module
            and (not t.modules or any(same_order(t, other) for other in described))
        ]
        children = group.has_children
        fitting = [t for t in listed if describes(t, module, shapes, children)]
        if not any(len(leaves_of(t, shapes)) == len(shapes) for t in fitting):
            single = [t for t in alike if not self._may_be_stacked(t, shapes, children)]
            fitting += [t for t in single if describes(t, module, shapes, children)]
        if not fitting:
            # Where a rule takes leaves away, or a file does not have them, no transform describes the others.
            is_complete = shapes.keys() >= set(module.parameters)
            return Detection("unclaimed", misfits=tuple(listed)) if is_complete else None
        width = max(len(leaves_of(t, shapes)) for t in fitting)
        widest = [t for t in fitting if len(leaves_of(t, shapes)) == width]
        rivals = {(t.kind, t.leaves): t for t in widest if t in listed}
        if len(rivals) > 1:  # two plugins describe one type
            return _undecided(leaves_of(widest[0], shapes), *rivals.values())
        return _decided("module", widest[0], shapes, group)

    def _by_names_and_shapes(self, group: Group) -> Detection:
        signature = (id(group.shapes), group.has_children)
        known = self._structures.get(signature)
        if known is None:
            # The order of leaves does not matter: the first one counts for all.
            by_names = (tuple(sorted(group.shapes)), group.has_children)
            detection = self._by_names.get(by_names)
            if detection is None:
                detection = self.by_structure(dict(group.shapes), group.has_children)
            # The shapes are held, so that no others get their identity.
            known = self._structures[signature] = (detection, group.shapes)
            self._by_names[by_names] = detection
        return known[0]

    def _by_metadata(self, info: LayerInfo, group: Group) -> Detection | None:
        if group.module is not None:
            return self._recorded(info, group)
        signature = (
            group.shapes,
            group.has_children,
            info.kind,
            info.evidence,
            info.transforms.get(self.framework),
            tuple(info.axis_splits.items()),
        )
        if signature not in self._records:
            self._records[signature] = self._recorded(info, group)
        return self._records[signature]

    def _recorded(self, info: LayerInfo, group: Group) -> Detection | None:
        shapes = dict(group.shapes)
        evidence = "guess" if info.evidence == "guess" else "metadata"
        if info.kind == PARAMETER:
            return Detection(evidence)
        recorded = info.transforms.get(self.framework)
        if info.kind not in self._kinds or (recorded is not None and recorded not in self._names):
            return Detection("unclaimed", missing=recorded or info.kind or "")
        of_kind = [
            t for t in self.transforms if t.kind == info.kind and (t.name == recorded or not t.needs_module)
        ]
        fitting = [t for t in of_kind if fits(t, shapes, group.has_children)]
        fitting.sort(key=lambda t: t.name != recorded)
        return _decided(evidence, fitting[0], shapes, group) if fitting else None

    def by_structure(self, shapes: Shapes, has_children: bool) -> Detection:
        """Return what names and shapes prove."""
        fitting = self._structural(shapes, has_children)
        taken = {t.name: frozenset(leaves_of(t, shapes)) for t in fitting}
        widest = [t for t in fitting if not any(taken[t.name] < taken[o.name] for o in fitting)]
        if not widest:
            return Detection("unclaimed")
        proven = any(
            t.identifying_leaves is not None and set(t.identifying_leaves) <= taken[t.name] for t in widest
        )
        if len(widest) == 1 and proven and self._may_be_stacked(widest[0], shapes, has_children):
            return _undecided(leaves_of(widest[0], shapes), widest[0], None)
        if len(widest) == 1 and proven:
            return _decided("structure", widest[0], shapes)
        leaves = tuple(name for name in shapes if any(name in taken[t.name] for t in widest))
        return _undecided(leaves, *widest, *(() if proven else (None,)))

    def _may_be_stacked(self, transform: LayerTransform, shapes: Shapes, has_children: bool) -> bool:
        """Return whether a layer that splits axes may as well be a stack of several of another kind."""
        if not any(axis.split != 1 for leaf in transform.leaves for axis in parse_axes(leaf.axes)):
            return False
        leaves = leaves_of(transform, shapes)
        if len({shapes[name][:1] for name in leaves}) != 1 or any(len(shapes[name]) < 2 for name in leaves):
            return False
        single = {name: shape[1:] if name in leaves else shape for name, shape in shapes.items()}
        return any(
            set(leaves_of(other, single)) >= set(leaves) for other in self._structural(single, has_children)
        )

    def guess(self, group: Group, undecided: Detection) -> Detection:
        """Return what the words of its path suggest; plain parameters if they suggest nothing."""
        chosen = guess(group.path, undecided.candidates)
        if chosen is None:
            return Detection("guess")
        shapes = {name: spec.shape for name, spec in group.specs.items()}
        detection = _decided("guess", chosen, shapes, group)
        return undecided if detection.transform is None else detection

    def _structural(self, shapes: Shapes, has_children: bool) -> list[LayerTransform]:
        return [t for t in self.transforms if not t.needs_module and fits(t, shapes, has_children)]


def _undecided(leaves: tuple[str, ...], *candidates: LayerTransform | None) -> Detection:
    return Detection("undecided", candidates=candidates, leaves=leaves)


def _decided(
    evidence: str, transform: LayerTransform, shapes: Shapes, group: Group | None = None
) -> Detection:
    """Return the detection of a transform; undecided if several splits of its axes remain possible.

    A layer that no other framework has is undecided too: it is copied unchanged.
    """
    leaves = leaves_of(transform, shapes)
    if transform.unsupported:
        return _undecided(leaves, transform)
    module = group.module if group is not None else None
    info = group.info if group is not None else None
    known = stated_splits(transform, module) if module is not None else dict(info.axis_splits) if info else {}
    possible: dict[object, Binding] = {}
    bindings = transform.bindings({name: shapes[name] for name in leaves})
    for binding in bindings:
        split = transform.split_axes(binding)
        if splits_agree(transform, split, known):
            possible[tuple(sorted(split.items()))] = split
    if len(possible) != 1:
        return _undecided(leaves, transform)
    (split,) = possible.values()
    # What this framework does not split itself, its module may know the parts of.
    for axis, sizes in known.items():
        size = prod(bindings[0].get(axis, ()))
        if axis not in split and axis in bindings[0] and sizes and sizes[0] and size % sizes[0] == 0:
            split = {**split, axis: (sizes[0], size // sizes[0])}
    return Detection(evidence, transform, leaves=leaves, axis_splits=split)


def guess(path: Key, candidates: Iterable[LayerTransform | None]) -> LayerTransform | None:
    """Choose among candidates by the words of a path; None means plain parameters.

    A candidate with hints is chosen only if one of them is in the path; among the others the first registered
    wins.
    """
    options = tuple(candidates)
    lowered = [word for part in path for word in _words(part)]
    text = ".".join(path).lower()
    for option in options:
        if option is not None and any(_hinted(h, lowered, text) for h in option.hints):
            return option
    plain = [option for option in options if option is not None and not option.hints]
    return plain[0] if plain else None


@functools.lru_cache(maxsize=4096)
def _words(part: str) -> tuple[str, ...]:
    """Return the words in a part of a name, which many names share, in lower case."""
    return tuple(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part))


def _hinted(hint: str, words: list[str], text: str) -> bool:
    return hint in words or (len(hint) > 3 and hint in text)


def _widest(transforms: list[LayerTransform], shapes: Shapes) -> LayerTransform:
    return max(transforms, key=lambda transform: len(leaves_of(transform, shapes)))
