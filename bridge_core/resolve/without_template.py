"""Neutral -> a framework without a template: every layer at its own path, in the framework's usual layout.

Only decided layers can be written so, since there are no target shapes to decide the others by.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bridge_core.axes import Shape, parse_axes
from bridge_core.layers import LayerKind, LayerTransform, usual_transforms
from bridge_core.ops import Fill
from bridge_core.plan import Plan, Step
from bridge_core.plugins import Relocating
from bridge_core.resolve.carried_names import box_of
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.grouping import key_maker
from bridge_core.resolve.interpretations import (
    Interpretation,
    LeafUse,
    Role,
    layout_interpretation,
    parameter_interpretation,
)
from bridge_core.resolve.leaf_matching import Move, Outcome, pair
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.open_outcomes import guessed, open_options
from bridge_core.resolve.plan_builder import PlanBuilder
from bridge_core.resolve.request import Request
from bridge_core.state import Key, TensorSpec, VariableCollections, key_family, leaf_path

__all__ = ["WithoutTemplate"]


class WithoutTemplate(PlanBuilder):
    """A plan in which every layer has its source's path."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._native_key = key_maker(self.framework)
        self._relocate = self.framework.spell if isinstance(self.framework, Relocating) else None
        self._outcomes: dict[object, tuple[Outcome, ...]] = {}
        self._copies: dict[tuple[tuple[str, Shape], ...], Outcome] = {}
        self._ends: dict[int, tuple[tuple[str, Key, Key], ...]] = {}
        self._guesses: dict[tuple[Any, ...], Outcome] = {}
        self._auxiliary: dict[str | None, tuple[tuple[str, str, TensorSpec], ...]] = {}
        self._ruled_collections = self._collections_of_rules()
        self._boxes = request.state.metadata.boxes if self.framework.collections else {}
        self._form = self._tree_form()
        # Without these, what is before and after its layer's path depends only on a leaf's name.
        recorded = self._boxes or (self.framework.collections and request.state.metadata.collections)
        self._has_recorded_names = bool(recorded)
        self._collections = VariableCollections(self.framework.collections, self._form == "variables")

    def resolve(self) -> Plan:
        """Return the plan, problems included."""
        self.apply_rules(self._ruled_key)
        self.axis_order.order = functools.partial(list, self.request.layers)
        self.axis_order.collections = self._collections
        for layer in self.request.layers.values():
            if self.refuses(layer):
                continue
            outcomes = () if self.lost_layout(layer) else self._possible(layer)
            if len(outcomes) == 1 and not layer.part_of:
                self._write(layer, outcomes[0], layer.evidence)
            else:
                self._write_open(layer, outcomes)
        metadata = self.request.state.metadata
        return self.plan(self._form, metadata.empty if self.framework.name in metadata.tree_form else ())

    def _write_open(self, layer: NeutralLayer, outcomes: tuple[Outcome, ...]) -> None:
        """Write a layer that is not decided, as far as that is allowed; else note why not."""
        permissions = self.request.permissions
        keys = [layer.group.keys[name] for name in layer.leaves]
        if layer.part_of and not permissions.accept_guesses:
            self.ambiguous.update(dict.fromkeys(keys, (layer.part_of, layer.kind or PARAMETER)))
        elif None in layer.candidates and keys and self.crossing.is_allowed(*keys):
            self._write(layer, self._copy(layer), "unclaimed")
        elif outcomes and permissions.accept_guesses:
            self._write(layer, self._guessed(layer, outcomes), "guess")
        elif layer.kind is None and layer.candidates:
            kinds = tuple(dict.fromkeys(c.kind if c is not None else PARAMETER for c in layer.candidates))
            self.ambiguous.update(dict.fromkeys(keys, open_options(outcomes) or kinds))
        elif outcomes:
            self.ambiguous.update(dict.fromkeys(keys, open_options(outcomes)))
        else:
            self.unsupported.update(dict.fromkeys(keys, self._why_unsupported(layer)))

    def _collections_of_rules(self) -> dict[Key, str]:
        if not self.request.ordered.bound_rules:
            return {}
        from bridge_core.resolve.printed_names import target_collections

        return target_collections(self.request.ordered.bound_rules)

    def _ruled_key(self, name: Key) -> Key:
        # Of a tensor that a rule makes, only the rule or the name shows the collection.
        collection = self._ruled_collections.get(name) or self._collections.of(PARAMETER, name[-1])
        return self._collections.join(collection, name)

    def _copy(self, layer: NeutralLayer) -> Outcome:
        """Return the outcome in which every leaf is copied unchanged, which layers that are alike share."""
        shapes = layer.group.shapes
        if shapes not in self._copies:
            self._copies[shapes] = _unchanged(parameter_interpretation(layer.group.specs))
        return self._copies[shapes]

    def _write(self, layer: NeutralLayer, outcome: Outcome, evidence: str) -> None:
        path = layer.group.path
        names = self._names(layer, outcome) if self._has_recorded_names else self._usual_names(path, outcome)
        self.move_leaves(layer, outcome, evidence, names)
        for name, roles in outcome.missing.items():
            use = outcome.target.leaves[roles[0]]
            spec = TensorSpec(use.full_shape, layer.group.specs[layer.leaves[0]].dtype)
            self.fill_zeros(names[name], spec, outcome.target.kind, roles)
        if outcome.unexpected:
            self.leave_out(layer, outcome.unexpected)
        self.store_summands(layer, outcome, path)
        self.note_info(path, layer, outcome, evidence, tuple(names))
        if self._auxiliary_leaves(outcome.target.transform):
            self._restore(layer, outcome)

    def _usual_names(self, path: Key, outcome: Outcome) -> dict[str, Key]:
        """Return the target's keys by leaf name, where no collections or boxes are recorded."""
        ends = self._ends.get(id(outcome))
        if ends is None:
            collections, target = self._collections, outcome.target
            kinds = {role: target.kind if role[0] else None for role in target.leaves}
            usual = {role: collections.of(kind, role[1]) for role, kind in kinds.items()}
            ends = self._ends[id(outcome)] = tuple(
                (use.name, collections.join(usual[role], ()), leaf_path((), use.name))
                for role, use in target.leaves.items()
            )
        names: dict[str, Key] = {}
        for name, first, last in ends:
            relocated = self._relocate(path, name) if self._relocate is not None else None
            names[name] = first + (path + last if relocated is None else relocated)
        return names

    def _names(self, layer: NeutralLayer, outcome: Outcome) -> dict[str, Key]:
        """Return the target's keys by leaf name, and note what is unusual about them."""
        path = layer.group.path
        names: dict[str, Key] = {}
        for role, use in outcome.target.leaves.items():
            usual = self._collections.of(outcome.target.kind if role[0] else None, role[1])
            collection = self._collection(layer, outcome, role, usual)
            key = self._collections.join(collection, self._native_key(path, use.name))
            key += box_of(layer, outcome, role, self._boxes)
            names[use.name] = key
            if collection != usual and not self._collections.present:
                self.unusual_collections[key] = collection
        return names

    def _possible(self, layer: NeutralLayer) -> tuple[Outcome, ...]:
        outcomes = self._outcomes.get(layer.family)
        if outcomes is None:
            outcomes = self._outcomes[layer.family] = _possible_outcomes(
                layer, self.framework.name, self.request.transforms, self.request.registry.kinds
            )
        return outcomes

    def _guessed(self, layer: NeutralLayer, outcomes: tuple[Outcome, ...]) -> Outcome:
        """Return the outcome that the words of a layer's path suggest, which its numbers do not change."""
        key = (key_family(layer.group.path), id(outcomes), *map(id, layer.candidates))
        outcome = self._guesses.get(key)
        if outcome is None:
            (outcome, *_) = guessed(layer, outcomes, self.request.registry)
            self._guesses[key] = outcome
        return outcome

    def _why_unsupported(self, layer: NeutralLayer) -> str:
        """Return why no transform of the framework takes a layer whose kind is known."""
        here = self.framework.name
        if lost_layout := self.lost_layout(layer):
            return lost_layout
        transforms = [t for t in self.request.transforms if t.kind == layer.kind]
        if not transforms:
            return f"{here} has no layer of the kind {layer.kind}"
        kind = self.request.registry.kinds[layer.kind or ""]
        shapes = {name: layer.group.specs[name].shape for name in layer.leaves}
        for transform in transforms:
            lost = next((role for role in shapes if role in transform.unsupported_leaves), None)
            if lost is not None:
                return transform.unsupported_leaves[lost]
            roles = {role for leaf in transform.leaves for role in (*leaf.roles, *leaf.added_leaves)}
            split = {
                axis.name for leaf in transform.leaves for axis in parse_axes(leaf.axes) if axis.split > 1
            }
            unknown = ", ".join(sorted(split - set(layer.axis_splits)))
            if roles.issuperset(shapes) and unknown:
                return (
                    f"{layer.kind}: the number of parts into which {here} splits {unknown} is not known; "
                    "pass "
                    'like="model.safetensors" (--like), or model="PKG.MOD:FACTORY" (--model)'
                )
        leaves = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        return f"no layer of the kind {kind.name} in {here} has the leaves {leaves}"

    def _tree_form(self) -> str:
        """Return whether the target's keys begin with collections; they do if one is not the default."""
        if not self.framework.collections:
            return ""
        metadata = self.request.state.metadata
        collections = VariableCollections(self.framework.collections)
        ruled = [key for bound in self.request.ordered.bound_rules for key in bound.targets]
        of_rule = self._ruled_collections
        if ruled and all(key in of_rule and key[0] == collections.default for key in ruled):
            return "params"  # rules that write params.params.params write the complete name
        known = metadata.tree_form.get(self.framework.name)
        if known is not None:
            return known
        if any(
            (of_rule.get(key) or collections.of(PARAMETER, key[-1])) != collections.default for key in ruled
        ):
            return "variables"
        seen: set[object] = set()
        for layer in self.request.layers.values():
            if not metadata.collections:
                if layer.family in seen:
                    continue
                seen.add(layer.family)
            for name, key in layer.group.keys.items():
                usual = collections.of(layer.kind if name in layer.leaves else None, name)
                if metadata.collections.get(key, usual) != collections.default:
                    return "variables"
        return "params"

    def _collection(self, layer: NeutralLayer, outcome: Outcome, role: Role, usual: str) -> str:
        """Return the collection of a leaf: that which its source was in, if the framework has any."""
        known = self.request.state.metadata.collections
        source = outcome.source.leaves.get(role) if known and self.framework.collections else None
        return usual if source is None else known.get(layer.group.keys[source.name], usual)

    def _restore(self, layer: NeutralLayer, outcome: Outcome) -> None:
        """Add the auxiliary tensors that this framework has and the source does not have."""
        kind = outcome.target.kind
        for name, role, spec in self._auxiliary_leaves(outcome.target.transform):
            if (True, role) not in outcome.source.leaves:
                native = self._native_key(layer.group.path, name)
                key = self._collections.join(self._collections.of(kind, role), native)
                key += box_of(layer, outcome, (True, role), self._boxes)
                neutral = (*layer.group.path, role)
                self.constants.append(Step((), (key,), (Fill(0, spec),), kind, "residual", neutral))

    def _auxiliary_leaves(self, name: str | None) -> tuple[tuple[str, str, TensorSpec], ...]:
        """Return the auxiliary tensors that a transform has: native name, role and spec."""
        if name not in self._auxiliary:
            transform = self.request.registry.transforms.get(name or "")
            self._auxiliary[name] = tuple(
                (leaf.name, leaf.roles[0], self.auxiliary_tensors[transform.kind, leaf.roles[0]])
                for leaf in (transform.leaves if transform is not None else ())
                if transform is not None and (transform.kind, leaf.roles[0]) in self.auxiliary_tensors
            )
        return self._auxiliary[name]


