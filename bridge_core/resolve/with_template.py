"""Neutral -> a framework with a template: match paths, match leaves, fill every key of the template.

The template's names and shapes are evidence too: they may decide a layer that the source leaves undecided,
and they show whether a layer that holds layers, as an attention does, is written as one or in parts.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from bridge_core.layers import LayerTransform, from_neutral_ops
from bridge_core.ops import Drop, Fill, Made, chain_specs, equal_or_refused, made_by
from bridge_core.plan import Dropped, Mismatch, Plan, Step
from bridge_core.resolve.alignment import Alignment, Sides
from bridge_core.resolve.crossing import misfit_text
from bridge_core.resolve.evidence import PARAMETER, Detection
from bridge_core.resolve.grouping import Group
from bridge_core.resolve.interpretations import (
    Interpretation,
    native_interpretations,
)
from bridge_core.resolve.layer_order import running_order
from bridge_core.resolve.leaf_matching import Outcome, is_complete, match_leaves
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.open_outcomes import differing_splits, guessed, is_order_open, open_options
from bridge_core.resolve.partial_layers import partial_source, partial_target
from bridge_core.resolve.plan_builder import PlanBuilder
from bridge_core.resolve.request import Request
from bridge_core.state import FlatState, Key, TensorSpec, Ties, VariableCollections, join_key

__all__ = ["WithTemplate"]


class _Reading(NamedTuple):
    """Every way to read a layer of the template; ``family`` is as of a `NeutralLayer`."""

    interpretations: tuple[Interpretation, ...]
    family: object


class WithTemplate(PlanBuilder):
    """A plan towards the keys of a template."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._collections = VariableCollections()
        self._outcomes: dict[object, tuple[Outcome, ...]] = {}
        self._read: dict[object, _Reading] = {}
        self._read_before: dict[tuple[int, int], _Reading] = {}
        self._complete: dict[tuple[object, object], tuple[Outcome, str]] = {}
        self._differing_targets: set[Key] = set()

    def resolve(self, like: FlatState, collections: VariableCollections) -> Plan:
        """Return the plan, problems included.

        Args:
            like: The template.
            collections: The collections of its keys.
        """
        self._collections = collections
        by_rules = self.request.ordered.targets
        keys = {name: key for key, name in collections.names(like).items()} if by_rules else {}
        self.apply_rules(keys.__getitem__)
        ruled = {keys[name] for name in by_rules}
        rest = like.select(lambda key: key not in ruled) if ruled else like
        sides = Alignment(self.request, self.detector, collections).of(rest)
        self._note_prefix(sides.match.removed, "removed from")
        self._note_prefix(sides.match.added, "added to")
        self.rivals = sides.match.rivals
        self.axis_order.order = functools.partial(running_order, sides.layers, like, sides.match.targets)
        self.axis_order.collections, self.axis_order.has_template = collections, True
        reached: set[Key] = set()
        targets, groups, detections = sides.match.targets, sides.groups, sides.detections
        for path, layer in sides.layers.items():
            target_path = targets.get(path)
            if target_path is not None:
                group, detection = groups[target_path], detections[target_path]
                reading = self._reading(group, detection)
                complete = self._complete.get((layer.family, reading.family))
                if complete is not None:
                    reached.add(target_path)
                    self.move_leaves(layer, *complete, group.keys, templated=True)
                    self.note_info(group.path, layer, *complete, tuple(group.keys))
                elif not self.refuses(layer):
                    reached.add(target_path)
                    self._match_layer(layer, group, detection, reading)
            elif not self.refuses(layer):
                self.leave_out(layer, layer.group.keys)
        if len(reached) < len(sides.groups):
            for path, group in sides.groups.items():
                if path not in reached:
                    for name, key in group.keys.items():
                        self._unfilled(key, group, name, sides.detections[path])
        # A tie between layers of other axes, as a file records it, is not one tensor: both are filled.
        self._tie(Ties.aliases(like), ruled)
        if self.missing and self.unexpected:
            self._propose(sides)
        form = (
            "variables" if collections.present else like.metadata.tree_form.get(self.framework.name, "params")
        )
        filled = self.filled
        self.filled = {key: step for key in like if (step := filled.get(key)) is not None}
        order = {key: i for i, key in enumerate(like)} if self.shared else {}
        self.shared.sort(key=lambda step: min(order[key] for key in step.targets))
        plan = self.plan(form, like.metadata.empty, like.metadata.separator(self.framework.name))
        unfilled = {key: like.spec(key) for key in (*plan.missing, *plan.allowed_missing) if key in like}
        return replace(plan, problems=replace(plan.problems, unfilled_specs=unfilled))

    def _note_prefix(self, prefix: Key, what: str) -> None:
        if prefix:
            self.notes.append(f"the prefix {join_key(prefix)!r} was {what} the source's names")

    def _reading(self, group: Group, detection: Detection) -> _Reading:
        """Return every way to read a layer of the template."""
        same = (id(group.shapes), id(detection))  # which both live as long as the plan is made
        reading = self._read_before.get(same)
        if reading is None:
            signature = (group.shapes, _identity(detection))
            reading = self._read.get(signature)
            if reading is None:
                kinds = self.request.registry.kinds
                interpretations = native_interpretations(detection, kinds, group.specs)
                reading = self._read[signature] = _Reading(interpretations, object())
            self._read_before[same] = reading
        return reading

    def _propose(self, sides: Sides) -> None:
        """Look for rename rules that pair what is left."""
        from bridge_core.resolve.proposals import Remains, proposed_renames

        auxiliary_tensors = frozenset(role for _, role in self.auxiliary_tensors)

        def fits(source: Key, target: Key) -> bool:
            layer, group, detection = sides.layers[source], sides.groups[target], sides.detections[target]
            outcomes = self._possible(layer, group, detection, self._reading(group, detection))
            return any(is_complete(outcome, auxiliary_tensors) for outcome in outcomes)

        def kept_name(layer: NeutralLayer) -> bool:
            path, origin = layer.group.path, self.request.origin
            names = (origin.get(key, key) for key in layer.group.keys.values())
            return all(path in (name[: len(path)], name[1 : len(path) + 1]) for name in names)

        unexpected, missing = frozenset(self.unexpected), frozenset(self.missing)
        remains = Remains(sides, unexpected, missing, self.used, self.filled, fits, kept_name)
        self.proposal = proposed_renames(remains)

    def _match_layer(
        self, layer: NeutralLayer, group: Group, detection: Detection, reading: _Reading
    ) -> None:
        lost = self.lost_layout(layer)
        if lost and detection.evidence not in ("rule", "module", "metadata"):
            self.unsupported.update((layer.group.keys[name], lost) for name in layer.leaves)
            return
        outcomes = self._possible(layer, group, detection, reading)
        recorded = layer.transforms.get(self.framework.name)
        if len(outcomes) > 1 and recorded is not None:
            outcomes = tuple(o for o in outcomes if o.target.transform == recorded) or outcomes
        if len(outcomes) == 1 and is_order_open(layer, detection, outcomes[0], self.request.registry):
            kinds: tuple[str, ...] = (outcomes[0].source.kind, PARAMETER)
            if not self.request.permissions.accept_guesses:
                self.ambiguous.update((layer.group.keys[name], kinds) for name in layer.leaves)
                return
            is_guess = True
        else:
            is_guess = len(outcomes) > 1 and self.request.permissions.accept_guesses
        if len(outcomes) > 1 and is_guess:
            outcomes = guessed(layer, outcomes, self.request.registry)
        if len(outcomes) > 1:
            kinds = open_options(outcomes)
            for name in layer.leaves:
                self.ambiguous[layer.group.keys[name]] = kinds
            return
        if not outcomes:
            for misfits, place in ((layer.misfits, layer.group), (detection.misfits, group)):
                if misfits:
                    self.misfits.setdefault(misfit_text(misfits, place.specs), join_key(place.path))
            self.leave_out(layer, layer.group.keys)
            for name, target in group.keys.items():
                self._unfilled(target, group, name, detection)
            return
        (outcome,) = outcomes
        differing = differing_splits(layer, detection, outcome)
        if differing:
            self.unsupported.update((layer.group.keys[name], differing) for name in layer.leaves)
            return
        transform = self.request.registry.transforms.get(outcome.target.transform or "")
        evidence = layer.evidence
        if is_guess:
            evidence = "guess"
        elif outcome.source.kind not in (layer.kind, PARAMETER) or (
            layer.kind is None and evidence != "rule"
        ):
            evidence = "module" if detection.evidence == "module" else "template"
        if not (is_guess or outcome.mismatched or outcome.missing or outcome.unexpected or outcome.stored):
            self._complete[layer.family, reading.family] = (outcome, evidence)
        self.move_leaves(layer, outcome, evidence, group.keys, templated=True)
        for source_name, name in outcome.mismatched:
            keys = (layer.group.keys[source_name], group.keys[name])
            found = layer.group.specs[source_name]
            shape = self._written_shape(outcome, source_name, name, transform, detection)
            found = TensorSpec(shape, found.dtype) if shape is not None else found
            self._differing(Mismatch(*keys, found, group.specs[name]))
        for name, roles in outcome.missing.items():
            if all(role[0] and role[1] in outcome.target.zeros for role in roles):
                self.fill_zeros(group.keys[name], group.specs[name], outcome.target.kind, roles)
            else:
                self._unfilled(group.keys[name], group, name, detection, layer, transform)
        stored = set(self._stored_parts(layer, outcome, group.path))
        rest = [name for name in outcome.unexpected if name not in stored]
        self.leave_out(layer, rest, group.path, transform)
        self.store_summands(layer, outcome, group.path)
        self.note_info(group.path, layer, outcome, evidence, tuple(group.keys))

    def _possible(
        self, layer: NeutralLayer, group: Group, detection: Detection, reading: _Reading
    ) -> tuple[Outcome, ...]:
        families = (layer.family, reading.family)
        outcomes = self._outcomes.get(families)
        if outcomes is None:
            interpretations = reading.interpretations
            # A bare params tree holds a batch norm without its statistics, which then looks like a norm.
            if not any(interpretation.kind == layer.kind for interpretation in interpretations):
                interpretations += self._partial_readings(layer, group, detection, needs_module=False)
            # A library's own linear layer may have a counterpart of the library's own, with other axes.
            layouts = map(self.request.registry.transforms.get, layer.transforms.values())
            if any(layout is not None and layout.needs_module for layout in layouts):
                interpretations += self._partial_readings(layer, group, detection, needs_module=True)
            auxiliary_tensors = frozenset(role for _, role in self.auxiliary_tensors)
            readings = self._source_readings(layer, detection)
            outcomes = match_leaves(readings, interpretations, auxiliary_tensors)
            self._outcomes[families] = outcomes
        return outcomes

    def _partial_readings(
        self, layer: NeutralLayer, group: Group, detection: Detection, *, needs_module: bool
    ) -> tuple[Interpretation, ...]:
        """Return the readings of a template as the source's kind, where its own leaves prove nothing."""
        kind = self.request.registry.kinds.get(layer.kind or "")
        if kind is None:
            return ()
        transforms = self.request.transforms
        return partial_target(layer, kind, group, detection, transforms, needs_module=needs_module)

    def _source_readings(self, layer: NeutralLayer, detection: Detection) -> tuple[Interpretation, ...]:
        """Return the readings of a source, also as a part of what the template is."""
        readings, registry = layer.interpretations, self.request.registry
        if detection.transform is None or any(r.kind == detection.transform.kind for r in readings):
            return readings
        kind = registry.kinds[detection.transform.kind]
        return (*readings, *partial_source(layer, kind, registry.transforms_of))

    def _written_shape(
        self,
        outcome: Outcome,
        source_name: str,
        name: str,
        transform: LayerTransform | None,
        detection: Detection,
    ) -> tuple[int, ...] | None:
        """Return the shape that a leaf would have in the template's axes; None if that is not known."""
        leaf = transform.by_name().get(name) if transform is not None else None
        if leaf is None or transform is None or len(leaf.roles) > 1:
            return None
        (role,) = leaf.roles
        use = outcome.source.leaves.get((True, role))
        if use is None or use.name != source_name:
            return None
        axes = self.request.registry.kinds[transform.kind].leaves[role]
        splits = tuple({**detection.axis_splits, **outcome.target.axis_splits}.items())
        written = from_neutral_ops(leaf, axes, use.shape, len(use.shape), axis_splits=splits)
        return written[1] if written is not None else None

    def _stored_parts(self, layer: NeutralLayer, outcome: Outcome, path: Key) -> Iterator[str]:
        """Let the metadata store what only the template shows to be an auxiliary tensor; yield the names."""
        kind = outcome.source.kind
        for name, (is_role, role) in outcome.unexpected.items():
            if is_role and kind != layer.kind and (kind, role) in self.auxiliary_tensors:
                key, spec = layer.group.keys[name], layer.group.specs[name]
                self.constants.append(Step((key,), (), (Drop(0, spec),), kind, "residual", (*path, role)))
                self.dropped.append(Dropped(key, "stored in the metadata", kept=True))
                yield name

    def _differing(self, mismatch: Mismatch) -> None:
        """Account for leaves that match and differ in shape: if that is allowed, both are left out."""
        target = mismatch.target
        if self.request.permissions.may_differ(*self._collections.spellings(target)):
            reason = f"allowed to differ: {mismatch.found}, where the target has {mismatch.expected}"
            self.dropped.append(Dropped(mismatch.source, reason))
            if target not in self._differing_targets:  # which each part of a fused tensor does
                self._differing_targets.add(target)
                self.allowed_missing.append(target)
        else:
            self.mismatched.append(mismatch)

    def _unfilled(
        self,
        key: Key,
        group: Group,
        name: str,
        detection: Detection,
        layer: NeutralLayer | None = None,
        form: LayerTransform | None = None,
    ) -> None:
        """Account for a target key without a source: restored, allowed, refused with a reason, or missing."""
        transform = detection.transform or form
        leaf = transform.by_name().get(name) if transform is not None else None
        role = leaf.role if leaf is not None and isinstance(leaf.role, str) else ""
        kind = transform.kind if transform is not None else ""
        auxiliary = self.auxiliary_tensors.get((kind, role))
        unsupported = self._why_unsupported(layer, role)
        if auxiliary is not None:
            neutral = (*group.path, role)
            fill = Fill(0, TensorSpec(auxiliary.shape, auxiliary.dtype))
            self.constants.append(Step((), (key,), (fill,), kind, "residual", neutral))
        elif self.request.permissions.may_miss(*self._collections.spellings(key)):
            self.allowed_missing.append(key)
        elif unsupported:
            self.unsupported[key] = unsupported
        else:
            self.missing.append(key)

    def _why_unsupported(self, layer: NeutralLayer | None, role: str) -> str:
        """Return why the framework that a layer comes from has no such leaf; empty if it has."""
        for name in layer.transforms.values() if layer is not None else ():
            transform = self.request.registry.transforms.get(name)
            if transform is not None and role in transform.unsupported_leaves:
                return transform.unsupported_leaves[role]
        return ""

    def _tie(self, ties: Ties, ruled: Collection[Key]) -> None:
        """Make the template's ties: each group is one tensor, and all that would fill it must agree.

        A rule that makes both keys decides both; one that makes only the canonical key fills the tied keys.
        """
        for canonical, tied_keys in ties.groups().items():
            tied = [key for key in tied_keys if key not in ruled]
            if canonical in ruled:
                unfilled = [key for key in tied if key not in self.filled]
                self.missing = [key for key in self.missing if key not in unfilled]
                self.ties.update(dict.fromkeys(unfilled, canonical))
            elif tied:
                self._tie_group(canonical, tied)

    def _same_specs(self, fills: Sequence[Step], target: Key) -> bool:
        """Note fills of one tensor that differ in shape or dtype; return whether none does."""
        specs = self.request.state.specs()
        made = [chain_specs(tuple(specs[key] for key in fill.sources), fill.ops)[0] for fill in fills]
        differing = [(fill, spec) for fill, spec in zip(fills, made, strict=True) if spec != made[0]]
        self.mismatched += [Mismatch(fill.sources[0], target, spec, made[0]) for fill, spec in differing]
        return not differing

    def _tie_group(self, canonical: Key, tied: Sequence[Key]) -> None:
        """Make one tensor of all its keys, from whichever of them the source fills."""
        keys = (canonical, *tied)
        fills = [self.filled.pop(key) for key in keys if key in self.filled]
        if not fills:
            if self._differing_targets.intersection(keys):  # they are one tensor, and it may differ
                self.allowed_missing += [key for key in keys if key in self.missing]
                self.missing = [key for key in self.missing if key not in keys]
            return
        self.missing = [key for key in self.missing if key not in keys]
        self.allowed_missing = [key for key in self.allowed_missing if key not in keys]
        self.ties.update(dict.fromkeys(tied, canonical))
        distinct: list[Step] = []
        source_of: dict[tuple[Key, Made], Key] = {}
        for fill in fills:
            if len(fill.sources) == 1:
                (source,) = fill.sources
                made = made_by(self.request.state.tensor(source), fill.ops)
                first = source_of.setdefault((self.source_ties.root(source), made), source)
                if first != source:
                    del self.used[source]
                    self.dropped.append(Dropped(source, f"tied to {join_key(first)}", first))
                    continue
            distinct.append(fill)
        if len(distinct) > 1:
            if self._same_specs(distinct, canonical):
                ops = equal_or_refused([(f.sources, f.ops) for f in distinct], canonical, self.request.shown)
                sources = tuple(source for fill in distinct for source in fill.sources)
                first_fill = distinct[0]
                self.constants.append(
                    Step(
                        sources, (canonical,), ops, first_fill.kind, first_fill.evidence, rule=first_fill.rule
                    )
                )
            return
        self.filled[canonical] = replace(distinct[0], targets=(canonical,))
        self.used.update(dict.fromkeys(distinct[0].sources, canonical))


def _identity(detection: Detection) -> object:
    transform = detection.transform.name if detection.transform else None
    candidates = tuple(c.name if c is not None else None for c in detection.candidates)
    misfits = bool(detection.misfits)  # which are not read in other layouts
    splits = tuple(detection.axis_splits.items())
    leaves, doubted = detection.leaves, detection.doubted
    return (detection.evidence, transform, candidates, leaves, splits, misfits, doubted)
