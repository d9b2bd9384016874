"""Warnings of a plan go through joined plans and casts, by the names of the first source."""

import numpy as np

from bridge_core import Plan, TensorSpec
from bridge_core.plan import PlanWarning, Step

A, B = ("a",), ("b",)
SPEC = TensorSpec((2,), np.dtype("float32"))


def test_a_joined_plan_names_the_first_plans_source():
    one = PlanWarning("flatten", "one", (A,), "rule")
    two = PlanWarning("norm_axes", "two", (B,))
    first = Plan("torch", "neutral", {A: SPEC}, (Step((A,), (B,)),), warnings=(one,))
    second = Plan("neutral", "flax", {B: SPEC}, (Step((B,), (A,)),), warnings=(two,))
    joined = first.then(second).cast(np.dtype("float16"))
    assert joined.warnings == (one, PlanWarning("norm_axes", "two", (A,)))
    assert joined.to_json()["warnings"][0] == {
        "code": "flatten",
        "message": "one",
        "keys": ["a"],
        "rule": "rule",
    }
    assert first.inverse().warnings == ()
