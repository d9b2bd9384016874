"""Problems of a plan: one error for all of a kind, and the problems of two plans in a row."""

import dataclasses

import numpy as np
import pytest
from support.errors import refused

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
        if field.name == "unfilled_specs":  # what is unfilled by permission has its spec there, too
            continue
        assert getattr(plan, field.name) == getattr(ALL, field.name)


def test_problems_as_arguments_of_a_plan_still_work_and_warn():
    with pytest.warns(
        DeprecationWarning, match=r"\bmissing=.*\bambiguous=.*\bproblems=PlanProblems\b"
    ) as seen:
        plan = Plan("torch", "flax", {}, (), missing=(A,), ambiguous={B: ("x",)})
    assert seen[0].filename == __file__
    assert plan.problems == PlanProblems(missing=(A,), ambiguous={B: ("x",)})
    with pytest.warns(DeprecationWarning, match="missing="):
        assert dataclasses.replace(plan, missing=()).problems == PlanProblems(ambiguous={B: ("x",)})
    with pytest.warns(DeprecationWarning, match="refused=|unsupported="):
        assert Plan("torch", "flax", {}, (), refused={B: "why"}).unsupported == {B: "why"}


def test_an_open_layer_is_named_with_its_shape_and_what_it_may_be():
    problems = PlanProblems(ambiguous={B: ("linear", "embedding", "parameter")})
    with refused(
        AmbiguousLayerError,
        "1 tensor",
        "b, float32[2]: linear, embedding or plain parameter",
        hint=("--like FILE", "--model PKG.MOD:FACTORY", "--accept-guesses"),
    ):
        raise problems.error("flax", {B: SPEC})


def test_of_many_open_layers_the_first_are_listed():
    ambiguous = {(f"x{chr(97 + i)}", "weight"): ("linear", "norm") for i in range(20)}
    with refused(AmbiguousLayerError, "20 tensors", "xa.weight", "xh.weight", "and 12 more") as caught:
        raise PlanProblems(ambiguous=ambiguous).error("flax")
    assert "xi.weight" not in str(caught.value)
    assert len(caught.value.candidates) == 20


def test_a_rule_that_matches_no_key_is_answered_with_the_closest():
    problems = PlanProblems(unmatched_rules=("r.toml:3: 'fc.wieght' -> 'l.weight'",))
    specs = {("fc", "weight"): SPEC, ("other", "bias"): SPEC}
    with refused(RuleError, "r.toml:3", "'fc.wieght'", "'fc.weight'", hint="optional = true"):
        raise problems.error("flax", specs)


def keys(*names):
    return tuple(tuple(name.split(".")) for name in names)


def test_a_rule_that_matches_no_key_is_answered_with_what_is_left_on_both_sides():
    problems = PlanProblems(
        missing=keys("params.b_0.q.kernel", "params.b_1.q.kernel"),
        unexpected=keys("h.0.atn.q.weight", "h.1.atn.q.weight"),
        unmatched_rules=("r.toml:3: 'h.{i:int}.attn.**' -> 'b_{i:int}.**'",),
    )
    specs = dict.fromkeys(keys("h.0.atn.q.weight", "h.1.atn.q.weight", "h.0.mlp.up.weight"), SPEC)
    closest = ("'h.{0..1}.atn.q.weight'", "'params.b_{0..1}.q.kernel'")
    left = ("h.{0..1}.atn.q.weight (x2)", "params.b_{0..1}.q.kernel (x2)", "tok")
    with refused(RuleError, "r.toml:3: 'h.{i:int}.attn.**'", *closest, *left, hint="optional = true"):
        raise problems.error("flax", specs, keys("tok"))


def test_rules_that_match_no_key_have_a_line_each_of_many_the_first():
    rules = tuple(f"r.toml:{n}: 'x{n}': drop (unused)" for n in range(1, 11))
    with refused(RuleError, "10 rules", "and 2 more") as caught:
        raise PlanProblems(unmatched_rules=rules).error("flax")
    rows = caught.value.message.split("\n")[1:]
    assert [row.strip() for row in rows[:8]] == list(rules[:8])
    assert len(rows) == 9


def test_a_rule_of_targets_alone_is_compared_with_the_targets():
    rules = ("r.toml:3: 'head.bais': fill with 0.0 (none)",)
    problems = PlanProblems(unmatched_rules=rules, missing=keys("head.bias"))
    with refused(RuleError, "unfilled target", "'head.bias'") as caught:
        raise problems.error("flax", dict.fromkeys(keys("head.bais.x"), SPEC))
    assert "closest source" not in caught.value.message


def test_a_name_cannot_add_a_line_to_the_message():
    problems = PlanProblems(unmatched_rules=("r.toml:3: 'a': drop (b)",), missing=(("x\n  y",),))
    assert len(problems.error("flax").message.split("\n")) == 3


def test_a_layer_that_may_have_been_renamed_is_named():
    problems = PlanProblems(
        missing=(("params", "head", "kernel"),), unexpected=(("fc", "weight"), ("fc", "bias"))
    )
    with refused(MismatchError, "1 target tensor", "2 source tensors", hint="If fc became head"):
        raise problems.error("flax")


def test_a_mismatch_inside_one_layer_does_not_say_that_the_layer_became_itself():
    problems = PlanProblems(missing=(("fc", "embedding"),), unexpected=(("fc", "weight"),))
    with refused(MismatchError, "fc.embedding", "fc.weight", hint="tensors of fc were renamed") as caught:
        raise problems.error("flax")
    assert "became" not in caught.value.hint
