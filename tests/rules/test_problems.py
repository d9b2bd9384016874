"""What rules can get wrong: one clear error each that names the rule and where it stands, and no file."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from support.arrays import random_array
from support.errors import refused
from support.rule_files import nothing_written, saved, state_of

from bridge_core import BridgeError, Rule, RuleError, convert, open_state, plan_conversion

HEAD = {"head.weight": random_array((5, 4), "float32"), "head.bias": random_array((5,), "float32")}
QKV = "(q k v) in -> in q, in k, in v"
PARTS = ["b.q", "b.k", "b.v"]


def weights(*shape, dtype="float32"):
    return random_array(shape, dtype)


def layers(count, *shape, without=()):
    return {f"h.{i}.w.weight": weights(*shape) for i in range(count) if i not in without}


def move(*args, line=3, **more):
    return Rule.rearrange(*args, origin=f"r.toml:{line}", **more)


STACK = move("h.{i:int}.w.weight", "h.kernel", "a b -> i b a")
BLOCKS = "i = block*2 + j"

STACK_RULE = ("'h.{i:int}.w.weight' -> 'h.kernel'", "r.toml:3")
ONE_RULE = ("r.toml:3: ", "rule 'a.weight' -> 'b.kernel': ", "tensor 'a.weight': ")
PARTS_RULE = ("r.toml:3: ", "rule 'a.weight' -> 'b.q', 'b.k', 'b.v': ", "tensor 'a.weight': ")

PROBLEMS = {  # tensors, rules, what the error names, and what it names only if there is one step
    "two moves take one tensor": (
        layers(2, 2, 3),
        [STACK, move("h.0.w.weight", "x.kernel", line=9)],
        ("r.toml:9: ", "'h.0.w.weight'", "'h.0.w.weight' -> 'x.kernel'", *STACK_RULE, "match"),
    ),
    "a move and a rename take one tensor": (
        layers(2, 2, 3),
        [STACK, Rule.rename("h.**", "g.**", origin="r.toml:9")],
        ("r.toml:9: ", "'h.0.w.weight'", "'h.**' -> 'g.**'", *STACK_RULE, "match"),
    ),
    "a move and a drop take one tensor": (
        layers(2, 2, 3),
        [Rule.drop("h.1.**", "unused", origin="r.toml:2"), STACK],
        (*STACK_RULE, "'h.1.w.weight'", "'h.1.**': drop (unused)", "r.toml:2", "match"),
    ),
    "two renames take one tensor": (
        {"a.x": weights(2)},
        [Rule.rename("a.*", "b.*", origin="r.toml:1"), Rule.rename("*.x", "*.y", origin="r.toml:2")],
        ("r.toml:2: ", "'a.x'", "'*.x' -> '*.y'", "'a.*' -> 'b.*'", "r.toml:1", "match"),
    ),
    "two moves make one tensor": (
        {"a.weight": weights(2, 3), "b.weight": weights(2, 3)},
        [move("a.weight", "c.kernel"), move("b.weight", "c.kernel", line=9)],
        (
            "r.toml:9: ",
            "'c.kernel'",
            "'b.weight' -> 'c.kernel'",
            "'a.weight' -> 'c.kernel'",
            "r.toml:3",
            "make",
        ),
    ),
    "two uses of a move make one tensor": (
        {"x.a.weight": weights(2), "b.x.weight": weights(2)},
        [move(["{n}.a.weight"], ["c.{n}.kernel"], line=1), move("b.{n}.weight", "c.{n}.kernel", line=2)],
        (
            "r.toml:2: ",
            "'c.x.kernel'",
            "'b.{n}.weight' -> 'c.{n}.kernel'",
            "'{n}.a.weight' -> ",
            "r.toml:1",
            "make",
        ),
    ),
    "a move makes what a layer becomes": (
        {"a.weight": weights(2, 3)},
        [move("a.weight", "head.kernel")],
        ("r.toml:3: ", "'a.weight' -> 'head.kernel'", "'head.kernel'"),
        ("'head.weight'",),
    ),
    "a move makes what a rename makes": (
        {"a.weight": weights(2, 3), "b.x": weights(2)},
        [move("a.weight", "c.x"), Rule.rename("b.x", "c.x")],
        ("r.toml:3: ", "'a.weight' -> 'c.x'", "'c.x'"),
        ("'b.x'",),
    ),
    "a rule names one target twice": (
        {"b.weight": weights(2, 3)},
        [move("{n}.weight", ["b.{n}.k", "{n}.b.k"], "x y -> x y, x y", when={"rank": 2, "sizes": {"y": 3}})],
        ("r.toml:3: ", "'b.b.k'", "'{n}.weight' -> 'b.{n}.k', '{n}.b.k'", "twice"),
    ),
    "a member of a stack is missing": (
        layers(4, 2, 3, without=[2]),
        [STACK],
        (*STACK_RULE, "'h.0.w.weight'", "h.2.w.weight"),
    ),
    "the first members of a stack are missing": (
        layers(12, 2, 3, without=range(11)),
        [STACK],
        (*STACK_RULE, "'h.11.w.weight'", "3 more"),
    ),
    "a name counts higher than there are tensors": (
        {"h.123456789012345.w.weight": weights(2, 3)},
        [STACK],
        (*STACK_RULE, "'h.123456789012345.w.weight'", "123456789012337 more"),
    ),
    "a member of several is missing": (
        {"a.g.weight": weights(2, 3)},
        [move(["{n}.g.weight", "{n}.u.weight"], "{n}.wi.kernel", "g in, u in -> in (g u)")],
        ("r.toml:3: ", "'a.g.weight'", "'{n}.g.weight', '{n}.u.weight' -> '{n}.wi.kernel'", "a.u.weight"),
    ),
    "the first of several is missing": (
        {"a.u.weight": weights(2, 3)},
        [move(["{n}.g.weight", "{n}.u.weight"], "{n}.wi.kernel", "g in, u in -> in (g u)", when={"rank": 2})],
        ("r.toml:3: ", "'a.u.weight'", "'{n}.g.weight', '{n}.u.weight' -> '{n}.wi.kernel'", "a.g.weight"),
    ),
    "blocks are not whole": (
        {f"h.{i}.weight": weights(3) for i in range(5)},
        [move("h.{i:int}.weight", "l_{j:int}.kernel", "e -> block e", where=BLOCKS)],
        ("r.toml:3: ", "'h.4.weight'", "'h.{i:int}.weight' -> 'l_{j:int}.kernel'", f"'{BLOCKS}'", "i = 5"),
    ),
    "a stack of blocks is missing": (
        {"l_0.weight": weights(2, 3)},
        [move("l_{j:int}.weight", "h.{i:int}.kernel", "block e -> e", where=BLOCKS)],
        ("r.toml:3: ", "'l_{j:int}.weight' -> 'h.{i:int}.kernel'", f"'{BLOCKS}'", "i = 1, 3"),
    ),
    "there are too many stacks of blocks": (
        {f"l_{j}.weight": weights(2, 3) for j in range(3)},
        [move("l_{j:int}.weight", "h.{i:int}.kernel", "block e -> e", where=BLOCKS)],
        (
            "r.toml:3: ",
            "'l_2.weight'",
            "'l_{j:int}.weight' -> 'h.{i:int}.kernel'",
            f"'{BLOCKS}'",
            "j below 2, got 2",
        ),
    ),
    "a number has leading zeros": (
        {"h.00.w.weight": weights(2, 3)},
        [STACK],
        (*STACK_RULE, "'h.00.w.weight'", "{i}", "leading zeros", "got '00'"),
    ),
    "a size is not settled": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "(h d) in -> in h d")],
        (*ONE_RULE, "axis 'h'", "sizes = { h = 12 }", "--like"),
    ),
    "a size does not divide": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "(h d) in -> in h d", sizes={"h": 4})],
        (*ONE_RULE, "'(h d)' in '(h d) in' (float32[6, 3])", "size 4", "h = 4", "got 6"),
    ),
    "parts are not equal": (
        {"a.weight": weights(7, 3)},
        [move("a.weight", PARTS, QKV)],
        (
            *PARTS_RULE,
            "'(q k v)' in '(q k v) in' (float32[7, 3])",
            "3 equal parts",
            "got 7",
            "sizes = { q = ",
        ),
    ),
    "parts do not add up": (
        {"a.weight": weights(7, 3)},
        [move("a.weight", PARTS, QKV, sizes={"q": 4, "k": 2, "v": 2})],
        (*PARTS_RULE, "size 8", "q = 4, k = 2, v = 2", "got 7"),
    ),
    "parts of heads do not add up": (
        {"a.weight": weights(7, 3)},
        [
            move(
                "a.weight",
                PARTS,
                "((q d) (k d) (v d)) in -> in q d, in k d, in v d",
                sizes={"q": 4, "k": 2, "v": 2},
            )
        ],
        (*PARTS_RULE, "size 8 * d", "got 7"),
    ),
    "a tensor has another rank": (
        {"a.weight": weights(2, 3)},
        [move("a.weight", "b.kernel", "a b c -> c b a")],
        (*ONE_RULE, "'a b c'", "rank 3", "got float32[2, 3]"),
    ),
    "the tensors of a stack have other shapes": (
        {"h.0.w.weight": weights(2, 3), "h.1.w.weight": weights(2, 4)},
        [STACK],
        (*STACK_RULE, "axis 'b'", "3 in 'a b', i = 0 (float32[2, 3])", "4 in 'a b', i = 1 (float32[2, 4])"),
    ),
    "the tensors of a stack have other dtypes": (
        {"h.0.w.weight": weights(2, 3), "h.1.w.weight": weights(2, 3, dtype="bfloat16")},
        [STACK],
        (*STACK_RULE, "'h.0.w.weight'", "bfloat16, float32", "cast(bfloat16, float32)"),
    ),
    "a rule is for other frameworks": (
        {"a.weight": weights(2, 3)},
        [move("a.weight", "b.kernel", layouts=("keras", "flax"))],
        (*ONE_RULE[:2], "keras and flax"),
        ("torch to flax",),
    ),
    "a size stands in a config that is not there": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "(h d) in -> in h d", sizes={"h": "config.n_head"})],
        (*ONE_RULE[:2], "sizes.h", "config.n_head", "no config.json"),
    ),
    "a condition is on a config that is not there": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", when={"config": {"model_type": "gpt2"}})],
        (*ONE_RULE[:2], "when.config.model_type = 'gpt2'", "no config.json"),
    ),
    "a padded axis has another size": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "pad(0, 7, 9)")],
        (*ONE_RULE, "'pad(0, 7, 9)'", "6", "7"),
    ),
    "a padded axis is not there": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "pad(4, 7, 9)")],
        (*ONE_RULE, "'pad(4, 7, 9)'", "float32[6, 3]", "axis 4"),
    ),
    "padding shortens": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "pad(0, 5)")],
        (*ONE_RULE, "pad(0, 6, 5, 0)", "6 before", "5 after"),
    ),
    "whole numbers are shifted": (
        {"a.weight": weights(6, 3, dtype="int32")},
        [move("a.weight", "b.kernel", "offset(1)")],
        (*ONE_RULE, "offset(1.0, False)", "floating-point", "got int32[6, 3]"),
    ),
    "another dtype is cast": (
        {"a.weight": weights(6, 3)},
        [move("a.weight", "b.kernel", "cast(bfloat16, float32)")],
        (*ONE_RULE, "cast(bfloat16, float32)", "dtype bfloat16", "got float32[6, 3]"),
    ),
    "a kind does not fit": (
        {"a.weight": weights(6, 3)},
        [Rule.layer("a", "batch_norm", origin="r.toml:3")],
        ("r.toml:3: ", "'a': layer batch_norm", "weight", "[6, 3]"),
    ),
    "a kind is not known": (
        {"a.weight": weights(6, 3)},
        [Rule.layer("a", "lineer", origin="r.toml:3")],
        ("r.toml:3: ", "'a': layer lineer", "kind 'lineer'", "torch", "Did you mean 'linear'?"),
    ),
    "two renames give one name": (
        {"a.x": weights(2), "b.x": weights(2)},
        [Rule.rename("a.x", "c.x"), Rule.rename("b.x", "c.x")],
        ("'a.x'", "'b.x'", "'c.x'"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_one_error_and_leaves_no_file(name, tmp_path):
    tensors, rules, *named = PROBLEMS[name]
    source = saved({**HEAD, **tensors}, "torch", tmp_path / "source.safetensors")
    with refused(RuleError, *itertools.chain.from_iterable(named)) as error:
        convert(source, tmp_path / "out.safetensors", to="flax", rules=rules)
    assert error.value.exit_code == 1
    assert nothing_written(tmp_path, source)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_told_in_two_steps_as_well(name, tmp_path):
    tensors, rules, named, *_ = PROBLEMS[name]
    source = saved({**HEAD, **tensors}, "torch", tmp_path / "source.safetensors")
    with refused(RuleError, *named):
        in_two_steps(source, tmp_path, rules)
    assert not (tmp_path / "out.safetensors").exists()


def in_two_steps(source, folder, rules):
    convert(source, folder / "neutral.safetensors", to="neutral", rules=rules)
    moves = [rule for rule in rules if rule.action == "rearrange"]
    convert(folder / "neutral.safetensors", folder / "out.safetensors", to="flax", rules=moves)


# -- against a template -----------------------------------------------------------------------------

FLAX_HEAD = {"head.kernel": weights(4, 5), "head.bias": weights(5)}
AGAINST = {
    "the target has no such tensor": (
        {"a.weight": weights(2, 3)},
        {"b.kernel": weights(3, 2)},
        move("a.weight", "c.kernel", "o i -> i o"),
        ("r.toml:3: ", "tensor 'a.weight': ", "rule 'a.weight' -> 'c.kernel': ", "target"),
    ),
    "the target has another shape": (
        {"a.weight": weights(4, 3)},
        {"b.kernel": weights(3, 2)},
        move("a.weight", "b.kernel", "o i -> i o"),
        (*ONE_RULE, "'i o'", "[3, 2], got [3, 4]"),
    ),
    "the target has another shape, and nothing moves": (
        {"a.weight": weights(4, 3)},
        {"b.kernel": weights(3, 2)},
        move("a.weight", "b.kernel"),
        (*ONE_RULE[:2], "tensor 'b.kernel': ", "float32[4, 3]", "float32[3, 2]"),
    ),
    "the target has another rank": (
        {"a.weight": weights(4, 3)},
        {"b.kernel": weights(3, 4)},
        move("a.weight", "b.kernel", "(o h) i -> i o h", sizes={"h": 2}),
        (*ONE_RULE, "'i o h'", "2 axes", "[3, 4]", "got 3"),
    ),
    "the target has more layers": (
        layers(2, 2, 3),
        {"h.kernel": weights(3, 3, 2)},
        STACK,
        (*STACK_RULE, "'i b a'", "[3, 3, 2], got [2, 3, 2]"),
    ),
    "the target has fewer tensors": (
        {"h.weight": weights(3, 2, 4)},
        {f"h_{i}.kernel": weights(2, 4) for i in range(2)},
        move("h.weight", "h_{i:int}.kernel", "i a b -> a b"),
        ("r.toml:3: ", "'h.weight' -> 'h_{i:int}.kernel'", "'i'", "2 in"),
    ),
    "the target has a gap": (
        {"h.weight": weights(3, 2, 4)},
        {f"h_{i}.kernel": weights(2, 4) for i in (0, 2)},
        move("h.weight", "h_{i:int}.kernel", "i a b -> a b"),
        ("r.toml:3: ", "tensor 'h.weight': ", "'h.weight' -> 'h_{i:int}.kernel'", "'h_1.kernel'", "target"),
    ),
    "the target counts higher than it has tensors": (
        {"h.weight": weights(3, 2, 4)},
        {"h_123456789012345.kernel": weights(2, 4)},
        move("h.weight", "h_{i:int}.kernel", "i a b -> a b"),
        ("r.toml:3: ", "'h.weight' -> 'h_{i:int}.kernel'", "'h_0.kernel'", "target"),
    ),
    "a move and a constant make one tensor": (
        {"a.weight": weights(2, 3)},
        {"b.kernel": weights(2, 3)},
        [move("a.weight", "b.kernel"), Rule.fill("b.*", 0, reason="none", origin="r.toml:7")],
        ("r.toml:7: ", "'b.kernel'", "'b.*': fill with 0", "'a.weight' -> 'b.kernel'", "r.toml:3", "make"),
    ),
    "two constants make one tensor": (
        {},
        {"b.kernel": weights(2, 3)},
        [Rule.fill("b.*", n, reason="none", origin=f"r.toml:{n}") for n in (1, 2)],
        ("r.toml:2: ", "'b.kernel'", "'b.*': fill with 2", "'b.*': fill with 1", "r.toml:1", "make"),
    ),
}


@pytest.mark.parametrize("name", AGAINST)
def test_what_does_not_fit_the_target_is_one_error_and_leaves_no_file(name, tmp_path):
    tensors, target, rules, named = AGAINST[name]
    source = saved({**HEAD, **tensors}, "torch", tmp_path / "source.safetensors")
    like = state_of({**FLAX_HEAD, **target}, "flax")
    with refused(RuleError, *named):
        convert(source, tmp_path / "out.safetensors", to="flax", rules=rules, like=like)
    assert nothing_written(tmp_path, source)


def test_a_missing_source_is_answered_with_the_one_of_a_similar_name():
    names = ("h.0.attn.q_proj.w", "h.0.attn.key_proj.w", "h.1.attn.q_proj.w", "h.1.attn.k_proj.w")
    source = state_of({**HEAD, **{name: weights(2, 2) for name in names}}, "torch")
    both = ["h.{i:int}.attn.q_proj.w", "h.{i:int}.attn.k_proj.w"]
    rule = move(both, "h.{i:int}.qk", "q i, k i -> (q k) i")
    with refused(RuleError, "h.0.attn.k_proj.w", hint="Did you mean 'h.0.attn.key_proj.w'?"):
        plan_conversion(source, to="flax", rules=[rule], accept_guesses=True)
    alone = state_of(
        {name: weights(2, 2) for name in names[2:]} | {"h.0.attn.q_proj.w": weights(2, 2)}, "torch"
    )
    with refused(RuleError, "h.0.attn.k_proj.w") as caught:
        plan_conversion(alone, to="flax", rules=[rule], accept_guesses=True)
    assert caught.value.hint is None


# -- rules that match nothing -----------------------------------------------------------------------

IDLE = [
    move("a.weight", "head.kernel", line=3),
    Rule.rename("b.**", "c.**", origin="r.toml:5"),
    Rule.drop("q", "unused", origin="r.toml:7"),
    Rule.layer("z", "linear", origin="r.toml:9"),
]
IDLE_TEXTS = (
    "r.toml:3: 'a.weight' -> 'head.kernel'",
    "r.toml:5: 'b.**' -> 'c.**'",
    "r.toml:7: 'q': drop (unused)",
    "r.toml:9: 'z': layer linear",
)


def test_all_rules_that_match_nothing_are_listed_at_once(tmp_path):
    source = saved(HEAD, "torch", tmp_path / "source.safetensors")
    for to in ("flax", "neutral"):
        with refused(RuleError, "4 rules", *IDLE_TEXTS):
            convert(source, tmp_path / "out.safetensors", to=to, rules=IDLE)
    assert nothing_written(tmp_path, source)
    plan = plan_conversion(source, to="flax", rules=IDLE, check=False)
    assert set(plan.unmatched_rules) == set(IDLE_TEXTS)
    assert not plan.ok
    assert set(plan.to_json()["idle_rules"]) == set(IDLE_TEXTS)


def test_rules_that_may_match_nothing_are_not_listed(tmp_path):
    source = saved(HEAD, "torch", tmp_path / "source.safetensors")
    rules = [
        move("a.weight", "head.kernel", optional=True),
        Rule.rename("b.**", "c.**", optional=True),
        Rule.drop("q", "unused", optional=True),
        Rule.layer("z", "linear", optional=True),
        Rule.fill("y", 1, reason="none", optional=True),
    ]
    plan = plan_conversion(source, to="flax", rules=rules, like=state_of(FLAX_HEAD, "flax"))
    assert plan.unmatched_rules == ()


def test_a_rule_whose_conditions_do_not_hold_is_not_listed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    source = saved({**HEAD, "a.weight": weights(2)}, "torch", tmp_path / "source.safetensors")
    elsewhere = {"config": {"model_type": "gpt2"}}
    rules = [
        move("a.weight", "b.kernel", when={"rank": 2}),
        move("c.weight", "d.kernel", when=elsewhere),
        Rule.rename("c.**", "d.**", when=elsewhere),
        Rule.drop("q", "unused", when=elsewhere),
    ]
    plan = plan_conversion(source, to="flax", rules=rules, accept_guesses=True)
    assert plan.unmatched_rules == ()
    assert not any(step.rule for step in plan.steps)


# -- configs ----------------------------------------------------------------------------------------

SIZED = move("a.weight", "b.kernel", "(h d) in -> in h d", sizes={"h": "config.n_head"})


@pytest.mark.parametrize(
    ("text", "named", "code"),
    [
        ('{"n_heads": 2}', ("sizes.h: ", "'n_head'", "Did you mean 'n_heads'?"), 1),
        ('{"vocab": 2}', ("sizes.h: ", "'n_head'", "number"), 1),
        ('{"n_head": "2"}', ("sizes.h: ", "'n_head'", "got '2'"), 1),
        ('{"n_head": 2.5}', ("sizes.h: ", "'n_head'", "got 2.5"), 1),
        ('{"n_head": true}', ("sizes.h: ", "'n_head'", "got True"), 1),
        ('{"n_head": -2}', ("sizes.h: ", "'n_head'", "got -2"), 1),
        ('{"n_head": 4}', ("size 4", "h = 4", "got 6"), 1),
        ("[2]", ("config.json",), 3),
        ('{"n_head": 2', ("config.json",), 3),
        ('{"n_head": 2, "n_head": 3}', ("config.json",), 3),
        ("\xff", ("config.json",), 3),
    ],
)
def test_a_config_that_does_not_tell_is_one_error(text, named, code, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    source = saved({**HEAD, "a.weight": weights(6, 3)}, "torch", tmp_path / "source.safetensors")
    with pytest.raises(BridgeError) as error:
        convert(source, tmp_path / "out.safetensors", to="flax", rules=SIZED)
    assert error.value.exit_code == code
    assert all(thing in str(error.value) for thing in named), str(error.value)
    assert nothing_written(tmp_path, source, tmp_path / "config.json")


def test_a_config_may_stand_beside_the_template(tmp_path):
    for folder in ("source", "like"):
        (tmp_path / folder).mkdir()
    (tmp_path / "like" / "config.json").write_text('{"n_head": 3}')
    w = weights(6, 3)
    source = saved({**HEAD, "a.weight": w}, "torch", tmp_path / "source" / "model.safetensors")
    target = {"head.kernel": HEAD["head.weight"].T, "head.bias": HEAD["head.bias"]}
    target["b.kernel"] = w.T.reshape(3, 3, 2)
    like = saved(target, "flax", tmp_path / "like" / "flax_model.msgpack")
    convert(source, tmp_path / "out.safetensors", to="flax", rules=SIZED, like=like)
    with open_state(tmp_path / "out.safetensors") as state:
        np.testing.assert_array_equal(state["b", "kernel"], target["b.kernel"])


def test_a_config_that_nobody_asks_for_is_not_read(tmp_path):
    (tmp_path / "config.json").write_text("no JSON")
    source = saved(HEAD, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "out.safetensors", to="flax")


# -- sources that mean harm -------------------------------------------------------------------------


def test_an_empty_tensor_cannot_ask_for_a_billion_tensors(tmp_path):
    huge = {"h.weight": np.zeros((10**9, 0, 4), "f4")}
    source = saved({**HEAD, **huge}, "torch", tmp_path / "source.safetensors")
    rule = move("h.weight", "h_{i:int}.kernel", "i a b -> a b")
    with refused(RuleError, "1000000 tensors", "'a b'", "got 1000000000"):
        plan_conversion(source, to="flax", rules=rule)


@pytest.mark.parametrize("number", ["9" * 18, "9" * 19, "9" * 5000, "\N{ARABIC-INDIC DIGIT TWO}"])
def test_a_name_cannot_ask_for_numbers_beyond_all_bounds(number, tmp_path):
    tensors = {**layers(2, 2, 3), f"h.{number}.w.weight": weights(2, 3)}
    rules = [STACK, move("l_{j:int}.weight", "g.{i:int}.k", "block e -> e", where=BLOCKS, optional=True)]
    try:
        plan = plan_conversion({**HEAD, **tensors}, to="flax", rules=rules, check=False)
    except RuleError as err:
        assert "rule 'h.{i:int}.w.weight'" in str(err)  # noqa: PT017 - some names are no numbers at all
    else:
        assert not number.isascii()
        assert plan.steps
