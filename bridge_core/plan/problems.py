"""A plan in words and as plain data, and what is wrong with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge_core.errors import (
    AmbiguousLayerError,
    BridgeError,
    MismatchError,
    RuleError,
    UnsupportedLayerError,
)
from bridge_core.messages import count, fold_names, listed
from bridge_core.ops import Fill, Op
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan

__all__ = ["as_json", "describe", "problem"]


def describe(plan: Plan) -> str:
    """Return the plan as text, names folded."""
    lines = [f"{plan.source_layout} -> {plan.target_layout}, {count(len(plan.steps), 'step')}"]
    lines += [f"note: {note}" for note in plan.notes]
    rows = []
    for step in plan.steps:
        sources = _together(step.sources) or "(constant)"
        targets = _together(step.targets) or "(metadata)"
        ops = "  ".join(_op_name(op) for op in step.ops) or "as it is"
        evidence = f"{step.evidence} {step.rule}" if step.rule else step.evidence
        rows.append(f"{sources} -> {targets}\t[{step.kind}, {evidence}] {ops}")
    for text, number in fold_names(rows):
        lines.append("  " + text.replace("\t", "  ") + (f"  x{number}" if number > 1 else ""))
    for title, names in (
        ("dropped", [f"{join_key(d.key)} ({d.reason})" for d in plan.dropped]),
        ("missing", list(map(join_key, plan.missing))),
        ("unexpected", list(map(join_key, plan.unexpected))),
        ("mismatched", [str(m) for m in plan.mismatched]),
        ("ambiguous", [f"{join_key(k)} ({' or '.join(v)})" for k, v in plan.ambiguous.items()]),
        ("left out", list(map(join_key, plan.allowed_missing))),
        ("refused", [f"{join_key(k)} ({why})" for k, why in plan.unsupported.items()]),
        ("unmatched rule", list(plan.unmatched_rules)),
    ):
        lines += [f"{title}: {text}" + (f"  x{n}" if n > 1 else "") for text, n in fold_names(names)]
    return "\n".join(lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain data."""
    return {
        "source_layout": plan.source_layout,
        "target_layout": plan.target_layout,
        "steps": [step.to_json() for step in plan.steps],
        "dropped": [{"key": join_key(d.key), "reason": d.reason} for d in plan.dropped],
        "ties": {join_key(k): join_key(v) for k, v in plan.ties.items()},
        "missing": [join_key(k) for k in plan.missing],
        "unexpected": [join_key(k) for k in plan.unexpected],
        "mismatched": [
            {
                "source": join_key(m.source),
                "target": join_key(m.target),
                "found": str(m.found),
                "expected": str(m.expected),
            }
            for m in plan.mismatched
        ],
        "ambiguous": {join_key(k): list(v) for k, v in plan.ambiguous.items()},
        "allowed_missing": [join_key(k) for k in plan.allowed_missing],
        "refused": {join_key(k): why for k, why in plan.unsupported.items()},
        "idle_rules": list(plan.unmatched_rules),
        "notes": list(plan.notes),
        "exact": plan.exact,
    }


def problem(plan: Plan) -> BridgeError | None:
    """Return the error for what keeps a plan from being run, all of a sort at once; None if nothing does."""
    if plan.unmatched_rules:
        return RuleError(
            f"{count(len(plan.unmatched_rules), 'rule')} matched nothing: {listed(list(plan.unmatched_rules), 40)}.",
            hint=(
                "Correct the pattern, which sees the names that the source has before any rule renames them; "
                "or mark a rule that need not match as optional. A conversion in two steps needs rules that "
                "rearrange tensors in both."
            ),
        )
    if plan.unsupported:
        keys: dict[str, list[str]] = {}
        for key, why in plan.unsupported.items():
            keys.setdefault(why, []).append(join_key(key))
        rows = [f"{listed(names, 40)}: {why}" for why, names in keys.items()]
        return UnsupportedLayerError(
            f"{count(len(plan.unsupported), 'tensor')} cannot be carried to {plan.target_layout}. "
            f"{'; '.join(rows)}.",
            reasons={join_key(key): why for key, why in plan.unsupported.items()},
        )
    if plan.missing or plan.unexpected or plan.mismatched:
        return MismatchError(
            _mismatch_text(plan),
            missing=tuple(map(join_key, plan.missing)),
            unexpected=tuple(map(join_key, plan.unexpected)),
            mismatched=tuple(str(m) for m in plan.mismatched),
            hint=_mismatch_hint(plan),
        )
    if plan.ambiguous:
        return AmbiguousLayerError(
            f"{count(len(plan.ambiguous), 'tensor')} can be read in more than one way: {_candidates(plan)}.",
            candidates={join_key(k): v for k, v in plan.ambiguous.items()},
            hint=(
                "Give the target's shapes (--like FILE, or like=), the module (--model PKG.MOD:FACTORY, "
                "or module=) or a rule (--rules FILE); or accept guesses by name (--accept-guesses)."
            ),
        )
    return None


def _op_name(op: Op) -> str:
    return f"fill({op.value})" if isinstance(op, Fill) else str(op)


def _candidates(plan: Plan) -> str:
    rows = [f"{join_key(k)} ({' or '.join(v)})" for k, v in plan.ambiguous.items()]
    return listed(rows, 40)


def _mismatch_text(plan: Plan) -> str:
    parts = []
    if plan.missing:
        parts.append(f"{len(plan.missing)} missing: {listed([join_key(k) for k in plan.missing], 40)}")
    if plan.unexpected:
        names = [join_key(k) for k in plan.unexpected]
        parts.append(f"{len(plan.unexpected)} unexpected: {listed(names, 40)}")
    if plan.mismatched:
        rows = [str(m) for m in plan.mismatched]
        parts.append(f"{len(plan.mismatched)} of another shape: {listed(rows, 40)}")
    if plan.ambiguous:
        parts.append(f"{len(plan.ambiguous)} ambiguous: {_candidates(plan)}")
    return "source and target do not fit. " + "; ".join(parts) + "."


def _mismatch_hint(plan: Plan) -> str | None:
    hints = []
    if plan.unexpected:
        hints.append("--allow-unexpected PATTERN leaves source tensors out")
    if plan.missing:
        hints.append("--allow-missing PATTERN leaves target tensors unfilled")
    if plan.mismatched:
        hints.append("--allow-mismatched PATTERN leaves tensors of another shape unfilled")
    if plan.mismatched or (plan.missing and plan.unexpected):
        hints.append("a rule (--rules FILE) says how one becomes the other")
    return "; ".join(hints) + "." if hints else None


def _together(keys: tuple[Key, ...]) -> str:
    """Return the keys of one side of a step; many that differ in their numbers are told as one."""
    names = list(map(join_key, keys))
    return ", ".join(names if len(names) < 3 else (text for text, _ in fold_names(names)))
