"""A mistake that only a part of a tensor has is named with the part, and holds for every element."""

import numpy as np
import pytest

from bridge_core import FlatState, compare_states
from bridge_core.proof import name_differences, relation_between
from bridge_core.proof.differences import changed_parts

GENERATOR = np.random.default_rng(3)
FUSED = GENERATOR.standard_normal((48, 16)).astype(np.float32)
HEADS = GENERATOR.standard_normal((6, 8, 12)).astype(np.float32)
BIAS = GENERATOR.standard_normal(30).astype(np.float32)


def changed(values, change, *parts):
    """The values with some parts of them changed."""
    result = values.copy()
    for part in parts:
        result[part] = change(values[part])
    return result


V, Q, THIRD = np.s_[32:48], np.s_[0:16], np.s_[:, 5:10]
MISTAKES = {
    "v transposed": (FUSED, np.transpose, [V], "transposed", "[32:48]"),
    "q and v transposed": (FUSED, np.transpose, [Q, V], "transposed", "[0:16] and [32:48]"),
    "v of a Flax kernel transposed": (FUSED.T, np.transpose, [np.s_[:, 32:48]], "transposed", "[:, 32:48]"),
    "one head flipped": (FUSED, lambda x: x[::-1], [np.s_[8:16]], "flipped", "[8:16]"),
    "one head of a split axis flipped": (HEADS, lambda x: x[..., ::-1], [np.s_[2:3]], "flipped", "[2:3]"),
    "every other head flipped": (
        HEADS,
        lambda x: x[..., ::-1],
        [np.s_[0:1], np.s_[2:3], np.s_[4:5]],
        "flipped",
        "[0:1], [2:3] and [4:5]",
    ),
    "q scaled": (FUSED, lambda x: x * np.float32(0.25), [Q], "scaled", "[0:16]"),
    "columns negated": (FUSED, np.negative, [THIRD], "negated", "[:, 5:10]"),
    "rows zeroed": (FUSED, np.zeros_like, [np.s_[3:5]], "constant", "[3:5]"),
    "a part of a bias flipped": (BIAS, lambda x: x[::-1], [np.s_[10:20]], "flipped", "[10:20]"),
    "one part rounded": (FUSED, lambda x: x.astype(np.float16).astype(np.float32), [Q], "rounded", "[0:16]"),
    "two halves of v swapped": (FUSED, lambda x: np.roll(x, 8, 1), [V], "swapped parts", "[32:48]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_part_has_is_named_with_the_part(mistake):
    left, change, parts, kind, where = MISTAKES[mistake]
    left = np.ascontiguousarray(left)
    right = changed(left, change, *parts)
    relation = relation_between(left, right)
    if relation.kind != "in part":  # the whole has a name that is as simple
        assert relation.kind == kind
        return
    assert relation.kinds == ("in part", kind)
    assert relation.text.endswith(f"only in {where}")
    result = left.copy()
    for code in relation.code.split("; "):
        exec(code, {"np": np, "left": left, "right": result})
    np.testing.assert_allclose(result, right, rtol=1e-3)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_other_element_outside_and_it_is_not_named(mistake):
    left, change, parts, _, _ = MISTAKES[mistake]
    left = np.ascontiguousarray(left)
    right = changed(left, change, *parts)
    right.reshape(-1)[-1 if right.reshape(-1)[-1] == left.reshape(-1)[-1] else 40 % right.size] += 1
    relation = relation_between(left, right)
    assert relation is None or relation.kind != "in part"


def test_other_values_in_a_part_have_no_name():
    right = changed(FUSED, lambda x: GENERATOR.standard_normal(x.shape), Q)
    assert relation_between(FUSED, right) is None


def test_two_parts_that_were_changed_in_two_ways_have_no_name():
    right = changed(changed(FUSED, np.transpose, Q), np.negative, V)
    assert relation_between(FUSED, right) is None


def test_a_flip_of_one_head_is_not_told_row_by_row():
    right = changed(FUSED, lambda x: x[::-1], np.s_[8:16])
    assert relation_between(FUSED, right).text == "flipped along axis 0, only in [8:16]"


def test_equal_tensors_and_entire_ones_have_no_part(monkeypatch):
    assert relation_between(FUSED, FUSED).kind == "equal"
    assert relation_between(FUSED, FUSED[::-1].copy()).kind == "flipped"


def test_a_very_long_axis_is_searched_by_its_ends(monkeypatch):
    monkeypatch.setattr(changed_parts, "_LONGEST", 8)
    right = changed(FUSED, np.transpose, V)
    assert relation_between(FUSED, right).text == "transposed, only in [32:48]"


def test_diff_tells_the_part_and_groups_by_it():
    left = {f"layers.{n}.attn.qkv": FUSED + np.float32(n) for n in range(3)}
    right = {name: changed(value, np.transpose, V) for name, value in left.items()}
    a, b = FlatState(left), FlatState(right)
    named = name_differences(a, b, compare_states(a, b))
    assert named.sum() == "3 tensors differ, all as if transposed, only in [32:48]"
    (mistake,) = named.mistakes()
    assert (mistake.kind, len(mistake.keys)) == ("in part", 3)
