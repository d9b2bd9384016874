"""What matching found: settled pairs of patterns, choices that headers leave open, and the rules as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.messages import count
from bridge_core.state import Key, join_key

__all__ = ["Choice", "LeafPair", "Matching", "Option", "PatternPair", "Unmatched"]


@dataclass(frozen=True)
class LeafPair:
    """Tensors of the source that make tensors of the target.

    Args:
        sources: One key, or as many as the equation has terms times the captures that are axes.
        targets: The same of the target.
        equation: As in a rule, ``"out in -> in out"``; empty for an unchanged copy.
        reason: What decided it, for people.
        confidence: From 0 to 1; below 1 an exact name had a part in it.
    """

    sources: tuple[Key, ...]
    targets: tuple[Key, ...]
    equation: str
    reason: str
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """Return the pair as plain data."""
        return {
            "sources": [join_key(key) for key in self.sources],
            "targets": [join_key(key) for key in self.targets],
            "equation": self.equation,
            "reason": self.reason,
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class PatternPair:
    """One rule: a pattern of the source and one of the target, with all the keys that they stand for.

    Args:
        sources: Patterns of the rule language, one for each term of the equation.
        targets: The same of the target.
        equation: As in a rule; empty for an unchanged copy.
        where: Relations between the numbers of both sides.
        sizes: Sizes that the equation needs.
        keys: The keys: for each use of the rule those of the source and those of the target.
        reason: What decided it, for people.
        confidence: From 0 to 1; below 1 an exact name had a part in it.
        layer: The kind that the rule must state, where an equation cannot move the values, such as
            ``"conv_transpose"``, whose taps are reversed; then the rule is a rename.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    equation: str
    keys: tuple[tuple[tuple[Key, ...], tuple[Key, ...]], ...]
    where: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    confidence: float = 1.0
    layer: str = ""

    def leaf_pairs(self) -> Iterator[LeafPair]:
        """Yield what it specifies for each key."""
        for sources, targets in self.keys:
            yield LeafPair(sources, targets, self.equation, self.reason, self.confidence)


@dataclass(frozen=True)
class Option:
    """One answer for one item of a choice: this source belongs to this target.

    Args:
        source: Pattern of the item: a leaf, or a module with all its leaves.
        target: The same of the target.
        pairs: The rules that it would add.
        choices: What is still open within, if it is taken.
        likeness: How alike the names are, from 0 to 1: an order for people, never evidence.
    """

    source: str
    target: str
    pairs: tuple[PatternPair, ...]
    choices: tuple[Choice, ...] = ()
    likeness: float = 0.0


