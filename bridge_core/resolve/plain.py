"""Neutral -> a framework without a template: write what is decided, in the framework's usual spelling."""

from __future__ import annotations

from bridge_core.keys import Key
from bridge_core.ops import Fill
from bridge_core.plan import Plan, Step
from bridge_core.resolve.assembly import Assembly, Request, open_options
from bridge_core.resolve.groups import collection_of_role
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.settle import Outcome
from bridge_core.resolve.writing import plain_outcomes

__all__ = ["Plain"]


class Plain(Assembly):
    """A plan that keeps the source's paths."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._written_as: dict[int, tuple[Outcome, ...]] = {}

    def resolve(self) -> Plan:
        """Return the plan, problems included."""
        form = self._form()
        for layer in self.request.layers.values():
            outcomes = self._possible(layer)
            guessed = len(outcomes) > 1 and self.request.accept_guesses
            if guessed:
                outcomes = self.guessed(layer, outcomes)
            if len(outcomes) != 1:
                self._refuse(layer, outcomes)
                continue
            outcome = outcomes[0]
            evidence = "guess" if guessed else layer.evidence
            path = layer.group.path
            names: dict[str, Key] = {}
            for role, place in outcome.target.leaves.items():
                head = self._collection(layer, outcome, role, place.name)
                rest = (*path, *place.name.split("."))
                names[place.name] = (head, *rest) if form == "variables" else rest
                if form != "variables" and head != self._usual(outcome, role):
                    self.collections[names[place.name]] = head
            self.take(layer, outcome, evidence, names)
            self.leave(layer, outcome.unexpected or {})
            self.keep_info(path, layer, outcome, evidence, tuple(names))
            self._restore(layer, outcome, form)
        empty = (
            self.request.state.metadata.empty
            if self.framework.name in self.request.state.metadata.forms
            else ()
        )
        return self.plan(form, empty)

    def _possible(self, layer: NeutralLayer) -> tuple[Outcome, ...]:
        key = id(layer.views)
        outcomes = self._written_as.get(key)
        if outcomes is None:
            outcomes = self._written_as[key] = plain_outcomes(
                layer, self.framework.name, self.request.transforms, self.request.registry.kinds
            )
        return outcomes

    def _refuse(self, layer: NeutralLayer, outcomes: tuple[Outcome, ...]) -> None:
        options = open_options(outcomes) or (f"{layer.kind}: no form in {self.framework.name}",)
        for name in layer.claimed:
            self.ambiguous[layer.group.keys[name]] = options

    def _form(self) -> str:
        if not self.framework.collections:
            return ""
        known = self.request.state.metadata.forms.get(self.framework.name)
        if known is not None:
            return known
        default = next(iter(self.framework.collections))
        for layer in self.request.layers.values():
            for name, key in layer.group.keys.items():
                kind = layer.kind if name in layer.claimed else None
                usual = collection_of_role(self.framework, kind, name)
                if self.request.state.metadata.collections.get(key, usual) != default:
                    return "variables"
        return "params"

    def _usual(self, outcome: Outcome, role: tuple[bool, str]) -> str:
        return collection_of_role(self.framework, outcome.target.kind if role[0] else None, role[1])

    def _collection(self, layer: NeutralLayer, outcome: Outcome, role: tuple[bool, str], name: str) -> str:
        usual = self._usual(outcome, role)
        source = outcome.source.leaves.get(role)
        if source is None or not self.framework.collections:
            return usual
        return self.request.state.metadata.collections.get(layer.group.keys[source.name], usual)

    def _restore(self, layer: NeutralLayer, outcome: Outcome, form: str) -> None:
        """Add the residuals that this framework has a place for and the source lacks."""
        transform = self.request.registry.transforms.get(outcome.target.transform or "")
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
