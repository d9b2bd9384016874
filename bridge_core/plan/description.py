"""A plan as text for readers, and as plain data for programs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bridge_core.messages import count, fold_names
from bridge_core.plan.source_names import name_with_source
from bridge_core.state import join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan

__all__ = ["left_out_rows", "plan_document", "plan_text"]


def plan_text(plan: Plan) -> str:
    """Return a plan as text, names folded."""
    name = functools.partial(name_with_source, source_names=plan.source_names)
    lines = [f"{plan.source_layout} -> {plan.target_layout}, {count(len(plan.steps), 'step')}"]
    if plan.layout_reason:
        lines.append(f"source layout: {plan.source_layout}, {plan.layout_reason}")
    lines += [f"note: {note}" for note in plan.notes]
    for text, number in fold_names(step.describe() for step in plan.steps):
        lines.append("  " + text.replace("\t", "  ") + (f"  x{number}" if number > 1 else ""))
    for title, names in (
        ("dropped", [f"{name(d.key)} ({d.reason})" for d in plan.dropped]),
        ("missing", map(join_key, plan.missing)),
        ("unexpected", map(name, plan.unexpected)),
        ("mismatched", map(str, plan.mismatched)),
        ("ambiguous", [f"{name(k)} ({' or '.join(v)})" for k, v in plan.ambiguous.items()]),
        ("left unfilled", map(join_key, plan.allowed_missing)),
        (
            "refused",
            [f"{name(k)} ({why})" for k, why in {**plan.unsupported, **plan.unexplained}.items()],
        ),
        ("unclaimed", map(name, plan.unclaimed)),
        ("unmatched rule", plan.unmatched_rules),
        ("rival prefix", plan.rivals.names if plan.rivals else ()),
        ("recipe", plan.problems.recipe.needed if plan.problems.recipe else ()),
    ):
        lines += [f"{title}: {text}" + (f"  x{n}" if n > 1 else "") for text, n in fold_names(names)]
    if plan.problems.proposal is not None:
        lines += [f"proposed rule: {r.source} -> {r.rename}" for r in plan.problems.proposal.renames]
    return "\n".join(lines)


def left_out_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return what a plan leaves out as plain data: branches of the source first, then tensors."""
    tensors = [
        {"name": join_key(d.key), "reason": d.reason, "bytes": plan.specs[d.key].nbytes}
        for d in plan.left_out
        if d.key in plan.specs
    ]
    return [*(branch.to_json() for branch in plan.branches), *tensors]


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data."""
    return {
        "source_layout": plan.source_layout,
        "target_layout": plan.target_layout,
        **({"layout_reason": plan.layout_reason} if plan.layout_reason else {}),
        "steps": [step.to_json() for step in plan.steps],
        "dropped": [{"key": join_key(d.key), "reason": d.reason} for d in plan.dropped],
        "ties": {join_key(k): join_key(v) for k, v in plan.ties.items()},
        "missing": [join_key(k) for k in plan.missing],
        "unexpected": [join_key(k) for k in plan.unexpected],
        "mismatched": [mismatch.to_json() for mismatch in plan.mismatched],
        "ambiguous": {join_key(k): list(v) for k, v in plan.ambiguous.items()},
        "allowed_missing": [join_key(k) for k in plan.allowed_missing],
        "refused": {join_key(k): why for k, why in {**plan.unsupported, **plan.unexplained}.items()},
        "idle_rules": list(plan.unmatched_rules),
        "unclaimed": [join_key(k) for k in plan.unclaimed],
        "left_out": plan.left_out_json(),
        **({"only": plan.selection.to_json()} if plan.selection else {}),
        "evidence": plan.evidence,
        "rivals": list(plan.rivals.names) if plan.rivals else [],
        "notes": list(plan.notes),
        **({"recipes": list(plan.problems.recipe.needed)} if plan.problems.recipe else {}),
        **({"proposed_rules": plan.problems.proposal.toml} if plan.problems.proposal else {}),
        "warnings": [warning.to_json() for warning in plan.warnings],
        "exact": plan.exact,
    }
