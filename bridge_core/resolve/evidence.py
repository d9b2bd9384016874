"""The ladder of evidence: what a group of leaves is, from the strongest evidence to the weakest.

An explicit rule, then the live module's type, then stored metadata, then what names and shapes prove by
themselves. What none of these settles stays undecided, with its candidates; the target's template comes in
later, and names alone are a guess that must be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from bridge_core.axes import Binding
from bridge_core.layers import LayerTransform
from bridge_core.messages import nearest
from bridge_core.resolve.grouping import Group
from bridge_core.rules import Rule
from bridge_core.state import Key, ModuleInfo, join_key

__all__ = ["PARAMETER", "Reader", "Reading", "guess"]

PARAMETER = "parameter"
"""Kind and candidate of leaves that go as they are."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Reading:
    """What a group is.

    Args:
        evidence: The rung that settled it; ``undecided`` if none did.
        transform: The layer; None for plain parameters and while undecided.
        candidates: What it may be while undecided; None among them stands for plain parameters.
        claimed: Leaf names that belong to the layer. While undecided, those of every candidate.
        factors: Axis of the kind -> the sizes into which it is split here, or may be split elsewhere.
        rule: The rule that settled it, if one did.
    """

    evidence: str
    transform: LayerTransform | None = None
    candidates: tuple[LayerTransform | None, ...] = ()
    claimed: tuple[str, ...] = ()
    axis_splits: Binding = field(default_factory=dict)
    rule: Rule | None = None


