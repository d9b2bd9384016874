"""A plan as a page: both sides as trees, lines between them, and what is wrong or worth a look first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bridge_core.errors import PlanError
from bridge_core.html import Leaf, Link, Mark, Side, TwoTrees, two_trees_page
from bridge_core.messages import count, size_text
from bridge_core.plan.op_words import chain_words
from bridge_core.plan.plan_topics import plan_topics, verdict
from bridge_core.plan.step import Step
from bridge_core.state import Key, TensorSpec, join_key

if TYPE_CHECKING:
    from bridge_core.plan.plan import Plan

__all__ = ["plan_page"]

_MARKS = (
    Mark("name", "N", "the tensor is copied under its own name", 8),
    Mark("structure", "S", "names, shapes and the layers around it leave one reading", 4),
    Mark("template", "T", "only one reading fits the target's template", 3),
    Mark("metadata", "M", "the source's file records what the layer is", 2),
    Mark("module", "L", "a live model, or its library, shows the layer's type", 1),
    Mark("rule", "R", "a rule or a recipe names it", 0),
    Mark("residual", "A", "an auxiliary tensor that one side has no place for", 8),
    Mark("tied", "=", "the tensor shares its values with another name", 8),
    Mark("dropped", "-", "the tensor is left out", 9, "warn"),
    Mark("unfilled", "○", "the target's own values remain, by permission", 9, "warn"),
    Mark("unclaimed", "U?", "no evidence explains the tensor; it is copied unchanged", 6, "warn"),
    Mark("guess", "G?", "a guess from names, which was permitted and may be wrong", 5, "warn"),
    Mark("undecided", "??", "several readings remain", 5, "warn"),
    Mark("refused", "x", "the target has no place for the tensor, or no evidence explains it", 7, "bad"),
    Mark("ambiguous", "?", "no evidence decides what the layer is", 7, "bad"),
    Mark("mismatched", "≠", "the shapes of both sides differ", 7, "bad"),
    Mark("unexpected", "+", "the target has no tensor for it", 7, "bad"),
    Mark("missing", "!", "the source has no tensor for it", 7, "bad"),
)
_NUMBERS = {mark.name: number for number, mark in enumerate(_MARKS)}

_Detail = tuple[tuple[str, str | tuple[str, ...]], ...]


class _Row(NamedTuple):
    """A leaf of one side."""

    info: str
    mark: int
    detail: _Detail = ()
    link: _Detail = ()


def plan_page(plan: Plan, title: str = "") -> str:
    """Return a plan as one page of HTML that needs nothing else.

    Args:
        plan: The plan; one that cannot be run is shown with its problems first.
        title: What is converted, for the title; empty for only the layouts.
    """
    steps = [(step, *_described(plan, step)) for step in (*plan.steps, *plan.keeps)]
    sources = _source_rows(plan, steps)
    targets = _target_rows(plan, steps)
    numbers = ({key: n for n, key in enumerate(sources)}, {key: n for n, key in enumerate(targets)})
    word, tone = verdict(plan)
    layouts = f"{plan.source_layout} to {plan.target_layout}"
    return two_trees_page(
        TwoTrees(
            title=f"{title}, {layouts}" if title else layouts,
            verdict=word,
            tone=tone,
            summary=_summary(plan),
            sides=(
                _side(plan.source_layout, "source", sources),
                _side(plan.target_layout, "target", targets),
            ),
            links=list(_links(plan, steps, numbers)),
            marks=_MARKS,
            topics=plan_topics(plan, numbers),
        )
    )


def _summary(plan: Plan) -> list[str]:
    nbytes = sum(spec.nbytes for spec in plan.specs.values())
    texts = [
        f"{count(len(plan.specs), 'source tensor')}, {size_text(nbytes)}; {count(len(plan.steps), 'step')}."
    ]
    if plan.layout_reason:
        texts[0] += f" The source is read as {plan.source_layout}: {plan.layout_reason}."
    if plan.ok:
        what = "What is read of the source" if plan.branches else "The source"
        texts[0] += f" {what} {'can' if plan.exact else 'cannot'} be restored from the result bit for bit."
    return texts


def _described(plan: Plan, step: Step) -> tuple[_Detail, tuple[TensorSpec, ...]]:
    """Return what a step is and does, and its targets' specs; none if ops do not fit."""
    try:
        lines, specs = chain_words([plan.specs[key] for key in step.sources], step.ops)
    except (PlanError, KeyError) as error:  # a plan that was made by hand
        lines, specs = (f"cannot be computed: {error}",), ()
    if not step.targets:
        lines = (*lines, "stores the values in the target's metadata")
    loss = (
        ""
        if step.exact
        else "yes: " + ("; ".join(op.loss for op in step.ops if op.loss) or "values are lost")
    )
    detail: _Detail = (
        ("Layer kind", step.kind),
        ("What happens", lines or "copied unchanged"),
        ("Loses values", loss),
        ("Rule", step.rule),
    )
    return detail, specs


