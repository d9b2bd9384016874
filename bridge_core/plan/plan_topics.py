"""What to read before a plan's details: why it cannot be run, what it loses, what was guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bridge_core.html import Entry, Topic
from bridge_core.messages import count, fold_names
from bridge_core.plan.source_names import name_with_source
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan

__all__ = ["plan_topics", "verdict"]

_DIGITS = re.compile(r"[0-9]+")

Numbers = tuple[Mapping[Key, int], Mapping[Key, int]]


def verdict(plan: Plan) -> tuple[str, str]:
    """Return the word for a plan and its tone: ``good``, ``warn`` or ``bad``.

    A plan is not called exact where something was guessed, or nobody knows what a tensor is.
    """
    if not plan.ok:
        return "refused", "bad"
    doubtful = plan.unclaimed or plan.warnings or any(step.evidence == "guess" for step in plan.steps)
    return ("exact", "good") if plan.exact and not doubtful else ("can be run", "warn")


def plan_topics(plan: Plan, numbers: Numbers) -> list[Topic]:
    """Return the topics of a plan, the worst first.

    Args:
        plan: The plan.
        numbers: Source key and target key -> number of its leaf, for the entries that lead to one.
    """
    return [topic for topic in (*_problems(plan, numbers), *_warnings(plan, numbers)) if topic.entries]


def _problems(plan: Plan, numbers: Numbers) -> Iterator[Topic]:
    def name(key: Key) -> str:
        return name_with_source(key, plan.source_names)

    error = plan.problems.error(plan.target_layout, plan.specs, plan.unclaimed)
    if error is not None:
        first, _, rest = error.message.partition("\n")
        entries = [Entry(first, code=rest)]
        if error.hint:
            way, _, after = error.hint.strip().partition("\n")
            entries.append(Entry(f"What to do: {way}", code=after))
        yield Topic("Why it is refused", "bad", entries, number=0)
    is_in_hint = (
        error is not None and plan.proposal is not None and plan.proposal.toml.strip() in (error.hint or "")
    )
    if plan.proposal is not None and not is_in_hint:
        about = "They pair what is missing with what is unexpected; no conversion uses them unasked."
        yield Topic("Proposed rules", "warn", [Entry("As a rule file:", code=plan.proposal.toml)], about, 0)
    for title, side, about, texts in (
        ("Missing", 1, "in the source: no tensor fills these", {k: join_key(k) for k in plan.missing}),
        (
            "Unexpected",
            0,
            "in the source: the target takes none of these",
            {k: name(k) for k in plan.unexpected},
        ),
        ("Mismatched", 0, "the shapes differ", {m.source: str(m) for m in plan.mismatched}),
        (
            "Ambiguous",
            0,
            "no evidence decides what these are",
            {key: f"{name(key)}: {' or '.join(kinds)}" for key, kinds in plan.ambiguous.items()},
        ),
        (
            "Without a place",
            0,
            "or without evidence",
            {key: f"{name(key)}: {why}" for key, why in {**plan.unsupported, **plan.unexplained}.items()},
        ),
    ):
        yield Topic(title, "bad", _folded(texts, side, numbers[side]), about, len(texts))
    for title, lines in (
        ("Rules that match nothing", plan.unmatched_rules),
        ("Prefixes that match equally well", plan.rivals.names if plan.rivals else ()),
        ("Recipes of which one is needed", plan.problems.recipe.needed if plan.problems.recipe else ()),
    ):
        yield Topic(title, "bad", [Entry(line or "(no prefix)") for line in lines])


def _warnings(plan: Plan, numbers: Numbers) -> Iterator[Topic]:
    source, target = numbers
    entries = [
        Entry(
            warning.message,
            next((side for side in (0, 1) for key in warning.keys[:1] if key in numbers[side]), None),
            next(
                (numbers[side][key] for side in (0, 1) for key in warning.keys[:1] if key in numbers[side]), 0
            ),
            warning.rule,
        )
        for warning in plan.warnings
    ]
    yield Topic("Warnings", "warn", entries)
    guessed = {key: join_key(key) for step in plan.steps if step.evidence == "guess" for key in step.targets}
    yield Topic(
        "Guessed", "warn", _folded(guessed, 1, target), "names decided, as was permitted", len(guessed)
    )
    lossy = {
        step.sources[0]: f"{', '.join(map(join_key, step.sources))}: "
        + ("; ".join(op.loss for op in step.ops if op.loss) or "values are lost")
        for step in plan.steps
        if not step.exact and step.sources
    }
    yield Topic("Lossy", "warn", _folded(lossy, 0, source), "values may change", len(lossy))
    for title, texts, side, about in (
        (
            "Left out",
            {d.key: f"{join_key(d.key)}: {d.reason}" for d in plan.left_out},
            0,
            "only the source has their values",
        ),
        ("Left unfilled", {key: join_key(key) for key in plan.allowed_missing}, 1, "by permission"),
        (
            "Unclaimed",
            {key: join_key(key) for key in plan.unclaimed if key not in plan.unexplained},
            0,
            "no evidence explains them; copied unchanged",
        ),
    ):
        yield Topic(title, "warn", _folded(texts, side, numbers[side]), about, len(texts))
    branches = [
        Entry(f"{one.name}: {one.reason}" + (f", {count(one.tensors, 'tensor')}" if one.tensors else ""))
        for one in plan.branches
    ]
    yield Topic("Not read", "plain", branches, "other branches of the source")
    said = {warning.message for warning in plan.warnings}
    notes = [Entry(note) for note in plan.notes if note not in said]
    yield Topic("Notes", "plain", notes, open=False)


def _folded(texts: Mapping[Key, str], side: int, numbers: Mapping[Key, int]) -> list[Entry]:
    """Return one entry for texts that differ only in numbers; it leads to the first of them."""
    groups: dict[str, list[Key]] = {}
    for key, text in texts.items():
        groups.setdefault(_DIGITS.sub("0", text), []).append(key)
    entries = []
    for keys in groups.values():
        text = ", ".join(_times(one, number) for one, number in fold_names(texts[key] for key in keys))
        entries.append(Entry(text, side if keys[0] in numbers else None, numbers.get(keys[0], 0)))
    return entries


def _times(text: str, number: int) -> str:
    return f"{text} (x{number})" if number > 1 else text
