"""Causes before a last layer that is a module on one side only: the other computes it without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.between import bases_of, expressions_of
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.expressions import Expression, Step, evaluate
from bridge_core.proof.causes.layers import precision_of
from bridge_core.proof.causes.measures import fits, relative_error
from bridge_core.proof.causes.mends import call_of
from bridge_core.proof.causes.search import activation
from bridge_core.proof.causes.sides import Side, both_sides
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.proof.causes.wording import described
from bridge_core.state import Array

__all__ = ["tail_causes"]


def tail_causes(site: Site, sides: tuple[Side, Side], limit: float) -> Iterator[Cause]:
    """Yield a change of what one side gives to its last layer with which it returns the other's output."""
    if site.at is not None or site.pairs:
        return
    for place in (0, 1):
        view = (site.source, site.target)[place]
        last = view.children[-1] if view.children else None
        if last is None or last.kind != "linear" or "kernel" not in last.neutral or not last.inputs:
            continue
        if not _returns(view, last):
            continue
        inner = _before_last(view, site.control)
        seen = both_sides(inner)
        if seen is None:
            continue
        side, other = seen[0], sides[1 - place]
        found = expressions_of(side, bases_of(side), limit, precision_of(side))
        if not found:
            continue
        own = found[0][0]
        for code, text, changed in _changes(own, side):
            value = _through(changed, side, last)
            if value is None or value.shape != other.observed.shape:
                continue
            if fits(value, other.observed, limit):
                yield _cause(site, place, side, (own, changed), (code, text), sides, value)
                return


def _returns(view: ModuleView, last: ModuleView) -> bool:
    whole, part = (next(iter(one.outputs.values()), None) for one in (view, last))
    return whole is not None and part is not None and np.array_equal(whole, part)


def _before_last(view: ModuleView, control: float) -> Site:
    """Return a site with one model on both sides, which ends with what its last layer gets."""
    rest = view.children[:-1]
    inner = replace(view, children=rest, outputs={"": next(iter(view.children[-1].inputs.values()))})
    return Site(inner, inner, tuple((n, n) for n in range(len(rest))), control=control)


def _through(expression: Expression, side: Side, last: ModuleView) -> Array | None:
    with np.errstate(all="ignore"):
        try:
            value = evaluate(expression, side.arrays) @ np.asarray(last.neutral["kernel"], np.float64)
        except (ValueError, KeyError, IndexError):
            return None
    return value + np.asarray(last.neutral["bias"], np.float64) if "bias" in last.neutral else value


def _changes(own: Expression, side: Side) -> Iterator[tuple[str, str, Expression]]:
    """Yield code, what is other, and the other expression."""
    for name in ACTIVATIONS:
        for place, term in enumerate(own.terms):
            if term.steps and term.steps[-1][0] == "activation":
                steps = (*term.steps[:-1], activation(name))
                terms = (*own.terms[:place], replace(term, steps=steps), *own.terms[place + 1 :])
                yield "activation", name, replace(own, terms=terms)
        if own.after and own.after[-1][0] == "activation":
            yield "activation", name, replace(own, after=(*own.after[:-1], activation(name)))
        if not own.after:
            yield "activation", name, replace(own, after=(activation(name),))
    for after, name in ((own.after[:-1], "none"),):
        if own.after and own.after[-1][0] == "activation":
            yield "activation", name, replace(own, after=after)
    if len(own.terms) == 2 and own.combine == "product":
        one, other = own.terms
        swapped = (replace(one, steps=other.steps), replace(other, steps=one.steps))
        yield "gated_half", "", replace(own, terms=swapped)
        for place in (0, 1):
            yield "other_computation", "", replace(own, terms=(own.terms[place],), combine="sum")


def _name(steps: tuple[Step, ...]) -> str:
    return next((str(settings["activation"]) for family, settings in steps if family == "activation"), "none")


def _activation_of(expression: Expression) -> str:
    names = [_name(term.steps) for term in expression.terms] + [_name(expression.after)]
    return next((name for name in reversed(names) if name != "none"), "none")


def _cause(
    site: Site,
    place: int,
    side: Side,
    forms: tuple[Expression, Expression],
    change: tuple[str, str],
    sides: tuple[Side, Side],
    value: Array,
) -> Cause:
    source, target = forms if place == 0 else forms[::-1]
    code, _ = change
    texts: Mapping[int, str] = {n: described(form, side) for n, form in enumerate((source, target))}
    where = ".".join(map(str, site.target.path)) or "the model"
    short = (
        [_activation_of(form) for form in (source, target)] if code == "activation" else list(texts.values())
    )
    todo = call_of(site.target.framework, short[0]) if code == "activation" else texts[0]
    return Cause(
        code,
        f"Before the last layer the source computes {texts[0]}, the target {texts[1]}.",
        short[0],
        short[1],
        relative_error(sides[0].observed, sides[1].observed),
        relative_error(sides[1 - place].observed, value),
        f"In the target, at {where}: compute {todo}.",
    )
