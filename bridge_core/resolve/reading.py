"""The ladder of evidence: what a group of leaves is, from the strongest evidence to the weakest.

An explicit rule, then the live module's type, then stored metadata, then what names and shapes prove by
themselves. What none of these settles stays undecided, with its candidates; the target's template comes in
later, and names alone are a guess that must be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge_core.errors import RuleError
from bridge_core.keys import Key, join_key
from bridge_core.layers import LayerTransform
from bridge_core.metadata import ModuleInfo
from bridge_core.resolve.groups import Group
from bridge_core.rules import Rule

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
    """

    evidence: str
    transform: LayerTransform | None = None
    candidates: tuple[LayerTransform | None, ...] = ()
    claimed: tuple[str, ...] = ()


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
        for rule in self.rules:
            if rule.source.match(group.path) is not None:
                return self._by_rule(rule, group, shapes)
        if group.module is not None:
            found = self._by_type(group.module, shapes, group.has_children)
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

    def _by_rule(self, rule: Rule, group: Group, shapes: Shapes) -> Reading:
        if rule.kind == PARAMETER:
            return Reading("rule")
        fitting = [t for t in self._fitting(shapes, group.has_children) if t.kind == rule.kind]
        if not fitting:
            leaves = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise RuleError(
                f"{rule} does not fit {join_key(group.path)!r}, which holds {leaves}.", key=group.path
            )
        best = max(fitting, key=lambda t: len(_claimed(t, shapes)))
        return Reading("rule", best, claimed=_claimed(best, shapes))

    def _by_type(self, module: ModuleInfo, shapes: Shapes, has_children: bool) -> Reading | None:
        listed = [t for name in module.types for t in self._by_module.get(name, ())]
        if not listed:
            return None
        kinds = {t.kind for t in listed}
        allowed = listed + [t for t in self.transforms if t.kind in kinds and t not in listed]
        fitting = [t for t in allowed if _agrees(t, module) and _fits(t, shapes, has_children)]
        if not fitting:
            return Reading("module")
        best = max(fitting, key=lambda t: len(_claimed(t, shapes)))
        return Reading("module", best, claimed=_claimed(best, shapes))

    def _by_metadata(self, group: Group, shapes: Shapes) -> Reading | None:
        info = group.info
        if info is None or info.kind == PARAMETER:
            return Reading("metadata")
        named = info.forms.get(self.framework)
        fitting = [t for t in self._fitting(shapes, group.has_children) if t.kind == info.kind]
        fitting.sort(key=lambda t: t.name != named)
        if not fitting:
            return None
        return Reading("metadata", fitting[0], claimed=_claimed(fitting[0], shapes))

    def by_structure(self, shapes: Shapes, has_children: bool) -> Reading:
        """Return what names and shapes alone tell."""
        fitting = self._fitting(shapes, has_children)
        claims = {t.name: frozenset(_claimed(t, shapes)) for t in fitting}
        widest = [t for t in fitting if not any(claims[t.name] < claims[o.name] for o in fitting)]
        if not widest:
            return Reading("structure")
        certain = [t for t in widest if t.certain_with is not None and set(t.certain_with) <= claims[t.name]]
        claimed = tuple(name for name in shapes if any(name in claims[t.name] for t in widest))
        if len(widest) == 1 and certain:
            return Reading("structure", widest[0], claimed=claimed)
        candidates = tuple(widest) if certain else (*widest, None)
        return Reading("undecided", candidates=candidates, claimed=claimed)

    def _fitting(self, shapes: Shapes, has_children: bool) -> list[LayerTransform]:
        return [t for t in self.transforms if _fits(t, shapes, has_children)]


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
    if not present or (transform.exclusive and (has_children or len(present) != len(shapes))):
        return False
    return transform.fits(present)
