"""Building a plan towards a framework: what fills which key, what is left out, and why.

With a template and without one, the same things can become of a layer; both ways note them here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.errors import PlanError
from bridge_core.layers import LayerTransform
from bridge_core.ops import NEGATIVE_ZERO, Drop, Fill, Op, chain_specs, equal_or_refused, simplify_chain
from bridge_core.plan import Dropped, Mismatch, Plan, PlanProblems, Proposal, Rivals, Step, quick_step
from bridge_core.plugins import missing_provider
from bridge_core.resolve.axis_order import AxisOrder
from bridge_core.resolve.carried_names import carried_boxes, carried_separators
from bridge_core.resolve.crossing import Crossing, misfit_ways
from bridge_core.resolve.evidence import PARAMETER, Detector
from bridge_core.resolve.interpretations import Role
from bridge_core.resolve.layer_info import is_usual
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.request import Request
from bridge_core.resolve.tied_sources import is_one, turn_between
from bridge_core.state import Key, LayerInfo, TensorSpec, Ties, join_key, leaf_path

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["PlanBuilder"]


class PlanBuilder:
    """Collects how every layer is converted; `plan` makes a plan of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.framework = request.framework
        self.auxiliary_tensors: dict[tuple[str, str], TensorSpec] = {
            (kind.name, role): spec
            for kind in request.registry.kinds.values()
            for role, spec in kind.auxiliary_tensors.items()
        }
        self.detector = Detector(request.transforms, self.framework.name)
        self.source_ties = Ties(request.state.metadata.ties)
        self._added_roles = {
            (transform.kind, role)
            for transform in request.registry.transforms.values()
            for leaf in transform.leaves
            for role in leaf.added_leaves
        }
        waiting = {key for rule in request.state.metadata.rules or () for key in rule.pending}
        self.crossing = Crossing(
            request.registry, request.framework.name, request.permissions, request.names_of, waiting
        )
        self._proven: dict[tuple[int, bool], bool] = {}
        self._infos_of_alike: dict[object, LayerInfo | None] = {}
        self._is_usual = functools.cache(functools.partial(is_usual, request.registry))
        self.owners: dict[Key, Rule] = {}
        self.filled: dict[Key, Step] = {}
        self.constants: list[Step] = []
        self.shared: list[Step] = []
        self.keeps: list[Step] = []
        self.unsupported: dict[Key, str] = {}
        self.used: dict[Key, Key] = {}
        self.dropped: list[Dropped] = []
        self.unexpected: list[Key] = []
        self.missing: list[Key] = []
        self.allowed_missing: list[Key] = []
        self.mismatched: list[Mismatch] = []
        self.ambiguous: dict[Key, tuple[str, ...]] = {}
        self.infos: dict[Key, LayerInfo] = {}
        self.unusual_collections: dict[Key, str] = {}
        self.ties: dict[Key, Key] = {}
        self._untied_ops: dict[Key, tuple[Op, ...]] = {}
        self._turns: dict[Key, list[tuple[Key, tuple[Op, ...]]]] = {}
        self.notes: list[str] = []
        self.axis_order = AxisOrder(request.registry, request.framework, request.origin, request.shown)
        self.rivals: Rivals | None = None
        self.proposal: Proposal | None = None
        self.misfits: dict[str, str] = {}

    def apply_rules(self, target_key: Callable[[Key], Key]) -> None:
        """Do what rules order.

        Args:
            target_key: Gives the target's key for a name without a collection.
        """
        ordered = self.request.ordered
        for bound in ordered.bound_rules:
            targets = tuple(map(target_key, bound.targets))
            step = Step(bound.sources, targets, bound.ops, PARAMETER, "rule", rule=bound.rule.label)
            self.shared.append(step)
            self.owners.update(dict.fromkeys(targets, bound.rule))
            self.used.update((source, targets[0]) for source in bound.sources)
        for name, step in ordered.fills.items():
            self.constants.append(replace(step, targets=(target_key(name),)))
        self.allowed_missing += map(target_key, ordered.absent)

    def move_leaves(
        self,
        layer: NeutralLayer,
        outcome: Outcome,
        evidence: str,
        names: Mapping[str, Key],
        *,
        templated: bool = False,
    ) -> None:
        """Let the leaves that an outcome moves fill their targets.

        Args:
            layer: The source's layer.
            outcome: How it is converted.
            evidence: The evidence that decided it.
            names: Leaf name in the target -> key.
            templated: Whether a template has the targets, under these names and in these shapes.
        """
        self.axis_order.add(layer, outcome, names)
        key_of, target_of = layer.group.keys.__getitem__, names.__getitem__
        rule = layer.rule if evidence == "rule" else ""
        for kind, is_summand, (source_names, target_names, ops) in outcome.moves_with_kinds:
            sources, targets = tuple(map(key_of, source_names)), tuple(map(target_of, target_names))
            leaf_evidence = evidence
            if kind == PARAMETER:
                leaf_evidence = self.crossing.evidence(layer, source_names[0], evidence, templated=templated)
            auxiliary = sources[0] if is_summand else None
            step = quick_step(sources, targets, ops, kind, leaf_evidence, auxiliary, rule)
            if len(targets) == 1:
                self.filled[targets[0]] = step
            else:
                self.shared.append(step)
            for source in sources:
                self.used[source] = targets[0]

    def store_summands(self, layer: NeutralLayer, outcome: Outcome, path: Key) -> None:
        """Let the metadata store what the target only holds in sums, under the layer's path there."""
        for keep in outcome.stored:
            sources = tuple(layer.group.keys[name] for name in keep.sources)
            key = leaf_path(path, keep.role)
            self.keeps.append(Step(sources, (), keep.ops, outcome.source.kind, "residual", key))

    def leave_out(
        self,
        layer: NeutralLayer,
        names: Iterable[str],
        path: Key | None = None,
        form: LayerTransform | None = None,
    ) -> None:
        """Account for source leaves without a target: stored, allowed, refused with a reason, or unexpected.

        Args:
            layer: The source's layer.
            names: The leaves.
            path: The layer's path in the target, under which the metadata stores auxiliary tensors.
            form: The target's transform of the layer.
        """
        path = layer.group.path if path is None else path
        for name in names:
            key = layer.group.keys[name]
            kind = layer.kind if name in layer.leaves else None
            if kind is not None and (kind, name) in self.auxiliary_tensors:
                drop = Drop(0, layer.group.specs[name])
                self.constants.append(Step((key,), (), (drop,), kind, "residual", (*path, name)))
                self.dropped.append(Dropped(key, "stored in the metadata", kept=True))
            elif self.request.permissions.may_leave_out(*self.request.names_of(key)):
                self.dropped.append(Dropped(key, "allowed as unexpected"))
            elif form is not None and name in form.unsupported_leaves:
                self.unsupported[key] = form.unsupported_leaves[name]
            elif kind not in (None, PARAMETER) and all(t.kind != kind for t in self.request.transforms):
                self.unsupported[key] = f"{self.framework.name} has no layer of the kind {kind}"
            else:
                self.unexpected.append(key)

    def fill_zeros(self, key: Key, spec: TensorSpec, kind: str, roles: Iterable[Role]) -> None:
        """Fill a target that has no effect if it is zero, and that the source does not have.

        What another framework adds to a second tensor gets the zero that changes no sum.
        """
        added = all((kind, role[1]) in self._added_roles for role in roles)
        fill = Fill(NEGATIVE_ZERO if added else 0, spec)
        self.constants.append(Step((), (key,), (fill,), kind, "zero"))

    def refuses(self, layer: NeutralLayer) -> bool:
        """Return whether a layer cannot be converted, whatever the template is, and note why."""
        if layer.missing and layer.origin != self.framework.name:
            why = missing_provider(
                layer.missing, self.request.state.metadata.providers, self.request.registry
            )
            self.unsupported.update(dict.fromkeys(layer.group.keys.values(), why))
            return True
        transform = layer.unsupported
        if transform is None or transform.framework == self.framework.name:
            return False
        self.unsupported.update((layer.group.keys[name], transform.unsupported) for name in layer.leaves)
        return True

    def lost_layout(self, layer: NeutralLayer) -> str:
        """Return that no plugin provides the layout that a layer had here; empty if one does."""
        name = layer.transforms.get(self.framework.name)
        if layer.kind is None or name is None or name in self.request.registry.transforms:
            return ""
        return (
            f"no installed plugin provides {name!r}, the layout that the layer had in {self.framework.name}"
        )

    def note_info(
        self,
        path: Key,
        layer: NeutralLayer,
        outcome: Outcome,
        evidence: str,
        names: tuple[str, ...],
    ) -> None:
        """Note for the target's metadata what a layer is, unless its names and shapes prove it anyway."""
        if layer.unclaimed or outcome.target.kind == PARAMETER:
            info = self._info(layer, outcome, evidence, names)
        else:
            has_children = layer.group.has_children
            signature = (layer.family, id(outcome), evidence, names, has_children)
            if signature not in self._infos_of_alike:
                self._infos_of_alike[signature] = self._info(layer, outcome, evidence, names)
            info = self._infos_of_alike[signature]
        if info is not None:
            self.infos[path] = info

    def _info(
        self, layer: NeutralLayer, outcome: Outcome, evidence: str, names: tuple[str, ...]
    ) -> LayerInfo | None:
        """Return the record of a layer; None if it needs none."""
        recorded = frozenset(layer.unclaimed)
        unclaimed = tuple(name for name in names if name in recorded)
        if outcome.source.kind == PARAMETER and layer.kind is None:
            return self._info_of_unclaimed(layer, unclaimed)
        target_is_parameters = outcome.target.kind == PARAMETER
        if target_is_parameters and unclaimed:
            names = tuple(name for name in names if name not in recorded)
        transforms = {
            framework: name
            for framework, name in layer.transforms.items()
            if framework != self.framework.name and not self._is_usual(framework, name)
        }
        is_plain = evidence != "guess" and not transforms and not layer.axis_splits
        proven = is_plain and self._is_proven(layer, outcome)
        proven = proven and self._comes_back(layer, unclaimed)
        if proven and not (target_is_parameters and self.crossing.would_be_refused(layer, names)):
            return None
        target = outcome.target
        leaves = tuple(dict.fromkeys(use.name for role, use in target.leaves.items() if role[0]))
        if target.transform is not None:
            transforms[self.framework.name] = target.transform
        axis_splits = {**layer.axis_splits, **target.axis_splits}
        return LayerInfo(
            target.kind,
            evidence,
            leaves or names,
            transforms=transforms,
            axis_splits=axis_splits,
            unclaimed=unclaimed,
            origin=(layer.origin if unclaimed else "") or self.framework.name * target_is_parameters,
        )

    def _comes_back(self, layer: NeutralLayer, unclaimed: tuple[str, ...]) -> bool:
        """Return whether the way back knows what to do with leaves without metadata."""
        crosses = bool(unclaimed) and layer.origin not in ("", self.framework.name)
        return not crosses or self.crossing.returns(layer, unclaimed)

    def _info_of_unclaimed(self, layer: NeutralLayer, names: tuple[str, ...]) -> LayerInfo | None:
        """Return the origin of copied leaves as a record, where their names would suggest another."""
        if not names or layer.origin in ("", self.framework.name):
            return None
        shapes = {name: layer.group.specs[name].shape for name in names}
        detection = self.detector.by_structure(shapes, layer.group.has_children)
        if detection.evidence != "unclaimed" or not self.crossing.returns(layer, names):
            return LayerInfo(None, "unclaimed", (), unclaimed=names, origin=layer.origin)
        return None

    def _is_proven(self, layer: NeutralLayer, outcome: Outcome) -> bool:
        key = (id(outcome), layer.group.has_children)
        if key not in self._proven:
            specs = layer.group.specs
            shapes = {
                name: spec.shape
                for move in outcome.moves
                for name, spec in zip(
                    move.targets, chain_specs(tuple(specs[n] for n in move.sources), move.ops), strict=True
                )
            }
            detection = self.detector.by_structure(shapes, layer.group.has_children)
            proven = detection.transform.name if detection.transform is not None else None
            self._proven[key] = not detection.candidates and proven == outcome.target.transform
        return self._proven[key]

    def plan(self, form: str, empty: tuple[Key, ...], separator: str = "") -> Plan:
        """Return the plan of everything gathered; the separator is that of a template."""
        unexpected = self._without_tied()
        ordered = self.request.ordered
        warnings = self.axis_order.warnings(ordered.state, (bound.sources for bound in ordered.bound_rules))
        self._check_owners()
        # A framework without collections has no empty nodes either: its metadata stores both for a way back.
        has_collections = bool(self.framework.collections)
        known = self.request.state.metadata
        metadata = known.with_(
            layers=self.infos,
            modules={},
            source_names={},
            ties={**self._carried_ties(), **self.ties},
            collections=self.unusual_collections if has_collections else self._carried(known.collections),
            boxes={} if has_collections else carried_boxes(self.used, known.boxes),
            separators=carried_separators(known, self.framework.name, separator),
            empty=empty if has_collections else known.empty,
            tree_form={**known.tree_form, **({self.framework.name: form} if form else {})},
        )
        return Plan(
            "neutral",
            self.framework.name,
            self.request.ordered.state.specs(),
            (*self.filled.values(), *self.shared, *self.constants),
            tuple(self.dropped),
            self.ties,
            PlanProblems(
                tuple(self.missing),
                unexpected,
                tuple(self.mismatched),
                self.ambiguous,
                self.unsupported,
                unexplained=self.crossing.refused,
                rivals=self.rivals,
                derived=frozenset(self.crossing.derived),
                ways=misfit_ways(self.misfits),
                proposal=self.proposal,
            ),
            tuple(self.allowed_missing),
            metadata,
            (*self.notes, *(warning.message for warning in warnings)),
            tuple(self.keeps),
            warnings=warnings,
        )

    def _check_owners(self) -> None:
        """Check that a rule and the automatic match do not fill one target."""
        sources_of = {target: f.sources for target, f in self.filled.items() if target in self.owners}
        for step in (*self.shared, *self.constants):
            if step.evidence != "rule":
                sources_of.update((key, step.sources) for key in step.targets if key in self.owners)
        for target, sources in sources_of.items():
            other = f"{self.request.shown(sources[0])!r} matches" if sources else "a constant fills"
            error = self.owners[target].error(f"the rule makes this tensor, and {other} it already.", target)
            error.hint = "Drop the source tensor by a rule, or remove this rule."
            raise error

    def _without_tied(self) -> tuple[Key, ...]:
        """Return the unexpected keys without those that are one tensor with a key that was moved.

        They are dropped where that is proved, and compared while the target is written where it is only said.
        """
        moved: dict[Key, Key] = {}
        for key in self.used if self.unexpected else ():
            moved.setdefault(self.source_ties.root(key), key)
        unexpected = []
        for key in self.unexpected:
            tied_to = moved.get(self.source_ties.root(key))
            if tied_to is not None and is_one(self.request.state, key, tied_to):
                self.dropped.append(Dropped(key, f"tied to {join_key(tied_to)}", tied_to))
            elif tied_to is None or not self._compare(key, tied_to):
                unexpected.append(key)
        return tuple(unexpected)

    def _compare(self, key: Key, moved: Key) -> bool:
        """Let a tensor be compared with the one that it is tied to; return False if that is not possible."""
        state, target = self.request.state, self.used[moved]
        fill = self.filled.get(target)
        turn = turn_between(state, self.request.registry, key, moved)
        if fill is None or fill.sources[:1] != (moved,) or turn is None:
            return False
        ops = self._untied_ops.setdefault(target, fill.ops)
        turns = self._turns.setdefault(target, [])
        parts = [((moved,), ops)]
        parts += [((other,), simplify_chain((*t, *ops))) for other, t in (*turns, (key, turn))]
        sources = (*fill.sources, key)
        equal = equal_or_refused(parts, target, self.request.shown)
        try:
            chain_specs(tuple(map(state.spec, sources)), equal)
        except PlanError:
            return False
        turns.append((key, turn))
        self.filled[target] = replace(fill, sources=sources, ops=equal)
        return True

    def _carried(self, names: Mapping[Key, str]) -> dict[Key, str]:
        return {self.used[key]: name for key, name in names.items() if key in self.used}

    def _carried_ties(self) -> dict[Key, Key]:
        return {
            self.used[key]: self.used[other]
            for key, other in self.request.state.metadata.ties.items()
            if key in self.used and other in self.used
        }