def _possible_outcomes(
    layer: NeutralLayer,
    framework: str,
    transforms: Iterable[LayerTransform],
    kinds: Mapping[str, LayerKind],
) -> tuple[Outcome, ...]:
    """Return the outcomes that remain: one if the layer is decided, several or none if it is not.

    An undecided layer goes back to the framework that it came from unchanged. Otherwise a reading that the
    framework has no form for leaves it undecided; it does not decide for the others.
    """
    if layer.kind is None and any(c is not None and c.framework == framework for c in layer.candidates):
        return (_unchanged(next(i for i in layer.interpretations if i.kind == PARAMETER)),)
    outcomes = [
        _unchanged(interpretation)
        if interpretation.kind == PARAMETER
        else _in_usual_layout(interpretation, layer.transforms.get(framework), transforms, kinds)
        for interpretation in layer.interpretations
        if not interpretation.fallback
    ]
    possible = tuple(outcome for outcome in outcomes if outcome is not None)
    return possible if layer.kind is not None or len(possible) == len(outcomes) or len(possible) > 1 else ()


def _unchanged(source: Interpretation) -> Outcome:
    moves = tuple(Move((use.name,), (role[1],), use.ops) for role, use in source.leaves.items())
    leaves = {role: LeafUse(role[1], (), use.shape) for role, use in source.leaves.items()}
    return Outcome(source, Interpretation(PARAMETER, None, leaves), moves)


