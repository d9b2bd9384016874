"""A plan for a notebook: its problems first, then its steps with names folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.errors import PlanError
from bridge_core.html import Table, fragment, section, verdict_line
from bridge_core.messages import count, fold_names
from bridge_core.plan.plan_topics import plan_topics, verdict
from bridge_core.state import Key, TensorSpec, join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan
    from bridge_core.plan.step import Step

__all__ = ["plan_fragment"]


def plan_fragment(plan: Plan) -> str:
    """Return a plan as HTML for a notebook; names are escaped, and of many steps only the first are shown."""
    word, tone = verdict(plan)
    text = f"{plan.source_layout} to {plan.target_layout}, {count(len(plan.steps), 'step')}"
    parts = [verdict_line(word, tone, text)]
    for topic in plan_topics(plan, ({}, {})):
        number = len(topic.entries) if topic.number is None else topic.number
        title = f"{topic.title}: {number}" if number else topic.title
        lines = [
            line for entry in topic.entries for line in (entry.text, *entry.code.strip().split("\n")) if line
        ]
        parts.append(section(title, lines, tone=topic.tone, opened=topic.tone == "bad"))
    evidence = ", ".join(f"{name} {number}" for name, number in plan.evidence.items())
    rows = _rows(plan)
    title = f"Steps: {len(plan.steps)}" + (f" (evidence: {evidence})" if evidence else "")
    heads = ("source", "target", "shape", "what happens", "layer", "evidence", "")
    parts.append(section(title, Table(heads, rows, (6,)), opened=plan.ok and len(rows) <= 12))
    return fragment(*parts)


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return one row for steps that differ only in the numbers of their names."""
    try:
        targets = plan.target_specs()
    except (PlanError, KeyError):  # a plan that was made by hand
        targets = {}
    groups: dict[tuple[Any, ...], list[Step]] = {}
    for step in plan.steps:
        shapes = (_shapes(step.sources, plan.specs), _shapes(step.targets, targets))
        groups.setdefault((step.ops, step.kind, step.evidence, step.rule, shapes), []).append(step)
    rows: list[tuple[str, ...]] = []
    for (*_, (before, after)), steps in groups.items():
        first = steps[0]
        what = "  ".join(map(str, first.ops)) or "unchanged"
        shape = before if before == after or not after else f"{before} → {after}"
        evidence = f"{first.evidence} {first.rule}".strip()
        for text, number in fold_names(f"{_names(s.sources)}\t{_names(s.targets)}" for s in steps):
            source, _, target = text.partition("\t")
            names = (source or "(constant)", target or "(metadata)")
            rows.append((*names, shape, what, first.kind, evidence, f"x{number}" if number > 1 else ""))
    return rows


def _names(keys: tuple[Key, ...]) -> str:
    names = [join_key(key).replace("\t", "\\t") for key in keys[:100]]
    return ", ".join(names if len(names) < 3 else (text for text, _ in fold_names(names)))


def _shapes(keys: tuple[Key, ...], specs: Mapping[Key, TensorSpec]) -> str:
    known = [str(specs[key]) for key in keys if key in specs]
    return f"{len(known)} x {known[0]}" if len(known) > 1 and len(set(known)) == 1 else ", ".join(known[:4])
