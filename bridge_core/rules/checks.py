"""Checks of a rule: its calls, sizes and conditions against its equation, its reason and its constant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.axes import ELLIPSIS, Call, Term, check_equation, check_part_order
from bridge_core.errors import RuleError
from bridge_core.messages import count, nearest, shown
from bridge_core.rules.captures import check_captures

if TYPE_CHECKING:
    from bridge_core.rules.rule import Rule

__all__ = ["axis_places", "check_fill", "check_rearrangement", "check_sizes"]

_CONFIG = "config."


def axis_places(term: Term | None) -> dict[str, int]:
    """Return the index of each of a term's axes that is not in a group."""
    if term is None:
        return {}
    places = ((str(axis), term.position(str(axis))) for axis in term.axes)
    return {axis: place for axis, place in places if place is not None}


def check_rearrangement(rule: Rule) -> None:
    """Check that the patterns, equation, calls, sizes and conditions of a rule fit each other.

    Raises:
        RuleError: Some do not, or the rule could not be read in the other direction.
    """
    if not rule.sources or not rule.targets:
        raise RuleError(
            f"expected one source and one target or more, got {count(len(rule.sources), 'source')} and "
            f"{count(len(rule.targets), 'target')}."
        )
    check_captures(rule)
    if rule.equation is not None:
        check_equation(rule.equation, rule.list_axes, rule.sizes)
        check_part_order(rule.equation, rule.list_axes, {*rule.sizes, *rule.where.bounded})
    for call in rule.before:
        _check_call(call, rule.equation.left if rule.equation is not None else None)
    for call in rule.after:
        _check_call(call, rule.equation.right if rule.equation is not None else None)
    check_sizes(rule)
    _check_conditions(rule)


def _check_conditions(rule: Rule) -> None:
    """Check that conditions name axes of the term that they are about, and that they can hold."""
    when, term, sizes = rule.when, rule.condition_term, rule.sizes
    if term is not None and ELLIPSIS not in term.axes and when.rank not in (None, len(term.axes)):
        text = " ".join(map(str, term.axes))
        raise RuleError(
            f"when.rank is {when.rank}, but '{text}' has rank {len(term.axes)}, so that the condition never "
            "holds.",
            hint="Remove when.rank, or change the equation.",
        )
    places = axis_places(term)
    for axis, size in when.sizes:
        if axis not in places:
            raise RuleError(
                f"when.sizes.{axis}: the first tensor of the equation has no axis {axis!r} outside of "
                "groups.",
                hint=nearest(axis, places),
            )
        known = sizes.get(axis)
        if known is not None and known.number not in (None, size):
            raise RuleError(
                f"when.sizes.{axis} is {size}, but sizes.{axis} is {known}, so that the condition never "
                "holds.",
                hint="Write the same number in both, or remove one.",
            )
    for name in sorted(when.names):
        if name not in places and name not in sizes and not name.startswith("config."):
            raise RuleError(
                f"when.sizes: {name} is not known: expected axes of the first tensor outside of groups, "
                "sizes, or entries of the config.",
                hint=nearest(name, [*places, *sizes]),
            )


def _check_call(call: Call, terms: tuple[Term, ...] | None) -> None:
    """Check that the axis that a call names is an axis of the terms outside of groups."""
    if not call.is_sized or isinstance(call.args[0], int):
        return
    if terms is None:
        by_index = replace(call, args=(0, *call.args[1:]))
        raise RuleError(
            f"'{call}' names the axis {call.args[0]!r}, but the rule has no equation that names axes.",
            hint=f"Write the index of the axis instead, such as '{by_index}'.",
        )
    known = dict.fromkeys(name for term in terms for name in term.names if term.position(name) is not None)
    if call.args[0] not in known:
        raise RuleError(
            f"'{call}': no tensor on this side of the equation has an axis {call.args[0]!r} outside of "
            "groups.",
            hint=nearest(str(call.args[0]), known),
        )


def check_fill(action: str, reason: str, value: object) -> None:
    """Check the reason and the constant of a rule that drops or fills keys.

    Raises:
        RuleError: The reason is empty, or the constant is not a number.
    """
    if not isinstance(reason, str) or not reason.strip():
        example = 'drop = "the model makes it"' if action == "drop" else 'reason = "constant"'
        raise RuleError(
            f"expected a reason that is not empty, got {shown(reason)}.",
            hint=f"Write why, such as {example}.",
        )
    if value is not None and not isinstance(value, int | float):
        raise RuleError(f"fill: expected a number, got {value!r}.")


def check_sizes(rule: Rule) -> None:
    """Check that every size is that of an axis or of an expression, and that the sizes of calls are stated.

    Raises:
        RuleError: A size is not used, is stated twice, or is missing.
    """
    sizes, where, bounds = rule.sizes, rule.where, rule.where.bounded
    calls = (*rule.before, *rule.after)
    axes = rule.equation.axes if rule.equation is not None else frozenset[str]()
    used = (*(call.names for call in calls), *(size.names for size in sizes.values()))
    known = {name for name in axes.union(rule.when.names, where.names, *used) if not name.startswith(_CONFIG)}
    for name in sizes:
        if name not in known:
            raise RuleError(
                f"sizes.{name}: the rule has no axis {name!r}.", hint=nearest(name, sorted(known))
            )
        if name in bounds:
            raise RuleError(
                f"sizes.{name} repeats a size that where = '{where}' states.", hint=f"Remove sizes.{name}."
            )
    for call in calls:
        stated = {*sizes, *bounds, *(() if call.is_sized else axes)}
        for name in sorted(name for name in call.names - stated if not name.startswith(_CONFIG)):
            likely = nearest(name, sorted(stated))
            raise RuleError(
                f"'{call}' uses the size {name!r}, but the rule does not state it.",
                hint=likely
                if likely.startswith("Did")
                else f"Add it to the rule, such as sizes = {{ {name} = 12 }}.",
            )