def _in_usual_layout(
    source: Interpretation,
    preferred: str | None,
    transforms: Iterable[LayerTransform],
    kinds: Mapping[str, LayerKind],
) -> Outcome | None:
    """Return the outcome of the first layout that holds the layer, that which it had here before first."""
    of_kind = [t for t in transforms if t.kind == source.kind]
    usual = usual_transforms(of_kind, source.kind)
    options = [t for t in of_kind if not t.needs_template and (t.name == preferred or t in usual)]
    options.sort(key=lambda t: t.name != preferred)
    outcomes = (_in_layout(source, transform, kinds[source.kind]) for transform in options)
    return next((outcome for outcome in outcomes if outcome is not None), None)


def _in_layout(source: Interpretation, transform: LayerTransform, kind: LayerKind) -> Outcome | None:
    """Return the outcome of writing a layer in a layout; None if the layout does not hold all of it."""
    shapes = {role[1]: use.shape for role, use in source.leaves.items() if role[0]}
    target = layout_interpretation(transform, kind, shapes, source.axis_splits)
    if target is None:
        return None
    parameters = {role: LeafUse(role[1], (), use.shape) for role, use in source.leaves.items() if not role[0]}
    if {use.name for use in target.leaves.values()} & {use.name for use in parameters.values()}:
        return None
    outcome = pair(source, replace(target, leaves={**target.leaves, **parameters}))
    lost = [role for role in outcome.unexpected.values() if role[1] not in kind.auxiliary_tensors]
    return None if lost else outcome
