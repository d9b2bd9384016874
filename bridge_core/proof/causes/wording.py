"""Expressions in words, with the names of one side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.proof.causes.expressions import Expression, Step, Term
from bridge_core.proof.causes.sides import Side

__all__ = ["described", "factor_text", "steps_text", "weight_text"]


def described(expression: Expression, side: Side) -> str:
    """Return an expression for people, with a side's names."""
    terms = [_term_text(term, side) for term in expression.terms]
    if expression.combine == "concat":
        text = f"concat({', '.join(terms)})"
    elif expression.combine == "mixture":
        text = f"g * {terms[1]} + (1 - g) * {terms[2]} with g = {terms[0]}"
    else:
        text = (" * " if expression.combine == "product" else " + ").join(terms)
    if expression.after and len(terms) > 1 and expression.combine != "concat":
        text = f"({text})"
    for step in expression.after:
        text = f"{steps_text((step,), side)}({text})"
    return f"dropout({text})" if expression.dropout is not None else text


def _term_text(term: Term, side: Side) -> str:
    text = side.names.get(term.base, term.base)
    for family, settings in term.steps:
        text = f"{steps_text(((family, settings),), side)}({text})"
    if term.rows is not None:
        text = f"{text}[{term.rows[0]}:{term.rows[0] + term.rows[1]}]"
    if term.dropout is not None:
        text = f"dropout({text})"
    if isinstance(term.factor, str):
        return f"{side.names.get(term.factor, term.factor)} * {text}"
    return text if term.factor == 1.0 else f"{term.factor:g} * {text}"


def factor_text(term: Term) -> str:
    """Return a term's factor for people."""
    return term.factor if isinstance(term.factor, str) else f"{term.factor:g}"


def steps_text(steps: tuple[Step, ...], side: Side) -> str:
    """Return steps for people; "nothing" if there are none."""
    return ", then ".join(_step_text(family, settings, side) for family, settings in steps) or "nothing"


def _step_text(family: str, settings: Mapping[str, Any], side: Side) -> str:
    if family == "activation":
        return str(settings["activation"])
    if family == "rearrange":
        cut = settings["cut"]
        return f"reshape[{settings['order']}]" if cut is None else f"reshape[{cut} as {settings['order']}]"
    if family == "tokens":
        return (
            f"{settings['take']} token"
            if settings["take"] in ("first", "last")
            else f"{settings['take']} over tokens"
        )
    if family == "part":
        return f"part {settings['part']} of {settings['parts']}"
    if family == "pool":
        return f"{settings['how']} pool {settings['window']}"
    if family == "linear":
        return f"linear[{weight_text(settings['kernel'], side)}]"
    return family


def weight_text(name: str, side: Side) -> str:
    """Return what people call a weight."""
    return side.names.get(f"weight {name}", name)
