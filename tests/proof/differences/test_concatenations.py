"""A tensor that consists of several of the other state is named with them, in their order."""

import json

import numpy as np
import pytest

from bridge_core import FlatState, compare_states
from bridge_core.proof import name_differences

GENERATOR = np.random.default_rng(4)


def weights(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def named(left, right):
    a, b = FlatState(left), FlatState(right)
    return name_differences(a, b, compare_states(a, b))


PARTS = {f"attn.{name}.kernel": weights(16, 16) for name in "qkv"}
Q, K, V = PARTS.values()

CASES = {
    "rows": (PARTS, np.concatenate([Q, K, V]), "q k v", ("concatenated",)),
    "columns": (PARTS, np.concatenate([Q, K, V], 1), "q k v", ("concatenated",)),
    "another order": (PARTS, np.concatenate([V, Q, K]), "v q k", ("concatenated",)),
    "two of three": (PARTS, np.concatenate([K, V]), "k v", ("concatenated",)),
    "transposed": (PARTS, np.concatenate([Q.T, K.T, V.T]), "q k v", ("transposed", "concatenated")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_tensor_consists_of_is_named(case):
    left, right, order, kinds = CASES[case]
    found = named(left, {"attn.fused": right})
    relation = found.only_right["attn", "fused"]
    assert relation.others == tuple(("attn", name, "kernel") for name in order.split())
    assert relation.kinds == kinds
    result = {}
    exec(relation.code.replace("right =", "result['right'] ="), {"np": np, "left": left, "result": result})
    np.testing.assert_array_equal(result["right"], right)
    assert found.sum() == "1 tensor concatenated from others"
    document = json.loads(json.dumps(found.to_json()))
    assert document["same_content"][0]["relation"]["others"] == [
        f"attn.{name}.kernel" for name in order.split()
    ]


def test_parts_of_several_sizes_and_vectors():
    left = {"q": weights(16), "k": weights(4), "v": weights(4), "other": weights(24)}
    right = np.concatenate([left["q"], left["k"], left["v"]])
    relation = named(left, {"qkv": right}).only_right["qkv",]
    assert relation.text == "concatenated from q, k and v along axis 0"


def test_higher_axes():
    left = {"a": weights(3, 4, 5), "b": weights(3, 2, 5)}
    relation = named(left, {"c": np.concatenate(list(left.values()), 1)}).only_right["c",]
    assert (relation.text, relation.others) == ("concatenated from a and b along axis 1", (("a",), ("b",)))


def test_many_parts_are_named_by_the_first_and_the_last():
    left = {f"experts.{n}.w": weights(2, 6) for n in range(12)}
    relation = named(left, {"w": np.concatenate(list(left.values()))}).only_right["w",]
    assert relation.text.startswith("concatenated from experts.0.w, experts.1.w, ... and experts.11.w (12")
    assert len(relation.others) == 12


@pytest.mark.parametrize(
    "right",
    [
        np.concatenate([Q, K, V[:8]]),
        np.concatenate([Q, K, weights(16, 16)]),
        np.concatenate([Q, K.T, V]),
        np.concatenate([Q, K, V]) + np.float32(1e-7),
        np.concatenate([Q, Q, Q]),
        np.concatenate([Q, K, V]).astype(np.float64),
    ],
    ids=["too long", "another part", "one transposed", "changed", "one thrice", "cast"],
)
def test_what_does_not_hold_for_every_element_is_not_named(right):
    relation = named(PARTS, {"fused": right}).only_right.get(("fused",))
    assert relation is None or not relation.others


def test_one_other_element_and_it_is_not_named():
    for place in (0, 300, 767):
        right = np.concatenate([Q, K, V])
        right.reshape(-1)[place] += 1
        relation = named(PARTS, {"fused": right}).only_right.get(("fused",))
        assert relation is None or not relation.others


def test_parts_that_prove_nothing_are_not_named():
    left = {name: np.zeros(16, np.float32) for name in "qkv"}
    assert not named(left, {"qkv": np.zeros(48, np.float32)}).only_right
    left = {name: np.ones((4, 4), np.float32) for name in "qkv"}
    assert not named(left, {"qkv": np.ones((12, 4), np.float32)}).only_right


def test_every_part_of_a_fused_tensor_is_found_in_it():
    found = named({"fused": np.concatenate([Q, K, V])}, PARTS)
    texts = {key[1]: relation.text for key, relation in found.only_right.items()}
    assert texts == {
        "q": "cut from 48 to 16 along axis 0, 32 rows less",
        "k": "cut from 48 to 16 along axis 0, 32 rows less on both sides",
        "v": "cut from 48 to 16 along axis 0, 32 rows less in front",
    }
