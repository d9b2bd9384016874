"""What the captures of a rule's patterns are: shared by both sides, or list axes.

A capture of both sides is fixed: it distinguishes the instances of the rule. A capture of only one side is a
list axis: its pattern matches a list of tensors, and the other side has the capture as an axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bridge_core.axes import Equation, IndexCount, IndexEquation, ListAxes, Term
from bridge_core.errors import RuleError
from bridge_core.messages import count, nearest
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.where import Where

if TYPE_CHECKING:
    from bridge_core.rules.rule import Rule

__all__ = [
    "capture_text",
    "certainly_meet",
    "check_absent",
    "check_captures",
    "check_same_captures",
    "check_where",
    "expanded",
    "list_axes_of",
]

_MOST_PATTERNS = 1024
"""Of one side of a rule."""


def expanded(pattern: Pattern, where: Where) -> tuple[str, ...]:
    """Return the captures of a pattern, with its parts in the place of a number that they give.

    A number that is an axis is there in the place of its parts.
    """
    if not where:
        return pattern.captures
    names = dict.fromkeys(part for name in pattern.captures for part in where.parts.get(name, (name,)))
    for whole in where.stacked:
        parts = where.parts[whole]
        if names.keys() >= set(parts):
            names = dict.fromkeys(whole if name in parts else name for name in names)
    return tuple(names)


def list_axes_of(sources: Iterable[Pattern], targets: Iterable[Pattern], where: Where) -> ListAxes:
    """Return the list axes of every pattern, in the order of its captures."""
    left, right = ([expanded(pattern, where) for pattern in side] for side in (sources, targets))
    fixed = {name for names in left for name in names} & {name for names in right for name in names}
    return ListAxes(
        tuple(tuple(name for name in names if name not in fixed) for names in left),
        tuple(tuple(name for name in names if name not in fixed) for names in right),
    )


def certainly_meet(first: Pattern, second: Pattern) -> bool:
    """Return whether some key surely matches both: equal patterns, or a key and a pattern that matches it.

    Alternatives are patterns of their own.
    """
    if first.is_open or second.is_open:
        pairs = itertools.product(first.options, second.options)
        return any(certainly_meet(one, other) for one, other in pairs)
    if first.collection and second.collection and first.collection != second.collection:
        return False
    if first.is_literal or second.is_literal:
        literal, other = (first, second) if first.is_literal else (second, first)
        return other.match(tuple(map(str, literal.segments))) is not None
    return first.shape == second.shape


def check_where(rule: Rule) -> None:
    """Check that indexes compute numbers of one side from the other, and that comparisons name something.

    Raises:
        RuleError: One does not.
    """
    where, patterns = rule.where, (*rule.sources, *rule.targets)
    for index in where.indexes:
        if index.result in where.stacked:
            _check_stacked(index, patterns)
        else:
            _check_index(index, rule.sources, rule.targets, rule.equation)
    axes = rule.equation.axes if rule.equation is not None else frozenset[str]()
    known = axes.union(where.numbers, rule.sizes, *(pattern.captures for pattern in patterns))
    for comparison in where.comparisons:
        for name in sorted(comparison.names - known):
            if not name.startswith("config."):
                raise RuleError(
                    f"where = '{comparison}': {name} is neither a capture nor a size.",
                    hint=nearest(name, sorted(known)),
                )
    if len(where.parts) < len(where.indexes) or not where.parts.keys().isdisjoint(
        name for names in where.parts.values() for name in names
    ):
        raise RuleError(f"where = '{where}': expected each number to be computed once, from names only.")


def _check_stacked(index: IndexEquation | IndexCount, patterns: Iterable[Pattern]) -> None:
    """Check that patterns with a part of a number that is an axis have all of its parts, as numbers."""
    with_parts = [pattern for pattern in patterns if not set(index.names).isdisjoint(pattern.captures)]
    lacking = [pattern for pattern in with_parts if not set(index.names) <= set(pattern.numbers)]
    if lacking or not with_parts:
        shown = f"'{lacking[0]}' has not" if lacking else "no pattern has"
        parts = ", ".join(f"{{{name}:int}}" for name in index.names)
        raise RuleError(
            f"where = '{index.text}': {index.result} is an axis, and {shown} all of its parts as numbers.",
            hint=f"Write {parts} in the patterns of the side that is stacked over {index.result}.",
        )


def _check_index(
    index: IndexEquation | IndexCount,
    sources: tuple[Pattern, ...],
    targets: tuple[Pattern, ...],
    equation: Equation | None,
) -> None:
    """Check that one side has the computed number, and the other the parts that it is computed from."""
    holders = [side for side in (sources, targets) if any(index.result in p.captures for p in side)]
    if len(holders) != 1:
        number, parts = f"{{{index.result}:int}}", ", ".join(f"{{{name}:int}}" for name in index.names)
        raise RuleError(
            f"where = '{index.text}': expected {index.result} as a capture of one side, got it on "
            f"{'both sides' if holders else 'neither side'}.",
            hint=f"Write {number} in the patterns of one side only, and {parts} or axes of these names on "
            "the other.",
        )
    others = targets if holders[0] is sources else sources
    for pattern in holders[0]:
        if index.result in pattern.captures and index.result not in pattern.numbers:
            raise RuleError(
                f"where = '{index.text}': the capture {{{index.result}}} of '{pattern}' is not a number.",
                hint=f"Write {{{index.result}:int}} there.",
            )
        for name in index.names:
            if name in pattern.captures:
                raise RuleError(
                    f"where = '{index.text}': '{pattern}' has both {name} and {index.result} as captures.",
                    hint=f"Write {name} only on the other side.",
                )
    terms = () if equation is None else equation.left if others is sources else equation.right
    axes = {name for term in terms for name in term.names}
    for name in index.names:
        numbers = {name in pattern.numbers for pattern in others if name in pattern.captures}
        if False in numbers:
            raise RuleError(
                f"where = '{index.text}': the capture {{{name}}} is not a number.",
                hint=f"Write {{{name}:int}}.",
            )
        if not numbers and name not in axes:
            side = "source" if others is sources else "target"
            raise RuleError(
                f"where = '{index.text}': {name} has no value: it is neither a capture nor an axis on the "
                f"{side} side.",
                hint=f"Write {{{name}:int}} in the {side} pattern, or name {name} as an axis of the {side}s "
                "in the equation.",
            )


def check_absent(rule: Rule) -> None:
    """Check that only patterns of an equation with several on their side are marked as absent at times.

    Raises:
        RuleError: Another one is.
    """
    for side in (rule.sources, rule.targets):
        marked = next((pattern for pattern in side if pattern.may_be_absent), None)
        if marked is not None and (rule.equation is None or len(side) == 1):
            raise RuleError(
                f"the pattern '{marked}' has a '?': expected it only where an equation has several tensors "
                "on that side, of which this one may be absent.",
                hint="Remove the '?', and set optional = true if the rule may match nothing.",
            )


def check_captures(rule: Rule) -> None:
    """Check that every capture has a value in both directions, and that keys map one to one.

    Raises:
        RuleError: A capture has no value, or two keys would be one.
    """
    sources, targets, where, equation = rule.sources, rule.targets, rule.where, rule.equation
    for what, side in (("sources", sources), ("targets", targets)):
        if len(side) > _MOST_PATTERNS:
            raise RuleError(f"expected at most {_MOST_PATTERNS} {what}, got {len(side)}.")
        literal = [pattern.segments for pattern in side if pattern.is_literal]
        differ = len(set(literal)) == len(literal)
        for first, second in itertools.combinations(side, 2):
            if not (differ and first.is_literal and second.is_literal) and certainly_meet(first, second):
                raise RuleError(
                    f"the {what} '{first}' and '{second}' match the same key: expected different keys.",
                    hint="Change one pattern so that no key matches both, or remove it.",
                )
    _check_types((*sources, *targets))
    check_where(rule)
    if equation is None:
        _check_pairs(sources, targets, where)
        return
    for what, side_name, side, terms in (
        ("source", "left", sources, equation.left),
        ("target", "right", targets, equation.right),
    ):
        if len(side) != len(terms):
            raise RuleError(
                f"expected {count(len(side), 'tensor')} on the {side_name} side of '{equation}', one for "
                f"each {what}, got {len(terms)}.",
                hint="Separate the axes of different tensors by commas, as in 'q in, k in -> (q k) in'.",
            )
    list_axes = rule.list_axes
    _check_fixed(sources, targets, where, list_axes)
    numbers = {name for pattern in (*sources, *targets) for name in pattern.numbers}
    numbers |= where.numbers
    for side, names, terms in (
        (sources, list_axes.left, equation.right),
        (targets, list_axes.right, equation.left),
    ):
        axes = {name for term in terms for name in term.names}
        for pattern, free in zip(side, names, strict=True):
            for name in free:
                if name not in axes:
                    raise _unused(
                        name, pattern, equation, targets if side is sources else sources, side is sources
                    )
                if name not in numbers:
                    raise RuleError(
                        f"the capture {capture_text(name)} of '{pattern}' is an axis in '{equation}', but "
                        "it is not a number.",
                        hint=f"Write {{{name}:int}} in the pattern.",
                    )


def _unused(
    name: str, pattern: Pattern, equation: Equation, others: tuple[Pattern, ...], is_source: bool
) -> RuleError:
    """Return the error for a capture that the other side has neither as a capture nor as an axis."""
    text, what = capture_text(name), "target" if is_source else "source"
    typed = next(t for t in (f"{{{name}:int}}", text) if t in str(pattern) or t == text)
    *before, last = str(others[0]).split(".")
    hint = (
        f"To keep one {what} for each {text}, write it in the {what}: '{'.'.join([*before, typed, last])}'."
    )
    if not name.startswith("*"):
        left, right = equation.left, equation.right
        stacked = tuple(Term((name, *term.axes)) for term in (right if is_source else left))
        shown = Equation(left, stacked) if is_source else Equation(stacked, right)
        hint = f"To stack over it, name it as an axis: '{shown}'. {hint}"
    return RuleError(f"the capture {text} of '{pattern}' is not used on the {what} side.", hint=hint)


def check_same_captures(source: Pattern, target: Pattern, where: Where, action: str = "rename") -> None:
    """Check that the patterns of a tensor that is not rearranged have the same captures.

    Raises:
        RuleError: Only one of them has a capture.
    """
    for pattern, other in ((source, target), (target, source)):
        own = expanded(other, where)
        lone = [name for name in expanded(pattern, where) if name not in own]
        if lone:
            names = ", ".join(map(capture_text, lone))
            instead = f"write a name instead of {names} in '{pattern}'"
            if action == "rearrange":
                instead = (
                    "relate numbers by where = 'i = j + 1', or stack over it with an equation, such as "
                    "rearrange = 'out in -> i out in'"
                )
            raise RuleError(
                f"'{pattern}' has {names}, and '{other}' has not. Both need the same captures, so that each "
                "key gets a name of its own and the rule can be read in both directions.",
                hint=f"Write {names} in '{other}' too, or {instead}.",
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
                    f"the capture {{{name}}} is a number in '{typed}' and any text in '{untyped}'.",
                    hint=f"Write {{{name}:int}} in both.",
                )


def _check_pairs(sources: tuple[Pattern, ...], targets: tuple[Pattern, ...], where: Where) -> None:
    if len(sources) != len(targets):
        raise RuleError(
            f"a rule without an equation copies each source to one target: expected {len(sources)} targets, "
            f"got {len(targets)}.",
            hint="Write an equation that joins or splits them, such as rearrange = 'q in, k in -> (q k) in'.",
        )
    for source, target in zip(sources, targets, strict=True):
        check_same_captures(source, target, where, "rearrange")


def _check_fixed(
    sources: tuple[Pattern, ...],
    targets: tuple[Pattern, ...],
    where: Where,
    list_axes: ListAxes,
) -> None:
    patterns = [*zip(sources, list_axes.left, strict=True), *zip(targets, list_axes.right, strict=True)]
    fixed = {name for pattern, free in patterns for name in expanded(pattern, where) if name not in free}
    for pattern, _ in patterns:
        missing = sorted(fixed - set(expanded(pattern, where)))
        if missing:
            names = ", ".join(map(capture_text, missing))
            raise RuleError(
                f"the pattern '{pattern}' has no {names}: expected each capture that is on both sides in "
                "every pattern of the rule.",
                hint=f"Write {names} in '{pattern}' too.",
            )


def capture_text(name: str) -> str:
    """Return how a pattern writes a capture, without its type: ``{i}`` or ``*``."""
    return name.rstrip("0123456789") if name.startswith("*") else f"{{{name}}}"
