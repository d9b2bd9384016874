"""Names the mistakes between two states: of each tensor that differs, and of keys that only one state has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.messages import count, folded
from bridge_core.proof.differences.other_tensors import OtherTensors, known_relation
from bridge_core.proof.differences.relation import Relation
from bridge_core.state import FlatState, Key, as_state, join_key
from bridge_core.transfer import Comparison, Progress

__all__ = ["Mistake", "NamedDifferences", "name_differences"]

_MOST_GROUPS = 6
_MOST_OTHERS = 8
"""How many times the bytes of what differs may be read of tensors that do not."""
_UNKNOWN = "in no way that is known"
_PHRASES = {
    "byte order": "their bytes were in the other order",
    "permuted axes": "their axes were permuted",
    "Fortran order": "in Fortran order",
    "swapped parts": "their parts were swapped",
    "moved rows": "their rows were in other places",
    "cast": "stored in another dtype",
    "constant": "never loaded",
    "square root": "replaced by their square roots",
    "reciprocal": "replaced by their reciprocals",
    "exponential": "replaced by their exponentials",
    "logarithm": "replaced by their logarithms",
}
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Mistake:
    """Tensors that differ in the same way.

    Args:
        kind: The kind of the relation; ``"unknown"`` if none was found.
        text: What completes "as if ..."; empty if none was found.
        keys: The tensors.
    """

    kind: str
    text: str
    keys: tuple[Key, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the mistake as plain data."""
        names = [join_key(key) for key in self.keys]
        return {"kind": self.kind, "text": self.text, "tensors": len(names), "keys": names}


@dataclass(frozen=True)
class NamedDifferences:
    """A comparison whose differences have names.

    Args:
        comparison: The comparison.
        relations: Differing key -> what the right tensor is of a left one; keys that nothing is known of are
            not in it.
        only_right: Key that only the right state has -> what it is of a left tensor, `Relation.other`.
    """

    comparison: Comparison
    relations: Mapping[Key, Relation] = field(default_factory=dict)
    only_right: Mapping[Key, Relation] = field(default_factory=dict)

    @property
    def renamed(self) -> tuple[Key, ...]:
        """The right keys that hold the content of a key that only the left state has."""
        alone = set(self.comparison.only_left)
        return tuple(key for key, relation in self.only_right.items() if relation.other in alone)

    def mistakes(self, left: str = "left", right: str = "right") -> tuple[Mistake, ...]:
        """Return the differing tensors in groups of one relation, the largest group first.

        Args:
            left: What the left state is called.
            right: What the right one is called.
        """
        groups: dict[tuple[str, str], list[Key]] = {}
        for by_kind in (False, True):
            groups = {}
            for difference in self.comparison.differing:
                label = self._label(difference.key, left, right, by_kind=by_kind)
                groups.setdefault(label, []).append(difference.key)
            if len(groups) <= _MOST_GROUPS:
                break
        found = [Mistake(kind, text, tuple(keys)) for (kind, text), keys in groups.items()]
        return tuple(sorted(found, key=lambda mistake: (not mistake.text, -len(mistake.keys))))

    def _label(self, key: Key, left: str, right: str, *, by_kind: bool) -> tuple[str, str]:
        relation = self.relations.get(key)
        if relation is None:
            return "unknown", ""
        if relation.other is not None:
            return relation.kind, f"{self._names_text(key, relation.other)}{_changes(relation)}"
        text = _kinds_text(relation.kinds) if by_kind else relation.text
        return relation.kind, relation.sided(text, left, right)

    def _names_text(self, key: Key, other: Key) -> str:
        """Return how the names of tensors were mixed up that hold each other's content."""
        back = self.relations.get(other)
        if back is not None and back.other == key:
            return "their names were swapped"
        name, origin = join_key(key), join_key(other)
        if _DIGITS.sub("0", name) != _DIGITS.sub("0", origin):
            return "they were other tensors"
        pairs = zip(_DIGITS.findall(name), _DIGITS.findall(origin), strict=True)
        steps = [int(theirs) - int(ours) for ours, theirs in pairs if ours != theirs]
        if len(steps) == 1 and abs(steps[0]) == 1:
            return f"the numbers in their names were off by one (n holds n{steps[0]:+d})"
        return "the numbers in their names were permuted"

    def sum(self, left: str = "left", right: str = "right") -> str:
        """Return what differs and why in one line; empty if no tensor of both states differs.

        Args:
            left: What the left state is called.
            right: What the right one is called.
        """
        mistakes = self.mistakes(left, right)
        total = sum(len(mistake.keys) for mistake in mistakes)
        parts = []
        if total:
            differ = f"{count(total, 'tensor')} differ{'s' if total == 1 else ''}"
            known = [f"as if {mistake.text}" if mistake.text else _UNKNOWN for mistake in mistakes]
            if len(mistakes) == 1:
                parts.append(f"{differ}, {'all ' if total > 1 and mistakes[0].text else ''}{known[0]}")
            else:
                sizes = (len(mistake.keys) for mistake in mistakes)
                groups = (f"{size} {text}" for size, text in zip(sizes, known, strict=True))
                parts.append(f"{differ}: {'; '.join(groups)}")
        if self.renamed:
            renamed = count(len(self.renamed), "tensor")
            parts.append(f"{renamed} renamed{' and changed' if self._changed_names() else ''}")
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        """Return the differences for a notebook: why tensors differ, then the comparison."""
        from bridge_core.html import fragment, section, verdict_line

        word, tone = ("equal", "good") if self.comparison.equal else ("different", "bad")
        parts = [verdict_line(word, tone, self.sum())]
        for mistake in self.mistakes():
            why = f"as if {mistake.text}" if mistake.text else _UNKNOWN
            title = f"{count(len(mistake.keys), 'tensor')} differ, {why}"
            parts.append(section(title, folded(map(join_key, mistake.keys)), tone="bad", opened=True))
        renamed = (
            f"{join_key(key)} holds {join_key(self.only_right[key].other or ())}" for key in self.renamed
        )
        parts.append(section("Renamed", folded(renamed), tone="warn"))
        return fragment(*parts) + self.comparison._repr_html_()

    def _changed_names(self) -> bool:
        return any(self.only_right[key].changed for key in self.renamed)

    def to_json(
        self, left: str = "left", right: str = "right", comparison: Comparison | None = None
    ) -> dict[str, Any]:
        """Return the comparison as plain data, with what was found added to it.

        Args:
            left: What the left state is called.
            right: What the right one is called.
            comparison: The comparison with more about it; None for the one that was named.
        """
        document = (comparison or self.comparison).to_json()
        for entry, difference in zip(document["differing"], self.comparison.differing, strict=True):
            relation = self.relations.get(difference.key)
            entry["relation"] = None if relation is None else relation.to_json()
        document["summary"] = self.sum(left, right)
        document["mistakes"] = [mistake.to_json() for mistake in self.mistakes(left, right)]
        document["same_content"] = [
            {"right": join_key(key), "relation": relation.to_json()}
            for key, relation in self.only_right.items()
        ]
        return document


