"""The way from neutral form: what rules may take of it."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, KeyConflict, Rule, StateMetadata, as_key, default_registry
from bridge_core.resolve import plan_from_neutral
from bridge_core.state import LayerInfo

LEAVES = {f"{part}.kernel": (8, 8) for part in ("query", "key", "value", "out")}


def neutral(*ruled):
    """Return a neutral state with a decided attention, and parameters that a rule moved before."""
    tensors = {as_key(f"attn.{leaf}"): np.zeros(shape) for leaf, shape in LEAVES.items()}
    layers = {("attn",): LayerInfo("attention", "module", tuple(LEAVES))}
    for path in ruled:
        tensors[path, "weight"] = np.zeros((2, 2))
        layers[path,] = LayerInfo("parameter", "rule", ())
    return FlatState(tensors, layout="neutral", metadata=StateMetadata(layers=layers))


@pytest.mark.parametrize(("ruled", "takes"), [((), True), (("moved",), False)])
def test_after_other_rules_a_rule_takes_no_leaf_of_a_decided_layer_at_any_depth(ruled, takes):
    rule = Rule.rearrange("attn.query.kernel", "taken.kernel")
    plan = plan_from_neutral(neutral(*ruled), default_registry(), "flax", rules=[rule])
    assert any(target[-2:] == ("taken", "kernel") for step in plan.steps for target in step.targets) is takes


def test_a_shape_that_differs_is_told_in_the_axes_of_the_target():
    """A neutral kernel of the size of torch's weight, not turned, is not what torch has."""
    like = FlatState({"fc.weight": np.zeros((12, 8))}, layout="torch")
    records = StateMetadata(layers={("fc",): LayerInfo("linear", "module", ("kernel",))})
    state = FlatState({"fc.kernel": np.zeros((12, 8))}, layout="neutral", metadata=records)
    plan = plan_from_neutral(state, default_registry(), "torch", like=like)
    (pair,) = plan.mismatched
    assert (pair.found.shape, pair.expected.shape) == ((8, 12), (12, 8))


def test_two_keys_of_one_leaf_are_refused():
    state = neutral()
    other = ("attn", "query.kernel")
    state = state.replace(tensors={**state.tensors(), other: np.ones((8, 8))}, metadata=state.metadata)
    with refused(KeyConflict, ("attn", "query", "kernel"), other, hint="state.rename"):
        plan_from_neutral(state, default_registry(), "flax")
