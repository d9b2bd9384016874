"""Rules that pad, shift, cast, fill and leave out: what they make, what they refuse, and what comes back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from support.arrays import assert_same_bits, random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, nothing_written, plan_and_apply, saved

from bridge_core import (
    FlatState,
    PlanError,
    Rule,
    RuleError,
    StateMetadata,
    convert,
    open_state,
    plan_conversion,
    save_state,
    verify,
)
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.tensors import as_tensor

BOTH = ("torch", "flax")
BF16 = DTYPES["bfloat16"]


def move(*args, **more):
    return Rule.rearrange(*args, layouts=BOTH, **more)


def padded(array, axis, size):
    widths = [(0, size - n if a == axis else 0) for a, n in enumerate(array.shape)]
    return np.pad(array, widths)


# -- padding ----------------------------------------------------------------------------------------

W = random_array((10, 3), "float32")
PADDINGS = {
    "by an index": (["pad(0, 10, 16)"], padded(W, 0, 16)),
    "from the end": (["pad(-2, 10, 16)"], padded(W, 0, 16)),
    "before an equation": (["pad(v, 10, 16)", "v d -> d v"], padded(W, 0, 16).T),
    "after an equation": (["v d -> d v", "pad(v, 10, 16)"], padded(W, 0, 16).T),
    "on both axes": (["pad(v, 10, 16)", "v d -> d v", "pad(d, 3, 4)"], padded(padded(W, 0, 16).T, 0, 4)),
    "by the config": (["pad(v, old, new)", "v d -> v d"], padded(W, 0, 16)),
}
CONFIG = {"vocab_size": 10, "padded": {"vocab_size": 16}}
SIZES = {"old": "config.vocab_size", "new": "config.padded.vocab_size"}


@pytest.mark.parametrize("name", PADDINGS)
def test_a_vocabulary_is_padded_and_cut_again(name, tmp_path):
    ops, wanted = PADDINGS[name]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rule = move("wte.weight", "wte.embedding", ops, sizes=SIZES if "config" in name else {})
    source = saved({"wte.weight": W}, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.msgpack", to="flax", rules=rule)
    assert report.exact
    assert_holds(tmp_path / "there.msgpack", {"wte.embedding": wanted})
    assert verify(source, tmp_path / "there.msgpack", rules=rule).equal
    report = convert(tmp_path / "there.msgpack", tmp_path / "again.safetensors", to="torch", rules=rule)
    assert not report.exact  # what is cut off could have been anything
    assert_holds(tmp_path / "again.safetensors", {"wte.weight": W})


@pytest.mark.parametrize("ops", ["pad(0)", "pad(0, 16)", ["pad(v)", "v d -> d v"], ["v d -> d v", "pad(v)"]])
def test_what_the_rule_leaves_open_the_template_tells(ops, tmp_path):
    rule = move("wte.weight", "wte.embedding", ops)
    target = padded(W, 0, 16)
    target = target.T if "v d -> d v" in ops else target
    source = saved({"wte.weight": W}, "torch", tmp_path / "source.safetensors")
    like = abstract({"wte.embedding": target}, "flax")
    assert_holds(plan_and_apply(source, to="flax", rules=rule, like=like), {"wte.embedding": target})
    there = saved({"wte.embedding": target}, "flax", tmp_path / "there.safetensors")
    like = abstract({"wte.weight": W}, "torch")
    assert_holds(plan_and_apply(there, to="torch", rules=rule, like=like), {"wte.weight": W})
    with pytest.raises(RuleError, match="size") as error:
        plan_conversion(there, to="torch", rules=rule)
    assert "--like" in str(error.value)


@pytest.mark.parametrize("value", [1.0, -0.0, np.nan])
@pytest.mark.parametrize("place", [(10, 0), (15, 2)])
def test_padding_that_holds_anything_is_refused_and_no_file_is_left(place, value, tmp_path):
    rule = move("wte.weight", "wte.embedding", "pad(0, 10, 16)")
    there = padded(W, 0, 16)
    there[place] = value
    given = saved({"wte.embedding": there}, "flax", tmp_path / "there.safetensors")
    for options in ({}, {"verify": False}, {"workers": 1}):
        with refused(
            PlanError, "axis 0", "size 16 to 10", "only 0", f"got {value} at {list(place)}", hint="pad"
        ):
            convert(given, tmp_path / "again.safetensors", to="torch", rules=rule, **options)
        assert nothing_written(tmp_path, given)


def test_layers_are_stacked_and_padded(tmp_path):
    source = {f"h.{i}.fc.weight": random_array((5, 3), "float32", i) for i in range(3)}
    rule = move("h.{i:int}.fc.weight", "h.fc.kernel", ["out in -> i in out", "pad(out, 5, 8)"])
    wanted = padded(np.stack([w.T for w in source.values()]), 2, 8)
    path = saved(source, "torch", tmp_path / "source.safetensors")
    convert(path, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert_holds(tmp_path / "there.safetensors", {"h.fc.kernel": wanted})
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), source)


# -- shifting ---------------------------------------------------------------------------------------

SCALES = {
    f"h.{i}.ln.weight": np.random.default_rng(i).integers(-512, 512, 6).astype("f4") / 1024 for i in range(2)
}


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_offset_of_a_norm_in_float32(place, tmp_path):
    ops = ["offset(1)", "e -> i e"] if place == "before" else ["e -> i e", "offset(1)"]
    rule = move("h.{i:int}.ln.weight", "h.ln.scale", ops)
    source = saved(SCALES, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert report.exact
    wanted = np.stack(list(SCALES.values())) + np.float32(1)
    assert_holds(tmp_path / "there.safetensors", {"h.ln.scale": wanted})
    report = convert(tmp_path / "there.safetensors", tmp_path / "again.safetensors", to="torch", rules=rule)
    assert report.exact
    assert_holds(tmp_path / "again.safetensors", SCALES)


HALF = {name: (array + np.float32(2**-9)).astype(BF16) for name, array in SCALES.items()}


def test_an_offset_that_rounds_is_refused_and_no_file_is_left(tmp_path):
    rule = move("h.{i:int}.ln.weight", "h.{i:int}.ln.scale", "offset(1)")
    source = saved(HALF, "torch", tmp_path / "source.safetensors")
    with refused(
        PlanError, "adding 1.0 ", "bfloat16", hint=("cast(bfloat16, float32)", "offset(1.0, rounding)")
    ):
        convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert nothing_written(tmp_path, source)


def test_an_offset_that_would_round_is_taken_after_a_cast(tmp_path):
    ops = ["cast(bfloat16, float32)", "offset(1)"]
    rule = move("h.{i:int}.ln.weight", "h.{i:int}.ln.scale", ops)
    source = saved(HALF, "torch", tmp_path / "source.safetensors")
    wanted = {n.replace("weight", "scale"): a.astype("f4") + np.float32(1) for n, a in HALF.items()}
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert report.exact
    assert_holds(tmp_path / "there.safetensors", wanted)
    convert(tmp_path / "there.safetensors", tmp_path / "again.safetensors", to="torch", rules=rule)
    assert_holds(tmp_path / "again.safetensors", HALF)


def test_an_offset_that_rounds_is_taken_where_the_rule_allows_it(tmp_path):
    rule = move("h.{i:int}.ln.weight", "h.{i:int}.ln.scale", "offset(1, rounding)")
    source = saved(HALF, "torch", tmp_path / "source.safetensors")
    wanted = {n.replace("weight", "scale"): a + np.array(1, BF16) for n, a in HALF.items()}
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert not report.exact
    assert_holds(tmp_path / "there.safetensors", wanted)
    back = {n.replace("scale", "weight"): a - np.array(1, BF16) for n, a in wanted.items()}
    assert_holds(plan_and_apply(tmp_path / "there.safetensors", to="torch", rules=rule), back)


# -- casts ------------------------------------------------------------------------------------------


def test_the_dtype_that_is_asked_for_comes_after_the_moves(tmp_path):
    w = np.random.default_rng(0).normal(size=(12, 4)).astype("f4")
    layers = {f"h.{i}.weight": np.random.default_rng(i).normal(size=(3, 2)).astype("f4") for i in range(3)}
    steps = np.arange(3, dtype=np.int64)
    rules = [
        move("qkv.weight", ["q.kernel", "k.kernel", "v.kernel"], "(q k v) in -> in q, in k, in v"),
        move("h.{i:int}.weight", "h.kernel", "out in -> i in out"),
        move("steps", "count.kernel"),
    ]
    source = saved({"qkv.weight": w, **layers, "steps": steps}, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "there.safetensors", to="flax", rules=rules, dtype="bfloat16")
    wanted = {f"{n}.kernel": w[4 * i : 4 * i + 4].T.astype(BF16) for i, n in enumerate("qkv")}
    wanted["h.kernel"] = np.stack([a.T for a in layers.values()]).astype(BF16)
    wanted["count.kernel"] = steps
    assert_holds(tmp_path / "there.safetensors", wanted)
    assert verify(source, tmp_path / "there.safetensors", rules=rules, dtype="bfloat16").equal


# -- one tensor in two places -----------------------------------------------------------------------


@pytest.mark.parametrize("change", [1.0, -0.0, np.nan])
def test_tensors_that_must_be_equal_and_are_not_leave_no_file(change, tmp_path):
    rule = move(["wte.weight", "lm.weight"], "wte.embedding", "v d, v d -> v d")
    one = np.zeros((6, 4), "f4")
    other = one.copy()
    other[5, 3] = change
    source = saved({"wte.weight": one, "lm.weight": other}, "torch", tmp_path / "source.safetensors")
    with refused(PlanError, "[5, 3]", f"0.0 and {change}", hint="source"):
        convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert nothing_written(tmp_path, source)


@pytest.mark.parametrize("start", [".pt", ".safetensors"])
def test_a_tie_of_the_file_and_one_of_the_rules_do_not_disturb_each_other(start, tmp_path):
    w, layer = random_array((6, 4), "float32"), random_array((4, 4), "float32", 1)
    kept = as_tensor(w)
    tensors = {("wte", "weight"): kept, ("lm", "weight"): kept, ("h", "weight"): as_tensor(layer)}
    metadata = StateMetadata(ties={("lm", "weight"): ("wte", "weight")})
    state = FlatState(tensors, layout="torch", metadata=metadata)
    save_state(state, tmp_path / f"source{start}")
    rules = [
        move("wte.weight", ["wte.embedding", "lm.kernel"], "v d -> v d, d v"),
        move("h.weight", "h.kernel", "o i -> i o"),
        Rule.drop("lm.weight", "tied", layouts=BOTH, optional=True),
    ]
    convert(tmp_path / f"source{start}", tmp_path / "there.msgpack", to="flax", rules=rules)
    wanted = {"wte.embedding": w, "lm.kernel": w.T, "h.kernel": layer.T}
    assert_holds(tmp_path / "there.msgpack", wanted)
    back = plan_and_apply(tmp_path / "there.msgpack", to="torch", rules=rules)
    assert_holds(back, {"wte.weight": w, "h.weight": layer})


# -- constants and what is left out -----------------------------------------------------------------

HEAD = {"head.weight": random_array((5, 4), "float32"), "head.bias": random_array((5,), "float32")}
FLAX_HEAD = {"head.kernel": HEAD["head.weight"].T, "head.bias": HEAD["head.bias"]}
ROPE = Rule.fill("h.{i:int}.rope.scale", 1, reason="torch has none", layouts=BOTH)
SCALE = {f"h.{i}.rope.scale": np.ones((3, 2), "f4") for i in range(2)}


def test_constants_fill_what_no_source_fills_and_are_dropped_again(tmp_path):
    source = saved(HEAD, "torch", tmp_path / "source.safetensors")
    target = {**FLAX_HEAD, **SCALE}
    like = abstract(target, "flax")
    report = convert(source, tmp_path / "there.safetensors", to="flax", rules=ROPE, like=like)
    assert set(report.filled) == {tuple(name.split(".")) for name in SCALE}
    assert_holds(tmp_path / "there.safetensors", target)
    assert verify(source, tmp_path / "there.safetensors", rules=ROPE).equal
    report = convert(tmp_path / "there.safetensors", tmp_path / "again.safetensors", to="torch", rules=ROPE)
    assert {d.key for d in report.dropped} == {tuple(name.split(".")) for name in SCALE}
    assert {d.reason for d in report.dropped} == {"rule: torch has none"}
    assert_holds(tmp_path / "again.safetensors", HEAD)


def test_constants_through_a_neutral_file(tmp_path):
    like = abstract({**FLAX_HEAD, **SCALE}, "flax")
    source = saved(HEAD, "torch", tmp_path / "source.safetensors")
    once, neutral, twice = (tmp_path / f"{name}.safetensors" for name in ("once", "neutral", "twice"))
    convert(source, once, to="flax", rules=ROPE, like=like)
    convert(source, neutral, to="neutral", rules=ROPE)
    convert(neutral, twice, to="flax", rules=ROPE, like=like)
    assert once.read_bytes() == twice.read_bytes()


def test_constants_need_the_shapes_of_the_target():
    with refused(RuleError, "h.{i:int}.rope.scale", "--like"):
        plan_conversion(HEAD, to="flax", rules=ROPE)


MASK = {f"h.{i}.attn.bias": np.tril(np.ones((3, 3), "f4")) for i in range(2)}


@pytest.mark.parametrize("middle", [False, True], ids=["one step", "two steps"])
def test_what_is_dropped_is_reported_with_its_reason(middle, tmp_path):
    rule = Rule.drop("h.*.attn.bias", "causal mask", layouts=BOTH)
    source = saved({**HEAD, **MASK}, "torch", tmp_path / "source.safetensors")
    if middle:
        given = tmp_path / "neutral.safetensors"
        report = convert(source, given, to="neutral", rules=rule)
        convert(given, tmp_path / "there.safetensors", to="flax", rules=rule)
    else:
        report = convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    assert {d.key for d in report.dropped} == {tuple(name.split(".")) for name in MASK}
    assert {d.reason for d in report.dropped} == {"rule: causal mask"}
    assert not report.exact
    assert_holds(tmp_path / "there.safetensors", FLAX_HEAD)
    like = abstract({**HEAD, **MASK}, "torch")
    plan = plan_conversion(tmp_path / "there.safetensors", to="torch", rules=rule, like=like)
    assert set(plan.allowed_missing) == {tuple(name.split(".")) for name in MASK}
    plan = plan_conversion(tmp_path / "there.safetensors", to="torch", rules=rule)
    assert not plan.allowed_missing


def test_what_is_dropped_comes_back_as_its_constant(tmp_path):
    rule = Rule.drop("h.*.attn.bias", "an empty mask", fill=-1.5, layouts=BOTH)
    source = saved({**HEAD, **MASK}, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "there.safetensors", to="flax", rules=rule)
    like = abstract({**HEAD, **MASK}, "torch")
    convert(tmp_path / "there.safetensors", tmp_path / "again.pt", to="torch", rules=rule, like=like)
    wanted = {**HEAD, **{name: np.full((3, 3), -1.5, "f4") for name in MASK}}
    assert_holds(tmp_path / "again.pt", wanted)


def test_a_constant_that_the_target_has_not_is_told():
    rule = Rule.fill("rope.table", 1, reason="torch has none", layouts=BOTH)
    with refused(RuleError, "1 rule", "'rope.table'"):
        plan_conversion(HEAD, to="flax", rules=rule, like=abstract(FLAX_HEAD, "flax"))


def filling(dtype, value, folder):
    rule = Rule.fill("rope.table", value, reason="torch has none", layouts=BOTH)
    like = abstract({**FLAX_HEAD, "rope.table": np.zeros(3, DTYPES[dtype])}, "flax")
    convert(HEAD, folder / "out.msgpack", to="flax", rules=rule, like=like)
    with open_state(folder / "out.msgpack") as state:
        return state["rope", "table"]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 0.5),
        ("int32", 2**31),
        ("uint8", -1),
        ("bool", 2),
        ("int64", math.inf),
        ("float16", 70000),
        ("float8_e4m3fn", math.inf),
        ("float8_e4m3fn", 1000),
        ("complex64", 1e39),
        pytest.param("float32", 10**400, id="huge"),
    ],
)
def test_a_constant_that_the_dtype_cannot_hold_is_refused(dtype, value, tmp_path):
    with refused(RuleError, "'rope.table'", dtype, value, key=("rope", "table")):
        filling(dtype, value, tmp_path)
    assert nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 7.0),
        ("uint8", 255),
        ("bool", 1),
        ("float16", -math.inf),
        ("bfloat16", 0.1),
        ("float32", math.nan),
        ("complex64", 2),
        ("int64", 2**62),
    ],
)
def test_a_constant_that_the_dtype_holds_is_written(dtype, value, tmp_path):
    wanted = np.full(3, value).astype(DTYPES[dtype])
    assert_same_bits(filling(dtype, value, tmp_path), wanted)
