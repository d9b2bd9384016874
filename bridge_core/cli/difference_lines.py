"""The text of a comparison: what differs, and what turned one into the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bridge_core.cli.report import folded, runs
from bridge_core.messages import count, listed, size_text
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.proof import NamedDifferences, Relation
    from bridge_core.transfer import Comparison, Difference

__all__ = ["comparison_lines"]


def comparison_lines(
    comparison: Comparison, left: str, right: str, named: NamedDifferences | None = None
) -> list[str]:
    """Return a comparison's differences, and a line with the totals.

    Args:
        comparison: The comparison.
        left: What the left state is called.
        right: What the right one is called.
        named: What turned one into the other, which comes first; None if nobody looked.
    """
    compared = f"{count(comparison.tensors, 'tensor')}, {size_text(comparison.total_bytes)} compared"
    rest = _not_compared(comparison)
    if comparison.equal:
        return [f"equal: {compared}", *rest]
    relations: Mapping[Key, Relation] = named.relations if named is not None else {}
    held: Mapping[Key, Relation] = named.only_right if named is not None else {}
    lines = [named.sum(left, right)] if named is not None and named.sum(left, right) else []
    lines += folded(map(join_key, comparison.only_left), indent="< ")
    alone = (
        join_key(key) + (f" ({held[key].told(left, right)})" if key in held else "")
        for key in comparison.only_right
    )
    lines += folded(alone, indent="> ")

    def group(difference: Difference) -> tuple[object, ...]:
        relation = relations.get(difference.key)
        moved = relation is not None and relation.other is not None
        how = "" if relation is None else relation.changed if moved else relation.told(left, right)
        return difference.left, difference.right, difference.elements is None, moved, how

    differing = ((join_key(difference.key), difference) for difference in comparison.differing)
    for name, differences in runs(differing, group):
        times = f"  x{len(differences)}" if len(differences) > 1 else ""
        known = [relations[difference.key] for difference in differences if difference.key in relations]
        why = f", {_why(known, left, right)}" if known else ""
        lines.append(f"! {name}: {_difference_text(differences, left, right)}{why}{times}")
    totals = [
        f"{len(keys)} only in {where}"
        for keys, where in ((comparison.only_left, left), (comparison.only_right, right))
        if keys
    ]
    if comparison.differing:
        totals.append(f"{len(comparison.differing)} differ")
    return [*lines, f"different: {', '.join(totals)}; {compared}", *rest]


def _why(relations: Sequence[Relation], left: str, right: str) -> str:
    """Return what several tensors of one relation are, and how exactly."""
    first, error = relations[0], max(relation.error for relation in relations)
    stated = f" (error {error:.1g})" if error else ""
    if len(relations) == 1 or first.other is None:
        return first.told(left, right) + stated
    names = listed(join_key(relation.other) for relation in relations if relation.other is not None)
    return f"as if they were {left}'s {names}{first.changed}{stated}"


def _not_compared(comparison: Comparison) -> list[str]:
    """Return the tensors that a plan leaves out on either side, and its notes."""
    lines: list[str] = []
    for title, names in (
        ("left out", [f"{entry['name']} ({entry['reason']})" for entry in comparison.left_out]),
        ("left unfilled", [join_key(key) for key in comparison.unfilled]),
    ):
        if names:
            lines += [f"{title}:", *folded(names)]
    return [*lines, *(f"note: {note}" for note in comparison.notes)]


def _difference_text(differences: Sequence[Difference], left: str, right: str) -> str:
    first = differences[0]
    if first.elements is None:
        if first.left == first.right:
            return f"the {first.left} values stored in the metadata differ"
        return f"{first.left} in {left}, {first.right} in {right}"
    elements = sum(d.elements or 0 for d in differences)
    gaps = [d.largest for d in differences if d.largest is not None]
    largest = f", by at most {max(gaps):.6g}" if gaps else ""
    other_nans = sum(d.other_nans for d in differences)
    nans = ""
    if other_nans:
        share = "all" if other_nans == elements else f"{other_nans} of them"
        nans = f", {share} NaN in both, with other bits"
    return f"{count(elements, 'element')} of {first.left} differ{largest}{nans}"
