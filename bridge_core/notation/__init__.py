"""The axis notation: equations over named axes, and the ops that they stand for."""

from bridge_core.notation.equation import ELLIPSIS, Equation, Group, Lists, Term
from bridge_core.notation.rearrange import Rearrangement, rearrange
from bridge_core.notation.structure import check_equation

__all__ = ["ELLIPSIS", "Equation", "Group", "Lists", "Rearrangement", "Term", "check_equation", "rearrange"]
