"""Neutral -> a framework without a template: write what is decided, in the framework's usual spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.axes import parse_axes
from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.ops import Fill
from bridge_core.plan import Plan, Step
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.grouping import collection_of_role, speller
from bridge_core.resolve.interpretations import Place, View, form_view
from bridge_core.resolve.leaf_matching import Move, Outcome, pair
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.plan_builder import Assembly, Request, open_options
from bridge_core.state import Key, TensorSpec

__all__ = ["Plain", "plain_outcomes"]


class Plain(Assembly):
    """A plan that keeps the source's paths."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._spelt = speller(self.framework)
        self._written_as: dict[int, tuple[Outcome, ...]] = {}

    def resolve(self) -> Plan:
        """Return the plan, problems included."""
        form = self._form()
        self.obey(lambda name: (self._head_of(name), *name) if form == "variables" else name)
        for layer in self.request.layers.values():
            if layer.unsupported is not None and layer.unsupported.framework != self.framework.name:
                self.refuse(layer)
                continue
            outcomes = self._possible(layer)
            guessed = len(outcomes) > 1 and self.request.permissions.accept_guesses
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
                rest = self._spelt(path, place.name)
                names[place.name] = (head, *rest) if form == "variables" else rest
                if form != "variables" and head != self._usual(outcome, role):
                    self.collections[names[place.name]] = head
            self.take(layer, outcome, evidence, names)
            self._fill_zeros(layer, outcome, names)
            self.leave(layer, outcome.unexpected)
            self.keep(layer, outcome, path)
            self.keep_info(path, layer, outcome, evidence, tuple(names))
            self._restore(layer, outcome, form)
        empty = (
            self.request.state.metadata.empty
            if self.framework.name in self.request.state.metadata.tree_form
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
        keys = [layer.group.keys[name] for name in layer.claimed]
        if outcomes:
            self.ambiguous.update(dict.fromkeys(keys, open_options(outcomes)))
            return
        self.unsupported.update(dict.fromkeys(keys, self._why_unspelt(layer)))

    def _why_unspelt(self, layer: NeutralLayer) -> str:
        """Tell why no form of the framework takes a layer whose kind is known."""
        here = self.framework.name
        transforms = [t for t in self.request.transforms if t.kind == layer.kind]
        if not transforms:
            return f"{here} has no form of {layer.kind}"
        kind = self.request.registry.kinds[layer.kind or ""]
        shapes = {name: layer.group.specs[name].shape for name in layer.claimed}
        for transform in transforms:
            lost = [
                transform.unsupported_leaves[role] for role in shapes if role in transform.unsupported_leaves
            ]
            if lost:
                return lost[0]
            held = {role for leaf in transform.leaves for role in (*leaf.roles, *leaf.added_leaves)}
            split = {
                axis.name for leaf in transform.leaves for axis in parse_axes(leaf.axes) if axis.split > 1
            }
            if held.issuperset(shapes) and not split <= set(layer.axis_splits):
                unknown = ", ".join(sorted(split - set(layer.axis_splits)))
                return (
                    f"{layer.kind}: nothing tells into how many parts {here} splits {unknown}; give the "
                    "target's shapes (--like FILE, or like=) or the module (--model PKG.MOD:FACTORY, "
                    "or module=)"
                )
        leaves = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        return f"no form of {kind.name} in {here} takes {leaves}"

    def _fill_zeros(self, layer: NeutralLayer, outcome: Outcome, names: Mapping[str, Key]) -> None:
        """Write zeros where the framework's form has leaves that mean nothing if they are zero."""
        for name, roles in outcome.missing.items():
            place = outcome.target.leaves[roles[0]]
            spec = TensorSpec(place.whole, layer.group.specs[layer.claimed[0]].dtype)
            self.fill_zeros(names[name], spec, outcome.target.kind, roles)

    def _form(self) -> str:
        if not self.framework.collections:
            return ""
        known = self.request.state.metadata.tree_form.get(self.framework.name)
        if known is not None:
            return known
        default = next(iter(self.framework.collections))
        moved = (key for claim in self.request.ordered.claims for key in claim.targets)
        if any(self._head_of(key) != default for key in moved):
            return "variables"
        for layer in self.request.layers.values():
            for name, key in layer.group.keys.items():
                kind = layer.kind if name in layer.claimed else None
                usual = collection_of_role(self.framework, kind, name)
                if self.request.state.metadata.collections.get(key, usual) != default:
                    return "variables"
        return "params"

    def _head_of(self, name: Key) -> str:
        """Return the collection of a tensor that a rule makes, of which only the name is known."""
        collections = self.framework.collections
        found = (head for head, roles in collections.items() if name[-1] in roles)
        return next(found, next(iter(collections)))

    def _usual(self, outcome: Outcome, role: tuple[bool, str]) -> str:
        return collection_of_role(self.framework, outcome.target.kind if role[0] else None, role[1])

    def _collection(self, layer: NeutralLayer, outcome: Outcome, role: tuple[bool, str], name: str) -> str:
        usual = self._usual(outcome, role)
        source = outcome.source.leaves.get(role)
        if source is None or not self.framework.collections:
            return usual
        return self.request.state.metadata.collections.get(layer.group.keys[source.name], usual)

    def _restore(self, layer: NeutralLayer, outcome: Outcome, form: str) -> None:
        """Add the auxiliary_tensors that this framework has a place for and the source lacks."""
        transform = self.request.registry.transforms.get(outcome.target.transform or "")
        if transform is None:
            return
        for leaf in transform.leaves:
            role = leaf.roles[0]
            spec = self.auxiliary_tensors.get((transform.kind, role))
            if spec is not None and (True, role) not in outcome.source.leaves:
                rest = self._spelt(layer.group.path, leaf.name)
                head = collection_of_role(self.framework, transform.kind, role)
                key = (head, *rest) if form == "variables" else rest
                step = Step((), (key,), (Fill(0, spec),), transform.kind, "residual")
                neutral = (*layer.group.path, role)
                self.constants.append(
                    Step(step.sources, step.targets, step.ops, step.kind, step.evidence, neutral)
                )


def plain_outcomes(
    layer: NeutralLayer,
    framework: str,
    transforms: Iterable[LayerTransform],
    kinds: Mapping[str, LayerKind],
) -> tuple[Outcome, ...]:
    """Return the outcomes that remain: one if the layer is settled, several or none if not.

    An undecided layer goes back to the framework that it came from exactly as it is.
    """
    if layer.kind is None and any(c is not None and c.framework == framework for c in layer.candidates):
        raw = next(view for view in layer.views if view.kind == PARAMETER)
        return (_as_is(raw),)
    found = []
    for view in layer.views:
        if view.fallback:
            continue
        outcome = (
            _as_is(view) if view.kind == PARAMETER else _spelt(view, layer, framework, transforms, kinds)
        )
        if outcome is not None:
            found.append(outcome)
    return tuple(found)


def _as_is(view: View) -> Outcome:
    moves = tuple(Move((place.name,), (role[1],), place.ops) for role, place in view.leaves.items())
    target = View(
        PARAMETER,
        None,
        {role: Place(role[1], (), place.shape) for role, place in view.leaves.items()},
    )
    return Outcome(view, target, moves)


def _spelt(
    view: View,
    layer: NeutralLayer,
    framework: str,
    transforms: Iterable[LayerTransform],
    kinds: Mapping[str, LayerKind],
) -> Outcome | None:
    preferred = layer.transforms.get(framework)
    of_kind = [t for t in transforms if t.kind == view.kind and not t.needs_template]
    options = [t for t in of_kind if t.name == preferred or not t.needs_module]
    options.sort(key=lambda t: t.name != preferred)
    for transform in options:
        outcome = _in_form(view, transform, kinds[view.kind])
        if outcome is not None:
            return outcome
    return None


def _in_form(view: View, transform: LayerTransform, kind: LayerKind) -> Outcome | None:
    """Return the outcome of writing a layer in a form; None if the form does not hold it whole."""
    shapes = {role[1]: place.shape for role, place in view.leaves.items() if role[0]}
    target = form_view(transform, kind, shapes, view.axis_splits)
    if target is None:
        return None
    beside = {role: Place(role[1], (), p.shape) for role, p in view.leaves.items() if not role[0]}
    whole = {**target.leaves, **beside}
    names = {place.name for place in target.leaves.values()}
    if names & {place.name for place in beside.values()}:
        return None
    outcome = pair(view, View(kind.name, transform.name, whole, False, target.axis_splits, target.zeros))
    lost = [role for role in outcome.unexpected.values() if role[1] not in kind.auxiliary_tensors]
    return None if lost else outcome
