"""Plan: a conversion as data, complete before one byte of tensor data moves.

A plan is a list of steps ``(source keys, op chain, target keys)``. It can be printed, saved, inverted,
joined with the next plan, and applied to a state, which gives a lazy state: applying reads no tensors,
except the few tiny ones that the target has no place for and that its metadata keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge_core.errors import PlanError
from bridge_core.messages import listed
from bridge_core.ops import chain_specs, chain_tensors
from bridge_core.plan.compose import join_keeps, join_steps, traced
from bridge_core.plan.problems import PlanProblems, once
from bridge_core.plan.step import Dropped, Mismatch, Step, cast_step
from bridge_core.plan.warning import PlanWarning
from bridge_core.public import gathered, renamed
from bridge_core.state import (
    ArrayTensor,
    AuxiliaryTensor,
    FlatState,
    Key,
    StateMetadata,
    Tensor,
    TensorSpec,
    as_state,
    equal_values,
    join_key,
)

if TYPE_CHECKING:
    from bridge_core.plan.causes import Cause
    from bridge_core.plan.rivals import Rivals

__all__ = ["Plan"]


@renamed(refused="unsupported", idle_rules="unmatched_rules")
@gathered("problems", PlanProblems)
@dataclass(frozen=True)
class Plan:
    """A conversion as data.

    Args:
        source_layout: Layout of the states it takes.
        target_layout: Layout of the states it makes.
        specs: Source key -> spec.
        steps: The moves. Every source key is in one step or in ``dropped``; every target key in one step.
        dropped: Source keys left out, each with its reason.
        ties: Target key -> target key whose tensor it is.
        problems: What keeps it from being run.
        allowed_missing: Target keys left out by permission.
        metadata: What the target state knows.
        notes: What a reader should know, e.g. a prefix that was removed.
        keeps: What the target's metadata keeps of tensors that go into others: steps without targets,
            in addition to those that take the tensors over.
        source_ties: Source key that a model ties to another -> that other; a state may lack it.
        warnings: What may be right and give other outputs; the notes hold each message, too.
        source_names: Source key of a neutral state -> key in what that state was made from, as far as it is
            known; messages name the tensor by it.
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
    source_names: Mapping[Key, Key] = field(default_factory=dict, compare=False)

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
        """Source key -> why the target has no form for it."""
        return self.problems.unsupported

    @property
    def unmatched_rules(self) -> tuple[str, ...]:
        """Rules that had to match something and did not."""
        return self.problems.unmatched_rules

    @property
    def unexplained(self) -> Mapping[Key, str]:
        """Source key -> why it is not copied, where no evidence says what it is."""
        return self.problems.unexplained

    @property
    def unclaimed(self) -> tuple[Key, ...]:
        """Source keys that no evidence explains, whether they are copied under their own names or refused."""
        copied = (key for step in self.steps if step.evidence == "unclaimed" for key in step.sources)
        return once((*copied, *self.unexplained))

    @property
    def evidence(self) -> dict[str, int]:
        """Kind of evidence -> how many target tensors rest on it."""
        return dict(Counter(step.evidence for step in self.steps for _ in step.targets))

    @property
    def left_out(self) -> tuple[Dropped, ...]:
        """Source keys whose values the target does not have, tied and stored ones apart."""
        return tuple(d for d in self.dropped if not d.kept and d.tied_to is None)

    def left_out_json(self) -> list[dict[str, Any]]:
        """Return what is left out as plain data: names, reasons and bytes."""
        return [
            {"name": join_key(d.key), "reason": d.reason, "bytes": self.specs[d.key].nbytes}
            for d in self.left_out
            if d.key in self.specs
        ]

    @property
    def rivals(self) -> Rivals | None:
        """Prefixes that match equally well, of which none was chosen."""
        return self.problems.rivals

    @property
    def derived(self) -> frozenset[Key]:
        """Source keys of which a layer's weights are made, as of an adapter or a pruned layer."""
        return self.problems.derived

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What the source is, where problems come from its not being plain weights."""
        return self.problems.causes

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """What a config here decides or would decide, each as sentences and the option of the command."""
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
            RuleError: Rules matched nothing.
            UnsupportedLayerError: The target has no form for some layers.
            MismatchError: Keys are missing or unexpected, or shapes differ.
            AmbiguousLayerError: No evidence decides what some layers are.
        """
        error = self.problems.error(self.target_layout)
        if error is None:
            return self
        if self.source_layout == "neutral":
            from bridge_core.plan.source_names import named_by_source

            error = named_by_source(error, self)
        raise error

    def apply(self, state: Mapping[Key, Any]) -> FlatState:
        """Return the converted state; tensors are read when the result's are.

        Read at once are only those that the metadata is to keep, and those that are tied if their values
        agree.

        Raises:
            RuleError, UnsupportedLayerError, MismatchError, AmbiguousLayerError: As `check`.
            PlanError: The state is not one that this plan was made for.
        """
        self.check()
        source = self._with_tied(as_state(state))
        self._check_state(source)
        auxiliary_tensors: dict[Key, AuxiliaryTensor] = {}
        made: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        tensors: dict[Key, Tensor] = {}
        for step in self.steps:
            inputs = tuple(source.tensor(key) for key in step.sources)
            kept = (
                source.metadata.auxiliary_tensors.get(step.auxiliary) if step.auxiliary is not None else None
            )
            if step.auxiliary is not None and not step.targets:
                if inputs:
                    auxiliary_tensors[step.auxiliary] = AuxiliaryTensor.of(_read(inputs[0]))
                elif kept is not None:
                    auxiliary_tensors[step.auxiliary] = kept
                continue
            if kept is not None and not step.sources:
                outputs = chain_tensors((_as_tensor(kept),), step.ops[1:])
            else:
                identity = (*map(id, inputs), step.ops)
                if not inputs or identity not in made:
                    made[identity] = chain_tensors(inputs, step.ops)
                outputs = made[identity]
            tensors.update(zip(step.targets, outputs, strict=True))
        for step in self.keeps:
            (part,) = chain_tensors(tuple(source.tensor(key) for key in step.sources), step.ops)
            if step.auxiliary is not None:
                auxiliary_tensors[step.auxiliary] = AuxiliaryTensor.of(_read(part))
        for key, keeper in self.ties.items():
            tensors[key] = tensors[keeper]
        metadata = self.metadata.with_(
            ties=self._held_ties(tensors),
            auxiliary_tensors={**self.metadata.auxiliary_tensors, **auxiliary_tensors},
            provenance=source.metadata.provenance,
        )
        return source.replace(tensors=tensors, layout=self.target_layout, metadata=metadata)

    def _held_ties(self, tensors: dict[Key, Tensor]) -> dict[Key, Key]:
        """Make declared ties real where both tensors hold the same values, and forget those that do not.

        In neutral form tied tensors may differ in their axes; there a tie is only remembered.
        """
        ties: dict[Key, Key] = {}
        for key, keeper in self.metadata.ties.items():
            if key not in tensors or keeper not in tensors:
                continue
            one, other = tensors[key], tensors[keeper]
            if one is not other and self.target_layout != "neutral" and one.spec == other.spec:
                if not equal_values(one, other):
                    continue
                tensors[key] = other
            ties[key] = keeper
        return ties

    def _with_tied(self, source: FlatState) -> FlatState:
        """Add the tensors that the source has under other names alone."""
        lacking = {key: keeper for key, keeper in self.source_ties.items() if key not in source}
        if not lacking or any(keeper not in source for keeper in lacking.values()):
            return source
        added = {key: source.tensor(keeper) for key, keeper in lacking.items()}
        metadata = source.metadata.with_(ties={**source.metadata.ties, **lacking})
        return source.replace(tensors={**source.tensors(), **added}, metadata=metadata)

    def _check_state(self, source: FlatState) -> None:
        if source.specs() == self.specs:
            return
        wrong = [
            join_key(key) for key, spec in self.specs.items() if key not in source or source.spec(key) != spec
        ]
        wrong += [join_key(key) for key in source if key not in self.specs]
        if wrong:
            raise PlanError(
                f"the plan was made for another state; tensors that differ ({len(wrong)}): {listed(wrong)}."
            )

    def inverse(self) -> Plan:
        """Return the plan from the target back to the source.

        Raises:
            PlanError: This plan lets something go that the target does not keep.
        """
        self.check()
        if not self.exact:
            lost = [join_key(key) for s in self.steps if not s.exact for key in s.sources]
            lost += [join_key(d.key) for d in self.dropped if not d.kept and d.tied_to is None]
            raise PlanError(f"the plan cannot be undone; it loses {listed(lost)}.")
        if self.keeps:
            raise PlanError(
                "the plan cannot be undone by itself: what it keeps stands in the metadata of its target.",
                hint="Plan the way back from the target.",
            )
        specs = self.target_specs()
        ties = {d.key: d.tied_to for d in self.dropped if d.tied_to is not None}
        if any(self.specs[key] != self.specs[keeper] for key, keeper in ties.items()):
            raise PlanError("the plan cannot be undone; it drops ties that differ in their axes.")
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
            PlanError: This plan ties its targets, or the following one was not made for what this gives.
        """
        if self.ties:
            raise PlanError("a plan that ties its targets cannot be followed by another.")
        if set(following.specs) != {key for step in self.steps for key in step.targets}:
            raise PlanError("the following plan was made for another state.")
        origin = {t: step.sources[0] for step in self.steps if step.sources for t in step.targets}
        return replace(
            following,
            source_layout=self.source_layout,
            specs=self.specs,
            source_ties=self.source_ties,
            source_names=self.source_names,
            steps=join_steps(self.steps, following.steps),
            keeps=(*self.keeps, *join_keeps(self.steps, following.keeps)),
            # Parts of one tensor are one tensor again.
            dropped=once((*self.dropped, *(traced(d, origin) for d in following.dropped))),
            problems=self.problems.then(following.problems, origin),
            notes=(*self.notes, *following.notes),
            warnings=(*self.warnings, *(warning.traced(origin) for warning in following.warnings)),
        )

    def target_specs(self) -> dict[Key, TensorSpec]:
        """Return the specs of what the plan makes, ties included.

        Raises:
            PlanError: An op does not fit.
        """
        specs: dict[Key, TensorSpec] = {}
        for step in self.steps:
            made = chain_specs(tuple(self.specs[key] for key in step.sources), step.ops)
            specs.update(zip(step.targets, made, strict=True))
        return {**specs, **{key: specs[keeper] for key, keeper in self.ties.items()}}

    def cast(self, dtype: np.dtype[Any], keep: Collection[Key] = ()) -> Plan:
        """Return the plan with every floating-point target cast to a dtype.

        Args:
            dtype: The dtype.
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


def _read(tensor: Tensor) -> Any:
    return tensor.read(tuple(slice(0, n, 1) for n in tensor.spec.shape))


def _as_tensor(residual: AuxiliaryTensor) -> Tensor:
    return ArrayTensor(residual.array())
