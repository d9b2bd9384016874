"""Groups whose members change their order inside one axis, where parts that are moved may be meant.

In `(a b) i -> i (b a)` the group is a product, so that its entries are interleaved. Those who mean parts one
after another write the same text. Only sizes tell the two apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bridge_core.axes.equation import ELLIPSIS, ONE, Equation, Group, ListAxes, Member, Term
from bridge_core.errors import RuleError

__all__ = ["check_part_order"]


def check_part_order(equation: Equation, list_axes: ListAxes, sizes: Collection[str]) -> None:
    """Check that no group is on the other side in another order unless sizes show that it is a product.

    A group of two needs both sizes: with only one, many tensors fit both readings. Of more, one may be left
    to the tensor.

    Args:
        equation: The equation.
        list_axes: The axes along which each term is a list of tensors; their sizes are known.
        sizes: Names of the axes whose sizes are stated.

    Raises:
        RuleError: Sizes are missing.
    """
    left, right = (tuple(_groups(side)) for side in (equation.left, equation.right))
    terms = (*equation.left, *equation.right)
    known = {*sizes, *(name for own in (*list_axes.left, *list_axes.right) for name in own)}
    known.update(axis for term in terms for axis in term.axes if isinstance(axis, str))
    for names in left:
        turned = next((other for other in right if other != names and sorted(other) == sorted(names)), None)
        unknown = [name for name in names if name not in known]
        if turned is not None and len(unknown) > (len(names) > 2):
            raise RuleError(_message(equation, names, turned))


def _message(equation: Equation, names: tuple[str, ...], turned: tuple[str, ...]) -> str:
    one, other = (f"({' '.join(order)})" for order in (names, turned))
    stated = ", ".join(f"{name} = ..." for name in names)
    pieces, joined = (", ".join(f"{name} ..." for name in order) for order in (names, turned))
    return (
        f"'{equation}': {one} becomes {other}, which can be read in two ways. As a product, the axis has "
        f"{' times '.join(names)} entries, and they are interleaved: state the sizes, "
        f"sizes = {{ {stated} }}. As parts one after another, it has {' plus '.join(names)} entries, and one "
        f"rule cannot change their order: split them by a rule in one conversion, '{one} ... -> {pieces}', "
        f"and join them in the next, '{joined} -> {other} ...'."
    )


def _groups(terms: tuple[Term, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the names of every group of two names or more, inner groups included."""
    pending: list[Member] = [axis for term in terms for axis in term.axes]
    while pending:
        member = pending.pop(0)
        if isinstance(member, Group):
            names = tuple(name for name in Term((member,)).names if name not in (ONE, ELLIPSIS))
            if len(names) > 1:
                yield names
            pending.extend(member.members)
