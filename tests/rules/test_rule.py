"""Rules: data that is checked when it is made, good both ways, and clear about what is wrong."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from bridge_core import Rule, RuleError, as_key
from bridge_core.rules.conditions import When
from bridge_core.rules.config_sizes import Size
from bridge_core.rules.flat_index import FlatIndex
from bridge_core.rules.op_calls import Call
from bridge_core.rules.overlaps import overlapping
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.rule import resolve_sizes

QKV = "(q k v) in -> in q, in k, in v"
SPLIT = Rule.rearrange("h.{i:int}.qkv", ["b.{i:int}.q", "b.{i:int}.k", "b.{i:int}.v"], QKV, origin="r.toml:3")
STACK = Rule.rearrange("h.{i:int}.w", "b.w", "out in -> i in out")
BLOCKS = Rule.rearrange("h.{i:int}.w", "b_{j:int}.w", "out in -> block in out", where="i = block*6 + j")
MIXED = Rule.rearrange(
    "a",
    "b",
    ["cast(bfloat16, float32)", "pad(v, 10, 12)", "v d -> d v", "offset(1)", "unpad(-2, 4, 3)"],
    sizes={"v": "config.vocab"},
    when={"rank": 2, "sizes": {"d": 3}, "config": {"model_type": "gpt2"}},
    optional=True,
    layouts=("torch", "flax"),
    origin="r.toml:9",
)
PLAIN = Rule.rearrange(["a.{i:int}", "b.*"], ["c.{i:int}", "d.*"], ["offset(1)", "cast(float32, float16)"])
RULES = [
    Rule.rename("old.{i:int}.*", "layers.{i}.*", layouts=("torch", "neutral")),
    Rule.layer("head", "linear", layouts=("torch", "flax"), when={"config": {"tied": False}}),
    Rule.drop("mask", "made by the model"),
    Rule.drop("mask", "made by the model", fill=-1.5),
    Rule.fill("scale", 1.0, reason="no source has it"),
    SPLIT,
    STACK,
    BLOCKS,
    MIXED,
    PLAIN,
]


# -- both ways --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_read_both_ways_is_itself(rule):
    assert rule.reversed().reversed() == rule
    assert hash(rule.reversed().reversed()) == hash(rule)
    assert rule.reversed().origin == rule.origin
    assert pickle.loads(pickle.dumps(rule)) == rule


def test_a_rule_read_the_other_way_inverts_all_that_it_says():
    turned = MIXED.reversed()
    assert turned.ops == (
        "pad(-2, 3, 4)",
        "offset(-1.0)",
        "d v -> v d",
        "unpad(v, 12, 10)",
        "cast(float32, bfloat16)",
    )
    assert (turned.sources, turned.targets) == (MIXED.targets, MIXED.sources)
    assert turned.layouts == ("flax", "torch")
    assert turned.when.of_target
    assert PLAIN.reversed().ops == ("cast(float16, float32)", "offset(-1.0)")


def test_a_drop_and_a_constant_are_each_other_read_the_other_way():
    turned = Rule.drop("mask", "made by the model", fill=0).reversed()
    assert (turned.action, turned.targets, turned.value) == ("fill", (Pattern.parse("mask"),), 0)
    assert Rule.fill("mask", 0, reason="made by the model").reversed() == Rule.drop(
        "mask", "made by the model", fill=0
    )
    assert Rule.drop("mask", "made by the model").reversed().value is None


def test_a_rule_of_layers_stays_as_it_is():
    rule = Rule.layer("head", "linear", layouts=("torch", "flax"))
    assert rule.reversed() is rule


def test_a_rename_reads_numbers_on_both_sides():
    turned = Rule.rename("old.{i:int}", "new.{i}").reversed()
    assert turned.source.match(("new", "x")) is None
    assert turned.source.match(("new", "3")) == {"i": "3"}


def test_both_sides_of_one_framework_are_refused():
    with pytest.raises(RuleError, match="both layouts are torch"):
        Rule.rename("a", "b", layouts=("torch", "torch"))


# -- captures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "left", "right"),
    [
        (SPLIT, ((),), ((), (), ())),
        (STACK, (("i",),), ((),)),
        (STACK.reversed(), ((),), (("i",),)),
        (BLOCKS, (("block",),), ((),)),
        (
            Rule.rearrange("h.{i:int}.w", "b.w", "o -> block j o", where="i = block*2 + j"),
            (("block", "j"),),
            ((),),
        ),
        (Rule.rearrange("b.{block:int}.{j:int}", "h.{i:int}", where="i = block*2 + j"), ((),), ((),)),
        (
            Rule.rearrange("l.{i:int}.e.{e:int}.w", "l.{i:int}.w", "o i_n -> e i_n o"),
            (("e",),),
            ((),),
        ),
        (
            Rule.rearrange(["l.{i:int}.q", "l.{i:int}.k"], "qk", "q in, k in -> i in (q k)"),
            (("i",), ("i",)),
            ((),),
        ),
    ],
    ids=str,
)
def test_captures_of_one_side_alone_are_list_axes(rule, left, right):
    assert rule.list_axes == (left, right)


def test_keys_are_bound_and_built_with_the_parts_of_a_number():
    (source,), (target,) = BLOCKS.sources, BLOCKS.targets
    assert BLOCKS.bind(source, as_key("h.20.w")) == {"block": "3", "j": "2"}
    assert BLOCKS.bind(source, as_key("g.20.w")) is None
    assert BLOCKS.build(source, {"block": "3", "j": "2"}) == as_key("h.20.w")
    assert BLOCKS.build(target, {"block": "3", "j": "2"}) == as_key("b_2.w")


@pytest.mark.parametrize("rule", [BLOCKS, STACK])
def test_a_capture_that_is_counted_has_no_leading_zeros(rule):
    with pytest.raises(RuleError, match=r"tensor 'h\.07\.w'.*'07'.*without leading zeros"):
        rule.bind(rule.source, as_key("h.07.w"))


def test_a_part_beyond_its_bound_builds_no_key():
    with pytest.raises(RuleError, match=r"j is 6; .* below 6"):
        BLOCKS.build(BLOCKS.source, {"block": "0", "j": "6"})


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda: Rule.rearrange("a", "b.{j:int}", "o -> o"),
            r"nothing binds \{j\} of 'b\.\{j:int\}'.*on the left",
        ),
        (
            lambda: Rule.rearrange("a.{j:int}", "b", "o -> o"),
            r"nothing binds \{j\} of 'a\.\{j:int\}'.*on the right",
        ),
        (lambda: Rule.rearrange("a.**", "b", "o -> o"), r"nothing binds \*\* of 'a\.\*\*'"),
        (lambda: Rule.rearrange("a.{i}", "b", "o -> i o"), r"must be a number: write \{i:int\}"),
        (
            lambda: Rule.rearrange("a.{i:int}", "b.{i}"),
            r"\{i\} is a number in 'a\.\{i:int\}' and any text in",
        ),
        (lambda: Rule.rearrange("a.{i:int}", "b.{j:int}"), r"only one of .* has \{i\}, \{j\}; to stack"),
        (lambda: Rule.rearrange("a.*", "b"), r"only one of .* has \*0; to stack"),
        (
            lambda: Rule.rearrange(["a.{i:int}", "c"], "b.{i:int}", "x, y -> (x y)"),
            r"nothing binds \{i\} for 'c'; every pattern",
        ),
        (lambda: Rule.rearrange("a", ["b", "b"], "o -> o, o"), "its targets 'b' and 'b' match the same key"),
        (
            lambda: Rule.rearrange("a.{i:int}", ["b.*.{i:int}", "b.{w}.{j:int}"]),
            "its targets .* match the same key",
        ),
        (lambda: Rule.rearrange(["a.b", "a.*"], ["c", "d"]), "its sources .* match the same key"),
        (lambda: Rule.rearrange(["a", "b"], "c"), "sources and targets do not pair up: 2 against 1"),
        (
            lambda: Rule.rearrange(["a", "b"], "c", "x -> x"),
            "sources and terms do not pair up: 2 against 1 in 'x -> x'",
        ),
        (lambda: Rule.rearrange("a", "c", "x -> x, x"), "targets and terms do not pair up: 1 against 2 in"),
        (lambda: Rule.rearrange([], "c"), "needs a source and a target"),
        (lambda: Rule.rename("a.*", "b"), "both directions: only one side has \\*0"),
        (lambda: Rule.drop("a", ""), "a reason was expected"),
        (lambda: Rule.fill("a", "1", reason="x"), "'1'; a number was expected"),
    ],
)
def test_captures_that_do_not_bind_are_refused(make, problem):
    with pytest.raises(RuleError, match=rf"^rule '.*{problem}|^rule .*{problem}"):
        make()


# -- ops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "problem"),
    [
        ("padd(x, 3)", "op 'padd' is not known. Did you mean 'pad'"),
        ("frobnicate(x)", "op 'frobnicate' is not known. Known are: pad, unpad, offset, cast"),
        ("x y", "neither an equation"),
        ("pad(x", "neither an equation"),
        ("pad()", r"pad\(axis\), pad\(axis, size\)"),
        ("pad(x, 1, 2, 3)", "not well formed"),
        ("pad(x, -1)", "not well formed"),
        ("pad(x, 1.5)", "not well formed"),
        ("pad(2x, 3)", "not well formed"),
        ("pad(0, 12, 10)", "leads the wrong way, from 12 to 10"),
        ("unpad(0, 10, 12)", "leads the wrong way, from 10 to 12"),
        ("offset()", r"offset\(number\)"),
        ("offset(x)", "not well formed"),
        ("offset(nan)", "not well formed"),
        ("offset(0)", "not well formed"),
        ("offset(1, round)", "not well formed"),
        ("cast(float16)", r"cast\(from, to\) was expected"),
        ("cast(float16, flaot32)", "dtype 'flaot32' is not known. Did you mean 'float32'"),
        ("pad(x, 3)", "names an axis, but there is no equation"),
        (["pad(z, 3)", "x y -> y x"], "no term next to it has this axis of its own. Known are: x, y"),
        (["pad(x, 3)", "(x y) -> x y"], "no term next to it has this axis of its own. There is none"),
        (["x y -> y x", "x y -> y x"], "there are two equations"),
        ("x y -> x", "'y' stands on the left side only"),
        ("x ? -> x", "column 3"),
        (["pad(x, size)", "x y -> y x"], "the size 'size' is not known"),
    ],
)
def test_ops_that_are_not_well_formed_are_refused(ops, problem):
    with pytest.raises(RuleError, match=f"^rule 'a' -> 'b': .*{problem}"):
        Rule.rearrange("a", "b", ops)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" pad( v ,12 ) ", "pad(v, 12)"),
        ("pad(v)", "pad(v)"),
        ("pad(-1, 10, 12)", "pad(-1, 10, 12)"),
        ("unpad(v, 12, ?)", "unpad(v, 12, ?)"),
        ("unpad(v, ?, 10)", "unpad(v, 10)"),
        ("pad(0, 5, 5)", "pad(0, 5, 5)"),
        ("offset(-0.5, rounding)", "offset(-0.5, rounding)"),
        ("offset(1)", "offset(1.0)"),
        ("cast(float8_e4m3fn, bfloat16)", "cast(float8_e4m3fn, bfloat16)"),
    ],
)
def test_calls_read_as_they_are_shown(text, shown):
    call = Call.parse(text)
    assert str(call) == shown
    assert Call.parse(shown) == call
    assert call.inverse().inverse() == call
    assert Call.parse(str(call.inverse())) == call.inverse()


def test_the_inverse_of_a_padding_knows_what_the_padding_knew():
    assert str(Call.parse("pad(v, 12)").inverse()) == "unpad(v, 12, ?)"
    assert str(Call.parse("unpad(v, 10)").inverse()) == "pad(v, 10, ?)"


def test_an_axis_is_found_where_its_tensors_have_it():
    rule = Rule.rearrange(
        ["w", "b"], ["u", "c"], ["pad(v, 12)", "v ... d, v -> ... d v, v", "unpad(d, 3)", "offset(1)"]
    )
    assert [rule.axis_of(rule.before[0], n) for n in (0, 1)] == [0, 0]
    assert [rule.axis_of(rule.after[0], n, of_target=True) for n in (0, 1)] == [-2, None]
    assert [rule.axis_of(call, 0) for call in (*rule.before, rule.after[0])] == [0, -2]
    assert rule.reversed().axis_of(rule.reversed().before[1], 0) == -2
    assert PLAIN.axis_of(Call.parse("pad(-1, 3)"), 1) == -1
    twice = Rule.rearrange("a", "b", ["pad(v)", "v d -> d v", "pad(v)"])
    assert [twice.axis_of(twice.after[0], 0, of_target=side) for side in (False, True)] == [0, 1]


# -- where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("i = block*6 + j", (("block", None), ("j", 6))),
        ("i=j+6*block", (("block", None), ("j", 6))),
        ("i = a*12 + b*6 + c", (("a", None), ("b", 2), ("c", 6))),
    ],
)
def test_numbers_made_of_others_are_read(text, parts):
    assert FlatIndex.parse(text) == FlatIndex("i", parts)
    assert FlatIndex.parse(str(FlatIndex.parse(text))) == FlatIndex.parse(text)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=3), st.integers(0, 10**6))
def test_splitting_a_number_and_joining_it_are_inverse(bounds, number):
    index = FlatIndex("i", (("a", None), *((name, n) for name, n in zip("bcd", bounds, strict=False))))
    parts = index.split(str(number))
    assert index.join(parts) == str(number)
    assert all(int(parts[name]) < bound for name, bound in index.sizes.items())
    assert FlatIndex.parse(str(index)) == index


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("i", "not of the form"),
        ("i = j", "not of the form"),
        ("i = block*j", "not of the form"),
        ("i = block*0 + j", "not of the form"),
        ("i = block*6 - j", "not of the form"),
        ("i = block*6 + 2", "not of the form"),
        ("2 = block*6 + j", "not of the form"),
        ("i = block*6 + j*2", "do not nest"),
        ("i = a*12 + b*5 + c", "do not nest"),
        ("i = block + j", "do not nest"),
        ("i = block*6 + block", "occurs twice"),
        ("i = i*6 + j", "occurs twice"),
        ("k = block*6 + j", "k must be a capture of one side; neither side has it"),
        ("i = block*6 + z", "nothing binds z"),
        ("i = other*6 + j", "nothing binds other"),
    ],
)
def test_numbers_that_are_not_made_of_others_are_refused(where, problem):
    with pytest.raises(RuleError, match=f"^rule 'h.*where = .*{problem}"):
        Rule.rearrange("h.{i:int}.w", "b_{j:int}.w", "out in -> block in out", where=where)


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("h.{i:int}", "b.{i:int}", "both sides have it"),
        ("h.{i}", "b.{a:int}.{b:int}", r"write \{i:int\}"),
        ("h.{i:int}", "b.{a}.{b:int}", r"write \{a:int\}"),
        ("h.{i:int}.{a:int}", "b.{a:int}.{b:int}", "a and i are both captures in"),
    ],
)
def test_a_number_made_of_others_stands_on_one_side(source, target, problem):
    with pytest.raises(RuleError, match=problem):
        Rule.rearrange(source, target, where="i = a*2 + b")


# -- sizes ------------------------------------------------------------------------------------------

CONFIG = {"heads": 4, "hidden": 12, "name": "x", "text": {"layers": 3}, "flag": True}


@pytest.mark.parametrize(
    ("size", "value"),
    [
        (7, 7),
        ("config.heads", 4),
        ("config.text.layers", 3),
        ("config.hidden / config.heads", 3),
        ("config.hidden*2", 24),
        ("2 * config.heads", 8),
    ],
)
def test_sizes_come_from_numbers_and_the_config(size, value):
    rule = Rule.rearrange("a", "b", "(h d) -> h d", sizes={"h": size})
    assert resolve_sizes(rule, CONFIG) == {"h": value}
    assert Size.parse(str(rule.sizes["h"]) if isinstance(size, str) else size) == rule.sizes["h"]


@pytest.mark.parametrize(
    ("size", "config", "problem"),
    [
        ("config.head", CONFIG, r"sizes\.h: the config has no entry 'head'"),
        ("config.text.size", CONFIG, "no entry 'text.size'"),
        ("config.heads.size", CONFIG, "no entry 'heads.size'"),
        ("config.heads", None, r"config\.heads is asked for, and no config"),
        ("config.name", CONFIG, "entry 'name' is 'x'; a size was expected"),
        ("config.flag", CONFIG, "entry 'flag' is True"),
        ("config.hidden / 5", CONFIG, "12 / 5, which is no whole number"),
        ("config.hidden / 0", CONFIG, "12 / 0, which is no whole number"),
    ],
)
def test_sizes_that_the_config_does_not_tell_are_refused(size, config, problem):
    rule = Rule.rearrange("a", "b", "(h d) -> h d", sizes={"h": size}, origin="r.toml:4")
    with pytest.raises(RuleError, match=rf"^r\.toml:4: rule 'a' -> 'b': .*{problem}"):
        resolve_sizes(rule, config)


@pytest.mark.parametrize(
    "size",
    [-1, True, 1.5, None, "heads", "config", "config.", "4", "config.a / config.b / config.c", "4 / 2"],
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(RuleError, match=r"sizes\.h: the size .* is neither"):
        Rule.rearrange("a", "b", "(h d) -> h d", sizes={"h": size})


def test_sizes_are_of_axes():
    with pytest.raises(RuleError, match=r"sizes\.hed: .* Did you mean 'head'"):
        Rule.rearrange("a", "b", "(head d) -> head d", sizes={"hed": 4})
    with pytest.raises(RuleError, match="gives this size already"):
        Rule.rearrange("h.{i:int}", "b", "o -> a j o", where="i = a*2 + j", sizes={"j": 2})
    assert resolve_sizes(BLOCKS) == {"j": 6}
    named = Rule.rearrange("a", "b", ["pad(v, full)", "v d -> d v"], sizes={"full": "config.hidden"})
    assert resolve_sizes(named, CONFIG) == {"full": 12}


# -- when -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "shape", "config", "holds"),
    [
        ({}, (2, 3), None, True),
        ({"rank": 2}, (2, 3), None, True),
        ({"rank": 2}, (2, 3, 4), None, False),
        ({"sizes": {"in": 3}}, (2, 3), None, True),
        ({"sizes": {"in": 3}}, (3, 2), None, False),
        ({"sizes": {"in": 3}}, (), None, False),
        ({"config": {"model_type": "gpt2"}}, (2, 3), {"model_type": "gpt2"}, True),
        ({"config": {"model_type": "gpt2"}}, (2, 3), {"model_type": "bert"}, False),
        ({"config": {"model_type": "gpt2"}}, (2, 3), {}, False),
        ({"config": {"text": {"n": 1}}}, (2, 3), {"text": {"n": 1}}, True),
        ({"config": {"text.n": 1}}, (2, 3), {"text": {"n": True}}, False),
        ({"rank": 2, "sizes": {"in": 3}}, (2, 4), None, False),
    ],
)
def test_conditions_are_joined_by_and(when, shape, config, holds):
    rule = Rule.rearrange("a", "b", "out in -> in out", when=when)
    assert rule.applies(shape, config) is holds


def test_conditions_are_about_the_same_tensor_whichever_way_the_rule_is_read():
    turned = Rule.rearrange("a", "b", "out in -> in 1 out", when={"rank": 2, "sizes": {"in": 3}}).reversed()
    assert turned.when.of_target
    assert turned.applies((5, 3))
    assert not turned.applies((3, 1, 5))


def test_a_condition_behind_an_ellipsis_counts_from_the_end():
    rule = Rule.rearrange("a", "b", "... in -> in ...", when={"sizes": {"in": 3}})
    assert rule.applies((9, 9, 3))
    assert not rule.applies((3, 9, 9))


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ({"rnak": 2}, "no condition 'rnak'. Did you mean 'rank'"),
        ({"rank": "2"}, "when.rank is '2'; a number"),
        ({"rank": True}, "when.rank is True; a number"),
        ({"sizes": 3}, "when.sizes is 3; names"),
        ({"sizes": {"in": "3"}}, "when.sizes.in is '3'; a number"),
        ({"sizes": {"inn": 3}}, r"when\.sizes\.inn: .* Did you mean 'in'"),
        ({"config": {"a": [1]}}, r"when\.config\.a is \[1\]"),
    ],
)
def test_conditions_that_are_not_known_are_refused(when, problem):
    with pytest.raises(RuleError, match=f"^rule 'a' -> 'b': .*{problem}"):
        Rule.rearrange("a", "b", "out in -> in out", when=when)


def test_only_moves_go_by_shapes():
    with pytest.raises(RuleError, match="only a rule that rearranges tensors"):
        Rule.rename("a", "b", when={"rank": 2})
    assert not Rule.rename("a", "b", when={"config": {"x": 1}}).applies(config={"x": 2})


def test_a_condition_on_an_unknown_config_is_refused():
    rule = Rule.rename("a", "b", when={"config": {"x": 1}}, origin="r.toml:2")
    with pytest.raises(RuleError, match=r"^r\.toml:2: rule 'a' -> 'b': .*config\.x = 1, and no config"):
        rule.applies()


# -- several rules ----------------------------------------------------------------------------------


def gone(pattern, **options):
    return Rule.drop(pattern, "not wanted", **options)


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        (gone("a.{i:int}"), gone("a.{n:int}"), True),
        (gone("a.*"), gone("a.{n}"), True),
        (gone("a.{i:int}"), gone("a.{i}"), False),
        (gone("a.b"), gone("a.*"), True),
        (gone("a.*"), gone("a.b"), True),
        (gone("a.b"), gone("a.c"), False),
        (gone("a.b"), Rule.rearrange(["x", "a.b"], ["y", "z"]), True),
        (gone("a.b"), Rule.layer("a.b", "linear"), False),
        (Rule.layer("a", "linear"), Rule.layer("a", "embedding"), True),
        (Rule.rename("a.*", "b.*"), Rule.rename("a.*", "c.*"), True),
        (Rule.rename("model.**", "x.**"), gone("model.head"), True),
        (Rule.rename("model.**", "**"), gone("head"), False),
        (gone("a", when={"config": {"x": 1}}), gone("a", when={"config": {"x": 2}}), False),
        (gone("a", when={"config": {"x": 1}}), gone("a", when={"config": {"x": 1}}), True),
        (gone("a", layouts=("torch", "flax")), gone("a", layouts=("flax", "torch")), False),
        (gone("a"), Rule.fill("a", 1, reason="x"), False),
    ],
    ids=str,
)
def test_rules_that_would_take_one_key_for_certain(first, second, meet):
    assert overlapping([first, second]) == (((first, second),) if meet else ())


def test_every_pair_that_meets_is_told_once_and_in_order():
    first, second, third = gone("a.b"), gone("a.*"), gone("a.{x}")
    assert overlapping([first, second, third]) == ((first, second), (first, third), (second, third))


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: Rule.rename("a.{", "b", **o),
        lambda **o: Rule.rename("a.*", "b", **o),
        lambda **o: Rule.layer("a.{", "linear", **o),
        lambda **o: Rule.drop("a.{", "x", **o),
        lambda **o: Rule.fill("a.{", 1, reason="x", **o),
        lambda **o: Rule.rearrange("a.{", "b", **o),
        lambda **o: Rule.rearrange("a", "b", "pad", **o),
        lambda **o: Rule.rearrange("a", "b", "x -> y", **o),
        lambda **o: Rule.rearrange("a", "b", where="x", **o),
        lambda **o: Rule.rearrange("a", "b", "x -> x", when={"z": 1}, **o),
    ],
)
def test_every_error_says_first_where_the_rule_was_written(make):
    with pytest.raises(RuleError, match=r"^r\.toml:7: rule 'a"):
        make(origin="r.toml:7")
    with pytest.raises(RuleError, match=r"^rule 'a"):
        make()


def test_an_error_of_a_rule_names_the_tensor_too():
    error = SPLIT.error("does not fit.", ("h", "1", "qkv"))
    assert str(error).startswith("r.toml:3: tensor 'h.1.qkv': rule 'h.{i:int}.qkv' -> 'b.{i:int}.q', ")
    assert error.key == ("h", "1", "qkv")
    with pytest.raises(RuleError, match="it has no source"):
        _ = Rule.fill("a", 1, reason="x").source


def test_what_a_rule_says_in_one_line():
    assert str(SPLIT) == "rule 'h.{i:int}.qkv' -> 'b.{i:int}.q', 'b.{i:int}.k', 'b.{i:int}.v'"
    assert str(Rule.fill("a", 1, reason="x")) == "rule 'a': fill with 1 (x)"
    assert str(Rule.drop("a", "x").reversed()) == "rule 'a': may stay missing (x)"
    assert str(Rule.layer("a", "linear")) == "rule 'a': layer linear"
    assert (Rule.rename("a", "b").rename_to, gone("a").rename_to) == (Pattern.parse("b"), None)
    assert str(When.parse({"rank": 2, "config": {"a": {"b": "c"}}})) == "rank 2 and config.a.b = 'c'"


# -- old names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "arguments", "options", "new"),
    [
        ("move", ("h.{i:int}.w", "b.w", "out in -> i in out"), {"optional": True}, Rule.rearrange),
        ("leave_out", ("mask", "unused"), {"fill": 0.5}, Rule.drop),
        ("constant", ("scale", 1.0), {"reason": "no source has it"}, Rule.fill),
    ],
)
def test_the_old_name_of_a_constructor_warns_and_works(old, arguments, options, new):
    with pytest.warns(
        DeprecationWarning, match=rf"Rule\.{old} is deprecated; use Rule\.{new.__name__}\."
    ) as seen:
        rule = getattr(Rule, old)(*arguments, **options)
    assert rule == new(*arguments, **options)
    assert rule.action == new.__name__
    assert seen[0].filename == __file__


@pytest.mark.parametrize(("old", "rule"), [("move", STACK), ("constant", Rule.fill("a", 1, reason="x"))])
def test_the_old_name_of_an_action_warns_and_works(old, rule):
    with pytest.warns(DeprecationWarning, match=f"the action '{old}' is deprecated; use '{rule.action}'"):
        assert replace(rule, action=old) == rule


def test_the_old_names_of_what_a_rule_holds_warn_and_work():
    with pytest.warns(DeprecationWarning, match=r"Rule\.radix is deprecated; use flat_index"):
        assert BLOCKS.radix is BLOCKS.flat_index
    with pytest.warns(DeprecationWarning, match=r"Rule\.lists is deprecated; use list_axes"):
        assert BLOCKS.lists is BLOCKS.list_axes
    with pytest.warns(DeprecationWarning, match="drop of a rule is deprecated"):
        assert (gone("a").drop, STACK.drop) == ("not wanted", None)