@dataclass(frozen=True)
class Choice:
    """Items that headers cannot distinguish; each source takes one of its options, each target once.

    Args:
        sources: Patterns of the items of the source.
        targets: Patterns of the items of the target; more or fewer if some stay without a partner.
        options: The possible pairs. Several for one pair differ in their equations.
        reason: What is open, for people.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    options: tuple[Option, ...]
    reason: str

    def options_of(self, source: str) -> tuple[Option, ...]:
        """Return the options of one item, likeliest names first."""
        own = (option for option in self.options if option.source == source)
        return tuple(sorted(own, key=lambda option: -option.likeness))

    @property
    def is_orientation(self) -> bool:
        """Whether the keys are settled and only the equation is open."""
        return len(self.sources) == len(self.targets) == 1 and len(self.options) > 1

    def to_json(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        return {
            "sources": list(self.sources),
            "targets": list(self.targets),
            "reason": self.reason,
            "options": [
                {
                    "source": option.source,
                    "target": option.target,
                    "equations": [pair.equation for pair in option.pairs],
                    "likeness": round(option.likeness, 3),
                    "choices": [inner.to_json() for inner in option.choices],
                }
                for option in self.options
            ],
        }


@dataclass(frozen=True)
class Unmatched:
    """Tensors of one side that have no partner.

    Args:
        pattern: Their pattern.
        keys: Their keys.
        shape: The shape of each.
        nearest: Patterns of the other side with the nearest shapes.
        auxiliary: Why nothing is lost without them, such as counted batches; empty if that is not known.
    """

    pattern: str
    keys: tuple[Key, ...]
    shape: tuple[int, ...]
    nearest: tuple[str, ...] = ()
    auxiliary: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "pattern": self.pattern,
            "keys": [join_key(key) for key in self.keys],
            "shape": list(self.shape),
            "nearest": list(self.nearest),
            "auxiliary": self.auxiliary,
        }


@dataclass(frozen=True)
class Matching:
    """Proposed rules between two checkpoints, and what is left open.

    Args:
        source: Layout of the source.
        target: Layout of the target.
        pairs: The settled rules.
        choices: What headers do not show, one for each pattern.
        unmatched_source: Tensors of the source without a partner.
        unmatched_target: Tensors of the target without a partner.
        rules_text: The rule file.
        problems: What planning with the rules found besides what is open; empty if they hold both ways.
    """

    source: str
    target: str
    pairs: tuple[PatternPair, ...]
    choices: tuple[Choice, ...]
    unmatched_source: tuple[Unmatched, ...]
    unmatched_target: tuple[Unmatched, ...]
    rules_text: str = ""
    problems: tuple[str, ...] = ()

    @property
    def settled(self) -> tuple[LeafPair, ...]:
        """The settled pairs of keys."""
        return tuple(leaf for pair in self.pairs for leaf in pair.leaf_pairs())

    @property
    def open_leaves(self) -> tuple[Unmatched, ...]:
        """What has no partner and is not known to be auxiliary."""
        both = (*self.unmatched_source, *self.unmatched_target)
        return tuple(leaf for leaf in both if not leaf.auxiliary)

    @property
    def complete(self) -> bool:
        """Whether nothing is left open."""
        return not (self.choices or self.open_leaves or self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the matching as plain data; docs/schemas/match.json describes it."""
        return {
            "source": self.source,
            "target": self.target,
            "complete": self.complete,
            "settled": [pair.to_json() for pair in self.settled],
            "choices": [choice.to_json() for choice in self.choices],
            "unmatched_source": [leaf.to_json() for leaf in self.unmatched_source],
            "unmatched_target": [leaf.to_json() for leaf in self.unmatched_target],
            "problems": list(self.problems),
            "rules": self.rules_text,
        }

    def _repr_html_(self) -> str:
        """Return the matching for a notebook, what is open first."""
        from bridge_core.html import Table, fragment, section, verdict_line

        word, tone = ("complete", "good") if self.complete else ("open", "bad")
        text = f"{self.source} to {self.target}: {count(len(self.pairs), 'rule')}"
        rows = [
            (
                ", ".join(pair.sources),
                ", ".join(pair.targets),
                pair.equation,
                pair.reason,
                f"x{len(pair.keys)}",
            )
            for pair in self.pairs
        ]
        without = [
            section(
                f"Without a partner in the {side}",
                [
                    f"{one.pattern} {list(one.shape)}" + f" ({one.auxiliary})" * bool(one.auxiliary)
                    for one in leaves
                ],
                tone="bad" if any(not one.auxiliary for one in leaves) else "plain",
                opened=any(not one.auxiliary for one in leaves),
            )
            for side, leaves in (("source", self.unmatched_source), ("target", self.unmatched_target))
        ]
        choices = [f"{', '.join(choice.sources)}: {choice.reason}" for choice in self.choices]
        return fragment(
            verdict_line(word, tone, text),
            section(f"Open: {len(choices)}", choices, tone="bad", opened=True),
            section("Problems", self.problems, tone="bad", opened=True),
            *without,
            section(
                f"Rules: {len(rows)}", Table(("source", "target", "axes", "reason", "tensors"), rows, (4,))
            ),
        )
