"""One model rounds much more coarsely than the other: a lower precision on one side only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge_core.plugins import ModuleCall
from bridge_core.proof.causes import Cause
from bridge_core.proof.running.control import Control, step
from bridge_core.proof.running.models import What
from bridge_core.proof.running.restless import change, first_changed
from bridge_core.state import join_key

if TYPE_CHECKING:
    from bridge_core.proof.running.proof_report import Proof
    from bridge_core.proof.running.search import Found, Search

__all__ = ["Uneven", "precision_cause", "rounding_of_calls", "uneven_rounding"]

_APART = 30.0
"""Controls that differ by more than this factor are not those of one precision."""
_FEW = 4.0
"""By this factor the finer side's control may be exceeded: the other side adds in another order."""


@dataclass(frozen=True)
class Uneven:
    """Which side rounds more coarsely.

    Args:
        coarse: The side with the lower precision.
        dtype: Name of its shortest float dtype; None if it is unknown.
        fine_error: The control of the other side.
        coarse_error: The control of this side.
        factor: How many times the finer side's rounding two arrays may differ.
    """

    coarse: What
    dtype: str | None
    fine_error: float
    coarse_error: float
    factor: float = _FEW

    @property
    def limit(self) -> float:
        """The error up to which outputs are equal."""
        return self.factor * self.fine_error

    @property
    def fine(self) -> What:
        """The side with the higher precision."""
        return "target" if self.coarse == "source" else "source"

    @property
    def text(self) -> str:
        """The difference as a sentence."""
        return (
            f"The {self.coarse} rounds {self.coarse_error / self.fine_error:.0f} times more coarsely than "
            f"the {self.fine}: it computes in {self.dtype or 'a lower precision'} where the {self.fine} does "
            "not."
        )


def uneven_rounding(source: Control, target: Control) -> Uneven | None:
    """Return which side computes in a lower precision; None if none does, or it cannot be told.

    Sums that cancel make a control large, too. So where the dtypes of both sides are known, they decide
    whether a large control is that of a shorter one.

    Args:
        source: The control of the source.
        target: The control of the target.
    """
    if source.float64 is None or target.float64 is None:
        return None
    fine, coarse = sorted((source, target), key=lambda one: one.error)
    if not coarse.error > _APART * fine.error:
        return None
    steps = [max((step(name) for name in one.dtypes), default=None) for one in (fine, coarse)]
    if steps[0] is not None and steps[1] is not None and not steps[1] > steps[0]:
        return None
    dtype = max(coarse.dtypes, key=step, default=None)
    return Uneven("source" if coarse is source else "target", dtype, fine.error, coarse.error)


def rounding_of_calls(native: Sequence[ModuleCall], float64: Sequence[ModuleCall]) -> dict[int, float]:
    """Return by how much the outputs of each call differ between two precisions of one model.

    Args:
        native: The calls of a run.
        float64: The same calls in float64; those after the first that is another one are left out.
    """
    errors = {}
    for call, sharp in zip(native, float64, strict=False):
        if call.path != sharp.path:
            break
        error = change(call.outputs, sharp.outputs)
        if error < float("inf"):
            errors[call.began] = error
    return errors


def precision_cause(proof: Proof, search: Search, uneven: Uneven, found: Found) -> Cause:
    """Return the cause where nothing but the precision differs.

    Args:
        proof: What is known of the outputs.
        search: Both models, whose runs are recorded.
        uneven: Which side rounds more coarsely.
        found: The first difference of the models as they are.
    """
    place = 0 if uneven.coarse == "source" else 1
    native, sharp = search.runs("native")[place], search.runs("float64")[place]
    module = first_changed(native.calls, sharp.calls, found.limit)
    where = ""
    if module is not None:
        where = f"in {join_key(module.path) or 'the model'} ({module.type})"
        first = found.first
        same = first is not None and (first.source, first.target)[place] == join_key(module.path)
        if same and first is not None and first.before is not None:
            where += f", before {first.before[place]}"
    dtype = uneven.dtype or "a lower precision"
    text = (
        f"The {uneven.coarse} computes with the rounding of {dtype}, the {uneven.fine} does not: it begins "
        f"{where or 'with the inputs and weights of the model'}."
    )
    values = {uneven.coarse: dtype, uneven.fine: "a higher precision"}
    spot = f", {where}" if where else ""
    return Cause(
        "precision",
        text,
        values["source"],
        values["target"],
        proof.error if proof.error is not None else float("nan"),
        proof.error_in_float64 if proof.error_in_float64 is not None else float("nan"),
        f"In the {uneven.coarse}{spot}: compute in the dtype of the {uneven.fine}; or let both compute in "
        f"{dtype}.",
    )
