"""Proposed pairs that contradict what is known of lists are left out."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.examples import examples

from bridge_core import MismatchError, plan_conversion
from bridge_core.resolve.list_order import without_contradictions
from bridge_core.rules import rules_of_text
from bridge_core.state import FlatState


def pairs(*texts):
    return {
        tuple(a.split(".")): tuple(b.split("."))
        for a, b in (text.replace(" ", "").split(">") for text in texts)
    }


@pytest.mark.parametrize(
    ("proposed", "known"),
    [
        (["a.0 > a.3"], ["a.1 > a.1", "a.2 > a.2"]),  # numbered from 1
        (["fc1 > fc2"], []),
        (["a.0.x > b.2.x"], ["a.1.y > b.1.y"]),
        (["a.8.up > b.9.up"], ["a.8.down > b.8.down", "a.9.up > b.9.down"]),
        (["a.0.x > b.0.y", "a.1.x > b.1.z"], []),  # one name, two names
        (["a.0.x > b.0.y", "a.1.z > b.1.y"], []),
    ],
)
def test_contradictions_are_left_out(proposed, known):
    assert without_contradictions(pairs(*proposed), pairs(*known)) == {}


@pytest.mark.parametrize(
    ("proposed", "known"),
    [
        (["a.0 > b.1", "a.1 > b.2"], []),
        (["a.2 > a.1"], ["a.0 > a.0"]),  # a list with gaps
        (["f.0 > conv", "f.1 > bn"], []),  # numbers that are names
        (["a.0.0.x > b.0.x", "a.0.1.x > b.1.x", "a.1.0.x > b.2.x"], []),  # two lists in one
        (["a.0.c.1 > b_0.d_1", "a.0.c.0 > b_0.d_0", "a.1.c.0 > b_1.d_0"], []),
        (["conv1 > Conv_0"], []),
    ],
)
def test_other_pairs_are_kept(proposed, known):
    assert without_contradictions(pairs(*proposed), pairs(*known)) == pairs(*proposed)


@settings(max_examples=examples(15))
@given(st.randoms(use_true_random=False), st.sampled_from([4, 8]), st.integers(2, 12), st.integers(1, 3))
def test_a_list_that_is_numbered_from_elsewhere_never_gets_a_wrong_rule(
    random: random.Random, width, layers, start
):
    """Most of its names are names of the other side, too, with another meaning."""
    draw = np.random.default_rng(random.randrange(1000))
    source, target = {}, {}
    parts = random.sample(["up", "down", "gate"], random.randint(1, 3))
    for layer in range(layers):
        for part in parts:
            weight = draw.normal(size=(width, width)).astype("float32")
            source["layers", str(layer), part, "weight"] = weight
            target["params", f"layers_{layer + start}", part, "kernel"] = weight.T
    other = draw.normal(size=(3, width)).astype("float32")
    source["norm1", "weight"], target["params", "norm0", "scale"] = other[0], other[0]
    left, right = FlatState(source, layout="torch"), FlatState(target, layout="flax")
    with pytest.raises(MismatchError) as refused:
        plan_conversion(left, to="flax", like=right)
    text = refused.value.proposed_rules
    if text and "no partner" not in text:
        made = plan_conversion(left, to="flax", like=right, rules=rules_of_text(text, "rules.toml")).apply(
            left
        )
        assert all(np.array_equal(made[key], target[key]) for key in target)
