"""What the captures of a rule's patterns are: shared by both sides, or list axes.

A capture of both sides is fixed: it distinguishes the instances of the rule. A capture of one side alone is
a list axis: its pattern matches a list of tensors, and the other side has the capture as an axis.
"""

from __future__ import annotations

from collections.abc import Iterable

from bridge_core.axes import Equation, ListAxes
from bridge_core.errors import RuleError
from bridge_core.rules.flat_index import FlatIndex
from bridge_core.rules.patterns import Pattern

__all__ = ["certainly_meet", "check_captures", "check_flat_index", "expanded", "list_axes_of"]


def expanded(pattern: Pattern, index: FlatIndex | None) -> tuple[str, ...]:
    """Return the captures of a pattern, with the parts of a flat index in its place."""
    if index is None:
        return pattern.captures
    return tuple(
        part for name in pattern.captures for part in (index.names if name == index.whole else (name,))
    )


def list_axes_of(sources: Iterable[Pattern], targets: Iterable[Pattern], index: FlatIndex | None) -> ListAxes:
    """Return the list axes of every pattern, in the order of its captures."""
    left, right = ([expanded(pattern, index) for pattern in side] for side in (sources, targets))
    fixed = {name for names in left for name in names} & {name for names in right for name in names}
    return ListAxes(
        tuple(tuple(name for name in names if name not in fixed) for names in left),
        tuple(tuple(name for name in names if name not in fixed) for names in right),
    )


def certainly_meet(first: Pattern, second: Pattern) -> bool:
    """Tell whether one key matches both for certain: equal patterns, or a key and a pattern for it."""
    if first.collection and second.collection and first.collection != second.collection:
        return False
    if first.is_literal or second.is_literal:
        literal, other = (first, second) if first.is_literal else (second, first)
        return other.match(tuple(map(str, literal.segments))) is not None
    return first.shape == second.shape


def check_flat_index(
    index: FlatIndex,
    sources: tuple[Pattern, ...],
    targets: tuple[Pattern, ...],
    equation: Equation | None,
) -> None:
    """Check that one side has the whole, and the other its parts.

    Raises:
        RuleError: It does not.
    """
    holders = [side for side in (sources, targets) if any(index.whole in p.captures for p in side)]
    if len(holders) != 1:
        where = "both sides have it" if holders else "neither side has it"
        raise RuleError(f"where = '{index}': {index.whole} must be a capture of one side; {where}.")
    others = targets if holders[0] is sources else sources
    for pattern in holders[0]:
        if index.whole in pattern.captures and index.whole not in pattern.numbers:
            raise RuleError(f"where = '{index}': write {{{index.whole}:int}} in '{pattern}'.")
        for name in index.names:
            if name in pattern.captures:
                raise RuleError(
                    f"where = '{index}': {name} and {index.whole} are both captures in '{pattern}'."
                )
    terms = () if equation is None else equation.left if others is sources else equation.right
    axes = {name for term in terms for name in term.names}
    for name in index.names:
        numbers = {name in pattern.numbers for pattern in others if name in pattern.captures}
        if False in numbers:
            raise RuleError(f"where = '{index}': write {{{name}:int}}; {name} is a number.")
        if not numbers and name not in axes:
            raise RuleError(
                f"where = '{index}': nothing binds {name}; it is neither a capture nor an axis of the side "
                f"without {index.whole}."
            )


def check_captures(
    sources: tuple[Pattern, ...],
    targets: tuple[Pattern, ...],
    index: FlatIndex | None,
    equation: Equation | None,
) -> None:
    """Check that every capture is bound, whichever way the rule is read, and keys map one to one.

    Raises:
        RuleError: A capture is not bound, or two keys would be one.
    """
    for what, side in (("sources", sources), ("targets", targets)):
        for n, first in enumerate(side):
            for second in side[n + 1 :]:
                if certainly_meet(first, second):
                    raise RuleError(f"its {what} '{first}' and '{second}' match the same key.")
    _check_types((*sources, *targets))
    if index is not None:
        check_flat_index(index, sources, targets, equation)
    if equation is None:
        _check_pairs(sources, targets, index)
        return
    for what, side, terms in (
        ("sources", sources, equation.left),
        ("targets", targets, equation.right),
    ):
        if len(side) != len(terms):
            raise RuleError(
                f"{what} and terms do not pair up: {len(side)} against {len(terms)} in '{equation}'."
            )
    list_axes = list_axes_of(sources, targets, index)
    _check_fixed(sources, targets, index, list_axes)
    numbers = {name for pattern in (*sources, *targets) for name in pattern.numbers}
    numbers.update(index.names if index is not None else ())
    for side, names, terms, where in (
        (sources, list_axes.left, equation.right, "right"),
        (targets, list_axes.right, equation.left, "left"),
    ):
        axes = {name for term in terms for name in term.names}
        for pattern, free in zip(side, names, strict=True):
            for name in free:
                if name not in axes:
                    raise RuleError(
                        f"nothing binds {_shown(name)} of '{pattern}': the other side has no such capture, "
                        f"and '{equation}' has no such axis on the {where}. To stack over it, name it there "
                        "as an axis; to keep one tensor for each, write it in the pattern of the other side."
                    )
                if name not in numbers:
                    raise RuleError(
                        f"{_shown(name)} of '{pattern}' is an axis of '{equation}', so it must be a number: "
                        f"write {{{name}:int}}."
                    )


def _check_types(patterns: tuple[Pattern, ...]) -> None:
    types: dict[str, tuple[bool, Pattern]] = {}
    for pattern in patterns:
        for name in pattern.captures:
            number = name in pattern.numbers
            known, other = types.setdefault(name, (number, pattern))
            if known != number:
                typed, untyped = (pattern, other) if number else (other, pattern)
                raise RuleError(
                    f"{{{name}}} is a number in '{typed}' and any text in '{untyped}'; "
                    f"write {{{name}:int}} in both."
                )


def _check_pairs(sources: tuple[Pattern, ...], targets: tuple[Pattern, ...], index: FlatIndex | None) -> None:
    if len(sources) != len(targets):
        raise RuleError(
            f"sources and targets do not pair up: {len(sources)} against {len(targets)}; without an equation "
            "tensors go one to one."
        )
    for source, target in zip(sources, targets, strict=True):
        lone = set(expanded(source, index)) ^ set(expanded(target, index))
        if lone:
            names = ", ".join(map(_shown, sorted(lone)))
            raise RuleError(
                f"only one of '{source}' and '{target}' has {names}; to stack over it, write an equation "
                "that has it as an axis."
            )


def _check_fixed(
    sources: tuple[Pattern, ...],
    targets: tuple[Pattern, ...],
    index: FlatIndex | None,
    list_axes: ListAxes,
) -> None:
    patterns = [*zip(sources, list_axes.left, strict=True), *zip(targets, list_axes.right, strict=True)]
    fixed = {name for pattern, free in patterns for name in expanded(pattern, index) if name not in free}
    for pattern, _ in patterns:
        lacking = sorted(fixed - set(expanded(pattern, index)))
        if lacking:
            raise RuleError(
                f"nothing binds {', '.join(map(_shown, lacking))} for '{pattern}'; every pattern of the rule "
                "must have the captures that both sides have."
            )


def _shown(name: str) -> str:
    return name if name.startswith("*") else f"{{{name}}}"
