"""Neutral -> a framework's state: with a template, match and settle; without one, write what is decided.

All problems are gathered into the plan; `Plan.check` raises them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from bridge_core.errors import UsageError
from bridge_core.keys import Key, Pattern, join_key
from bridge_core.metadata import LayerInfo
from bridge_core.ops import Drop, Fill, Lanes, Op, Same
from bridge_core.plan import Dropped, Mismatch, Plan, Step
from bridge_core.plugins import Registry
from bridge_core.resolve.groups import Group, collection_of_role, group_state, has_heads
from bridge_core.resolve.names import match_paths
from bridge_core.resolve.neutral_layers import NeutralLayer, neutral_layers
from bridge_core.resolve.reading import PARAMETER, Reader, Reading, guess
from bridge_core.resolve.settle import Outcome, settle
from bridge_core.resolve.views import View, native_views
from bridge_core.resolve.writing import plain_outcomes
from bridge_core.rules import Rule, as_patterns, matches
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["plan_from_neutral"]


def plan_from_neutral(
    state: FlatState,
    registry: Registry,
    to: str,
    *,
    like: FlatState | None = None,
    rules: Iterable[Rule] = (),
    accept_guesses: bool = False,
    allow_missing: bool | Iterable[str | Pattern] = (),
    allow_unexpected: bool | Iterable[str | Pattern] = (),
    origin: Mapping[Key, Key] | None = None,
) -> Plan:
    """Return the plan from a neutral state to a framework's, problems included.

    Args:
        state: The neutral state; a plain one without metadata is read by its names and shapes.
        registry: Where kinds, transforms and adapters are found.
        to: Name of the framework.
        like: A state of that framework whose names and shapes the result must have.
        rules: Rules that fix kinds.
        accept_guesses: Whether names may settle what no evidence does.
        allow_missing: Target keys that may stay unfilled: True, or patterns.
        allow_unexpected: Source keys that may be left out: True, or patterns.
        origin: Neutral key -> key in the original source, which the patterns also see.

    Raises:
        UsageError: There is no such framework.
        RuleError: A pattern is not well formed.
    """
    if to == "neutral":
        raise UsageError("a neutral state is neutral already.")
    work = _FromNeutral(
        state,
        registry,
        to,
        tuple(rules),
        accept_guesses,
        as_patterns(allow_missing),
        as_patterns(allow_unexpected),
        origin or {},
    )
    return work.with_template(like) if like is not None else work.plain()


class _Filled(NamedTuple):
    """What fills a target key."""

    source: Key
    ops: tuple[Op, ...]
    kind: str
    evidence: str


class _FromNeutral:
    def __init__(
        self,
        state: FlatState,
        registry: Registry,
        to: str,
        rules: tuple[Rule, ...],
        accept_guesses: bool,
        allow_missing: tuple[Pattern, ...],
        allow_unexpected: tuple[Pattern, ...],
        origin: Mapping[Key, Key],
    ) -> None:
        self.state = state
        self.registry = registry
        self.framework = registry.framework(to)
        self.transforms = registry.transforms_of.get(to, ())
        self.rules = rules
        self.accept_guesses = accept_guesses
        self.allow_missing = allow_missing
        self.allow_unexpected = allow_unexpected
        self.origin = origin
        self.layers = neutral_layers(state, registry, rules)
        self.residuals = {
            (kind.name, role): spec
            for kind in registry.kinds.values()
            for role, spec in kind.residuals.items()
        }
        self.filled: dict[Key, _Filled] = {}
        self.constants: list[Step] = []
        self.used: dict[Key, Key] = {}
        self.dropped: list[Dropped] = []
        self.unexpected: list[Key] = []
        self.missing: list[Key] = []
        self.allowed_missing: list[Key] = []
        self.mismatched: list[Mismatch] = []
        self.ambiguous: dict[Key, tuple[str, ...]] = {}
        self.infos: dict[Key, LayerInfo] = {}
        self.collections: dict[Key, str] = {}
        self.ties: dict[Key, Key] = {}
        self.notes: list[str] = []
        self._settled: dict[object, tuple[Outcome, ...]] = {}

    # -- with a template ------------------------------------------------------------------------

    def with_template(self, like: FlatState) -> Plan:
        groups = group_state(like, self.framework, self.transforms)
        heads = has_heads(like, self.framework)
        reader = Reader(self.transforms, self.framework.name)
        readings = {path: reader.read(group) for path, group in groups.items()}
        views: dict[object, tuple[View, ...]] = {}
        match = match_paths(self.layers, groups)
        self._note_prefix(match.removed, "removed from")
        self._note_prefix(match.added, "added to")
        reached: set[Key] = set()
        for path, layer in self.layers.items():
            target_path = match.targets.get(path)
            if target_path is None:
                self._leave(layer, layer.group.keys)
                continue
            group, reading = groups[target_path], readings[target_path]
            reached.add(target_path)
            signature = (tuple((n, s.shape) for n, s in group.specs.items()), _identity(reading))
            if signature not in views:
                views[signature] = native_views(reading, self.registry.kinds, group.specs)
            self._match_layer(layer, group, reading, views[signature], signature)
        for path, group in groups.items():
            if path not in reached:
                for name, key in group.keys.items():
                    self._unfilled(key, group, name, readings[path])
        self._tie(like.metadata.ties)
        form = "variables" if heads else like.metadata.forms.get(self.framework.name, "params")
        order = {key: i for i, key in enumerate(like)}
        self.filled = dict(sorted(self.filled.items(), key=lambda item: order[item[0]]))
        return self._plan(form, like.metadata.empty)

    def _note_prefix(self, prefix: Key, what: str) -> None:
        if prefix:
            self.notes.append(f"the prefix {join_key(prefix)!r} was {what} the source's names")

    def _match_layer(
        self,
        layer: NeutralLayer,
        group: Group,
        reading: Reading,
        views: tuple[View, ...],
        signature: object,
    ) -> None:
        residuals = frozenset(role for _, role in self.residuals)
        key = (id(layer.views), signature)
        outcomes = self._settled.get(key)
        if outcomes is None:
            outcomes = self._settled[key] = settle(layer.views, views, residuals)
        if len(outcomes) > 1 and self.accept_guesses:
            outcomes = self._guessed(layer, outcomes)
        if len(outcomes) > 1:
            kinds = _options(outcomes)
            for name in layer.claimed:
                self.ambiguous[layer.group.keys[name]] = kinds
            return
        if not outcomes:
            self._leave(layer, layer.group.keys)
            for name, target in group.keys.items():
                self._unfilled(target, group, name, reading)
            return
        outcome = outcomes[0]
        evidence = self._evidence(layer, reading)
        self._take(layer, outcome, evidence, {name: group.keys[name] for name in group.keys})
        for found, wanted in outcome.mismatched:
            where = (layer.group.keys[found], group.keys[wanted])
            self.mismatched.append(Mismatch(*where, layer.group.specs[found], group.specs[wanted]))
        for name in outcome.missing or {}:
            self._unfilled(group.keys[name], group, name, reading)
        self._leave(layer, outcome.unexpected or {})
        self._keep_info(group.path, layer, outcome, evidence, tuple(group.keys))

    def _guessed(self, layer: NeutralLayer, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        named = {c.kind if c is not None else PARAMETER: c for c in layer.candidates}
        options = [named[o.source.kind] for o in outcomes if o.source.kind in named]
        if options:
            chosen = guess(layer.group.path, options)
            kind = chosen.kind if chosen is not None else PARAMETER
            fitting = [o for o in outcomes if o.source.kind == kind]
            return tuple(fitting[:1]) or outcomes[:1]
        transforms = [self.registry.transforms.get(o.target.transform or "") for o in outcomes]
        best = guess(layer.group.path, transforms)
        return (outcomes[transforms.index(best)],) if best in transforms else outcomes[:1]

    def _evidence(self, layer: NeutralLayer, reading: Reading) -> str:
        if layer.kind is not None or layer.evidence == "rule":
            return layer.evidence
        return "module" if reading.evidence == "module" else "template"

    def _unfilled(self, key: Key, group: Group, name: str, reading: Reading) -> None:
        transform = reading.transform
        leaf = transform.by_name().get(name) if transform is not None else None
        residual = self.residuals.get((transform.kind, leaf.role)) if transform and leaf else None
        if residual is not None and leaf is not None:
            neutral = (*group.path, leaf.role)
            fill = Fill(0, TensorSpec(residual.shape, residual.dtype))
            self.constants.append(
                Step((), (key,), (fill,), transform.kind if transform else "", "residual", neutral)
            )
        elif matches(self.allow_missing, key) or matches(self.allow_missing, key[1:]):
            self.allowed_missing.append(key)
        else:
            self.missing.append(key)

    def _tie(self, ties: Mapping[Key, Key]) -> None:
        """Make the template's ties: each names one tensor, and what would fill it must agree."""
        known = self.state.metadata.ties
        for alias, keeper in ties.items():
            given, kept = self.filled.pop(alias, None), self.filled.get(keeper)
            if given is None and kept is None:
                continue
            self.missing = [key for key in self.missing if key not in (alias, keeper)]
            self.allowed_missing = [k for k in self.allowed_missing if k not in (alias, keeper)]
            self.ties[alias] = keeper
            if given is not None and kept is None:
                self.filled[keeper] = given
                self.used[given.source] = keeper
            elif given is not None and kept is not None:
                declared = known.get(given.source, given.source) == known.get(kept.source, kept.source)
                if declared:
                    del self.used[given.source]
                    reason = f"tied to {join_key(kept.source)}"
                    self.dropped.append(Dropped(given.source, reason, kept.source))
                else:
                    self.constants.append(self._same(kept, given, keeper))
                    del self.filled[keeper]

    def _same(self, kept: _Filled, given: _Filled, target: Key) -> Step:
        ops = (Lanes((kept.ops, given.ops)), Same(2)) if kept.ops or given.ops else (Same(2),)
        return Step((kept.source, given.source), (target,), ops, kept.kind, kept.evidence)

    # -- without a template -----------------------------------------------------------------------

    def plain(self) -> Plan:
        form = self._form()
        for layer in self.layers.values():
            outcome = self._written(layer)
            if outcome is None:
                continue
            evidence = "guess" if layer.kind is None and layer.evidence != "rule" else layer.evidence
            if layer.kind is None and outcome.source.kind == PARAMETER and not outcome.source.fallback:
                evidence = layer.evidence
            path = layer.group.path
            names: dict[str, Key] = {}
            for role, place in outcome.target.leaves.items():
                head = self._collection(layer, outcome, role, place.name)
                rest = (*path, *place.name.split("."))
                names[place.name] = (head, *rest) if form == "variables" else rest
                if form != "variables" and head != self._usual(outcome, role):
                    self.collections[names[place.name]] = head
            self._take(layer, outcome, evidence, names)
            self._leave(layer, outcome.unexpected or {})
            self._keep_info(path, layer, outcome, evidence, tuple(names))
            self._restore(layer, outcome, form)
        empty = self.state.metadata.empty if self.framework.name in self.state.metadata.forms else ()
        return self._plan(form, empty)

    def _written(self, layer: NeutralLayer) -> Outcome | None:
        key = id(layer.views)
        outcomes = self._settled.get(key)
        if outcomes is None:
            outcomes = self._settled[key] = plain_outcomes(
                layer, self.framework.name, self.transforms, self.registry.kinds
            )
        if len(outcomes) > 1 and self.accept_guesses:
            outcomes = self._guessed(layer, outcomes)
        if len(outcomes) != 1:
            kinds = tuple(dict.fromkeys(o.source.kind for o in outcomes))
            for name in layer.claimed:
                self.ambiguous[layer.group.keys[name]] = kinds or (f"no form in {self.framework.name}",)
            return None
        return outcomes[0]

    def _form(self) -> str:
        if not self.framework.collections:
            return ""
        known = self.state.metadata.forms.get(self.framework.name)
        if known is not None:
            return known
        default = next(iter(self.framework.collections))
        for layer in self.layers.values():
            for name, key in layer.group.keys.items():
                kind = layer.kind if name in layer.claimed else None
                usual = collection_of_role(self.framework, kind, name)
                if self.state.metadata.collections.get(key, usual) != default:
                    return "variables"
        return "params"

    def _usual(self, outcome: Outcome, role: tuple[bool, str]) -> str:
        return collection_of_role(self.framework, outcome.target.kind if role[0] else None, role[1])

    def _collection(self, layer: NeutralLayer, outcome: Outcome, role: tuple[bool, str], name: str) -> str:
        usual = self._usual(outcome, role)
        source = outcome.source.leaves.get(role)
        if source is None or not self.framework.collections:
            return usual
        return self.state.metadata.collections.get(layer.group.keys[source.name], usual)

    def _restore(self, layer: NeutralLayer, outcome: Outcome, form: str) -> None:
        """Add the residuals that this framework has a place for and the source lacks."""
        transform = self.registry.transforms.get(outcome.target.transform or "")
        if transform is None:
            return
        for leaf in transform.leaves:
            spec = self.residuals.get((transform.kind, leaf.role))
            if spec is not None and (True, leaf.role) not in outcome.source.leaves:
                rest = (*layer.group.path, *leaf.parts)
                head = collection_of_role(self.framework, transform.kind, leaf.role)
                key = (head, *rest) if form == "variables" else rest
                step = Step((), (key,), (Fill(0, spec),), transform.kind, "residual")
                neutral = (*layer.group.path, leaf.role)
                self.constants.append(
                    Step(step.sources, step.targets, step.ops, step.kind, step.evidence, neutral)
                )

    # -- both -------------------------------------------------------------------------------------

    def _take(self, layer: NeutralLayer, outcome: Outcome, evidence: str, names: Mapping[str, Key]) -> None:
        roles = {place.name: role for role, place in outcome.source.leaves.items()}
        for move in outcome.moves:
            source, target = layer.group.keys[move.source], names[move.target]
            is_layer = roles[move.source][0]
            kind = outcome.source.kind if is_layer else PARAMETER
            self.filled[target] = _Filled(source, move.ops, kind, evidence)
            self.used[source] = target

    def _leave(self, layer: NeutralLayer, names: Iterable[str]) -> None:
        for name in names:
            key = layer.group.keys[name]
            if layer.kind is not None and (layer.kind, name) in self.residuals and name in layer.claimed:
                spec = layer.group.specs[name]
                step = Step((key,), (), (Drop(0, spec),), layer.kind, "residual", key)
                self.constants.append(step)
                self.dropped.append(Dropped(key, "kept in the metadata", kept=True))
            elif matches(self.allow_unexpected, key) or matches(
                self.allow_unexpected, self.origin.get(key, key)
            ):
                self.dropped.append(Dropped(key, "allowed as unexpected"))
            else:
                self.unexpected.append(key)

    def _keep_info(
        self,
        path: Key,
        layer: NeutralLayer,
        outcome: Outcome,
        evidence: str,
        names: tuple[str, ...],
    ) -> None:
        forms = dict(layer.forms)
        kind: str | None = outcome.target.kind
        claimed = tuple(p.name for role, p in outcome.target.leaves.items() if role[0])
        name = self.framework.name
        if outcome.target.transform is not None:
            if forms.get(name) == outcome.target.transform and evidence == "structure":
                return
            forms[name] = outcome.target.transform
        elif kind == PARAMETER:
            if layer.kind is None or (evidence == "structure" and name in layer.forms):
                return
            claimed = names
        self.infos[path] = LayerInfo(kind, evidence, claimed, forms=forms)

    def _plan(self, form: str, empty: tuple[Key, ...]) -> Plan:
        unexpected = self._untied()
        steps = [Step((f.source,), (target,), f.ops, f.kind, f.evidence) for target, f in self.filled.items()]
        forms = dict(self.state.metadata.forms)
        if form:
            forms[self.framework.name] = form
        metadata = self.state.metadata.with_(
            layers=self.infos,
            modules={},
            ties={**self._carried_ties(), **self.ties},
            collections=self.collections,
            empty=empty,
            forms=forms,
        )
        return Plan(
            "neutral",
            self.framework.name,
            self.state.specs(),
            (*steps, *self.constants),
            tuple(self.dropped),
            self.ties,
            tuple(self.missing),
            unexpected,
            tuple(self.mismatched),
            self.ambiguous,
            tuple(self.allowed_missing),
            metadata,
            tuple(self.notes),
        )

    def _untied(self) -> tuple[Key, ...]:
        """Let go of unexpected keys that share the values of a key that found its place."""
        ties = self.state.metadata.ties
        keepers: dict[Key, Key] = {}
        for key in self.used:
            keepers.setdefault(ties.get(key, key), key)
        rest = []
        for key in self.unexpected:
            keeper = keepers.get(ties.get(key, key))
            if keeper is None:
                rest.append(key)
            else:
                self.dropped.append(Dropped(key, f"tied to {join_key(keeper)}", keeper))
        return tuple(rest)

    def _carried_ties(self) -> dict[Key, Key]:
        return {
            self.used[key]: self.used[keeper]
            for key, keeper in self.state.metadata.ties.items()
            if key in self.used and keeper in self.used
        }


def _options(outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
    """Name what is open: kinds, or where they agree the spellings on either side."""
    for names in (
        [o.source.kind for o in outcomes],
        [o.source.transform or PARAMETER for o in outcomes],
        [o.target.transform or PARAMETER for o in outcomes],
    ):
        distinct = tuple(dict.fromkeys(names))
        if len(distinct) > 1:
            return distinct
    return (outcomes[0].source.kind,) if outcomes else ()


def _identity(reading: Reading) -> object:
    transform = reading.transform.name if reading.transform else None
    candidates = tuple(c.name if c is not None else None for c in reading.candidates)
    return (reading.evidence, transform, candidates, reading.claimed)
