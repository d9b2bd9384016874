"""Layers that are alike are looked at once; each becomes what it becomes by itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import bridge_torch
from bridge_core import FlatState, UnclaimedTensorError, UnsupportedLayerError, plan_conversion
from bridge_core.state import LayerInfo, StateMetadata

LAYERS = {
    "linear": {"weight": (4, 3), "bias": (4,)},
    "bias_first": {"bias": (4,), "weight": (4, 3)},
    "wider": {"weight": (6, 3), "bias": (6,)},
    "square": {"weight": (4, 4), "bias": (4,)},
    "norm": {"weight": (4,), "bias": (4,)},
    "norm_bias_first": {"bias": (4,), "weight": (4,)},
    "with_own": {"weight": (4, 3), "bias": (4,), "scale_of_own": (2,)},
    "own": {"cls_token": (1, 4)},
    "batch_norm": {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,)},
    "bare": {"weight": (4, 3)},
    "bare_embedding": {"weight": (5, 3)},
    "conv": {"weight": (4, 3, 2, 2), "bias": (4,)},
    "around": {"weight": (4,), "bias": (4,), "inner.weight": (4, 3), "inner.bias": (4,)},
}
"""Path -> leaves; several have the same leaves in another order, or others next to them."""


def layer(name: str, number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([len(name), number])
    return {
        f"{name}_{number}.{leaf}": rng.standard_normal(shape).astype(np.float32)
        for leaf, shape in LAYERS[name].items()
    }


def apart() -> list[dict[str, np.ndarray]]:
    return [layer(name, number) for number in (0, 1) for name in LAYERS]


def together() -> dict[str, np.ndarray]:
    return {key: array for part in apart() for key, array in part.items()}


def converted(tensors, to, **options):
    state = FlatState(tensors, layout="torch") if isinstance(tensors, dict) else tensors
    plan = plan_conversion(state, to=to, **options)
    return plan, plan.apply(state)


def assert_each_as_by_itself(whole, parts, plans):
    """Compare steps, values and metadata of a state with those of its layers, in their order."""
    plan, state = whole
    assert set(plan.steps) == {step for one in plans for step in one.steps}
    assert set(plan.notes) == {note for one in plans for note in one.notes}
    assert list(state) == [key for part in parts for key in part]
    for part in parts:
        assert {path: state.metadata.layers[path] for path in part.metadata.layers} == part.metadata.layers
        for key in part:
            assert np.array_equal(state[key], part[key])


@pytest.mark.parametrize("guesses", [False, True])
def test_to_neutral(guesses):
    options = {"accept_guesses": guesses}
    parts = [converted(part, "neutral", **options) for part in apart()]
    whole = converted(together(), "neutral", **options)
    assert_each_as_by_itself(whole, [state for _, state in parts], [plan for plan, _ in parts])


@pytest.mark.parametrize("to", ["flax", "torch"])
def test_to_a_framework(to):
    options = {"accept_guesses": True, "allow_unclaimed": "**"}
    tensors = [part for part in apart() if not any("batch_norm" in key for key in part)]  # one form of tree
    parts = [converted(part, to, **options) for part in tensors]
    plan, state = converted({key: array for part in tensors for key, array in part.items()}, to, **options)
    assert set(plan.steps) == {step for one, _ in parts for step in one.steps}
    for _, part in parts:
        assert all(np.array_equal(state[key], part[key]) for key in part)
        assert {path: state.metadata.layers[path] for path in part.metadata.layers} == part.metadata.layers


def test_from_neutral_records_and_with_a_template():
    options = {"accept_guesses": True, "allow_unclaimed": "**"}
    _, neutral = converted(together(), "neutral")
    _, direct = converted(together(), "flax", **options)
    _, two_steps = converted(neutral, "flax", **options)
    _, templated = converted(neutral, "flax", like=direct)
    for state in (two_steps, templated):
        assert set(state) == set(direct)
        assert all(np.array_equal(state[key], direct[key]) for key in direct)


def edited(kernel):
    """Return a neutral state with two layers of one record, of which the second has another kernel."""
    neutral = converted(layer("linear", 0) | layer("linear", 1), "neutral")[1]
    one, other = (neutral.metadata.layers[f"linear_{number}",] for number in (0, 1))
    assert one == other
    tensors = {**neutral.tensors(), ("linear_1", "kernel"): np.zeros(kernel, np.float32)}
    return FlatState(tensors, layout="neutral", metadata=neutral.metadata)


def test_layers_of_one_record_have_their_own_shapes():
    state = edited((5, 4))
    back = plan_conversion(state, to="torch").apply(state)
    assert back.spec("linear_0.weight").shape == (4, 3)
    assert back.spec("linear_1.weight").shape == (4, 5)
    again = plan_conversion(state, to="torch", like=back).apply(state)
    assert again.specs() == back.specs()


def test_a_record_holds_only_where_it_fits():
    """Of two layers with one record, one was edited: its bias no longer fits its kernel."""
    with pytest.raises(UnclaimedTensorError) as caught:
        plan_conversion(edited((3, 5)), to="torch")
    assert set(caught.value.reasons) == {"linear_1.kernel"}


def test_copies_of_a_network_have_the_warnings_of_one():
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "fc.weight": (5, 64), "fc.bias": (5,)}

    def network(*names):
        tensors = {
            f"{name}.{key}": np.zeros(shape, np.float32) for name in names for key, shape in shapes.items()
        }
        return plan_conversion(FlatState(tensors, layout="torch"), to="flax").warnings

    (one,) = network("a")
    messages = [warning.message for warning in network("c", "b", "a")]
    assert messages == [re.sub(r"\ba\.", f"{name}.", one.message) for name in "cba"]


@pytest.mark.parametrize("source_is", ["neutral", "flax"])
def test_attentions_of_equal_shapes_have_their_own_numbers_of_heads(source_is):
    def model(*heads):
        return torch.nn.ModuleDict({f"h{i}": torch.nn.MultiheadAttention(8, n) for i, n in enumerate(heads)})

    neutral = bridge_torch.to_neutral(model(2, 4))
    source = neutral if source_is == "neutral" else plan_conversion(neutral, to="flax").apply(neutral)
    plan = plan_conversion(source, to="torch", like=model(2, 4))
    assert {step.kind for step in plan.steps} == {"attention"}
    for heads, refused in (((2, 2), {"h1"}), ((4, 4), {"h0"}), ((4, 2), {"h0", "h1"})):
        with pytest.raises(UnsupportedLayerError) as caught:
            plan_conversion(source, to="torch", like=model(*heads))
        assert {key.partition(".")[0] for key in re.findall(r"h\d\.", str(caught.value))} == refused


def test_layers_of_equal_shapes_have_their_own_records():
    neutral = converted(layer("linear", 0) | layer("linear", 1), "neutral")[1]
    layers = {
        (f"linear_{number}",): LayerInfo("linear", evidence, ("kernel", "bias"))
        for number, evidence in enumerate(("module", "metadata"))
    }
    state = FlatState(neutral.tensors(), layout="neutral", metadata=StateMetadata(layers=layers))
    plan = plan_conversion(state, to="torch")
    assert [step.evidence for step in plan.steps] == ["module", "module", "metadata", "metadata"]


def test_layers_of_which_one_is_doubted_are_told_by_that():
    """Of two layers with the same square weight, names given by a rule leave the axes of one open."""
    layers = {
        (name,): LayerInfo(
            None, "undecided", ("weight",), ("torch.linear",), origin="torch", doubted=name == "b"
        )
        for name in "abc"
    }
    tensors = {(name, "weight"): np.zeros((4, 4), np.float32) for name in layers for name in name}
    state = FlatState(tensors, layout="neutral", metadata=StateMetadata(layers=layers))
    like = FlatState({(name, "kernel"): np.zeros((4, 4), np.float32) for name in "abc"}, layout="flax")
    plan = plan_conversion(state, to="flax", like=like, check=False)
    assert [step.targets for step in plan.steps] == [(("a", "kernel"),), (("c", "kernel"),)]
    assert set(plan.ambiguous) == {("b", "weight")}
