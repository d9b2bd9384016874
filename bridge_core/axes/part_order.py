"""Groups whose members change their order inside one axis, which may be meant as parts that are moved.

In `(a b) i -> i (b a)` the group is a product, so that its entries are interleaved. Users who mean two parts
that change places, `(a + b) i -> i (b + a)`, may write the same text. Only stated sizes show that the product
is meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bridge_core.axes.equation import Equation, Group, ListAxes, Member, Term
from bridge_core.errors import RuleError

__all__ = ["check_part_order"]


def check_part_order(equation: Equation, list_axes: ListAxes, sizes: Collection[str]) -> None:
    """Check that a group whose order changes has stated sizes.

    The sizes show that it is a product.

    A group of two needs both sizes: with only one, many tensors fit both readings. In a longer group one size
    may be left to the shapes.

    Args:
        equation: The equation.
        list_axes: The axes along which each term is a list of tensors; their sizes are known.
        sizes: Names of the axes whose sizes are stated.

    Raises:
        RuleError: A group changes its order, and sizes are missing.
    """
    left, right = (tuple(_groups(side)) for side in (equation.left, equation.right))
    if not left or not right:
        return
    terms = (*equation.left, *equation.right)
    known = {*sizes, *(name for own in (*list_axes.left, *list_axes.right) for name in own)}
    known.update(axis for term in terms for axis in term.axes if isinstance(axis, str))
    for names in left:
        turned = next((other for other in right if other != names and sorted(other) == sorted(names)), None)
        unknown = [name for name in names if name not in known]
        if turned is not None and len(unknown) > (len(names) > 2):
            raise _ambiguous(equation, names, turned)


def _ambiguous(equation: Equation, names: tuple[str, ...], turned: tuple[str, ...]) -> RuleError:
    one, other = (f"({' '.join(order)})" for order in (names, turned))
    stated = ", ".join(f"{name} = ..." for name in names)
    marked = Equation(_with_marks(equation.left, names), _with_marks(equation.right, turned))
    return RuleError(
        f"'{equation}': {one} becomes {other}, which has two meanings: a product of {' times '.join(names)} "
        f"interleaved entries, or parts one after another, {' plus '.join(names)} entries.",
        hint=f"For a product, add sizes = {{ {stated} }} to the rule. For parts, write + between them and "
        f"state all sizes but one: '{marked}'.",
    )


def _groups(terms: tuple[Term, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the names of every group of two names or more, inner groups included, but none with ``+``."""
    pending: list[Member] = [axis for term in terms for axis in term.axes]
    while pending:
        member = pending.pop(0)
        if isinstance(member, Group):
            names = Term((member,)).names
            if len(names) > 1 and not _is_marked(member):
                yield names
            pending.extend(member.members)


def _is_marked(member: Member) -> bool:
    return isinstance(member, Group) and (member.marked or any(map(_is_marked, member.members)))


def _with_marks(terms: tuple[Term, ...], names: tuple[str, ...]) -> tuple[Term, ...]:
    """Return the terms with ``+`` in the group that has these names."""

    def marked(member: Member) -> Member:
        if not isinstance(member, Group):
            return member
        if Term((member,)).names == names:
            return Group(names, marked=True)
        return Group(tuple(map(marked, member.members)), member.marked)

    return tuple(Term(tuple(map(marked, term.axes))) for term in terms)
