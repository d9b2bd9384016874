"""Neutral -> a framework with a template: match names, settle every layer, fill every key."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.keys import Key, join_key
from bridge_core.ops import Fill, Lanes, Same
from bridge_core.plan import Dropped, Mismatch, Plan, Step
from bridge_core.resolve.assembly import Assembly, Filled, Request, open_options
from bridge_core.resolve.groups import Group, group_state, has_heads
from bridge_core.resolve.names import match_paths
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.reading import Reading
from bridge_core.resolve.settle import Outcome, settle
from bridge_core.resolve.views import View, native_views, transform_view
from bridge_core.rules import matches
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["Templated"]


class Templated(Assembly):
    """A plan towards the keys of a template."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._settled: dict[object, tuple[Outcome, ...]] = {}

    def resolve(self, like: FlatState) -> Plan:
        """Return the plan, problems included."""
        groups = group_state(like, self.framework, self.request.transforms)
        heads = has_heads(like, self.framework)
        readings = {path: self.reader.read(group) for path, group in groups.items()}
        views: dict[object, tuple[View, ...]] = {}
        match = match_paths(self.request.layers, groups)
        self._note_prefix(match.removed, "removed from")
        self._note_prefix(match.added, "added to")
        reached: set[Key] = set()
        for path, layer in self.request.layers.items():
            target_path = match.targets.get(path)
            if target_path is None:
                self.leave(layer, layer.group.keys)
                continue
            group, reading = groups[target_path], readings[target_path]
            reached.add(target_path)
            signature = (tuple((n, s.shape) for n, s in group.specs.items()), _identity(reading))
            if signature not in views:
                views[signature] = native_views(reading, self.request.registry.kinds, group.specs)
            self._match_layer(layer, group, reading, views[signature], signature)
        for path, group in groups.items():
            if path not in reached:
                for name, key in group.keys.items():
                    self._unfilled(key, group, name, readings[path])
        # A tie between layers of other axes, as a file records it, is not one tensor: both are filled.
        self._tie({k: v for k, v in like.metadata.ties.items() if like.tensor(k) is like.tensor(v)})
        form = "variables" if heads else like.metadata.forms.get(self.framework.name, "params")
        order = {key: i for i, key in enumerate(like)}
        self.filled = dict(sorted(self.filled.items(), key=lambda item: order[item[0]]))
        return self.plan(form, like.metadata.empty)

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
            views += self._partial_views(layer, group, reading, views)
            outcomes = self._settled[key] = settle(layer.views, views, residuals)
        if len(outcomes) > 1 and self.request.accept_guesses:
            outcomes = self.guessed(layer, outcomes)
        if len(outcomes) > 1:
            kinds = open_options(outcomes)
            for name in layer.claimed:
                self.ambiguous[layer.group.keys[name]] = kinds
            return
        if not outcomes:
            self.leave(layer, layer.group.keys)
            for name, target in group.keys.items():
                self._unfilled(target, group, name, reading)
            return
        outcome = outcomes[0]
        evidence = self._evidence(layer, reading)
        self.take(layer, outcome, evidence, {name: group.keys[name] for name in group.keys})
        for found, wanted in outcome.mismatched:
            where = (layer.group.keys[found], group.keys[wanted])
            self.mismatched.append(Mismatch(*where, layer.group.specs[found], group.specs[wanted]))
        for name in outcome.missing or {}:
            self._unfilled(group.keys[name], group, name, reading)
        self.leave(layer, outcome.unexpected or {}, group.path)
        self.keep_info(group.path, layer, outcome, evidence, tuple(group.keys))

    def _partial_views(
        self, layer: NeutralLayer, group: Group, reading: Reading, views: tuple[View, ...]
    ) -> tuple[View, ...]:
        """Read a template as the source's kind where it has only some of the leaves.

        A bare params tree holds a batch norm without its statistics, which then looks like a norm.
        """
        known = reading.evidence in ("rule", "module", "metadata")
        if layer.kind is None or known or any(view.kind == layer.kind for view in views):
            return ()
        kind = self.request.registry.kinds[layer.kind]
        fitting = [
            t
            for t in self.request.transforms
            if t.kind == layer.kind and group.specs.keys() <= t.by_name().keys()
        ]
        found = (transform_view(transform, kind, group.specs) for transform in fitting)
        return tuple(view for view in found if view is not None)

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
        elif matches(self.request.allow_missing, key) or matches(self.request.allow_missing, key[1:]):
            self.allowed_missing.append(key)
        else:
            self.missing.append(key)

    def _tie(self, ties: Mapping[Key, Key]) -> None:
        """Make the template's ties: each names one tensor, and what would fill it must agree."""
        known = self.request.state.metadata.ties
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

    def _same(self, kept: Filled, given: Filled, target: Key) -> Step:
        ops = (Lanes((kept.ops, given.ops)), Same(2)) if kept.ops or given.ops else (Same(2),)
        return Step((kept.source, given.source), (target,), ops, kept.kind, kept.evidence)


def _identity(reading: Reading) -> object:
    transform = reading.transform.name if reading.transform else None
    candidates = tuple(c.name if c is not None else None for c in reading.candidates)
    return (reading.evidence, transform, candidates, reading.claimed)
