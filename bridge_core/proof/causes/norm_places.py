"""Whether two expressions differ in where a norm is: before a sum or after it, or on one side only."""

from __future__ import annotations

from bridge_core.proof.causes.expressions import Expression
from bridge_core.proof.causes.measures import relative_error
from bridge_core.proof.causes.side_parts import SIDES
from bridge_core.proof.causes.sides import Side
from bridge_core.proof.causes.site import ModuleView, Site

__all__ = ["is_norm", "norm_is_elsewhere"]


def is_norm(view: ModuleView) -> bool:
    """Return whether a module is a norm, as far as its kind and the name of its class show."""
    return view.kind in ("norm", "batch_norm") or "norm" in view.type.rpartition(".")[2].lower()


def norm_is_elsewhere(one: Expression, other: Expression, site: Site, sides: tuple[Side, Side]) -> bool:
    """Return whether a norm is what makes two expressions use other arrays.

    Args:
        one: The source's expression.
        other: The target's.
        site: Where they are.
        sides: What both sides show.
    """
    ours, theirs = ([term.base for term in expression.terms] for expression in (one, other))
    if one.after or other.after:
        return False
    mine = [base for base in ours if base not in theirs]
    others = [base for base in theirs if base not in ours]
    if len(mine) == len(others) == 1:
        return _across(mine[0], others[0], site, sides) or _across(others[0], mine[0], site, sides)
    return any(_comes_after(base, site, 1) for base in mine) or any(
        _comes_after(base, site, 0) for base in others
    )


def _across(output: str, other: str, site: Site, sides: tuple[Side, Side]) -> bool:
    """Return whether one array is what a norm returns, and the other what it was called with."""
    view = _view(output, site)
    if view is None or " output" not in output or not is_norm(view):
        return False
    name = output.replace(" output", " input 0")
    called = [side.arrays[name] for side in sides if name in side.arrays]
    given = [side.arrays[other] for side in sides if other in side.arrays]
    return any(relative_error(one, array) < 1e-4 for one in called for array in given)


def _view(base: str, site: Site) -> ModuleView | None:
    words = base.split()
    if words[0] == "child":
        return site.source.children[site.pairs[int(words[1])][0]]
    if words[0] in SIDES:
        return (site.source, site.target)[SIDES.index(words[0])].children[int(words[1])]
    return None


def _comes_after(base: str, site: Site, side: int) -> bool:
    """Return whether one side normalises first, and then calls the child whose output the other one adds."""
    words = base.split()
    if site.at is None or words[0] != "child" or words[2:3] != ["output"]:
        return False
    norm, child = site.pairs[site.at], site.pairs[int(words[1])]
    return is_norm(site.source.children[norm[0]]) and child[side] > norm[side]
