"""Writing a neutral layer without a template: the framework's first form that fits its shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.resolve.reading import PARAMETER
from bridge_core.resolve.settle import Move, Outcome, pair
from bridge_core.resolve.views import Place, View, form_view

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
    preferred = layer.forms.get(framework)
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
    target = form_view(transform, kind, shapes, view.factors)
    if target is None:
        return None
    beside = {role: Place(role[1], (), p.shape) for role, p in view.leaves.items() if not role[0]}
    whole = {**target.leaves, **beside}
    names = {place.name for place in target.leaves.values()}
    if names & {place.name for place in beside.values()}:
        return None
    outcome = pair(view, View(kind.name, transform.name, whole, False, target.factors, target.zeros))
    lost = [role for role in outcome.unexpected.values() if role[1] not in kind.residuals]
    return None if lost else outcome
