"""What headers leave open is settled by content, and only what content shows."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from bridge_core import plan_conversion
from bridge_core.proof.matching.by_values import settle_by_values
from bridge_core.proof.matching.match_states import match_states
from bridge_core.rules import rules_of_text
from bridge_core.state import FlatState

LAYERS, WIDTH = 3, 16
PAIRS = {"q": "one", "k": "two", "v": "three", "o": "four"}


def torch_weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"embed.weight": (30, WIDTH)}
    for i in range(LAYERS):
        for part in PAIRS:
            shapes[f"h.{i}.{part}.weight"] = (WIDTH, WIDTH)
        for part in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{part}.weight": (WIDTH,), f"h.{i}.{part}.bias": (WIDTH,)}
        for part in ("up", "gate"):
            shapes[f"h.{i}.{part}.weight"] = (40, WIDTH)
        shapes[f"h.{i}.down.weight"] = (WIDTH, 40)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


OTHER_NAMES = {**PAIRS, "ln_1": "pre", "ln_2": "post", "up": "x", "gate": "y", "down": "z"}


def flax_weights(weights):
    tree = {("embed", "embedding"): weights["embed.weight"]}
    for name, value in weights.items():
        if name.startswith("h."):
            _, i, part, leaf = name.split(".")
            leaf = "kernel" if value.ndim > 1 else {"weight": "scale"}.get(leaf, leaf)
            tree[f"blocks_{i}", OTHER_NAMES[part], leaf] = np.ascontiguousarray(value.T)
    return tree


def source_of(weights):
    return FlatState({tuple(name.split(".")): value for name, value in weights.items()}, layout="torch")


def target_of(tree):
    return FlatState(tree, layout="flax")


def truth(weights):
    """Return target key -> source key."""
    return {
        key: next(tuple(name.split(".")) for name, value in weights.items() if _is_same(value, made))
        for key, made in flax_weights(weights).items()
    }


def _is_same(value, made):
    return value.shape in (made.shape, made.shape[::-1]) and (
        np.array_equal(value.T, made) or (made.ndim > 1 and np.array_equal(value, made))
    )


@pytest.fixture(scope="module")
def opened():
    weights = torch_weights()
    source, target = source_of(weights), target_of(flax_weights(weights))
    matching = match_states(source, target)
    assert {len(choice.options) for choice in matching.choices} == {4, 16}
    return weights, matching


def settled(opened, change=lambda tree: tree):
    weights, matching = opened
    source, target = source_of(weights), target_of(change(flax_weights(weights)))
    return settle_by_values(matching, source, target), source, target


def wrong(matching, weights):
    right = truth(weights)
    return [pair for pair in matching.settled if right[pair.targets[0]] != pair.sources[0]]


def with_noise(size):
    rng = np.random.default_rng(5)

    def change(tree):
        noisy = {key: value + size * rng.standard_normal(value.shape) for key, value in tree.items()}
        return {key: value.astype(np.float32) for key, value in noisy.items()}

    return change


def test_equal_content_settles_every_choice_and_the_rules_make_the_target(opened):
    matching, source, target = settled(opened)
    assert matching.complete
    assert "by values: equal in every bit" in matching.rules_text
    made = plan_conversion(
        source, to="flax", like=target, rules=rules_of_text(matching.rules_text, "rules.toml")
    ).apply(source)
    assert all(np.array_equal(made[key], target[key]) for key in target)


@pytest.mark.parametrize("size", [0.3, 0.6])
def test_weights_of_another_step_settle_by_correlation(opened, size):
    matching, *_ = settled(opened, with_noise(size))
    assert matching.complete
    assert not wrong(matching, opened[0])
    assert "by values: correlation at least 0." in matching.rules_text


@pytest.mark.parametrize("size", [2.0, 4.0, 8.0, 1e4])
def test_nothing_is_wrong_where_little_is_left_in_common(opened, size):
    matching, *_ = settled(opened, with_noise(size))
    assert not wrong(matching, opened[0])
    assert size < 1e4 or len(matching.choices) == len(opened[1].choices)


def test_a_cast_of_the_weights_is_recognised(opened):
    def as_bfloat16(tree):
        return {key: value.astype(ml_dtypes.bfloat16).astype(np.float32) for key, value in tree.items()}

    matching, *_ = settled(opened, as_bfloat16)
    assert matching.complete
    assert not wrong(matching, opened[0])


def test_constants_settle_nothing(opened):
    weights, matching = opened
    flat = {
        name: np.full_like(value, "ln_" in name and "weight" in name) if "ln_" in name else value
        for name, value in weights.items()
    }
    source, target = source_of(flat), target_of(flax_weights(flat))
    left = settle_by_values(matching, source, target)
    assert [choice.sources for choice in left.choices] == [("h.{i:int}.ln_1", "h.{i:int}.ln_2")]


def test_equal_tensors_settle_nothing(opened):
    weights, matching = opened
    twins = dict(weights)
    for i in range(LAYERS):
        twins[f"h.{i}.q.weight"] = twins[f"h.{i}.k.weight"]
    left = settle_by_values(matching, source_of(twins), target_of(flax_weights(twins)))
    assert [choice.sources for choice in left.choices] == [("h.{i:int}.q.weight", "h.{i:int}.k.weight")]


@pytest.mark.parametrize("turned", [False, True])
def test_the_orientation_of_a_square_weight_is_settled(turned):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    source = FlatState({("a", "table"): weight}, layout="torch")
    target = FlatState({("b", "array"): weight.T.copy() if turned else weight}, layout="flax")
    matching = match_states(source, target)
    assert [choice.is_orientation for choice in matching.choices] == [True]
    (pair,) = settle_by_values(matching, source, target).pairs
    assert bool(pair.equation) == turned
    symmetric = weight + weight.T
    source = FlatState({("a", "table"): symmetric}, layout="torch")
    target = FlatState({("b", "array"): symmetric}, layout="flax")
    assert len(settle_by_values(matching, source, target).choices) == 1


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_many_items_are_told_apart(noise):
    rng = np.random.default_rng(0)
    order = rng.permutation(9)
    letters = "abcdefghi"
    weights = {("e", name, "weight"): rng.standard_normal((6, 40)).astype(np.float32) for name in letters}
    target = {
        ("f", f"{letters[n]}x", "kernel"): (
            weights["e", name, "weight"].T + noise * rng.standard_normal((40, 6))
        ).astype(np.float32)
        for name, n in zip(letters, order, strict=True)
    }
    source, target = FlatState(weights, layout="torch"), FlatState(target, layout="flax")
    matching = settle_by_values(match_states(source, target), source, target)
    assert matching.complete
    assert {(pair.sources[0][1], pair.targets[0][1]) for pair in matching.settled} == {
        (name, f"{letters[n]}x") for name, n in zip(letters, order, strict=True)
    }


def test_a_settled_pair_that_content_contradicts_is_a_problem():
    rng = np.random.default_rng(0)
    weights = {
        ("m", name, "weight"): rng.standard_normal((4, 6 + n)).astype(np.float32)
        for n, name in enumerate("abcd")
    }
    target = {("m", name, "kernel"): weights["m", name, "weight"].T for name in "abcd"}
    target["m", "c", "kernel"] = rng.standard_normal(target["m", "c", "kernel"].shape).astype(np.float32)
    source, target = FlatState(weights, layout="torch"), FlatState(target, layout="flax")
    matching = settle_by_values(match_states(source, target), source, target)
    (problem,) = matching.problems
    assert "m.c.weight" in problem
    assert not matching.complete


def test_look_alikes_stay_open(opened):
    weights, matching = opened
    rng = np.random.default_rng(3)
    alike = dict(weights)
    for i in range(LAYERS):
        like = weights[f"h.{i}.k.weight"] + 0.4 * rng.standard_normal((WIDTH, WIDTH))
        alike[f"h.{i}.q.weight"] = like.astype(np.float32)
    target = target_of(with_noise(0.4)(flax_weights(alike)))
    left = settle_by_values(matching, source_of(alike), target)
    assert [choice.sources for choice in left.choices] == [("h.{i:int}.q.weight", "h.{i:int}.k.weight")]
