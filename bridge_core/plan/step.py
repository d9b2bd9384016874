"""What a plan is made of: steps, keys that are left out, and pairs that do not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bridge_core.messages import fold_names
from bridge_core.ops import Cast, Fill, Op, Parallel, inverse_chain, simplify_chain
from bridge_core.public import renamed
from bridge_core.state import Key, TensorSpec, is_floating, join_key

__all__ = ["Dropped", "Mismatch", "Step", "cast_step"]


@renamed(residual="auxiliary")
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
        auxiliary: For a tensor that one side has no place for, or that is part of a sum there: the
            neutral key under which the metadata keeps it.
        rule: Origin of the rule that made it; empty if none did.
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
        return f"{sources} -> {targets}\t[{self.kind}, {evidence}] {ops or 'as it is'}"

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
    step: Step, specs: Mapping[Key, TensorSpec], dtype: np.dtype[Any], keep: Collection[Key]
) -> Step:
    """Return a step with its floating-point targets cast to a dtype.

    Args:
        step: The step.
        specs: Target key -> spec as the step makes it.
        dtype: The dtype.
        keep: Source keys of steps that are not cast.
    """

    def chain(key: Key) -> tuple[Op, ...]:
        found = specs[key].dtype
        return (Cast(found.name, dtype.name),) if is_floating(found) and found != dtype else ()

    chains = tuple(chain(key) for key in step.targets)
    if not chains or not any(chains) or not set(keep).isdisjoint(step.sources):
        return step
    added = chains[0] if len(chains) == 1 else (Parallel(chains),)
    return replace(step, ops=simplify_chain((*step.ops, *added)))
