"""Checks of a rule: its calls, sizes and conditions against its equation, its reason and its constant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bridge_core.axes import ELLIPSIS, Equation, Expression, Term
from bridge_core.errors import RuleError
from bridge_core.messages import nearest, shown
from bridge_core.rules.conditions import When
from bridge_core.rules.op_calls import Call
from bridge_core.rules.where import Where

__all__ = ["axis_places", "check_calls", "check_conditions", "check_fill", "check_sizes"]

_CONFIG = "config."


def axis_places(term: Term) -> dict[str, int]:
    """Return the index of each of a term's axes that is not in a group."""
    places = ((str(axis), term.position(str(axis))) for axis in term.axes)
    return {axis: place for axis, place in places if place is not None}


def check_conditions(when: When, term: Term | None, sizes: Mapping[str, Expression]) -> None:
    """Check that conditions name axes of the term, and that they can hold.

    Args:
        when: The conditions.
        term: The term that they are about; None if there is no equation.
        sizes: Axis -> its size, as the rule gives it.

    Raises:
        RuleError: A condition names another axis, or contradicts the equation or the sizes.
    """
    if term is not None and ELLIPSIS not in term.axes and when.rank not in (None, len(term.axes)):
        text = " ".join(map(str, term.axes))
        raise RuleError(
            f"when.rank is {when.rank}, but '{text}' has rank {len(term.axes)}, so that the condition never "
            "holds.",
            hint="Remove when.rank, or change the equation.",
        )
    places = axis_places(term) if term is not None else {}
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


def check_calls(calls: Iterable[Call], terms: tuple[Term, ...] | None) -> None:
    """Check that the axes that calls name are axes of their tensors.

    Args:
        calls: The calls of one side.
        terms: The terms of that side; None if there is no equation.

    Raises:
        RuleError: No term has the axis outside of groups, or there is no equation.
    """
    for call in calls:
        if not call.is_sized or isinstance(call.args[0], int):
            continue
        if terms is None:
            by_index = replace(call, args=(0, *call.args[1:]))
            raise RuleError(
                f"'{call}' names the axis {call.args[0]!r}, but the rule has no equation that names axes.",
                hint=f"Write the index of the axis instead, such as '{by_index}'.",
            )
        known = dict.fromkeys(
            name for term in terms for name in term.names if term.position(name) is not None
        )
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


def check_sizes(
    sizes: Mapping[str, Expression],
    equation: Equation | None,
    calls: Sequence[Call],
    where: Where,
    bounds: Collection[str] = (),
    compared: frozenset[str] = frozenset(),
) -> None:
    """Check that every size is that of an axis or of an expression, and that the sizes of calls are stated.

    Args:
        sizes: Name -> its size, as the rule gives it.
        equation: The rule's equation; None if there is none.
        calls: Its calls.
        where: Its indexes and comparisons, which may use sizes.
        bounds: The names whose sizes the indexes state.
        compared: The names that its conditions compare.

    Raises:
        RuleError: A size is not used, is stated twice, or is missing.
    """
    axes = equation.axes if equation is not None else frozenset[str]()
    used = (*(call.names for call in calls), *(size.names for size in sizes.values()))
    known = {name for name in axes.union(compared, where.names, *used) if not name.startswith(_CONFIG)}
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
