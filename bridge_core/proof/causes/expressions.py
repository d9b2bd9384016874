"""Expressions over recorded arrays: a sum, product or concatenation of terms, and steps after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.proof.causes.forms import Family, Settings
from bridge_core.proof.causes.linears import EMBEDDING, LINEAR
from bridge_core.proof.causes.norms import NORM
from bridge_core.proof.causes.pools import ACTIVATION, POOL
from bridge_core.proof.causes.shapes import PART, REARRANGE, TOKENS
from bridge_core.state import Array

__all__ = ["STEPS", "Expression", "Step", "Term", "evaluate", "spread_over"]

Step = tuple[str, Settings]
"""Name of a family, and its settings."""

STEPS: Mapping[str, Family] = {
    family.name: family for family in (ACTIVATION, POOL, REARRANGE, TOKENS, PART, NORM, LINEAR, EMBEDDING)
}


@dataclass(frozen=True, eq=False)
class Term:
    """A recorded array or weight, what is done to it, and its factor.

    Args:
        base: Common name of the array.
        steps: Done in order.
        factor: A number, or the common name of a weight that multiplies the features.
        dropout: Share of values that were dropped from it; None if none were.
        rows: Of a weight that is added to the tokens (positions): first row, and how many.
    """

    base: str
    steps: tuple[Step, ...] = ()
    factor: float | str = 1.0
    rows: tuple[int, int] | None = None
    dropout: float | None = None


@dataclass(frozen=True, eq=False)
class Expression:
    """How an array is computed.

    Args:
        terms: One or more.
        combine: ``"sum"``, ``"product"``, ``"concat"``, or ``"mixture"``: the first term is the share of
            the second, the rest is of the third; of one term nothing.
        after: Steps on the result.
        axis: Of a concatenation.
        dropout: Share of values that were dropped at the end; None if none were.
        cost: How unusual it is.
    """

    terms: tuple[Term, ...]
    combine: str = "sum"
    after: tuple[Step, ...] = ()
    axis: int = -1
    dropout: float | None = None
    cost: float = 0.0

    def slots(self) -> dict[str, Any]:
        """Return everything that may differ between two expressions, flat."""
        slots: dict[str, Any] = {"combine": self.combine, "terms": len(self.terms), "dropout": self.dropout}
        for place, term in enumerate(self.terms):
            slots |= {f"{place} base": term.base, f"{place} factor": term.factor, f"{place} rows": term.rows}
            slots[f"{place} dropout"] = term.dropout
            slots |= _step_slots(f"{place} step", term.steps)
        return {**slots, **_step_slots("after", self.after)}


def _step_slots(name: str, steps: tuple[Step, ...]) -> dict[str, Any]:
    slots: dict[str, Any] = {name: tuple(family for family, _ in steps)}
    for place, (_, settings) in enumerate(steps):
        slots |= {f"{name} {place} {key}": value for key, value in settings.items()}
    return slots


def evaluate(expression: Expression, arrays: Mapping[str, Array], seen: Array | None = None) -> Array:
    """Return what an expression gives on recorded arrays.

    Args:
        expression: Its bases are names of the arrays.
        arrays: Common name -> array.
        seen: The observed array, which shows what a dropout of the expression dropped; None leaves it out.

    Raises:
        KeyError: An array is missing.
        ValueError: The shapes do not fit.
    """
    weights = {n.removeprefix("weight "): a for n, a in arrays.items() if n.startswith("weight ")}
    values = [_term(term, arrays, weights) for term in expression.terms]
    if expression.combine == "concat":
        value = np.concatenate(_alike(values, expression.axis), axis=expression.axis)
    elif expression.combine == "product":
        value = values[0]
        for other in values[1:]:
            spread = spread_over(other, value)
            value = value * (other if spread is None else spread)
    elif expression.combine == "mixture":
        share, one, other = values
        value = share * one + (1 - share) * other
    else:
        value = _sum(expression.terms, values, seen)
    for family, settings in expression.after:
        value = STEPS[family].compute(value, weights, settings)
    if expression.dropout is not None and seen is not None:
        value = np.where((seen == 0) & (value != 0), 0.0, value / (1 - expression.dropout))
    return value


def _sum(terms: tuple[Term, ...], values: list[Array], seen: Array | None) -> Array:
    dropped = [place for place, term in enumerate(terms) if term.dropout is not None]
    value: Array = np.zeros(())
    for place, other in enumerate(values):
        if place not in dropped:
            value = value + other if value.ndim or place else other
    for place in dropped:
        share, other = terms[place].dropout or 0.0, values[place]
        if seen is not None:
            gone = np.abs(seen - value) <= 1e-6 * np.max(np.abs(seen))
            other = np.where(gone, 0.0, other / (1 - share))
        value = value + other
    return value


def _term(term: Term, arrays: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    value = arrays[term.base]
    if term.base.startswith("weight ") and term.rows is not None:
        first, count = term.rows
        value = value.reshape(-1, value.shape[-1])[first : first + count]
    for family, settings in term.steps:
        value = STEPS[family].compute(value, weights, settings)
    factor = arrays[term.factor].reshape(-1) if isinstance(term.factor, str) else term.factor
    return value if isinstance(factor, float) and factor == 1.0 else np.asarray(value * factor)


def spread_over(gate: Array, array: Array) -> Array | None:
    """Return a gate with axes of size 1 where it has none; None if it cannot multiply the array.

    Args:
        gate: ``[n, c]``, or of the array's rank.
        array: ``[n, .., c]``.
    """
    if gate.ndim == 2 and array.ndim > 2:
        gate = gate.reshape(gate.shape[0], *(1,) * (array.ndim - 2), gate.shape[1])
    fitting = gate.ndim == array.ndim and all(
        own in (1, size) for own, size in zip(gate.shape, array.shape, strict=True)
    )
    return gate if fitting and gate.shape[0] == array.shape[0] else None


def _alike(values: list[Array], axis: int) -> list[Array]:
    """Return arrays to concatenate: weights are repeated for each sample."""
    rank = max(value.ndim for value in values)
    full = next(value for value in values if value.ndim == rank)
    spread = []
    for value in values:
        while value.ndim < rank:
            value = value[None]
        shape = tuple(
            value.shape[a] if a == axis % rank or value.shape[a] != 1 else full.shape[a] for a in range(rank)
        )
        spread.append(np.broadcast_to(value, shape))
    return spread
