"""Building a plan towards a framework: what fills which key, what is left, and why.

Shared by the two ways there, with a template and without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bridge_core.layers import LayerTransform
from bridge_core.ops import NEGATIVE_ZERO, Drop, Fill, Op, chain_specs
from bridge_core.plan import Dropped, Mismatch, Plan, PlanProblems, Step
from bridge_core.plugins import Framework, Registry
from bridge_core.resolve.evidence import PARAMETER, Reader, guess
from bridge_core.resolve.interpretations import Role
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.rule_instance import Claim
from bridge_core.rules import Permissions, Rule
from bridge_core.state import FlatState, Key, LayerInfo, TensorSpec, join_key

__all__ = ["Assembly", "Filled", "Request", "open_options"]


class Filled(NamedTuple):
    """What fills a target key."""

    sources: tuple[Key, ...]
    ops: tuple[Op, ...]
    kind: str
    evidence: str
    auxiliary: Key | None = None
    rule: str = ""


@dataclass(frozen=True)
class Ordered:
    """What rules order, whatever the layers are.

    Args:
        state: The neutral state with everything that rules take.
        claims: Uses of rules that move tensors.
        fills: Target, without a head -> the step that fills it with a constant.
        absent: Targets, without a head, that may stay unfilled.
    """

    state: FlatState
    claims: tuple[Claim, ...] = ()
    fills: Mapping[Key, Step] = field(default_factory=dict)
    absent: tuple[Key, ...] = ()

    @property
    def targets(self) -> frozenset[Key]:
        """The targets that rules account for, without heads."""
        made = (key for claim in self.claims for key in claim.targets)
        return frozenset((*made, *self.fills, *self.absent))


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        state: The neutral state.
        registry: Kinds, transforms and adapters.
        framework: The target's adapter.
        layers: The state's layers by path.
        permissions: What may be guessed and left out.
        origin: Neutral key -> key in the original source, which patterns also see.
        rules: Rules that fix kinds.
        ordered: What rules order; the state above is without what they take.
    """

    state: FlatState
    registry: Registry
    framework: Framework
    layers: Mapping[Key, NeutralLayer]
    permissions: Permissions
    origin: Mapping[Key, Key]
    rules: tuple[Rule, ...]
    ordered: Ordered

    @property
    def transforms(self) -> tuple[LayerTransform, ...]:
        """The target framework's transforms."""
        return self.registry.transforms_of.get(self.framework.name, ())


