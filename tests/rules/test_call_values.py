"""Scales, cuts, casts from any dtype, expressions in calls: values, notes and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import assert_same_bits, random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, nothing_written, plan_and_apply, saved, state_of

import bridge_flax
import bridge_torch
from bridge_core import PlanError, Rule, RuleError, UsageError, convert, plan_conversion, verify
from bridge_core.axes import Call
from bridge_core.cli import main
from bridge_core.state import unflatten_tree
from bridge_core.state.dtypes import DTYPES

BOTH = ("torch", "flax")
W = random_array((8, 3), "float32", seed=3).clip(-1e9, 1e9)
ROWS = np.arange(1, 41, dtype=np.float32).reshape(10, 4)


def move(ops, source="a.w", target="b.k", **more):
    return Rule.rearrange(source, target, ops, layouts=BOTH, **more)


def there(source, rule, **options):
    """Plan and apply from torch to flax."""
    return plan_and_apply(source, to="flax", rules=rule, **options)["b", "k"]


# -- values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "factor"),
    [
        (["(h d) i -> i h d", "scale(0.5)"], 0.5),
        (["scale(0.5)", "(h d) i -> i h d"], 0.5),
        (["scale(d**-0.5)", "(h d) i -> i h d"], 0.5),
        (["(h d) i -> i h d", "scale(d**-0.5)"], 0.5),
        (["(h d) i -> i h d", "scale(1 / (h * d))"], 0.125),
        (["scale(k)", "(h d) i -> i h d"], 16),
        (["scale(config.factors[h - 1])", "(h d) i -> i h d"], -32),
    ],
    ids=str,
)
def test_a_scale_is_computed_from_sizes_and_the_config_wherever_it_stands(ops, factor, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"factors": [1, -32]}))
    sizes = {"h": 2} | ({"k": "h ** 4"} if "k" in ops[0] else {})
    rule = move(ops, sizes=sizes)
    source = saved({"a.w": W}, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert report.exact
    assert not any("scale" in note for note in report.notes)
    wanted = np.transpose(W.reshape(2, 4, 3), (2, 0, 1)) * np.float32(factor)
    assert_holds(tmp_path / "there.safetensors", {"b.k": wanted})
    convert(tmp_path / "there.safetensors", tmp_path / "again.safetensors", to="torch", rules=rule)
    assert_holds(tmp_path / "again.safetensors", {"a.w": W})


def test_a_scale_that_rounds_is_told_and_the_way_back_divides(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 768}')
    rule = move("scale(bfloat16(sqrt(config.hidden_size)), rounding)", origin="r.toml:3")
    narrow = W.astype(DTYPES["bfloat16"])
    source = saved({"a.w": narrow}, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert not report.exact
    (note,) = [note for note in report.notes if "round" in note]
    assert note.startswith("rule r.toml:3: scale(27.75, rounding) ")
    assert "divides" in note
    wanted = (narrow.astype("f4") * np.float32(27.75)).astype(narrow.dtype)
    assert_holds(tmp_path / "there.safetensors", {"b.k": wanted})
    back = (wanted.astype("f4") / np.float32(27.75)).astype(narrow.dtype)
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), {"a.w": back})


def test_an_offset_is_computed_from_the_config_and_subtracted_again(tmp_path):
    (tmp_path / "config.json").write_text('{"shift": 3}')
    rule = move("offset(config.shift / 2 - n)", sizes={"n": 2})
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert_holds(tmp_path / "there.safetensors", {"b.k": ROWS - np.float32(0.5)})
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), {"a.w": ROWS})


@pytest.mark.parametrize(
    "ops",
    [
        "pad(0, config.vocab, 16*((config.vocab + 15) // 16))",
        ["v d -> d v", "pad(v, config.vocab, blocks * 16)"],
        ["pad(v, (blocks * 16))", "v d -> d v"],
    ],
    ids=str,
)
def test_sizes_of_paddings_are_expressions(ops, tmp_path):
    (tmp_path / "config.json").write_text('{"vocab": 10}')
    sizes = {"blocks": "(config.vocab + 15) // 16"} if "blocks" in str(ops) else {}
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    rule = move(ops, sizes=sizes)
    padded = np.pad(ROWS, ((0, 6), (0, 0)))
    wanted = padded if isinstance(ops, str) else padded.T
    assert_same_bits(there(source, rule), wanted)


@pytest.mark.parametrize(
    "ops",
    ["pad(0, +6)", ["v d -> v d", "pad(v, +2*blocks)"], ["pad(-2, +(blocks + 3))", "v d -> v d"]],
    ids=str,
)
def test_a_padding_by_a_number_needs_no_size_in_either_direction(ops, tmp_path):
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    rule = move(ops, sizes={"blocks": 3} if "blocks" in str(ops) else {})
    assert Rule.rearrange("a.w", "b.k", rule.ops, sizes=rule.sizes).ops == rule.ops
    convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert_holds(tmp_path / "there.safetensors", {"b.k": np.pad(ROWS, ((0, 6), (0, 0)))})
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), {"a.w": ROWS})


def test_an_unpadding_by_a_number_takes_zeros_only(tmp_path):
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    with refused(PlanError, "29.0"):
        there(source, move("unpad(0, -3)"))
    assert_same_bits(there(source, move("cut(0, -3)")), ROWS[:7])
    assert_same_bits(there(source, move("cut(0, -0)")), ROWS)
    with refused(RuleError, "cut(0, -11)", "10", "11"):
        there(source, move("cut(0, -11)"))
    for text in ("pad(0, -3)", "cut(0, +3)"):
        with refused(RuleError, text):
            move(text)


@pytest.mark.parametrize("ops", ["cut(0, 10, 7)", "unpad(0, 10, 7, discard)", "cut(0, 7)"])
def test_a_cut_discards_rows_and_says_so_and_its_way_back_fills_zeros(ops, tmp_path):
    rule = move(ops, origin="r.toml:3")
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert not report.exact
    (note,) = report.notes
    assert note.startswith("rule r.toml:3: cut(0, 10, 7) discards 3 of 10 along axis 0")
    assert "zeros" in note
    assert_holds(tmp_path / "there.safetensors", {"b.k": ROWS[:7]})
    like = abstract({"a.w": ROWS}, "torch")
    filled = plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule, like=like)
    assert_holds(filled, {"a.w": np.pad(ROWS[:7], ((0, 3), (0, 0)))})
    assert verify(source, tmp_path / "there.safetensors", rules=rule).equal


def test_a_cast_from_whatever_comes_leaves_the_dtype_on_the_way_back(tmp_path):
    rule = move("cast(float32)", "{n}.w", "{n}.k")
    given = {"a.w": ROWS.astype(DTYPES["bfloat16"]), "b.w": ROWS.astype("f2"), "c.w": ROWS}
    source = saved(given, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert report.exact
    wide = {name: array.astype("f4") for name, array in given.items()}
    assert_holds(tmp_path / "there.safetensors", {n.replace("w", "k"): a for n, a in wide.items()})
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), wide)


def test_a_cast_that_rounds_is_told():
    plan = plan_conversion({"a.w": W}, to="flax", layout="torch", rules=move("cast(bfloat16)"))
    assert not plan.exact
    assert any("cast(float32, bfloat16) may round" in note for note in plan.notes)


# -- consent ----------------------------------------------------------------------------------------

LOSING = {
    "scale(0.3)": (W, W * np.float32(0.3), "scale(0.3, rounding)"),
    "offset(1)": (W, W + np.float32(1), "offset(1.0, True)"),
    "unpad(0, 10, 7)": (ROWS, ROWS[:7], "cut(0, 10, 7)"),
}


@pytest.mark.parametrize("call", LOSING)
@pytest.mark.parametrize("way", ["keyword", "option", "in memory"])
def test_what_is_lost_is_refused_unless_the_caller_allows_it_and_then_told(call, way, tmp_path):
    given, wanted, shown = LOSING[call]
    source = saved({"a.w": given}, "torch", tmp_path / "source.safetensors")
    rule = move(call)
    with refused(PlanError, hint=("allow_inexact=True", "--allow-inexact")):
        convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert nothing_written(tmp_path, source)
    if way == "keyword":
        report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule, allow_inexact=True)
        assert any(note.startswith(f"rule {rule.label}: {shown} ") for note in report.notes)
        assert not report.exact
        assert verify(source, tmp_path / "there.safetensors", rules=rule, allow_inexact=True).equal
    elif way == "in memory":
        neutral = bridge_torch.to_neutral(state_of({"a.w": given}, "torch"), rules=rule)
        made = bridge_flax.from_neutral(neutral, allow_inexact=True)
        assert_same_bits(np.asarray(made["b"]["k"]), wanted)
        return
    else:
        (tmp_path / "r.toml").write_text(
            f'source = "torch"\ntarget = "flax"\n[[rule]]\nsource = "a.w"\ntarget = "b.k"\nops = "{call}"\n'
        )
        common = [str(source), "--to", "flax", "--rules", str(tmp_path / "r.toml")]
        run = CliRunner().invoke(main, ["convert", common[0], str(tmp_path / "no.safetensors"), *common[1:]])
        assert run.exit_code == 1
        common.append("--allow-inexact")
        shown_plan = CliRunner().invoke(main, ["plan", *common])
        assert f"r.toml:3: {shown} " in shown_plan.output
        out = tmp_path / "there.safetensors"
        run = CliRunner().invoke(main, ["convert", common[0], str(out), *common[1:], "--json"])
        document = json.loads(run.output)
        assert document["exact"] is False
        assert any(f"r.toml:3: {shown} " in note for note in document["notes"])
        run = CliRunner().invoke(main, ["verify", common[0], str(out), *common[3:]])
        assert run.exit_code == 0
    assert_holds(tmp_path / "there.safetensors", {"b.k": wanted})


def test_consent_changes_nothing_that_is_not_lost(tmp_path):
    rule = move("pad(0, 10, 16)")
    source = saved({"a.w": ROWS}, "torch", tmp_path / "source.safetensors")
    with_consent = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule, allow_inexact=True)
    assert with_consent.exact
    assert with_consent.notes == ()


def test_the_losses_of_one_rule_are_told_in_a_few_notes():
    weights = {f"h.{i}.w": random_array((20 + i, 2), "float32") for i in range(30)}
    rule = move("cut(0, 10)", "h.{i:int}.w", "h.{i:int}.k")
    plan = plan_conversion(weights, to="flax", layout="torch", rules=rule)
    losses = [note for note in plan.notes if "discards" in note]
    assert len(losses) == 4
    assert "26 more" in losses[-1]


def test_allow_inexact_is_a_bool():
    with refused(UsageError, "allow_inexact", "yes"):
        plan_conversion({"a.w": W}, to="flax", layout="torch", allow_inexact="yes")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cut(v, 10)", ("cut(v, 10)", "zeros")),
        ("unpad(v, 10)", ()),
        ("pad(v, 10, discard)", ()),
        ("scale(2)", ()),
        ("scale(n, rounding)", ("scale(n, rounding)", "divides")),
        ("scale(1 / n, rounding)", ("scale(1 / n, rounding)", "multiplies")),
        ("offset(n, rounding)", ("offset(n, rounding)", "subtracts")),
        ("cast(float32, bfloat16)", ("bfloat16",)),
        ("cast(bfloat16, float32)", ()),
        ("cast(bfloat16, ?)", ()),
        ("cast(bfloat16)", ("bfloat16",)),
    ],
)
def test_a_call_tells_what_it_may_lose(text, named):
    loss = Call.parse(text).loss
    assert bool(loss) == bool(named)
    assert all(name in loss for name in named)


# -- records ----------------------------------------------------------------------------------------


def test_calls_are_recorded_with_their_expressions_and_done_in_the_second_step(tmp_path):
    rule = move(["scale(k / 2)", "v d -> d v", "cut(v, n, n - 3)"], sizes={"k": 4, "n": 10})
    neutral = bridge_torch.to_neutral(state_of({"a.w": ROWS}, "torch"), rules=rule)
    tree = bridge_flax.from_neutral(neutral)
    assert_same_bits(np.asarray(tree["b"]["k"]), ROWS[:7].T * np.float32(2))
    again = bridge_flax.to_neutral(unflatten_tree({("b", "k"): np.asarray(tree["b"]["k"])}), rules=rule)
    back = bridge_torch.from_neutral(again)
    assert_same_bits(back["a.w"].numpy(), np.pad(ROWS[:7], ((0, 3), (0, 0))))


# -- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "sizes", "named", "hint"),
    [
        ("scale(config.factor)", {}, ("'scale(config.factor)'", "config.factor"), "config.json"),
        ("scale(n)", {"n": "?"}, ("'scale(n)'", "n"), "--set n"),
        ("scale(1 - n)", {"n": 1}, ("scale", "not 0"), ""),
        ("scale(n == 1)", {"n": 1}, ("'scale(n == 1)'", "'=='"), ""),
        ("offset([n, 1])", {"n": 1}, ("'offset([n, 1])'", "a number"), ""),
        ("scale('a')", {}, ("a number", "'a'"), ""),
        ("pad(0, n / 4)", {"n": 50}, ("'pad(0, n / 4)'", "whole number", "25 / 2"), ""),
        ("pad(0, n - 4)", {"n": 1}, ("'pad(0, n - 4)'", "whole number", "-3"), ""),
        ("cut(0, n - n)", {"n": 1}, ("'cut(0, n - n)'", "no elements"), ""),
    ],
)
def test_an_expression_without_a_fitting_value_is_refused(ops, sizes, named, hint):
    with refused(RuleError, *named, hint=hint):
        plan_conversion({"a.w": ROWS}, to="flax", layout="torch", rules=move(ops, sizes=sizes))


def test_an_error_that_names_its_rule_is_not_its_own_cause():
    like = abstract({"b.k": W}, "flax")
    with refused(RuleError, "float32[8, 3]", "float32[10, 4]") as caught:
        plan_conversion({"a.w": ROWS}, to="flax", layout="torch", rules=move("scale(2)"), like=like)
    assert caught.value.__cause__ is not caught.value
