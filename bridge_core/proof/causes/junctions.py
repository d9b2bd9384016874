"""Causes between layers: both sides' expressions, and the first thing in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bridge_core.proof.causes.between import Expressions, bases_of, expressions_of
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.expressions import Expression, Step, Term, evaluate
from bridge_core.proof.causes.forms import closest, differing
from bridge_core.proof.causes.layers import code_of, precision_of, setting_text
from bridge_core.proof.causes.measures import fits, relative_error
from bridge_core.proof.causes.mends import call_of, mend
from bridge_core.proof.causes.norm_places import norm_is_elsewhere
from bridge_core.proof.causes.relations import related
from bridge_core.proof.causes.side_parts import SIDES
from bridge_core.proof.causes.sides import Side
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.proof.causes.wording import described, factor_text, steps_text, weight_text
from bridge_core.state import Array

__all__ = ["junction_causes"]

MISSING = {
    "activation": "activation",
    "pool": "pooling",
    "rearrange": "axis_order",
    "tokens": "token_pooling",
    "part": "part_order",
    "norm": "norm_place",
    "linear": "other_weight",
    "embedding": "other_weight",
}
"""Family of a step that only one side has -> code."""

Difference = tuple[str, str, str, str]
"""Code, the source's and the target's text, and what to do in the target."""


def junction_causes(site: Site, sides: tuple[Side, Side], limit: float) -> Iterator[Cause]:
    """Yield what is computed otherwise between a module's input, its children and the array that differs."""
    if sides[0].observed.dtype.kind == "i":
        yield from _shifted_ids(site, sides)
        return
    sides = source, target = _with_names_of_source(sides)
    common = _common(sides, limit)
    ours, theirs = (_searched(side, (common, bases_of(side)), limit) for side in sides)
    if not ours:
        yield from related(site, sides)
        return
    pair = _closest(ours, theirs)
    without = relative_error(source.observed, target.observed)
    one = pair[0] if pair else ours[0][0]
    error = _error(one, sides)
    if pair is None:
        text = described(one, source)
        yield Cause(
            "other_computation",
            f"The source computes {text}; what the target computes is not known.",
            text,
            "unknown",
            without,
            error,
            f"In the target, at {_path(site.target)}: compute {described(one, target)}.",
        )
        return
    for code, left, right, todo in _differences(one, pair[1], site, sides):
        yield Cause(
            code,
            f"The source computes {described(one, source)}, the target {described(pair[1], target)}.",
            left,
            right,
            without,
            error,
            f"In the target, at {_path(site.target)}: {todo}.",
        )
        return


def _searched(side: Side, bases: tuple[tuple[str, ...], ...], limit: float) -> Expressions:
    """Return the expressions over the first of several choices of arrays that gives any."""
    for names in dict.fromkeys(bases):
        found = expressions_of(side, names, limit, precision_of(side))
        if found:
            return found
    return []


def _common(sides: tuple[Side, Side], limit: float) -> tuple[str, ...]:
    """Return the names of the arrays that are equal on both sides."""
    source, target = sides
    return tuple(
        name
        for name in bases_of(source)
        if name in target.arrays and fits(target.arrays[name], source.arrays[name], max(limit, 1e-4))
    )


def _closest(source: Expressions, target: Expressions) -> tuple[Expression, Expression] | None:
    pair = closest([form for _, form in source], [form for _, form in target])
    if pair is None:
        return None
    return (
        next(expression for expression, form in source if form is pair[0]),
        next(expression for expression, form in target if form is pair[1]),
    )


def _error(expression: Expression, sides: tuple[Side, Side]) -> float:
    """Return how far the target, computed as the source does, is from the source's array."""
    source, target = sides
    weights = {n: a for n, a in source.arrays.items() if n.startswith("weight ")}
    arrays = {**weights, **_missing_modules(source, target), **target.arrays}
    with np.errstate(all="ignore"):
        try:
            value = evaluate(expression, arrays, source.observed)
        except (ValueError, KeyError, IndexError):
            return float("inf")
    return relative_error(source.observed, value)


def _missing_modules(source: Side, target: Side) -> dict[str, Array]:
    """Return what modules that only the source has return, where the target has their inputs."""
    outputs = {}
    for name, output in source.arrays.items():
        if name.startswith(f"{SIDES[0]} ") and name.endswith(" output"):
            given = source.arrays.get(name.replace(" output", " input 0"))
            if given is not None and any(
                given.shape == array.shape and relative_error(given, array) < 1e-4
                for array in target.arrays.values()
            ):
                outputs[name] = output
    return outputs


