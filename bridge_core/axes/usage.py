"""Which axes an equation uses where: list axes, axes of one side that are repeated, and a whole number."""

from __future__ import annotations

from collections.abc import Collection

from bridge_core.axes.equation import ELLIPSIS, Equation, Group, ListAxes, Member, Term
from bridge_core.errors import RuleError
from bridge_core.messages import count, nearest

__all__ = ["check_list_axes", "lone_axes", "repeated_axes", "stacked_number"]


def check_list_axes(equation: Equation, list_axes: ListAxes) -> None:
    """Check that every term has its list axes, and that the other side uses them.

    Raises:
        RuleError: They are not one tuple for each term, are twice in a term, or are not used.
    """
    for side, terms, own in (
        ("left", equation.left, list_axes.left),
        ("right", equation.right, list_axes.right),
    ):
        if len(own) != len(terms):
            raise RuleError(
                f"'{equation}': expected {count(len(own), 'tensor')} on the {side} side, one for each "
                f"pattern, got {len(terms)}."
            )
        for term, axes in zip(terms, own, strict=True):
            twice = sorted(set(axes) & set(term.names)) or [axis for axis in axes if axes.count(axis) > 1]
            if twice:
                raise RuleError(
                    f"'{term}' is one tensor for each {twice[0]}, so {twice[0]!r} cannot be one of its axes.",
                    hint=f"Remove {twice[0]} from '{term}'.",
                )
    for side, own, others in (
        ("left", list_axes.left, _names(equation.right, list_axes.right)),
        ("right", list_axes.right, _names(equation.left, list_axes.left)),
    ):
        unused = _listed(own) - others
        if unused:
            axis = min(unused)
            raise RuleError(
                f"'{equation}': the {side} side is one tensor for each {axis}, but the other side has no "
                f"axis {axis!r}.",
                hint=f"Write {axis} there, as the axis that the tensors are stacked along.",
            )


def repeated_axes(equation: Equation, list_axes: ListAxes, stated: Collection[str]) -> frozenset[str]:
    """Return the axes of one side only; they have stated sizes, and the values are repeated along them.

    Args:
        equation: The equation.
        list_axes: The list axes of every term; none of them is repeated.
        stated: Names of the axes whose sizes are stated.

    Raises:
        RuleError: Such an axis has no stated size, or both sides have one.
    """
    left, right = lone_axes(equation, list_axes)
    for side, here, there in (("left", left, right), ("right", right, left)):
        unknown = sorted(name for name in here if name not in stated or name == ELLIPSIS)
        if unknown:
            raise _only_there(equation, unknown[0], side, there)
    if left and right:
        raise RuleError(
            f"'{equation}': the axis {min(left)!r} is only on the left side, and {min(right)!r} only on the "
            "right side: expected repeated axes on one side only.",
            hint="Write one name on both sides, or use a rule for each.",
        )
    return left | right


def _only_there(equation: Equation, axis: str, side: str, others: frozenset[str]) -> RuleError:
    likely = nearest(axis, sorted(others))
    if likely.startswith("Did"):
        hint = likely
    elif axis == ELLIPSIS:
        hint = "Write it on both sides."
    else:
        hint = (
            "Write it on both sides, or write 1 for an axis of size one; to repeat the values along it, "
            f"state its size, such as sizes = {{ {axis} = 2 }}; to stack the other side's tensors, write "
            "their number, such as 2."
        )
    return RuleError(f"'{equation}': the axis {axis!r} is only on the {side} side.", hint=hint)


def lone_axes(equation: Equation, list_axes: ListAxes) -> tuple[frozenset[str], frozenset[str]]:
    """Return the axes that are only on the left side, and those only on the right; list axes are on both."""
    left, right = _names(equation.left, list_axes.left), _names(equation.right, list_axes.right)
    return left - right - _listed(list_axes.left), right - left - _listed(list_axes.right)


def _names(terms: tuple[Term, ...], list_axes: tuple[tuple[str, ...], ...]) -> frozenset[str]:
    dots = {ELLIPSIS} if any(ELLIPSIS in term.axes for term in terms) else set()
    return frozenset(name for term in terms for name in term.names) | dots | _listed(list_axes)


def _listed(list_axes: tuple[tuple[str, ...], ...]) -> frozenset[str]:
    return frozenset(name for axes in list_axes for name in axes)


def stacked_number(equation: Equation, list_axes: ListAxes) -> tuple[str | None, ListAxes]:
    """Return the whole number that is an axis, and the list axes with it in the terms that it stacks.

    Raises:
        RuleError: There are several numbers, one is on both sides, or the other side has not as many terms,
            with the same axes.
    """
    left, right = (
        {number for term in side for number in term.numbers} for side in (equation.left, equation.right)
    )
    if not left and not right:
        return None, list_axes
    number, *more = sorted(left | right, key=int)
    if more:
        raise RuleError(
            f"'{equation}': expected one whole number at most, got {number} and {more[0]}.",
            hint=f"Write a name in place of {more[0]}, and state its size: {_with_name(equation, more[0])}.",
        )
    if left and right:
        raise RuleError(
            f"'{equation}': the axis {number} is on both sides: expected it on one side, as a stack of "
            f"{number} tensors of the other.",
            hint=f"Write a name in place of {number}, and state its size: {_with_name(equation, number)}.",
        )
    side, terms = ("left", equation.left) if right else ("right", equation.right)
    _check_stacked(equation, number, side, terms, list_axes.left if right else list_axes.right)
    if right:
        return number, ListAxes(tuple((*own, number) for own in list_axes.left), list_axes.right)
    return number, ListAxes(list_axes.left, tuple((*own, number) for own in list_axes.right))


def _check_stacked(
    equation: Equation, number: str, side: str, terms: tuple[Term, ...], own: tuple[tuple[str, ...], ...]
) -> None:
    if int(number) != len(terms):
        hint = (
            f"Name {number} tensors on the {side} side; or, to repeat one, write a name in place of {number} "
            f"and state its size: {_with_name(equation, number)}."
        )
        if len(terms) > 1:
            hint = f"Write {len(terms)} in place of {number}, or name {number} tensors on the {side} side."
        raise RuleError(
            f"'{equation}': the axis {number} is a stack of {number} tensors: expected {number} on the "
            f"{side} side, got {len(terms)}.",
            hint=hint,
        )
    first, *others = (
        {*term.names, *own_axes, *(axis for axis in term.axes if axis == ELLIPSIS)}
        for term, own_axes in zip(terms, own, strict=True)
    )
    for term, names in zip(terms[1:], others, strict=True):
        if names != first:
            raise RuleError(
                f"'{equation}': '{terms[0]}' and '{term}' are stacked along {number}: expected the same "
                f"axes, got {', '.join(sorted(first)) or 'none'} and {', '.join(sorted(names)) or 'none'}.",
                hint=f"Name the same axes in all {number}, or write + between parts, as in '(q + k)'.",
            )


def _with_name(equation: Equation, number: str) -> str:
    """Return the text to write in place of a number: the equation with a name, and its size."""
    used = equation.axes
    name = next(name for name in ("n", "m", *(f"n{i}" for i in range(len(used) + 1))) if name not in used)

    def named(member: Member) -> Member:
        if isinstance(member, Group):
            return Group(tuple(map(named, member.members)), member.marked)
        return name if member == number else member

    left, right = (
        tuple(Term(tuple(map(named, term.axes))) for term in side) for side in (equation.left, equation.right)
    )
    return f"'{Equation(left, right)}' with sizes = {{ {name} = {number} }}"