def name_differences(
    left: FlatState,
    right: FlatState,
    comparison: Comparison,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> NamedDifferences:
    """Find what turned the left tensors into the right ones, where they differ.

    Values are read again, in bounded memory: those that differ, those of keys that only one state has, and of
    others, if a content is sought, a few elements and some of the nearest completely.

    Args:
        left: One state.
        right: The other.
        comparison: What `bridge_core.compare_states` returned for them.
        progress: Called after each tensor, with the phase ``"naming"``.

    Raises:
        UsageError: A value is not a state.
    """
    left, right = as_state(left), as_state(right)
    differing = [d.key for d in comparison.differing if d.key in left and d.key in right]
    alone_left = [key for key in comparison.only_left if key in left]
    alone_right = [key for key in comparison.only_right if key in right]
    total = sum(right.spec(key).nbytes for key in (*differing, *alone_right))
    done = 0

    def report(key: Key) -> None:
        nonlocal done
        done += right.spec(key).nbytes
        if progress is not None:
            progress(Progress(done, total, key, "naming"))

    relations: dict[Key, Relation] = {}
    for key in differing:
        relation = known_relation(left.tensor(key), right.tensor(key))
        if relation is not None and relation.kind != "equal":
            relations[key] = relation
            report(key)
    others = OtherTensors(left, [*differing, *alone_left], _MOST_OTHERS * total)
    for key in differing:
        known = relations.get(key)
        if known is None or known.kind == "reordered":
            relation = others.content_of(key, right.tensor(key))
            if relation is not None:
                relations[key] = relation
            if known is None:
                report(key)
    only_right = {}
    alone = frozenset(alone_left)
    for key in alone_right:
        relation = others.content_of(key, right.tensor(key), alone) or others.content_of(
            key, right.tensor(key)
        )
        if relation is not None:
            only_right[key] = relation
        report(key)
    order = [key for key in differing if key in relations]
    return NamedDifferences(comparison, {key: relations[key] for key in order}, only_right)


def _changes(relation: Relation) -> str:
    kinds = relation.kinds[1:]
    return f", {_kinds_text(kinds)}" if kinds else ""


def _kinds_text(kinds: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(_PHRASES.get(kind, kind) for kind in kinds))
