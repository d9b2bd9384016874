"""One tensor that is several of the other side."""

import numpy as np
import pytest
from support.match_pairs import shapes_only

from bridge_core import FlatState
from bridge_core.conversion import plan_conversion
from bridge_core.proof.matching.match_states import match_states
from bridge_core.rules import rules_of_text

SPLIT = {
    **{f"att.{name}.kernel": (8, 2, 4) for name in ("query", "key", "value")},
    **{f"att.{name}.bias": (2, 4) for name in ("query", "key", "value")},
    "att.out.kernel": (2, 4, 8),
    "att.out.bias": (8,),
    "ff.kernel": (8, 20),
}
OTHERS = {"attn.out_proj.weight": (8, 8), "attn.out_proj.bias": (8,), "fc.weight": (20, 8)}


def blocks(names, prefix, number=2):
    return {
        tuple(f"{prefix}{n}.{name}".split(".")): shape for n in range(number) for name, shape in names.items()
    }


def matched(ours, theirs, number=2):
    return match_states(
        shapes_only(blocks(ours, "h.", number), "torch"),
        shapes_only(blocks(theirs, "block_", number), "flax"),
    )


def test_the_frameworks_own_leaf_is_its_three_parts_in_order():
    matching = matched({**OTHERS, "attn.in_proj_weight": (24, 8), "attn.in_proj_bias": (24,)}, SPLIT)
    assert matching.complete, matching.rules_text
    (rule,) = [pair for pair in matching.pairs if pair.sources == ("h.{i:int}.attn.in_proj_weight",)]
    assert [target.split(".")[2] for target in rule.targets] == ["query", "key", "value"]
    assert len(rule.keys) == 2
    source = {
        key: np.random.default_rng(n).normal(size=shape).astype("float32")
        for n, (key, shape) in enumerate(
            blocks({**OTHERS, "attn.in_proj_weight": (24, 8), "attn.in_proj_bias": (24,)}, "h.").items()
        )
    }
    plan = plan_conversion(
        FlatState(source, layout="torch"),
        to="flax",
        like=shapes_only(blocks(SPLIT, "block_"), "flax"),
        rules=rules_of_text(matching.rules_text, "rules.toml"),
        recipe="none",
    )
    state = plan.apply(FlatState(source, layout="torch"))
    packed = source["h", "1", "attn", "in_proj_weight"]
    for n, name in enumerate(("query", "key", "value")):
        expected = packed[8 * n : 8 * n + 8].T.reshape(8, 2, 4)
        np.testing.assert_array_equal(state["block_1", "att", name, "kernel"], expected)


@pytest.mark.parametrize("name", ["qkv", "thing"])
def test_blocks_or_heads_one_after_another_stay_a_choice(name):
    split = {key: shape for key, shape in SPLIT.items() if "out" not in key}
    matching = matched(
        {f"attn.{name}.weight": (24, 8), f"attn.{name}.bias": (24,), "fc.weight": (20, 8)}, split
    )
    assert [pair.sources for pair in matching.pairs] == [("h.{i:int}.fc.weight",)]
    (choice,) = [one for one in matching.choices if "weight" in one.sources[0]]
    assert len(choice.options) == 12
    assert choice.is_orientation
    equations = {option.pairs[0].equation for option in choice.options}
    assert any("(p0_0 (p0_1 + p1_1 + p2_1))" in text for text in equations)
    first = choice.options_of(choice.sources[0])[0].pairs[0].targets
    assert name != "qkv" or [target.split(".")[2] for target in first] == ["query", "key", "value"]


def test_stacks_whose_names_list_their_parts():
    matching = matched(
        {
            "k.weight": (6, 8),
            "v.weight": (6, 8),
            "q.weight": (12, 8),
            "up.weight": (20, 8),
            "gate.weight": (20, 8),
        },
        {"kv_einsum.w": (2, 2, 8, 3), "q_einsum.w": (4, 8, 3), "gating_einsum": (2, 8, 20)},
    )
    assert matching.complete, matching.rules_text
    assert ("h.{i:int}.gate.weight", "h.{i:int}.up.weight") in [pair.sources for pair in matching.pairs]
    assert ("h.{i:int}.k.weight", "h.{i:int}.v.weight") in [pair.sources for pair in matching.pairs]


def test_a_stack_whose_name_lists_nothing_is_a_choice():
    matching = matched({"a.weight": (20, 8), "b.weight": (20, 8)}, {"pair": (2, 8, 20)}, 3)
    assert not matching.pairs
    assert len(matching.choices) == 1


def test_which_three_of_four_is_not_known_without_names():
    ours = {**OTHERS, "attn.thing.weight": (24, 8)}
    del ours["attn.out_proj.bias"]
    theirs = {f"att.{name}.kernel": (8, 8) for name in "abcd"} | {"ff.kernel": (8, 20)}
    matching = matched(ours, theirs)
    assert [pair.sources for pair in matching.pairs] == [("h.{i:int}.fc.weight",)]


def test_square_weights_of_a_model_that_shows_another_order_are_open():
    flat = {"c_attn.weight": (8, 24), "c_attn.bias": (24,), "c_proj.weight": (8, 8), "c_proj.bias": (8,)}
    dense = {"c_attn.kernel": (8, 24), "c_attn.bias": (24,), "c_proj.kernel": (8, 8), "c_proj.bias": (8,)}
    matching = matched(flat, dense)
    equations = {
        pair.sources[0].split(".")[-2]: pair.equation
        for pair in matching.pairs
        if pair.targets[0].endswith("kernel")
    }
    assert equations == {"c_attn": ""}
    (choice,) = matching.choices
    assert choice.is_orientation
    assert choice.sources == ("h.{i:int}.c_proj.weight",)
