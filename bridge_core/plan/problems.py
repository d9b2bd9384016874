"""Why a plan cannot be run, gathered before any of it is an error; `advice` words the errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from bridge_core.plan.step import Mismatch
from bridge_core.state import Key, TensorSpec

if TYPE_CHECKING:
    from bridge_core.errors import BridgeError
    from bridge_core.plan.causes import Cause
    from bridge_core.plan.proposals import Proposal
    from bridge_core.plan.recipe_problem import RecipeProblem
    from bridge_core.plan.rivals import Rivals

__all__ = ["PlanProblems", "once"]

T = TypeVar("T")


@dataclass(frozen=True)
class PlanProblems:
    """Why a plan cannot be run; without any problem it can.

    Args:
        missing: Target keys that no source fills.
        unexpected: Source keys that no target takes.
        mismatched: Pairs whose shapes differ.
        ambiguous: Source key -> the interpretations that remain possible.
        unsupported: Source key -> why the target has no place for it.
        unmatched_rules: Rules that had to match a key and did not, as text.
        unexplained: Source key -> why it is not copied, where no evidence shows what it is.
        rivals: Prefixes that match equally well; None if there are none.
        derived: Of the unexplained, the tensors that a layer's weights are computed from, as of an adapter or
            a pruned layer.
        causes: What the source is, where it is not plain weights and problems come from that.
        ways: What else decides or would decide, such as a config: each as sentences and the option of the
            command.
        recipe: Why the plan goes with no recipe, or not with the one that was given.
        proposal: Rename rules that would pair what is missing with what is unexpected.
        unfilled_specs: Target key that no source fills -> its spec, where a template has it.
    """

    missing: tuple[Key, ...] = ()
    unexpected: tuple[Key, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    ambiguous: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    unsupported: Mapping[Key, str] = field(default_factory=dict)
    unmatched_rules: tuple[str, ...] = ()
    unexplained: Mapping[Key, str] = field(default_factory=dict)
    rivals: Rivals | None = None
    derived: frozenset[Key] = frozenset()
    causes: tuple[Cause, ...] = ()
    ways: tuple[tuple[str, str], ...] = ()
    recipe: RecipeProblem | None = None
    proposal: Proposal | None = None
    unfilled_specs: Mapping[Key, TensorSpec] = field(default_factory=dict, compare=False)

    def then(self, following: PlanProblems, origin: Mapping[Key, Key]) -> PlanProblems:
        """Return the problems of two plans, one after the other.

        Args:
            following: The problems of the second plan.
            origin: Source key of the second plan -> source key of the first.
        """
        return PlanProblems(
            following.missing,
            once((*self.unexpected, *(origin.get(key, key) for key in following.unexpected))),
            once(replace(m, source=origin.get(m.source, m.source)) for m in following.mismatched),
            {origin.get(key, key): kinds for key, kinds in following.ambiguous.items()},
            {**self.unsupported, **{origin.get(key, key): why for key, why in following.unsupported.items()}},
            once((*self.unmatched_rules, *following.unmatched_rules)),
            {**self.unexplained, **{origin.get(key, key): why for key, why in following.unexplained.items()}},
            rivals=self.rivals or following.rivals,
            derived=self.derived | {origin.get(key, key) for key in following.derived},
            causes=once((*self.causes, *following.causes)),
            ways=once((*self.ways, *following.ways)),
            recipe=self.recipe or following.recipe,
            proposal=following.proposal,
            unfilled_specs=following.unfilled_specs,
        )

    def error(
        self,
        target_layout: str,
        specs: Mapping[Key, TensorSpec] | None = None,
        unclaimed: Iterable[Key] = (),
    ) -> BridgeError | None:
        """Return the error that names all problems of one kind; None if there are none.

        Args:
            target_layout: The layout of the plan's target.
            specs: Source key -> spec, for shapes and the nearest names in the message.
            unclaimed: Source keys that are copied though no evidence explains them, likewise.
        """
        if self == _NOTHING:
            return None
        if self.recipe is not None:
            return self.recipe.error()
        from bridge_core.plan.advice import (
            mismatch_error,
            open_error,
            unsupported_error,
        )

        if self.unmatched_rules:
            from bridge_core.plan.unmatched import unmatched_rules_error

            rest = once((*unclaimed, *self.unexplained, *self.ambiguous, *self.unexpected))
            return unmatched_rules_error(self.unmatched_rules, specs or (), rest, self.missing)
        if self.rivals is not None:
            return self.rivals.error(self.causes)
        if self.unsupported:
            return unsupported_error(self.unsupported, target_layout, self.causes, self.ways)
        if self.missing or self.unexpected or self.mismatched:
            open_leaves = (self.ambiguous, self.unexplained)
            unfitting = (self.missing, self.unexpected, self.mismatched)
            return mismatch_error(*unfitting, *open_leaves, self.causes, self.ways, self.proposal)
        if self.ambiguous or self.unexplained:
            leaves = (self.ambiguous, self.unexplained, self.derived)
            return open_error(*leaves, self.causes, self.ways, specs)
        return None


_NOTHING = PlanProblems()


def once(values: Iterable[T]) -> tuple[T, ...]:
    """Return the values without repetitions, in order of first appearance."""
    return tuple(dict.fromkeys(values))
