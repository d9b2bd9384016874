"""Building a plan towards a framework: what fills which key, what is left, and why.

Shared by the two ways there, with a template and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bridge_core.interfaces import Framework
from bridge_core.keys import Key, Pattern, join_key
from bridge_core.layers import LayerTransform
from bridge_core.metadata import LayerInfo
from bridge_core.ops import Drop, Op, chain_specs
from bridge_core.plan import Dropped, Mismatch, Plan, Step
from bridge_core.plugins import Registry
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.reading import PARAMETER, Reader, guess
from bridge_core.resolve.settle import Outcome
from bridge_core.rules import matches
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

__all__ = ["Assembly", "Filled", "Request", "open_options"]


class Filled(NamedTuple):
    """What fills a target key."""

    source: Key
    ops: tuple[Op, ...]
    kind: str
    evidence: str


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Args:
        state: The neutral state.
        registry: Kinds, transforms and adapters.
        framework: The target's adapter.
        layers: The state's layers by path.
        accept_guesses: Whether names may settle what no evidence does.
        allow_missing: Target keys that may stay unfilled.
        allow_unexpected: Source keys that may be left out.
        origin: Neutral key -> key in the original source, which patterns also see.
    """

    state: FlatState
    registry: Registry
    framework: Framework
    layers: Mapping[Key, NeutralLayer]
    accept_guesses: bool
    allow_missing: tuple[Pattern, ...]
    allow_unexpected: tuple[Pattern, ...]
    origin: Mapping[Key, Key]

    @property
    def transforms(self) -> tuple[LayerTransform, ...]:
        """The target framework's transforms."""
        return self.registry.transforms_of.get(self.framework.name, ())


class Assembly:
    """A plan in the making."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.framework = request.framework
        self.residuals: dict[tuple[str, str], TensorSpec] = {
            (kind.name, role): spec
            for kind in request.registry.kinds.values()
            for role, spec in kind.residuals.items()
        }
        self.reader = Reader(request.transforms, self.framework.name)
        self._proven: dict[tuple[int, bool], bool] = {}
        self.filled: dict[Key, Filled] = {}
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

    def take(self, layer: NeutralLayer, outcome: Outcome, evidence: str, names: Mapping[str, Key]) -> None:
        """Let an outcome's leaves fill their targets."""
        roles = {place.name: role for role, place in outcome.source.leaves.items()}
        for move in outcome.moves:
            source, target = layer.group.keys[move.source], names[move.target]
            is_layer = roles[move.source][0]
            kind = outcome.source.kind if is_layer else PARAMETER
            self.filled[target] = Filled(source, move.ops, kind, evidence)
            self.used[source] = target

    def leave(self, layer: NeutralLayer, names: Iterable[str], path: Key | None = None) -> None:
        """Account for source leaves that have no place: kept, allowed, or unexpected.

        Args:
            layer: The source's layer.
            names: The leaves.
            path: The layer's path in the target, by which the target knows what it keeps for others.
        """
        path = layer.group.path if path is None else path
        for name in names:
            key = layer.group.keys[name]
            if layer.kind is not None and (layer.kind, name) in self.residuals and name in layer.claimed:
                spec = layer.group.specs[name]
                step = Step((key,), (), (Drop(0, spec),), layer.kind, "residual", (*path, name))
                self.constants.append(step)
                self.dropped.append(Dropped(key, "kept in the metadata", kept=True))
            elif matches(self.request.allow_unexpected, key) or matches(
                self.request.allow_unexpected, self.request.origin.get(key, key)
            ):
                self.dropped.append(Dropped(key, "allowed as unexpected"))
            else:
                self.unexpected.append(key)

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
        forms = {
            framework: name
            for framework, name in layer.forms.items()
            if framework != self.framework.name and not self._is_usual(framework, name)
        }
        if not forms and self._is_proven(layer, outcome):
            return
        claimed = tuple(p.name for role, p in outcome.target.leaves.items() if role[0])
        if outcome.target.transform is not None:
            forms[self.framework.name] = outcome.target.transform
        self.infos[path] = LayerInfo(outcome.target.kind, evidence, claimed or names, forms=forms)

    def _is_usual(self, framework: str, name: str) -> bool:
        transforms = self.request.registry.transforms_of.get(framework, ())
        kind = next((t.kind for t in transforms if t.name == name), None)
        return name == next((t.name for t in transforms if t.kind == kind), None)

    def _is_proven(self, layer: NeutralLayer, outcome: Outcome) -> bool:
        key = (id(outcome), layer.group.has_children)
        if key not in self._proven:
            specs = layer.group.specs
            shapes = {m.target: chain_specs((specs[m.source],), m.ops)[0].shape for m in outcome.moves}
            reading = self.reader.by_structure(shapes, layer.group.has_children)
            found = reading.transform.name if reading.transform is not None else None
            self._proven[key] = not reading.candidates and found == outcome.target.transform
        return self._proven[key]

    def plan(self, form: str, empty: tuple[Key, ...]) -> Plan:
        """Return the plan of everything gathered."""
        unexpected = self._untied()
        steps = [Step((f.source,), (target,), f.ops, f.kind, f.evidence) for target, f in self.filled.items()]
        forms = dict(self.request.state.metadata.forms)
        if form:
            forms[self.framework.name] = form
        # A framework without collections has no empty nodes either: both wait in its metadata for a way back.
        keeps = bool(self.framework.collections)
        metadata = self.request.state.metadata.with_(
            layers=self.infos,
            modules={},
            ties={**self._carried_ties(), **self.ties},
            collections=self.collections if keeps else self._carried_collections(),
            empty=empty if keeps else self.request.state.metadata.empty,
            forms=forms,
        )
        return Plan(
            "neutral",
            self.framework.name,
            self.request.state.specs(),
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