class Reader:
    """Reads groups of one framework; remembers what equal groups were.

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
        self._fired: set[int] = set()
        self._by_module: dict[str, list[LayerTransform]] = {}
        for transform in self.transforms:
            for module in transform.modules:
                self._by_module.setdefault(module, []).append(transform)
        self._known: dict[object, Reading] = {}

    def read(self, group: Group) -> Reading:
        """Return what the group is.

        A live module of a type that no transform names proves that shapes alone are not to be trusted:
        what they suggest stays undecided.

        Raises:
            RuleError: A rule names a kind that does not fit.
        """
        shapes = {name: spec.shape for name, spec in group.specs.items()}
        rule = self.rule_of(group.path, group.origin)
        if rule is not None:
            return self._by_rule(rule, group, shapes)
        if group.module is not None:
            found = self._by_type(group.module, group, shapes)
            if found is not None:
                return found
        if group.info is not None and group.info.kind is not None:
            found = self._by_metadata(group, shapes)
            if found is not None:
                return found
        signature = (tuple(sorted(shapes.items())), group.has_children)
        known = self._known.get(signature)
        if known is None:
            known = self._known[signature] = self.by_structure(shapes, group.has_children)
        if group.module is not None and known.transform is not None:
            return Reading("undecided", candidates=(known.transform, None), claimed=known.claimed)
        return known

    def rule_of(self, *paths: Key) -> Rule | None:
        """Return the rule that fixes the kind of a layer, by any of the paths that it has or had."""
        for number, rule in enumerate(self.rules):
            if any(rule.source.match(path) is not None for path in paths):
                self._fired.add(number)
                return rule
        return None

    def unmatched_rules(self) -> tuple[Rule, ...]:
        """Return the rules that had to match a layer and did not."""
        known = enumerate(self.rules)
        return tuple(rule for number, rule in known if number not in self._fired and not rule.optional)

    def _by_rule(self, rule: Rule, group: Group, shapes: Shapes) -> Reading:
        known = dict.fromkeys((*(t.kind for t in self.transforms), PARAMETER))
        if rule.kind not in known:
            raise rule.error(
                f"the kind {rule.kind!r} is not known to {self.framework}. {nearest(rule.kind or '', known)}"
            )
        if rule.kind == PARAMETER:
            return Reading("rule", rule=rule)
        fitting = [t for t in self._fitting(shapes, group.has_children) if t.kind == rule.kind]
        if not fitting:
            leaves = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise rule.error(f"it does not fit {join_key(group.path)!r}, which holds {leaves}.", group.path)
        best = max(fitting, key=lambda t: len(_claimed(t, shapes)))
        return replace(_decided("rule", best, shapes, group), rule=rule)

    def _by_type(self, module: ModuleInfo, group: Group, shapes: Shapes) -> Reading | None:
        listed = [t for name in module.types for t in self._by_module.get(name, ())]
        if not listed:
            return None
        kinds = {t.kind for t in listed}
        alike = [t for t in self.transforms if t.kind in kinds and t not in listed and not t.needs_module]
        allowed = listed + alike
        fitting = [t for t in allowed if _agrees(t, module) and _fits(t, shapes, group.has_children)]
        if not fitting:
            return Reading("module")
        best = max(fitting, key=lambda t: len(_claimed(t, shapes)))
        return _decided("module", best, shapes, group)

    def _by_metadata(self, group: Group, shapes: Shapes) -> Reading | None:
        info = group.info
        if info is None or info.kind == PARAMETER:
            return Reading("metadata")
        named = info.transforms.get(self.framework)
        known = [
            t for t in self.transforms if t.kind == info.kind and (t.name == named or not t.needs_module)
        ]
        fitting = [t for t in known if _fits(t, shapes, group.has_children)]
        fitting.sort(key=lambda t: t.name != named)
        if not fitting:
            return None
        return _decided("metadata", fitting[0], shapes, group)

    def by_structure(self, shapes: Shapes, has_children: bool) -> Reading:
        """Return what names and shapes alone tell."""
        fitting = self._fitting(shapes, has_children)
        claims = {t.name: frozenset(_claimed(t, shapes)) for t in fitting}
        widest = [t for t in fitting if not any(claims[t.name] < claims[o.name] for o in fitting)]
        if not widest:
            return Reading("structure")
        certain = [
            t
            for t in widest
            if t.identifying_leaves is not None and set(t.identifying_leaves) <= claims[t.name]
        ]
        claimed = tuple(name for name in shapes if any(name in claims[t.name] for t in widest))
        if len(widest) == 1 and certain:
            return _decided("structure", widest[0], shapes)
        candidates = tuple(widest) if certain else (*widest, None)
        return Reading("undecided", candidates=candidates, claimed=claimed)

    def guessed(self, group: Group, reading: Reading) -> Reading:
        """Return an undecided reading settled by the words of its path, or as it was if they say nothing."""
        chosen = guess(group.path, reading.candidates)
        if chosen is None:
            return Reading("guess")
        shapes = {name: spec.shape for name, spec in group.specs.items()}
        found = _decided("guess", chosen, shapes, group)
        return reading if found.transform is None else found

    def _fitting(self, shapes: Shapes, has_children: bool) -> list[LayerTransform]:
        return [t for t in self.transforms if not t.needs_module and _fits(t, shapes, has_children)]


def _decided(evidence: str, transform: LayerTransform, shapes: Shapes, group: Group | None = None) -> Reading:
    """Return the reading of a known transform; undecided where nothing tells how its axes are split.

    So is one that no other framework takes: it is known, and goes as it is.
    """
    claimed = _claimed(transform, shapes)
    undecided = Reading("undecided", candidates=(transform,), claimed=claimed)
    if transform.unsupported:
        return undecided
    module = group.module if group is not None else None
    info = group.info if group is not None else None
    wanted = _factors(transform, module) if module is not None else dict(info.axis_splits) if info else {}
    ways: dict[object, Binding] = {}
    bindings = transform.bindings({name: shapes[name] for name in claimed})
    for binding in bindings:
        split = transform.split_axes(binding)
        if all(wanted.get(axis, sizes) == sizes for axis, sizes in split.items()):
            ways[tuple(sorted(split.items()))] = split
    if len(ways) != 1:
        return undecided
    (split,) = ways.values()
    # What this framework does not split itself, its module may know the parts of.
    for axis, sizes in wanted.items():
        whole = prod(bindings[0].get(axis, ()))
        if axis not in split and axis in bindings[0] and sizes and whole % sizes[0] == 0:
            split = {**split, axis: (sizes[0], whole // sizes[0])}
    return Reading(evidence, transform, claimed=claimed, axis_splits=split)


def _factors(transform: LayerTransform, module: ModuleInfo) -> Binding:
    """Return what a module's settings tell of how axes are split; of a number of parts, that number."""
    found: Binding = {}
    for axis, names in transform.axis_splits.items():
        for name in names.split():
            value = module.settings.get(name)
            sizes = value if isinstance(value, tuple) else (value,)
            if sizes and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
                found[axis] = sizes
    return found


def guess(path: Key, candidates: Iterable[LayerTransform | None]) -> LayerTransform | None:
    """Choose among candidates by the words of a path; None stands for plain parameters.

    A candidate with hints is chosen only where one of them stands in the path; among the others the
    first registered wins.
    """
    options = tuple(candidates)
    words = [word for part in path for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", part)]
    lowered = [word.lower() for word in words]
    text = ".".join(path).lower()
    for option in options:
        if option is not None and any(_hinted(h, lowered, text) for h in option.hints):
            return option
    plain = [option for option in options if option is not None and not option.hints]
    return plain[0] if plain else None


def _hinted(hint: str, words: list[str], text: str) -> bool:
    return hint in words or (len(hint) > 3 and hint in text)


def _agrees(transform: LayerTransform, module: ModuleInfo) -> bool:
    return all(
        module.settings.get(name, value if not value else None) == value
        for name, value in transform.settings.items()
    )


def _claimed(transform: LayerTransform, shapes: Shapes) -> tuple[str, ...]:
    return tuple(leaf.name for leaf in transform.leaves if leaf.name in shapes)


def _fits(transform: LayerTransform, shapes: Shapes, has_children: bool) -> bool:
    present = {name: shapes[name] for name in _claimed(transform, shapes)}
    if not present or (transform.only_leaves and (has_children or len(present) != len(shapes))):
        return False
    return transform.fits(present)
