"""Problems of a plan: one error for all of a kind, and the problems of two plans in a row."""

import dataclasses

import numpy as np
import pytest

from bridge_core import AmbiguousLayerError, MismatchError, Plan, RuleError, TensorSpec, UnsupportedLayerError
from bridge_core.plan import Mismatch, PlanProblems

A, B, C = ("a",), ("b",), ("c",)
SPEC = TensorSpec((2,), np.dtype("float32"))
ALL = PlanProblems((A,), (B,), (Mismatch(B, A, SPEC, SPEC),), {B: ("x", "y")}, {B: "why"}, ("a rule",))


def test_without_problems_there_is_no_error():
    assert PlanProblems().error("flax") is None


@pytest.mark.parametrize(
    ("left", "wanted"),
    [
        (("unmatched_rules",), RuleError),
        (("unsupported", "missing"), UnsupportedLayerError),
        (("missing", "ambiguous"), MismatchError),
        (("unexpected",), MismatchError),
        (("mismatched",), MismatchError),
        (("ambiguous",), AmbiguousLayerError),
    ],
    ids=str,
)
def test_the_first_kind_of_problem_is_the_error(left, wanted):
    problems = PlanProblems(**{name: getattr(ALL, name) for name in left})
    assert type(problems.error("flax")) is wanted
    assert type(dataclasses.replace(problems, unmatched_rules=("r",)).error("flax")) is RuleError


def test_only_what_helps_is_in_the_hint():
    hint = PlanProblems(unexpected=(B,)).error("flax").hint
    assert "--allow-unexpected" in hint
    assert "--allow-missing" not in hint
    assert "--rules" not in hint
    assert "--rules" in PlanProblems(missing=(A,), unexpected=(B,)).error("flax").hint


def test_problems_of_two_plans_are_named_by_the_first_ones_source():
    first = PlanProblems(unexpected=(C,), unsupported={C: "no"}, unmatched_rules=("a rule",))
    joined = first.then(ALL, {B: C})
    assert joined.missing == (A,)
    assert joined.unexpected == (C,)
    assert joined.mismatched == (Mismatch(C, A, SPEC, SPEC),)
    assert joined.ambiguous == {C: ("x", "y")}
    assert joined.unsupported == {C: "why"}
    assert joined.unmatched_rules == ("a rule",)


def test_a_plan_shows_its_problems_under_their_names():
    plan = Plan("torch", "flax", {}, (), problems=ALL)
    for field in dataclasses.fields(PlanProblems):
        assert getattr(plan, field.name) == getattr(ALL, field.name)


def test_problems_as_arguments_of_a_plan_still_work_and_warn():
    with pytest.warns(
        DeprecationWarning, match=r"Plan\(missing=, ambiguous=\).*problems=PlanProblems"
    ) as seen:
        plan = Plan("torch", "flax", {}, (), missing=(A,), ambiguous={B: ("x",)})
    assert seen[0].filename == __file__
    assert plan.problems == PlanProblems(missing=(A,), ambiguous={B: ("x",)})
    with pytest.warns(DeprecationWarning, match="missing="):
        assert dataclasses.replace(plan, missing=()).problems == PlanProblems(ambiguous={B: ("x",)})
    with pytest.warns(DeprecationWarning, match="refused=|unsupported="):
        assert Plan("torch", "flax", {}, (), refused={B: "why"}).unsupported == {B: "why"}
