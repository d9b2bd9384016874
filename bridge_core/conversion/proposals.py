"""Proposed rules are planned with before anybody sees them: those that pair nothing are left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from bridge_core.errors import BridgeError
from bridge_core.plan import Plan, PlanProblems, Proposal, once
from bridge_core.rules import Rule, rules_of_text
from bridge_core.state import Key

__all__ = ["with_tried_proposal"]

_ROUNDS = 3
"""How often a proposal is added to; each round plans once."""


def with_tried_proposal(
    plan: Plan,
    layouts: tuple[str, str],
    rules: Collection[Rule],
    plan_again: Callable[[tuple[Rule, ...]], Plan],
) -> Plan:
    """Return a plan with its proposal if the conversion goes further with it, else without one.

    With the rules, the plan must have fewer problems than without them, and none that is new.

    Args:
        plan: A plan whose problems have a proposal.
        layouts: The layouts of source and target.
        rules: The rules that the caller gave.
        plan_again: Returns the plan with other rules.
    """
    proposal = plan.problems.proposal
    if proposal is None:
        return plan
    tried = _tried(plan, replace(proposal, layouts=layouts), tuple(rules), plan_again)
    return replace(plan, problems=replace(plan.problems, proposal=tried))


def _tried(
    plan: Plan, proposal: Proposal, rules: tuple[Rule, ...], plan_again: Callable[[tuple[Rule, ...]], Plan]
) -> Proposal | None:
    try:
        for _ in range(_ROUNDS):
            proposed = rules_of_text(proposal.toml, "rules.toml")
            problems = plan_again((*rules, *proposed)).problems
            more = problems.proposal
            if more is None or more.prefix != proposal.prefix:
                break
            # A prefix that most names shared is shared by fewer once some of them are renamed.
            proposal = replace(proposal, renames=once((*proposal.renames, *more.renames)))
    except BridgeError:  # a rule that takes what another one takes, for example
        return None
    before, after = _left(plan.problems), _left(problems)
    others = replace(plan.problems, missing=(), unexpected=(), proposal=None)
    if after >= before or replace(problems, missing=(), unexpected=(), proposal=None) != others:
        return None
    return None if problems.proposal is not None else replace(proposal, left=len(after))


def _left(problems: PlanProblems) -> frozenset[tuple[str, Key]]:
    sides = (("missing", problems.missing), ("unexpected", problems.unexpected))
    return frozenset((side, key) for side, keys in sides for key in keys)
