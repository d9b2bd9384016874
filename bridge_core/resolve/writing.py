"""Writing a neutral layer without a template: the framework's first form that fits its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.ops import simplify_chain
from bridge_core.resolve.axes import from_neutral_ops
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.reading import PARAMETER
from bridge_core.resolve.settle import Move, Outcome
from bridge_core.resolve.views import Place, Role, View

__all__ = ["plain_outcomes"]


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
    moves = tuple(Move(place.name, role[1], place.ops) for role, place in view.leaves.items())
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
    preferred = layer.forms.get(framework)
    options = [t for t in transforms if t.kind == view.kind and not t.needs_template]
    options.sort(key=lambda t: t.name != preferred)
    for transform in options:
        outcome = _in_form(view, transform, kinds[view.kind])
        if outcome is not None:
            return outcome
    return None


def _in_form(view: View, transform: LayerTransform, kind: LayerKind) -> Outcome | None:
    leaves = transform.by_role()
    present = {role[1] for role in view.leaves if role[0]}
    if any(not leaf.optional and leaf.role not in present for leaf in transform.leaves):
        return None
    rank = max((len(p.shape) for role, p in view.leaves.items() if role[0]), default=0)
    moves: list[Move] = []
    target: dict[Role, Place] = {}
    unexpected: dict[str, Role] = {}
    for role, place in view.leaves.items():
        if not role[0]:
            moves.append(Move(place.name, role[1], place.ops))
            target[role] = Place(role[1], (), place.shape)
            continue
        leaf = leaves.get(role[1])
        if leaf is None:
            if role[1] not in kind.residuals:
                return None
            unexpected[place.name] = role
            continue
        moved = from_neutral_ops(leaf, kind.leaves[leaf.role], place.shape, rank)
        if moved is None:
            return None
        moves.append(Move(place.name, leaf.name, simplify_chain((*place.ops, *moved[0]))))
        target[role] = Place(leaf.name, moved[0], moved[1])
    if len({place.name for place in target.values()}) != len(target):
        return None
    return Outcome(view, View(kind.name, transform.name, target), tuple(moves), unexpected=unexpected)
