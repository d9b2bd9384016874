"""Neutral -> a framework's state: with a template, match and settle; without one, write what is decided.

All problems are gathered into the plan; `Plan.check` raises them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.errors import UsageError
from bridge_core.keys import Key, Pattern
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.resolve.assembly import Request
from bridge_core.resolve.neutral_layers import neutral_layers
from bridge_core.resolve.plain import Plain
from bridge_core.resolve.templated import Templated
from bridge_core.rules import Rule, as_patterns
from bridge_core.state import FlatState

__all__ = ["plan_from_neutral"]


def plan_from_neutral(
    state: FlatState,
    registry: Registry,
    to: str,
    *,
    like: FlatState | None = None,
    rules: Iterable[Rule] = (),
    accept_guesses: bool = False,
    allow_missing: bool | Iterable[str | Pattern] = (),
    allow_unexpected: bool | Iterable[str | Pattern] = (),
    origin: Mapping[Key, Key] | None = None,
) -> Plan:
    """Return the plan from a neutral state to a framework's, problems included.

    Args:
        state: The neutral state; a plain one without metadata is read by its names and shapes.
        registry: Where kinds, transforms and adapters are found.
        to: Name of the framework.
        like: A state of that framework whose names and shapes the result must have.
        rules: Rules that fix kinds.
        accept_guesses: Whether names may settle what no evidence does.
        allow_missing: Target keys that may stay unfilled: True, or patterns.
        allow_unexpected: Source keys that may be left out: True, or patterns.
        origin: Neutral key -> key in the original source, which the patterns also see.

    Raises:
        UsageError: There is no such framework.
        RuleError: A pattern is not well formed.
    """
    if to == "neutral":
        raise UsageError("a neutral state is neutral already.")
    rules = tuple(rules)
    request = Request(
        state,
        registry,
        registry.framework(to),
        neutral_layers(state, registry, rules),
        accept_guesses,
        as_patterns(allow_missing),
        as_patterns(allow_unexpected),
        origin or {},
    )
    return Templated(request).resolve(like) if like is not None else Plain(request).resolve()