def _source_rows(plan: Plan, steps: Iterable[tuple[Step, _Detail, Sequence[TensorSpec]]]) -> dict[Key, _Row]:
    infos = {key: str(spec) for key, spec in plan.specs.items()}
    rows: dict[Key, _Row] = {}
    for step, detail, _ in steps:
        for key in step.sources:
            rows.setdefault(key, _Row(infos.get(key, ""), _number(step.evidence), _origin(plan, key), detail))
    for dropped in plan.dropped:
        mark = "tied" if dropped.tied_to is not None else "residual" if dropped.kept else "dropped"
        stored = "yes, in the target's metadata" if dropped.kept else ""
        detail = (("Why it is left out", dropped.reason), ("Stored", stored))
        rows[dropped.key] = _Row(
            infos.get(dropped.key, ""), _NUMBERS[mark], detail + _origin(plan, dropped.key)
        )
    for mark, problems in (
        ("unexpected", dict.fromkeys(plan.unexpected, "No tensor of the target takes it.")),
        ("mismatched", {one.source: str(one) for one in plan.mismatched}),
        ("refused", {**plan.unsupported, **plan.unexplained}),
        ("ambiguous", {key: " or ".join(kinds) for key, kinds in plan.ambiguous.items()}),
    ):
        title = "It may be" if mark == "ambiguous" else "Problem"
        for key, text in problems.items():
            rows[key] = _Row(infos.get(key, ""), _NUMBERS[mark], ((title, text), *_origin(plan, key)))
    undecided = _NUMBERS["undecided"]
    ordered = {key: rows.get(key) or _Row(info, undecided) for key, info in infos.items()}
    return {**ordered, **rows}


def _origin(plan: Plan, key: Key) -> _Detail:
    """Return the name that a neutral tensor had before, if that is known."""
    origin = plan.source_names.get(key, key)
    return () if origin == key else (("Name before the neutral form", join_key(origin)),)


def _target_rows(plan: Plan, steps: Iterable[tuple[Step, _Detail, Sequence[TensorSpec]]]) -> dict[Key, _Row]:
    rows: dict[Key, _Row] = {}
    for step, detail, specs in steps:
        known = specs if len(specs) == len(step.targets) else [None] * len(step.targets)
        for key, spec in zip(step.targets, known, strict=True):
            rows[key] = _Row("" if spec is None else str(spec), _number(step.evidence), (), detail)
    for key, other in plan.ties.items():
        info = rows[other].info if other in rows else ""
        rows[key] = _Row(info, _NUMBERS["tied"], (("Shares its values with", join_key(other)),))
    unfilled = {key: str(spec) for key, spec in plan.problems.unfilled_specs.items()}
    for key in plan.allowed_missing:
        detail = (("Values", "The values of the target remain."),)
        rows[key] = _Row(unfilled.get(key, ""), _NUMBERS["unfilled"], detail)
    for one in plan.mismatched:
        rows[one.target] = _Row(str(one.expected), _NUMBERS["mismatched"], (("Problem", str(one)),))
    for key in plan.missing:
        detail = (("Problem", "No tensor of the source fills it."),)
        rows[key] = _Row(unfilled.get(key, ""), _NUMBERS["missing"], detail)
    return rows


def _links(
    plan: Plan,
    steps: Iterable[tuple[Step, _Detail, Sequence[TensorSpec]]],
    numbers: tuple[dict[Key, int], dict[Key, int]],
) -> Iterable[Link]:
    sources, targets = numbers
    origin: dict[Key, tuple[int, ...]] = {}
    for step, detail, _ in steps:
        left = tuple(sources[key] for key in step.sources)
        origin.update(dict.fromkeys(step.targets, left))
        yield Link(left, tuple(targets[key] for key in step.targets), _number(step.evidence), detail)
    for key, other in plan.ties.items():
        if origin.get(other):
            yield Link(origin[other], (targets[key],), _NUMBERS["tied"], ())
    for one in plan.mismatched:
        if one.source in sources and one.target in targets:
            yield Link((sources[one.source],), (targets[one.target],), _NUMBERS["mismatched"], ())


def _side(layout: str, what: str, rows: dict[Key, _Row]) -> Side:
    return Side(
        f"{what}: {layout}",
        [Leaf(key, row.info, (row.mark, row.detail, row.link)) for key, row in rows.items()],
        [row.mark for row in rows.values()],
        [row.detail for row in rows.values()],
    )


def _number(evidence: str) -> int:
    return _NUMBERS.get(evidence, _NUMBERS["undecided"])
