"""Names the rule in errors about the values that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bridge_core.errors import PlanError
from bridge_core.plan import Plan

__all__ = ["naming_rule"]


@contextmanager
def naming_rule(plan: Plan) -> Iterator[None]:
    """Add where the rule is to an error about the values of a tensor that it makes."""
    try:
        yield
    except PlanError as err:
        rules = (step.rule for step in plan.steps if step.rule and err.key in step.targets)
        err.path = err.path or next(rules, None)
        raise