def _with_names_of_source(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """Return both sides; the target knows what modules that only the source has are called."""
    source, target = sides
    names = {name: text for name, text in source.names.items() if name.startswith(f"{SIDES[0]} ")}
    return source, replace(target, names={**names, **target.names})


def _shifted_ids(site: Site, sides: tuple[Side, Side]) -> Iterator[Cause]:
    """Yield that ids or positions differ by one number."""
    first, second = sides[0].observed, sides[1].observed
    if first.shape != second.shape:
        return
    offsets = np.unique(first - second)
    if len(offsets) == 1 and offsets[0]:
        offset = int(offsets[0])
        yield Cause(
            "position_offset",
            f"The ids of the source are those of the target {offset:+d}.",
            f"{first.flat[0]}, ...",
            f"{second.flat[0]}, ...",
            relative_error(first, second),
            0.0,
            f"In the target, at {_path(site.target)}: {'add' if offset > 0 else 'subtract'} {abs(offset)}.",
        )


def _differences(
    one: Expression, other: Expression, site: Site, sides: tuple[Side, Side]
) -> Iterator[Difference]:
    """Yield in what the target's expression differs from the source's, the most telling first."""
    source, target = sides
    shares = [_dropout(expression) for expression in (one, other)]
    if shares[0] != shares[1]:
        texts = [f"{share:g} dropped" if share is not None else "nothing dropped" for share in shares]
        off = "deterministic=True" if target.view.framework == "flax" else "model.eval()"
        yield (
            "dropout",
            texts[0],
            texts[1],
            f"leave dropout out: {off}" if shares[0] is None else "drop as the source does",
        )
        return
    bases = [[term.base for term in expression.terms] for expression in (one, other)]
    pieces = [[f"{term.base} {term.steps}" for term in expression.terms] for expression in (one, other)]
    if one.combine == "concat" and sorted(pieces[0]) == sorted(pieces[1]) and pieces[0] != pieces[1]:
        yield (
            "concat_order",
            described(one, source),
            described(other, target),
            f"concatenate {described(one, target)}",
        )
        return
    if len(one.terms) != len(other.terms) or one.combine != other.combine:
        yield from _other_terms(one, other, site, sides)
        return
    if one.combine == "mixture" and sorted(pieces[0]) == sorted(pieces[1]):
        yield (
            "gated_half",
            described(one, source),
            described(other, target),
            f"compute {described(one, target)}",
        )
        return
    if one.combine == "product" and set(bases[0]) == set(bases[1]) and not _same_steps(one, other):
        yield (
            "gated_half",
            described(one, source),
            described(other, target),
            f"compute {described(one, target)}",
        )
        return
    if bases[0] != bases[1]:
        yield from _other_bases(one, other, site, sides)
        return
    for term, second in zip(one.terms, other.terms, strict=True):
        yield from _term_differences(term, second, one, other, sides)
    yield from _step_differences(one.after, other.after, sides, one)


def _dropout(expression: Expression) -> float | None:
    shares = [term.dropout for term in expression.terms if term.dropout is not None]
    return shares[0] if shares else expression.dropout


def _same_steps(one: Expression, other: Expression) -> bool:
    left = {term.base: [family for family, _ in term.steps] for term in one.terms}
    right = {term.base: [family for family, _ in term.steps] for term in other.terms}
    if len(left) < len(one.terms):  # halves of one array
        parts = [[dict(s).get("part") for _, s in term.steps[:1]] for e in (one, other) for term in e.terms]
        same = parts[:2] == parts[2:]
        return same and [len(t.steps) for t in one.terms] == [len(t.steps) for t in other.terms]
    return left == right


def _other_terms(
    one: Expression, other: Expression, site: Site, sides: tuple[Side, Side]
) -> Iterator[Difference]:
    source, target = sides
    left, right = described(one, source), described(other, target)
    extra = [t for t in one.terms if t.base not in {u.base for u in other.terms}]
    surplus = [t for t in other.terms if t.base not in {u.base for u in one.terms}]
    missing = extra or surplus
    if norm_is_elsewhere(one, other, site, sides):
        code = "norm_place"
    elif len(missing) == 1 and missing[0].base.startswith("weight "):
        code = "missing_positions" if missing[0].rows is not None else "missing_weight"
        code = code if extra else code.replace("missing", "extra")
    elif len(missing) == 1:
        code = "missing_residual" if extra else "extra_residual"
    else:
        code = "other_computation"
    yield code, left, right, f"compute {described(one, target)}"


def _other_bases(
    one: Expression, other: Expression, site: Site, sides: tuple[Side, Side]
) -> Iterator[Difference]:
    """Yield that another array is used: a norm's input instead of its output, for example."""
    source, target = sides
    for first, second in zip(one.terms, other.terms, strict=True):
        if first.base != second.base:
            code = "norm_place" if norm_is_elsewhere(one, other, site, sides) else "other_input"
            if any(name.startswith("weight ") for name in (first.base, second.base)):
                code = "other_weight"
            yield code, described(one, source), described(other, target), f"compute {described(one, target)}"
            return


def _child(side: Side, place: int) -> ModuleView | None:
    return side.children[place] if place < len(side.children) else None


def _term_differences(
    term: Term, second: Term, one: Expression, other: Expression, sides: tuple[Side, Side]
) -> Iterator[Difference]:
    source, target = sides
    todo = f"compute {described(one, target)}"
    if term.factor != second.factor:
        child = _child(source, int(term.base.split()[1])) if term.base.startswith("child ") else None
        embedded = child is not None and (child.kind == "embedding" or "embed" in child.type.lower())
        code = (
            "embedding_scale"
            if embedded
            else "residual_scale"
            if one.combine == "sum" and len(one.terms) > 1
            else "scale"
        )
        yield code, factor_text(term), factor_text(second), todo
    if term.rows != second.rows and term.rows is not None and second.rows is not None:
        texts = [f"rows from {rows[0]}" for rows in (term.rows, second.rows)]
        yield "position_offset", texts[0], texts[1], f"take {texts[0]} on"
    yield from _step_differences(term.steps, second.steps, sides, one)


def _step_differences(
    one: tuple[Step, ...], other: tuple[Step, ...], sides: tuple[Side, Side], expression: Expression
) -> Iterator[Difference]:
    target = sides[1]
    names = [[family for family, _ in steps] for steps in (one, other)]
    if names[0] == names[1]:
        for (family, left), (_, right) in zip(one, other, strict=True):
            changed = [n for n in differing(left, right) if n != "shape"]
            for name in changed:
                code = code_of(family, name, left[name], right[name])
                if family == "rearrange":
                    code = _order_code(left, sides[0])
                texts = [setting_text(family, name, settings[name]) for settings in (left, right)]
                if name in ("kernel", "table"):
                    texts = [
                        weight_text(settings[name], side)
                        for settings, side in zip((left, right), sides, strict=True)
                    ]
                todo = _step_todo(family, name, left[name], texts[0], target, expression)
                yield code, texts[0], texts[1], todo
        return
    alone = [n for n in names[0] if n not in names[1]], [n for n in names[1] if n not in names[0]]
    family = (alone[0] + alone[1] + names[0] + names[1])[0]
    texts = [steps_text(steps, side) for steps, side in zip((one, other), sides, strict=True)]
    if family == "activation":
        texts = [
            next((str(s["activation"]) for f, s in steps if f == "activation"), "none")
            for steps in (one, other)
        ]
        call = call_of(target.view.framework, texts[0]) if texts[0] != "none" else "without an activation"
        yield "activation", texts[0], texts[1], f"compute {call}"
        return
    yield (
        MISSING.get(family, "other_computation"),
        texts[0],
        texts[1],
        f"compute {described(expression, target)}",
    )


def _order_code(settings: Mapping[str, Any], side: Side) -> str:
    flat = len(settings["shape"]) == 1 and len(settings["order"].split()) > 3
    if flat or len(settings["cut"] or ()) > 2:
        return "flatten_order"
    return "head_order" if settings["cut"] is not None or len(settings["order"].split()) > 3 else "axis_order"


def _step_todo(family: str, name: str, value: Any, text: str, side: Side, expression: Expression) -> str:
    if family == "activation":
        return f"compute {call_of(side.view.framework, str(value))}"
    if name in ("kernel", "table"):
        return f"use the weight that the source uses, {text}"
    if family == "rearrange":
        return (
            f"order the axes as {value} before the reshape"
            if name == "order"
            else f"compute {described(expression, side)}"
        )
    return (
        mend(side.view, [(name, value)]).partition(": ")[2].rstrip(".")
        or f"compute {described(expression, side)}"
    )


def _path(view: ModuleView) -> str:
    return ".".join(map(str, view.path)) or "the model"