class Assembly:
    """A plan in the making."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.framework = request.framework
        self.auxiliary_tensors: dict[tuple[str, str], TensorSpec] = {
            (kind.name, role): spec
            for kind in request.registry.kinds.values()
            for role, spec in kind.auxiliary_tensors.items()
        }
        self.reader = Reader(request.transforms, self.framework.name)
        self._addends = {
            (transform.kind, role)
            for transform in request.registry.transforms.values()
            for leaf in transform.leaves
            for role in leaf.added_leaves
        }
        self._proven: dict[tuple[int, bool], bool] = {}
        self.owners: dict[Key, Rule] = {}
        self.filled: dict[Key, Filled] = {}
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
        self.collections: dict[Key, str] = {}
        self.ties: dict[Key, Key] = {}
        self.notes: list[str] = []

    def take(self, layer: NeutralLayer, outcome: Outcome, evidence: str, names: Mapping[str, Key]) -> None:
        """Let an outcome's leaves fill their targets."""
        roles = {place.name: role for role, place in outcome.source.leaves.items()}
        summed = {name for keep in outcome.keeps for name in keep.sources}
        rule = layer.rule if evidence == "rule" else ""
        for move in outcome.moves:
            sources = tuple(layer.group.keys[name] for name in move.sources)
            targets = tuple(names[name] for name in move.targets)
            kind = outcome.source.kind if roles[move.sources[0]][0] else PARAMETER
            kept = sources[0] if summed.intersection(move.sources) else None
            if len(targets) == 1:
                self.filled[targets[0]] = Filled(sources, move.ops, kind, evidence, kept, rule)
            else:
                self.shared.append(Step(sources, targets, move.ops, kind, evidence, kept, rule))
            self.used.update((source, targets[0]) for source in sources)

    def obey(self, place: Callable[[Key], Key]) -> None:
        """Do what rules order.

        Args:
            place: Gives the target's key for a name without a head.
        """
        ordered = self.request.ordered
        for claim in ordered.claims:
            targets = tuple(map(place, claim.targets))
            step = Step(claim.sources, targets, claim.ops, PARAMETER, "rule", rule=claim.rule.label)
            self.shared.append(step)
            self.owners.update(dict.fromkeys(targets, claim.rule))
            self.used.update((source, targets[0]) for source in claim.sources)
        for name, step in ordered.fills.items():
            self.constants.append(replace(step, targets=(place(name),)))
        self.allowed_missing += map(place, ordered.absent)

    def keep(self, layer: NeutralLayer, outcome: Outcome, path: Key) -> None:
        """Let the metadata keep what the target only holds in sums, under the layer's path there."""
        for kept in outcome.keeps:
            sources = tuple(layer.group.keys[name] for name in kept.sources)
            key = (*path, *kept.role.split("."))
            self.keeps.append(Step(sources, (), kept.ops, outcome.source.kind, "residual", key))

    def leave(
        self,
        layer: NeutralLayer,
        names: Iterable[str],
        path: Key | None = None,
        form: LayerTransform | None = None,
    ) -> None:
        """Account for source leaves that have no place: kept, allowed, refused with a reason, or unexpected.

        Args:
            layer: The source's layer.
            names: The leaves.
            path: The layer's path in the target, by which the target knows what it keeps for others.
            form: The target's form of the layer.
        """
        path = layer.group.path if path is None else path
        for name in names:
            key = layer.group.keys[name]
            if (
                layer.kind is not None
                and (layer.kind, name) in self.auxiliary_tensors
                and name in layer.claimed
            ):
                spec = layer.group.specs[name]
                step = Step((key,), (), (Drop(0, spec),), layer.kind, "residual", (*path, name))
                self.constants.append(step)
                self.dropped.append(Dropped(key, "kept in the metadata", kept=True))
            elif self.request.permissions.may_leave_out(key, self._origin(key)):
                self.dropped.append(Dropped(key, "allowed as unexpected"))
            elif form is not None and name in form.unsupported_leaves:
                self.unsupported[key] = form.unsupported_leaves[name]
            else:
                self.unexpected.append(key)

    def fill_zeros(self, key: Key, spec: TensorSpec, kind: str, roles: Iterable[Role]) -> None:
        """Fill a target that means nothing if it is zero, and that the source lacks.

        What another framework adds to a second tensor gets the zero that changes no sum.
        """
        added = all((kind, role[1]) in self._addends for role in roles)
        fill = Fill(NEGATIVE_ZERO if added else 0, spec)
        self.constants.append(Step((), (key,), (fill,), kind, "zero"))

    def refuse(self, layer: NeutralLayer) -> None:
        """Note that no other framework takes a layer, and why."""
        reason = layer.unsupported.unsupported if layer.unsupported is not None else ""
        self.unsupported.update((layer.group.keys[name], reason) for name in layer.claimed)

    def keep_info(
        self,
        path: Key,
        layer: NeutralLayer,
        outcome: Outcome,
        evidence: str,
        names: tuple[str, ...],
    ) -> None:
        """Note for the target's metadata what a layer is, unless its names and shapes prove it anyway."""
        if outcome.source.kind == PARAMETER and layer.kind is None:
            return
        transforms = {
            framework: name
            for framework, name in layer.transforms.items()
            if framework != self.framework.name and not self._is_usual(framework, name)
        }
        if not transforms and not layer.axis_splits and self._is_proven(layer, outcome):
            return
        claimed = tuple(dict.fromkeys(p.name for role, p in outcome.target.leaves.items() if role[0]))
        if outcome.target.transform is not None:
            transforms[self.framework.name] = outcome.target.transform
        axis_splits = {**layer.axis_splits, **outcome.target.axis_splits}
        self.infos[path] = LayerInfo(
            outcome.target.kind, evidence, claimed or names, transforms=transforms, axis_splits=axis_splits
        )

    def _is_usual(self, framework: str, name: str) -> bool:
        transforms = self.request.registry.transforms_of.get(framework, ())
        kind = next((t.kind for t in transforms if t.name == name), None)
        return name == next((t.name for t in transforms if t.kind == kind and not t.needs_module), None)

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
            reading = self.reader.by_structure(shapes, layer.group.has_children)
            found = reading.transform.name if reading.transform is not None else None
            self._proven[key] = not reading.candidates and found == outcome.target.transform
        return self._proven[key]

    def plan(self, form: str, empty: tuple[Key, ...]) -> Plan:
        """Return the plan of everything gathered."""
        unexpected = self._untied()
        self._check_owners()
        steps = [
            Step(f.sources, (target,), f.ops, f.kind, f.evidence, f.auxiliary, f.rule)
            for target, f in self.filled.items()
        ]
        tree_form = dict(self.request.state.metadata.tree_form)
        if form:
            tree_form[self.framework.name] = form
        # A framework without collections has no empty nodes either: both wait in its metadata for a way back.
        keeps = bool(self.framework.collections)
        metadata = self.request.state.metadata.with_(
            layers=self.infos,
            modules={},
            ties={**self._carried_ties(), **self.ties},
            collections=self.collections if keeps else self._carried_collections(),
            empty=empty if keeps else self.request.state.metadata.empty,
            tree_form=tree_form,
        )
        return Plan(
            "neutral",
            self.framework.name,
            self.request.ordered.state.specs(),
            (*steps, *self.shared, *self.constants),
            tuple(self.dropped),
            self.ties,
            PlanProblems(
                tuple(self.missing), unexpected, tuple(self.mismatched), self.ambiguous, self.unsupported
            ),
            tuple(self.allowed_missing),
            metadata,
            tuple(self.notes),
            tuple(self.keeps),
        )

    def _check_owners(self) -> None:
        """Check that no layer becomes what a rule makes.

        Raises:
            RuleError: One does.
        """
        made = {target: f.sources for target, f in self.filled.items() if target in self.owners}
        for step in (*self.shared, *self.constants):
            if step.evidence != "rule":
                made.update((key, step.sources) for key in step.targets if key in self.owners)
        for target, sources in made.items():
            other = f"{join_key(self._origin(sources[0]))!r} becomes" if sources else "a constant fills"
            raise self.owners[target].error(f"it makes this tensor, and {other} it by itself.", target)

    def _origin(self, key: Key) -> Key:
        return self.request.origin.get(key, key)

    def _untied(self) -> tuple[Key, ...]:
        """Let go of unexpected keys that share the values of a key that found its place."""
        ties = self.request.state.metadata.ties
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

    def _carried_collections(self) -> dict[Key, str]:
        collections = self.request.state.metadata.collections
        return {self.used[key]: name for key, name in collections.items() if key in self.used}

    def _carried_ties(self) -> dict[Key, Key]:
        return {
            self.used[key]: self.used[keeper]
            for key, keeper in self.request.state.metadata.ties.items()
            if key in self.used and keeper in self.used
        }

    def guessed(self, layer: NeutralLayer, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Choose among outcomes by the words of the layer's path."""
        named = {c.kind if c is not None else PARAMETER: c for c in layer.candidates}
        options = [named[o.source.kind] for o in outcomes if o.source.kind in named]
        if options:
            chosen = guess(layer.group.path, options)
            kind = chosen.kind if chosen is not None else PARAMETER
            fitting = [o for o in outcomes if o.source.kind == kind]
            return tuple(fitting[:1]) or outcomes[:1]
        transforms = [self.request.registry.transforms.get(o.target.transform or "") for o in outcomes]
        best = guess(layer.group.path, transforms)
        return (outcomes[transforms.index(best)],) if best in transforms else outcomes[:1]


def open_options(outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
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
