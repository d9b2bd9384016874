"""Checks of a rule's calls and sizes against its equation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.axes import ELLIPSIS, Equation, Term
from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.conditions import When
from bridge_core.rules.config_sizes import Size
from bridge_core.rules.flat_index import FlatIndex
from bridge_core.rules.op_calls import Call

__all__ = ["axis_places", "check_calls", "check_conditions", "check_sizes"]


def axis_places(term: Term) -> dict[str, int]:
    """Return the places of a term's axes that are axes of their own."""
    places = ((str(axis), term.position(str(axis))) for axis in term.axes)
    return {axis: place for axis, place in places if place is not None}


def check_conditions(when: When, term: Term | None, sizes: Mapping[str, Size]) -> None:
    """Check that conditions are about axes that there are, and can hold.

    Args:
        when: The conditions.
        term: The term that they are about; None if there is no equation.
        sizes: Axis -> its size, as the rule gives it.

    Raises:
        RuleError: They are not, or cannot.
    """
    if term is not None and ELLIPSIS not in term.axes and when.rank not in (None, len(term.axes)):
        text = " ".join(map(str, term.axes))
        raise RuleError(f"when.rank is {when.rank}, and '{text}' has {len(term.axes)} axes; it never holds.")
    places = axis_places(term) if term is not None else {}
    for axis, size in when.sizes:
        if axis not in places:
            raise RuleError(
                f"when.sizes.{axis}: the first term has no such axis of its own. {nearest(axis, places)}"
            )
        known = sizes.get(axis)
        if known is not None and not known.sign and isinstance(known.left, int) and known.left != size:
            raise RuleError(f"when.sizes.{axis} is {size}, and sizes.{axis} is {known}; it never holds.")


def check_calls(calls: Iterable[Call], terms: tuple[Term, ...] | None) -> None:
    """Check that the terms next to calls have the axes that the calls name; None for no equation.

    Raises:
        RuleError: One does not.
    """
    for call in calls:
        if call.name not in ("pad", "unpad") or isinstance(call.args[0], int):
            continue
        if terms is None:
            raise RuleError(f"'{call}' names an axis, but there is no equation; give the index of the axis.")
        known = dict.fromkeys(
            name for term in terms for name in term.names if term.position(name) is not None
        )
        if call.args[0] not in known:
            hint = nearest(str(call.args[0]), known)
            raise RuleError(f"'{call}': no term next to it has this axis of its own. {hint}")


def check_sizes(
    sizes: Mapping[str, Size], equation: Equation | None, calls: Iterable[Call], index: FlatIndex | None
) -> None:
    """Check that every size is of something, and that what the calls ask for is there.

    Raises:
        RuleError: One is not.
    """
    needed = {name for call in calls for name in call.size_names}
    known = needed | (equation.axes if equation is not None else frozenset())
    for name in sizes:
        if name not in known:
            raise RuleError(f"sizes.{name}: there is no axis of this name. {nearest(name, sorted(known))}")
        if index is not None and name in index.sizes:
            raise RuleError(f"sizes.{name}: '{index}' gives this size already; leave it out.")
    for name in sorted(needed - set(sizes)):
        raise RuleError(f"the size {name!r} is not known; write sizes = {{ {name} = ... }}.")
