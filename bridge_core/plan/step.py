"""The parts of a plan: steps, keys that are left out, and pairs of tensors whose shapes differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from bridge_core.messages import fold_names
from bridge_core.ops import Cast, Fill, Op, Parallel, inverse_chain, simplify_chain
from bridge_core.public import renamed
from bridge_core.state import Key, TensorSpec, is_floating, join_key

__all__ = ["Dropped", "Mismatch", "Step", "cast_step", "quick_step"]


@renamed(residual="auxiliary")
@dataclass(frozen=True, slots=True)
class Step:
    """One move of a plan.

    Args:
        sources: Source keys that it reads.
        targets: Target keys that it gives values to.
        ops: The ops from the sources to the targets, in order; none for a copy.
        kind: The layer kind, ``parameter``, or ``undecided``.
        evidence: What decided the kind: rule, module, template, metadata, structure, guess; ``name`` for
            leaves that are copied unchanged.
        auxiliary: For a tensor that one side has no place for, or that is part of a sum there: the
            neutral key under which the metadata stores it.
        rule: Where the rule that made the step is, ``file:line``; empty if no rule did.
    """

    sources: tuple[Key, ...]
    targets: tuple[Key, ...]
    ops: tuple[Op, ...] = ()
    kind: str = "parameter"
    evidence: str = "name"
    auxiliary: Key | None = None
    rule: str = ""

    @property
    def exact(self) -> bool:
        """Whether the sources can be restored bit for bit."""
        return self.auxiliary is not None or all(op.exact for op in self.ops)

    def inverse(self) -> Step:
        """Return the step that undoes this one."""
        return replace(self, sources=self.targets, targets=self.sources, ops=inverse_chain(self.ops))

    def describe(self) -> str:
        """Return the step as one line: keys, a tab, what they are and what happens to them."""
        sources = _together(self.sources) or "(constant)"
        targets = _together(self.targets) or "(metadata)"
        ops = "  ".join(f"fill({op.value})" if isinstance(op, Fill) else str(op) for op in self.ops)
        evidence = f"{self.evidence} {self.rule}" if self.rule else self.evidence
        return f"{sources} -> {targets}\t[{self.kind}, {evidence}] {ops or 'unchanged'}"

    def to_json(self) -> dict[str, Any]:
        """Return the step as plain data."""
        return {
            "sources": [join_key(key) for key in self.sources],
            "targets": [join_key(key) for key in self.targets],
            "ops": [op.to_json() for op in self.ops],
            "kind": self.kind,
            "evidence": self.evidence,
            "exact": self.exact,
            **({"rule": self.rule} if self.rule else {}),
        }


_new_step = object.__new__
(
    _set_sources,
    _set_targets,
    _set_ops,
    _set_kind,
    _set_evidence,
    _set_auxiliary,
    _set_rule,
) = (getattr(Step, field.name).__set__ for field in fields(Step))


def quick_step(
    sources: tuple[Key, ...],
    targets: tuple[Key, ...],
    ops: tuple[Op, ...],
    kind: str,
    evidence: str,
    auxiliary: Key | None = None,
    rule: str = "",
) -> Step:
    """Return ``Step(sources, targets, ...)`` in a quarter of its time.

    A plan makes two for each tensor. The constructor of a frozen dataclass finds each field by name again,
    and that of `renamed` looks at the names of its arguments first.
    """
    step = _new_step(Step)
    _set_sources(step, sources)
    _set_targets(step, targets)
    _set_ops(step, ops)
    _set_kind(step, kind)
    _set_evidence(step, evidence)
    _set_auxiliary(step, auxiliary)
    _set_rule(step, rule)
    return step


@dataclass(frozen=True)
class Dropped:
    """A source key that is left out, and why.

    Args:
        key: The source key.
        reason: The reason, as one phrase.
        tied_to: The source key whose values it shares, if that is the reason.
        kept: Whether the target's metadata stores the values.
    """

    key: Key
    reason: str
    tied_to: Key | None = None
    kept: bool = False


@dataclass(frozen=True)
class Mismatch:
    """A source tensor and the target tensor that it should fill, whose shapes differ.

    Args:
        source: The source key.
        target: The target key.
        found: What the source's tensor is in the target's axes.
        expected: What the target has.
    """

    source: Key
    target: Key
    found: TensorSpec
    expected: TensorSpec

    def __str__(self) -> str:
        """Return the source's key, a colon, and both shapes."""
        return (
            f"{join_key(self.source)}: expected {self.expected} for {join_key(self.target)}, got {self.found}"
        )

    def to_json(self) -> dict[str, str]:
        """Return the pair as plain data."""
        return {
            "source": join_key(self.source),
            "target": join_key(self.target),
            "found": str(self.found),
            "expected": str(self.expected),
        }


def _together(keys: tuple[Key, ...]) -> str:
    """Return the keys of one side of a step; three or more that differ in their numbers are folded."""
    names = list(map(join_key, keys))
    return ", ".join(names if len(names) < 3 else (text for text, _ in fold_names(names)))


def cast_step(
    step: Step,
    specs: Mapping[Key, TensorSpec],
    dtype: np.dtype[Any] | Mapping[Key, np.dtype[Any]],
    keep: Collection[Key],
) -> Step:
    """Return a step with its floating-point targets cast to a dtype.

    Args:
        step: The step.
        specs: Target key -> spec, before the cast.
        dtype: The dtype; or target key -> dtype for the targets that are cast.
        keep: Source keys of steps that are not cast.
    """

    def chain(key: Key) -> tuple[Op, ...]:
        current, wanted = specs[key].dtype, dtype.get(key) if isinstance(dtype, Mapping) else dtype
        if wanted is None or not is_floating(current) or current == wanted:
            return ()
        return (Cast(current.name, wanted.name),)

    chains = tuple(chain(key) for key in step.targets)
    if not chains or not any(chains) or not set(keep).isdisjoint(step.sources):
        return step
    added = chains[0] if len(chains) == 1 else (Parallel(chains),)
    return replace(step, ops=simplify_chain((*step.ops, *added)))
