"""Plan: a conversion as data, complete before one byte of tensor data moves.

A plan is a list of steps ``(source keys, op chain, target keys)``. It can be printed, saved, inverted,
joined with the next plan, and applied to a state, which gives a lazy state: applying reads no tensors,
except the few small ones that the target has no place for and that its metadata stores.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.messages import count, listed
from bridge_core.ops import Op, chain_specs, chain_tensors
from bridge_core.plan.compiled import Compiles
from bridge_core.plan.compose import join_keeps, join_steps, traced
from bridge_core.plan.held_ties import held_ties
from bridge_core.plan.plan_source import check_source, with_tied
from bridge_core.plan.problems import PlanProblems, once
from bridge_core.plan.step import Dropped, Mismatch, Step, cast_step
from bridge_core.plan.warning import PlanWarning
from bridge_core.public import gathered, renamed
from bridge_core.state import (
    ArrayTensor,
    AuxiliaryTensor,
    FlatState,
    Key,
    LeftOut,
    Selection,
    StateMetadata,
    Tensor,
    TensorSpec,
    as_state,
    join_key,
)

if TYPE_CHECKING:
    from bridge_core.plan.causes import Cause
    from bridge_core.plan.proposals import Proposal
    from bridge_core.plan.recipe_problem import RecipeProblem
    from bridge_core.plan.rivals import Rivals

__all__ = ["Plan"]


@renamed(refused="unsupported", idle_rules="unmatched_rules")
@gathered("problems", PlanProblems)
@dataclass(frozen=True)
class Plan(Compiles):
    """A conversion as data.

    Args:
        source_layout: Layout of the source: ``torch``, ``flax`` or ``neutral``.
        target_layout: Layout of the target.
        specs: Source key -> spec.
        steps: The moves. Every source key is in one step or in ``dropped``; every target key in one step.
        dropped: Source keys left out, each with its reason.
        ties: Target key -> the target key whose tensor it shares.
        problems: Why it cannot be run; none if it can.
        allowed_missing: Target keys that stay unfilled by permission.
        metadata: The metadata of the target.
        notes: What a reader should know, e.g. a prefix that was removed.
        keeps: Steps without targets, for values that only the target's metadata stores.
        source_ties: Source key that a model ties to another -> that other; a state may have only the other.
        warnings: What may be right and give other outputs; the notes contain each message as well.
        layout_reason: Why the source is read in its layout, if that is known.
        source_names: Source key of a neutral state -> its key in what that was made from, for messages.
        branches: What the source's file or object holds besides the weights.
        selection: The part of the source that it converts; None for all.
    """

    source_layout: str
    target_layout: str
    specs: Mapping[Key, TensorSpec]
    steps: tuple[Step, ...]
    dropped: tuple[Dropped, ...] = ()
    ties: Mapping[Key, Key] = field(default_factory=dict)
    problems: PlanProblems = field(default_factory=PlanProblems)
    allowed_missing: tuple[Key, ...] = ()
    metadata: StateMetadata = field(default_factory=StateMetadata)
    notes: tuple[str, ...] = ()
    keeps: tuple[Step, ...] = ()
    source_ties: Mapping[Key, Key] = field(default_factory=dict)
    warnings: tuple[PlanWarning, ...] = ()
    layout_reason: str = ""
    source_names: Mapping[Key, Key] = field(default_factory=dict, compare=False)
    branches: tuple[LeftOut, ...] = ()
    selection: Selection | None = None

    @property
    def missing(self) -> tuple[Key, ...]:
        """Target keys that no source fills."""
        return self.problems.missing

    @property
    def unexpected(self) -> tuple[Key, ...]:
        """Source keys that no target takes."""
        return self.problems.unexpected

    @property
    def mismatched(self) -> tuple[Mismatch, ...]:
        """Pairs whose shapes differ."""
        return self.problems.mismatched

    @property
    def ambiguous(self) -> Mapping[Key, tuple[str, ...]]:
        """Source key -> the interpretations that remain possible."""
        return self.problems.ambiguous

    @property
    def unsupported(self) -> Mapping[Key, str]:
        """Source key -> why the target has no place for it."""
        return self.problems.unsupported

    @property
    def unmatched_rules(self) -> tuple[str, ...]:
        """Rules that had to match something and did not."""
        return self.problems.unmatched_rules

    @property
    def unexplained(self) -> Mapping[Key, str]:
        """Source key -> why it is not copied, where no evidence shows what it is."""
        return self.problems.unexplained

    @functools.cached_property
    def origin(self) -> Mapping[Key, Key]:
        """Target key -> the first source key that it is made from; targets of constants are not in it."""
        return {target: step.sources[0] for step in self.steps if step.sources for target in step.targets}

    @property
    def unclaimed(self) -> tuple[Key, ...]:
        """Source keys that no evidence explains, copied under their own names or refused."""
        copied = (key for step in self.steps if step.evidence == "unclaimed" for key in step.sources)
        return once((*copied, *self.unexplained))

    @property
    def evidence(self) -> dict[str, int]:
        """Kind of evidence -> how many target tensors it decided."""
        return dict(Counter(step.evidence for step in self.steps for _ in step.targets))

    @property
    def left_out(self) -> tuple[Dropped, ...]:
        """Source keys whose values neither the target nor its metadata has."""
        return tuple(d for d in self.dropped if not d.kept and d.tied_to is None)

    def left_out_json(self) -> list[dict[str, Any]]:
        """Return what is left out, branches and tensors, as plain data."""
        from bridge_core.plan.description import left_out_rows

        return left_out_rows(self)

    @property
    def rivals(self) -> Rivals | None:
        """Prefixes that match equally well, of which none was chosen."""
        return self.problems.rivals

    @property
    def derived(self) -> frozenset[Key]:
        """Source keys from which a layer's weights are computed (adapters, pruned layers)."""
        return self.problems.derived

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What the source is, where it is not plain weights and problems come from that."""
        return self.problems.causes

    @property
    def recipe(self) -> RecipeProblem | None:
        """Why it goes with no recipe, or not with the one that was given."""
        return self.problems.recipe

    @property
    def proposal(self) -> Proposal | None:
        """Rename rules that would pair what is missing with what is unexpected."""
        return self.problems.proposal

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """What else decides or would decide, each as sentences and the option of the command."""
        return self.problems.ways

    @property
    def ok(self) -> bool:
        """Whether it can be run."""
        return self.problems.error(self.target_layout) is None

    @property
    def exact(self) -> bool:
        """Whether the source can be restored from the target bit for bit."""
        steps_exact = all(step.exact for step in self.steps)
        return steps_exact and all(d.kept or d.tied_to is not None for d in self.dropped)

    def check(self) -> Plan:
        """Return the plan if it can be run.

        Raises:
            ConversionError: One of its classes, such as `MismatchError`, with what is wrong.
        """
        error = self.problems.error(self.target_layout, self.specs, self.unclaimed, self.steps)
        if error is None:
            return self
        if self.source_layout == "neutral":
            from bridge_core.plan.source_names import named_by_source

            error = named_by_source(error, self)
        if not self.problems.unmatched_rules:  # those errors are about the rule file
            error.path = self.metadata.provenance.get("path")
        raise error

    def apply(self, state: Mapping[Key, Any]) -> FlatState:
        """Return the converted state; tensors are read when the result's are.

        Only tensors for the metadata, and those whose ties depend on equal values, are read at once.

        Args:
            state: A state with the keys, shapes and dtypes that the plan was made for; it is not changed.

        Raises:
            ConversionError: The plan cannot be run; the classes are those of `check`.
            PlanError: The state has other keys, shapes or dtypes than the plan was made for.
        """
        self.check()
        source = with_tied(as_state(state), self.source_ties)
        check_source(source, self.specs)
        auxiliary_tensors: dict[Key, AuxiliaryTensor] = {}
        outputs_of: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        tensors: dict[Key, Tensor] = {}
        known_specs: dict[tuple[Op, tuple[TensorSpec, ...]], tuple[TensorSpec, ...]] = {}
        known = source.metadata.auxiliary_tensors
        tensor_of = source.tensors().__getitem__
        for step in self.steps:
            if not step.ops and len(step.sources) == len(step.targets) == 1:
                tensors[step.targets[0]] = tensor_of(step.sources[0])
                continue
            inputs = tuple([tensor_of(key) for key in step.sources])
            stored = known.get(step.auxiliary) if step.auxiliary is not None else None
            if step.auxiliary is not None and not step.targets:
                if inputs:
                    auxiliary_tensors[step.auxiliary] = AuxiliaryTensor.of(_read(inputs[0]))
                elif stored is not None:
                    auxiliary_tensors[step.auxiliary] = stored
                continue
            if stored is not None and not step.sources:
                outputs = chain_tensors((ArrayTensor(stored.array()),), step.ops[1:])
            else:
                identity = (*map(id, inputs), step.ops)
                known_outputs = outputs_of.get(identity) if inputs else None
                outputs = known_outputs or chain_tensors(inputs, step.ops, known_specs)
                outputs_of[identity] = outputs
            tensors.update(zip(step.targets, outputs, strict=True))
        for step in self.keeps:
            (part,) = chain_tensors(tuple(source.tensor(key) for key in step.sources), step.ops)
            if step.auxiliary is not None:
                auxiliary_tensors[step.auxiliary] = AuxiliaryTensor.of(_read(part))
        for key, canonical_key in self.ties.items():
            tensors[key] = tensors[canonical_key]
        metadata = self.metadata.with_(
            ties=held_ties(self.metadata.ties, tensors, self.target_layout),
            auxiliary_tensors={**self.metadata.auxiliary_tensors, **auxiliary_tensors},
            provenance=source.metadata.provenance,
            left_out=source.metadata.left_out,
        )
        return source.replace(tensors=tensors, layout=self.target_layout, metadata=metadata)

    def inverse(self) -> Plan:
        """Return the plan from the target back to the source.

        Raises:
            PlanError: The target does not have all that the source has, or has it only in its metadata; or
                this plan drops ties whose tensors differ in their axes.
        """
        self.check()
        if not self.exact:
            lost = [join_key(key) for s in self.steps if not s.exact for key in s.sources]
            lost += [join_key(d.key) for d in self.dropped if not d.kept and d.tied_to is None]
            raise PlanError(
                f"the plan cannot be inverted: it loses {count(len(lost), 'source tensor')}, {listed(lost)}.",
                hint="Keep the source; its values cannot be restored from the target.",
            )
        if self.keeps:
            raise PlanError(
                "the plan cannot be inverted by itself: some values are only in the metadata of its target.",
                hint="Make the plan of the way back from the target: plan_conversion(target, to=...).",
            )
        specs = self.target_specs()
        ties = {d.key: d.tied_to for d in self.dropped if d.tied_to is not None}
        unequal = [key for key, other in ties.items() if self.specs[key] != self.specs[other]]
        if unequal:
            raise PlanError(
                f"the plan cannot be inverted: it drops {count(len(unequal), 'tied tensor')} with other "
                f"axes than the tensor of the tie: {listed(map(join_key, unequal))}."
            )
        return Plan(
            self.target_layout,
            self.source_layout,
            specs,
            tuple(step.inverse() for step in self.steps),
            tuple(Dropped(k, f"tied to {join_key(v)}", v) for k, v in self.ties.items()),
            ties,
        )

    def then(self, following: Plan) -> Plan:
        """Return one plan that does what this and the following do, with op chains simplified.

        Raises:
            PlanError: This plan ties its targets, or the following one was made for another state.
        """
        if self.ties:
            raise PlanError(
                f"the plan ties {len(self.ties)} of its targets, so it cannot be joined with another plan.",
                hint="Apply this plan, and make the next one from its result.",
            )
        makers = {key: step for step in self.steps for key in step.targets}
        if following.specs.keys() != makers.keys():
            differing = sorted(map(join_key, makers.keys() ^ following.specs.keys()))
            raise PlanError(
                f"the following plan was made for another state: {len(differing)} keys are in only one of "
                f"them, {listed(differing)}.",
                hint="Make the following plan from the result of this one.",
            )
        origin = self.origin
        return replace(
            following,
            source_layout=self.source_layout,
            specs=self.specs,
            source_ties=self.source_ties,
            source_names=self.source_names,
            layout_reason=self.layout_reason,
            steps=join_steps(self.steps, following.steps, makers),
            keeps=(*self.keeps, *join_keeps(self.steps, following.keeps)),
            # Parts of one tensor are one tensor again.
            dropped=once((*self.dropped, *(traced(d, origin) for d in following.dropped))),
            problems=self.problems.then(following.problems, origin),
            notes=(*self.notes, *following.notes),
            warnings=(*self.warnings, *(warning.traced(origin) for warning in following.warnings)),
        )

    def target_specs(self) -> dict[Key, TensorSpec]:
        """Return target key -> spec of the plan's result, ties included.

        Raises:
            PlanError: An op does not fit the tensors that it gets.
        """
        specs: dict[Key, TensorSpec] = {}
        for step in self.steps:
            results = chain_specs(tuple(self.specs[key] for key in step.sources), step.ops)
            specs.update(zip(step.targets, results, strict=True))
        return {**specs, **{key: specs[other] for key, other in self.ties.items()}}

    def cast(self, dtype: np.dtype[Any] | Mapping[Key, np.dtype[Any]], keep: Collection[Key] = ()) -> Plan:
        """Return the plan with every floating-point target cast to a dtype.

        Args:
            dtype: The dtype; or target key -> dtype for the targets that are cast.
            keep: Source keys whose targets are not cast.
        """
        specs = self.target_specs()
        return replace(self, steps=tuple(cast_step(step, specs, dtype, keep) for step in self.steps))

    def describe(self) -> str:
        """Return the plan as text, names folded."""
        from bridge_core.plan.description import plan_text

        return plan_text(self)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        from bridge_core.plan.description import plan_document

        return plan_document(self)

    def html(self, title: str = "") -> str:
        """Return the plan as one page of HTML that loads nothing; names are escaped.

        Args:
            title: What is converted; empty for only the layouts.
        """
        from bridge_core.plan.plan_page import plan_page

        return plan_page(self, title)

    def _repr_html_(self) -> str:
        """Return the plan for a notebook: its problems, and its steps with names folded."""
        from bridge_core.plan.plan_fragment import plan_fragment

        return plan_fragment(self)


def _read(tensor: Tensor) -> Any:
    return tensor.read(tuple(slice(0, n, 1) for n in tensor.spec.shape))
