"""Plan: a conversion as data, complete before one byte of tensor data moves.

A plan is a list of steps ``(source keys, op chain, target keys)``. It can be printed, saved, inverted,
joined with the next plan, and applied to a state, which gives a lazy state: applying reads no tensors,
except the few tiny ones that the target has no place for and that its metadata keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bridge_core.dtypes import is_floating
from bridge_core.errors import AmbiguousLayerError, MismatchError, PlanError
from bridge_core.keys import Key, fold_names, join_key
from bridge_core.metadata import Residual, StateMetadata
from bridge_core.ops import (
    Cast,
    Fill,
    Lanes,
    Op,
    Order,
    chain_specs,
    chain_tensors,
    inverse_chain,
    simplify_chain,
)
from bridge_core.state import FlatState, as_state
from bridge_core.tensors import ArrayTensor, Tensor, TensorSpec, equal_values

__all__ = ["Dropped", "Mismatch", "Plan", "Step"]


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a plan.

    Args:
        sources: Keys it takes.
        targets: Keys it makes.
        ops: What happens between.
        kind: The layer kind, ``parameter``, or ``undecided``.
        evidence: What decided that: rule, module, template, metadata, structure, guess; ``name`` for
            leaves that go as they are.
        residual: For a tensor that one side has no place for: the neutral key under which the
            metadata keeps it.
    """

    sources: tuple[Key, ...]
    targets: tuple[Key, ...]
    ops: tuple[Op, ...] = ()
    kind: str = "parameter"
    evidence: str = "name"
    residual: Key | None = None

    @property
    def exact(self) -> bool:
        """Whether the sources can be restored bit for bit."""
        return self.residual is not None or all(op.exact for op in self.ops)

    def inverse(self) -> Step:
        """Return the step that undoes this one."""
        return replace(self, sources=self.targets, targets=self.sources, ops=inverse_chain(self.ops))

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain data."""
        return {
            "sources": [join_key(key) for key in self.sources],
            "targets": [join_key(key) for key in self.targets],
            "ops": [op.to_json() for op in self.ops],
            "kind": self.kind,
            "evidence": self.evidence,
            "exact": self.exact,
        }


@dataclass(frozen=True)
class Dropped:
    """A source key that is left out, and why.

    Args:
        key: The source key.
        reason: One phrase.
        tied_to: The source key whose values it shares, if that is the reason.
        kept: Whether the target's metadata keeps the values.
    """

    key: Key
    reason: str
    tied_to: Key | None = None
    kept: bool = False


@dataclass(frozen=True)
class Mismatch:
    """A source and a target tensor that belong together and do not fit."""

    source: Key
    target: Key
    found: TensorSpec
    expected: TensorSpec

    def __str__(self) -> str:
        """Return one line."""
        return f"{join_key(self.source)}: {self.found} does not fit {join_key(self.target)}: {self.expected}"


@dataclass(frozen=True)
class Plan:
    """A conversion as data.

    Args:
        source_layout: Layout of the states it takes.
        target_layout: Layout of the states it makes.
        specs: Source key -> spec.
        steps: The moves. Every source key stands in one step or in ``dropped``; every target key in one step.
        dropped: Source keys left out, each with its reason.
        ties: Target key -> target key whose tensor it is.
        missing: Target keys that no source fills.
        unexpected: Source keys that no target takes.
        mismatched: Pairs whose shapes differ.
        ambiguous: Source key -> the readings that remain possible.
        allowed_missing: Target keys left out by permission.
        metadata: What the target state knows.
        notes: What a reader should know, e.g. a prefix that was removed.
    """

    source_layout: str
    target_layout: str
    specs: Mapping[Key, TensorSpec]
    steps: tuple[Step, ...]
    dropped: tuple[Dropped, ...] = ()
    ties: Mapping[Key, Key] = field(default_factory=dict)
    missing: tuple[Key, ...] = ()
    unexpected: tuple[Key, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    ambiguous: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    allowed_missing: tuple[Key, ...] = ()
    metadata: StateMetadata = field(default_factory=StateMetadata)
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it can be run."""
        return not (self.missing or self.unexpected or self.mismatched or self.ambiguous)

    @property
    def exact(self) -> bool:
        """Whether the source can be restored from the target bit for bit."""
        steps_exact = all(step.exact for step in self.steps)
        return steps_exact and all(d.kept or d.tied_to is not None for d in self.dropped)

    def check(self) -> Plan:
        """Return the plan if it can be run.

        Raises:
            AmbiguousLayerError: No evidence settles what some layers are.
            MismatchError: Keys are missing or unexpected, or shapes differ.
        """
        if self.missing or self.unexpected or self.mismatched:
            raise MismatchError(
                _mismatch_text(self),
                missing=tuple(map(join_key, self.missing)),
                unexpected=tuple(map(join_key, self.unexpected)),
                mismatched=tuple(str(m) for m in self.mismatched),
                hint=_mismatch_hint(self),
            )
        if self.ambiguous:
            raise AmbiguousLayerError(
                f"{len(self.ambiguous)} tensors can be read in more than one way: {_candidates(self)}.",
                candidates={join_key(k): v for k, v in self.ambiguous.items()},
                hint=(
                    "Give the target's shapes (--like FILE, or like=), the module (--model PKG.MOD:FACTORY, "
                    "or module=) or a rule; or accept guesses by name (--accept-guesses)."
                ),
            )
        return self

    def apply(self, state: Mapping[Key, Any]) -> FlatState:
        """Return the converted state; tensors are read when the result's are.

        Raises:
            MismatchError, AmbiguousLayerError: As `check`.
            PlanError: The state is not one that this plan was made for.
        """
        self.check()
        source = as_state(state)
        self._check_state(source)
        residuals: dict[Key, Residual] = {}
        made: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        tensors: dict[Key, Tensor] = {}
        for step in self.steps:
            inputs = tuple(source.tensor(key) for key in step.sources)
            kept = source.metadata.residuals.get(step.residual) if step.residual is not None else None
            if step.residual is not None and not step.targets:
                if inputs:
                    residuals[step.residual] = Residual.of(_read(inputs[0]))
                elif kept is not None:
                    residuals[step.residual] = kept
                continue
            if kept is not None and not step.sources:
                outputs = chain_tensors((_as_tensor(kept),), step.ops[1:])
            else:
                identity = (*map(id, inputs), step.ops)
                if not inputs or identity not in made:
                    made[identity] = chain_tensors(inputs, step.ops)
                outputs = made[identity]
            tensors.update(zip(step.targets, outputs, strict=True))
        for key, keeper in self.ties.items():
            tensors[key] = tensors[keeper]
        metadata = self.metadata.with_(
            ties=self._held_ties(tensors),
            residuals={**self.metadata.residuals, **residuals},
            provenance=source.metadata.provenance,
        )
        return source.replace(tensors=tensors, layout=self.target_layout, metadata=metadata)

    def _held_ties(self, tensors: dict[Key, Tensor]) -> dict[Key, Key]:
        """Make declared ties real where both tensors hold the same values, and forget those that do not.

        In neutral form tied tensors may differ in their axes; there a tie is only remembered.
        """
        ties: dict[Key, Key] = {}
        for key, keeper in self.metadata.ties.items():
            one, other = tensors[key], tensors[keeper]
            if one is not other and self.target_layout != "neutral" and one.spec == other.spec:
                if not equal_values(one, other):
                    continue
                tensors[key] = other
            ties[key] = keeper
        return ties

    def _check_state(self, source: FlatState) -> None:
        wrong = [
            join_key(key) for key, spec in self.specs.items() if key not in source or source.spec(key) != spec
        ]
        wrong += [join_key(key) for key in source if key not in self.specs]
        if wrong:
            raise PlanError(
                f"the plan was made for another state; {len(wrong)} tensors differ: {_listed(wrong)}."
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
            raise PlanError(f"the plan cannot be undone; it loses {_listed(lost)}.")
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
            PlanError: The following plan was not made for what this one gives.
        """
        origin = {t: step.sources[0] for step in self.steps if step.sources for t in step.targets}
        return replace(
            following,
            source_layout=self.source_layout,
            specs=self.specs,
            steps=_joined(self, following),
            dropped=(
                *self.dropped,
                *(_traced(d, origin) for d in following.dropped),
            ),
            unexpected=(*self.unexpected, *(origin.get(k, k) for k in following.unexpected)),
            mismatched=tuple(replace(m, source=origin.get(m.source, m.source)) for m in following.mismatched),
            ambiguous={origin.get(k, k): v for k, v in following.ambiguous.items()},
            notes=(*self.notes, *following.notes),
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

    def cast(self, dtype: np.dtype[Any]) -> Plan:
        """Return the plan with every floating-point target cast to a dtype."""
        specs = self.target_specs()

        def chain(key: Key) -> tuple[Op, ...]:
            found = specs[key].dtype
            return (Cast(found.name, dtype.name),) if is_floating(found) and found != dtype else ()

        steps = []
        for step in self.steps:
            chains = tuple(chain(key) for key in step.targets)
            added = chains[0] if len(chains) == 1 else (Lanes(chains),)
            steps.append(replace(step, ops=simplify_chain((*step.ops, *added))) if chains else step)
        return replace(self, steps=tuple(steps))

    def describe(self) -> str:
        """Return the plan as text, names folded."""
        lines = [f"{self.source_layout} -> {self.target_layout}, {len(self.steps)} steps"]
        lines += [f"note: {note}" for note in self.notes]
        rows = []
        for step in self.steps:
            sources = ", ".join(join_key(k) for k in step.sources) or "(constant)"
            targets = ", ".join(join_key(k) for k in step.targets) or "(metadata)"
            ops = "  ".join(_op_name(op) for op in step.ops) or "as it is"
            rows.append(f"{sources} -> {targets}\t[{step.kind}, {step.evidence}] {ops}")
        for text, count in fold_names(rows):
            lines.append("  " + text.replace("\t", "  ") + (f"  x{count}" if count > 1 else ""))
        for title, names in (
            ("dropped", [f"{join_key(d.key)} ({d.reason})" for d in self.dropped]),
            ("missing", list(map(join_key, self.missing))),
            ("unexpected", list(map(join_key, self.unexpected))),
            ("mismatched", [str(m) for m in self.mismatched]),
            ("ambiguous", [f"{join_key(k)} ({' or '.join(v)})" for k, v in self.ambiguous.items()]),
            ("left out", list(map(join_key, self.allowed_missing))),
        ):
            lines += [f"{title}: {text}" + (f"  x{n}" if n > 1 else "") for text, n in fold_names(names)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "source_layout": self.source_layout,
            "target_layout": self.target_layout,
            "steps": [step.to_json() for step in self.steps],
            "dropped": [{"key": join_key(d.key), "reason": d.reason} for d in self.dropped],
            "ties": {join_key(k): join_key(v) for k, v in self.ties.items()},
            "missing": [join_key(k) for k in self.missing],
            "unexpected": [join_key(k) for k in self.unexpected],
            "mismatched": [
                {
                    "source": join_key(m.source),
                    "target": join_key(m.target),
                    "found": str(m.found),
                    "expected": str(m.expected),
                }
                for m in self.mismatched
            ],
            "ambiguous": {join_key(k): list(v) for k, v in self.ambiguous.items()},
            "allowed_missing": [join_key(k) for k in self.allowed_missing],
            "notes": list(self.notes),
            "exact": self.exact,
        }


def _joined(first: Plan, second: Plan) -> tuple[Step, ...]:
    maker = {key: step for step in first.steps for key in step.targets}
    maker_of_tie = {key: maker[keeper] for key, keeper in first.ties.items()}
    if maker_of_tie:
        raise PlanError("a plan that ties its targets cannot be followed by another.")
    steps = [step for step in first.steps if not step.targets]
    taken: set[int] = set()
    for step in second.steps:
        makers = [maker[key] for key in step.sources]
        if not makers:
            steps.append(step)
        elif all(len(m.targets) == 1 for m in makers):
            steps.append(_fan_in(makers, step))
        elif id(makers[0]) not in taken:
            taken.add(id(makers[0]))
            steps.append(_fan_out(makers[0], second))
    return tuple(steps)


def _fan_in(makers: list[Step], step: Step) -> Step:
    first = makers[0]
    if len(makers) == 1:
        # Each is in its shortest form by itself.
        ops = simplify_chain((*first.ops, *step.ops)) if first.ops and step.ops else first.ops or step.ops
    elif any(len(m.sources) != 1 for m in makers):
        raise PlanError("steps that join several tensors cannot be joined with each other.")
    else:
        ops = simplify_chain((Lanes(tuple(m.ops for m in makers)), *step.ops))
    # A parameter was known for one before, unless the target's template had to settle it.
    as_named = step.kind == "parameter" and step.evidence != "rule" and first.evidence != "undecided"
    return Step(
        tuple(key for m in makers for key in m.sources),
        step.targets,
        ops,
        step.kind,
        first.evidence if as_named else step.evidence,
        step.residual or first.residual,
    )


def _fan_out(first: Step, second: Plan) -> Step:
    users = {key: step for step in second.steps for key in step.sources}
    following = [users[key] for key in first.targets]
    if all(step is following[0] for step in following):
        (step,) = following[:1]
        if set(step.sources) != set(first.targets):
            raise PlanError("steps that cut and join different tensors cannot be joined.")
        order = Order(tuple(first.targets.index(key) for key in step.sources))
        return replace(step, sources=first.sources, ops=simplify_chain((*first.ops, order, *step.ops)))
    if any(len(step.sources) != 1 or len(step.targets) != 1 for step in following):
        raise PlanError("steps that cut and join different tensors cannot be joined.")
    lanes = Lanes(tuple(step.ops for step in following))
    return replace(
        following[0],
        sources=first.sources,
        targets=tuple(step.targets[0] for step in following),
        ops=simplify_chain((*first.ops, lanes)),
    )


def _traced(dropped: Dropped, origin: Mapping[Key, Key]) -> Dropped:
    key = origin.get(dropped.key, dropped.key)
    if dropped.tied_to is None:
        return replace(dropped, key=key)
    keeper = origin.get(dropped.tied_to, dropped.tied_to)
    return Dropped(key, f"tied to {join_key(keeper)}", keeper)


def _read(tensor: Tensor) -> Any:
    return tensor.read(tuple(slice(0, n, 1) for n in tensor.spec.shape))


def _as_tensor(residual: Residual) -> Tensor:
    return ArrayTensor(residual.array())


def _op_name(op: Op) -> str:
    return f"fill({op.value})" if isinstance(op, Fill) else str(op)


def _listed(names: list[str], limit: int = 12) -> str:
    folded = [text + (f" (x{count})" if count > 1 else "") for text, count in fold_names(names)]
    more = f" and {len(folded) - limit} more" if len(folded) > limit else ""
    return ", ".join(folded[:limit]) + more


def _candidates(plan: Plan) -> str:
    rows = [f"{join_key(k)} ({' or '.join(v)})" for k, v in plan.ambiguous.items()]
    return _listed(rows, 40)


def _mismatch_text(plan: Plan) -> str:
    parts = []
    if plan.missing:
        parts.append(f"{len(plan.missing)} missing: {_listed([join_key(k) for k in plan.missing], 40)}")
    if plan.unexpected:
        names = [join_key(k) for k in plan.unexpected]
        parts.append(f"{len(plan.unexpected)} unexpected: {_listed(names, 40)}")
    if plan.mismatched:
        rows = [str(m) for m in plan.mismatched]
        parts.append(f"{len(plan.mismatched)} of another shape: {_listed(rows, 40)}")
    if plan.ambiguous:
        parts.append(f"{len(plan.ambiguous)} ambiguous: {_candidates(plan)}")
    return "source and target do not fit. " + "; ".join(parts) + "."


def _mismatch_hint(plan: Plan) -> str | None:
    hints = []
    if plan.unexpected:
        hints.append("--allow-unexpected PATTERN leaves source tensors out")
    if plan.missing:
        hints.append("--allow-missing PATTERN leaves target tensors unfilled")
    return "; ".join(hints) + "." if hints else None
