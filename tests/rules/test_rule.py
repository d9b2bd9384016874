"""Rules: data that is checked when it is made, good both ways, and clear about what is wrong."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from support.errors import refused

from bridge_core import Rule, RuleError, as_key
from bridge_core.axes import Call, Expression
from bridge_core.rules import resolve_sizes
from bridge_core.rules.conditions import When
from bridge_core.rules.overlaps import overlapping
from bridge_core.rules.patterns import Pattern

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
    with refused(RuleError, "'a' -> 'b'", "'torch' for both", hint="layouts="):
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
    with refused(RuleError, "i", "leading zeros", "got '07'", key=("h", "07", "w")):
        rule.bind(rule.source, as_key("h.07.w"))


def test_a_part_beyond_its_bound_builds_no_key():
    with refused(RuleError, "'i = block*6 + j'", "j below 6, got 6"):
        BLOCKS.build(BLOCKS.source, {"block": "0", "j": "6"})


@pytest.mark.parametrize(
    ("make", "named", "hint"),
    [
        (
            lambda: Rule.rearrange("a", "b.{j:int}", "o -> o"),
            ("capture {j}", "'b.{j:int}'", "source side"),
            ("'j o -> o'", "'{j:int}.a'"),
        ),
        (
            lambda: Rule.rearrange("h.{j:int}.w", "b.w", "o -> o"),
            ("capture {j}", "'h.{j:int}.w'", "target side"),
            ("'o -> j o'", "'b.{j:int}.w'"),
        ),
        (lambda: Rule.rearrange("a.**", "b.c", "o -> o"), ("**", "'a.**'", "target side"), "'b.**.c'"),
        (lambda: Rule.rearrange("a.{i}", "b", "o -> i o"), ("{i}", "'a.{i}'", "number"), "{i:int}"),
        (
            lambda: Rule.rearrange("a.{i:int}", "b.{i}"),
            ("{i}", "number in 'a.{i:int}'", "any text in 'b.{i}'"),
            "{i:int}",
        ),
        (
            lambda: Rule.rearrange("a.{i:int}", "b.{j:int}"),
            ("'a.{i:int}' has {i},", "'b.{j:int}'"),
            ("{i} in 'b.{j:int}'", "equation"),
        ),
        (lambda: Rule.rearrange("a.*", "b"), ("'a.*' has *,", "'b'"), ("* in 'b'", "equation")),
        (
            lambda: Rule.rearrange(["a.{i:int}", "c"], "b.{i:int}", "x, y -> (x y)"),
            ("'c'", "{i}"),
            "{i} in 'c'",
        ),
        (lambda: Rule.rearrange("a", ["b", "b"], "o -> o, o"), ("targets 'b' and 'b'",), "pattern"),
        (
            lambda: Rule.rearrange("a.{i:int}", ["b.*.{i:int}", "b.{w}.{j:int}"]),
            ("targets 'b.*.{i:int}' and 'b.{w}.{j:int}'",),
            "pattern",
        ),
        (lambda: Rule.rearrange(["a.b", "a.*"], ["c", "d"]), ("sources 'a.b' and 'a.*'",), "pattern"),
        (lambda: Rule.rearrange(["a", "b"], "c"), ("2 targets", "got 1"), "equation"),
        (
            lambda: Rule.rearrange(["a", "b"], "c", "x -> x"),
            ("2 tensors on the left side of 'x -> x'", "got 1"),
            "commas",
        ),
        (
            lambda: Rule.rearrange("a", "c", "x -> x, x"),
            ("1 tensor on the right side of 'x -> x, x'", "got 2"),
            "commas",
        ),
        (lambda: Rule.rearrange([], "c"), ("0 sources and 1 target",), ""),
        (lambda: Rule.rename("a.*", "b"), ("'a.*' has *,", "'b'"), ("* in 'b'", "in 'a.*'")),
        (lambda: Rule.rename("a", "b.{i}.{j}"), ("'b.{i}.{j}' has {i}, {j},",), "{i}, {j} in 'a'"),
        (lambda: Rule.drop("a", ""), ("reason",), 'drop = "'),
        (lambda: Rule.fill("a", 1, reason=" "), ("reason",), 'reason = "'),
        (lambda: Rule.fill("a", "1", reason="x"), ("fill: ", "number", "got '1'"), ""),
    ],
)
def test_captures_that_have_no_value_are_refused(make, named, hint):
    with refused(RuleError, *named, hint=hint) as caught:
        make()
    assert str(caught.value).startswith("rule ")


# -- ops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "named", "hint"),
    [
        ("padd(x, 3)", ("op 'padd'",), "Did you mean 'pad'?"),
        (
            "frobnicate(x)",
            ("op 'frobnicate'",),
            ("pad, unpad, cut, offset, scale, cast", "'out in -> in out'"),
        ),
        ("x y", ("'out in -> in out'", "'pad(vocab, 50304)'", "got 'x y'"), "->"),
        ("pad(x", ("got 'pad(x'",), ""),
        ("pad()", ("pad(axis), pad(axis, size)", "got 'pad()'"), "name or index"),
        ("pad(x, 1, 2, 3)", ("pad(axis, from, to)", "got 'pad(x, 1, 2, 3)'"), "name or index"),
        ("pad(x, -1)", ("pad(axis, size)", "got 'pad(x, -1)'"), "whole numbers"),
        ("pad(x, 1.5)", ("pad(axis, size)", "got 'pad(x, 1.5)'"), "whole numbers"),
        ("pad(2x, 3)", ("pad(axis, size)", "got 'pad(2x, 3)'"), "name or index"),
        ("pad(0, 12, 10)", ("'pad(0, 12, 10)'", "from 12 to 10"), "'unpad(0, 12, 10)'"),
        ("unpad(0, 10, 12)", ("'unpad(0, 10, 12)'", "from 10 to 12"), "'pad(0, 10, 12)'"),
        ("offset()", ("offset(number)", "got 'offset()'"), "rounding"),
        ("offset(x)", ("'offset(x)'", "size 'x'"), "sizes = { x = 12 }"),
        ("offset(x +)", ("'offset(x +)'", "column 4"), ""),
        ("offset(1, 2)", ("offset(number)", "got 'offset(1, 2)'"), "config.hidden_size"),
        ("scale()", ("scale(number)", "got 'scale()'"), "rounding"),
        ("scale(0.0)", ("scale(number)", "got 'scale(0.0)'"), "not 0"),
        ("scale(inf)", ("scale(number)", "got 'scale(inf)'"), "finite"),
        ("scale(-(0))", ("scale(number)", "got 'scale(-(0))'"), "not 0"),
        ("scale(2, round)", ("scale(number, rounding)", "got 'scale(2, round)'"), "rounding"),
        ("scale((2)", ("got 'scale((2)'",), ""),
        ("scale(2))", ("got 'scale(2))'",), ""),
        ("scale(2) scale(3)", ("got 'scale(2) scale(3)'",), ""),
        (["scale(j)", "in out -> out in"], ("'scale(j)'", "size 'j'"), ("j = 12",)),
        (["scale(inn)", "inner out -> out inner"], ("'scale(inn)'", "size 'inn'"), "Did you mean 'inner'?"),
        ("cut()", ("cut(axis)", "got 'cut()'"), "name or index"),
        ("cut(0, 7, 10)", ("'cut(0, 7, 10)'", "from 7 to 10"), "'pad(0, 7, 10, discard)'"),
        ("pad(0, 10, 7, discard)", ("'pad(0, 10, 7, discard)'", "from 10 to 7"), "'cut(0, 10, 7)'"),
        ("pad(0, n + 1)", ("'pad(0, n + 1)'", "size 'n'"), "sizes = { n = 12 }"),
        (["pad(x, y)", "x y -> y x"], ("'pad(x, y)'", "size 'y'"), "sizes = { y = 12 }"),
        ("offset(nan)", ("offset(number)", "got 'offset(nan)'"), "finite"),
        ("offset(0)", ("offset(number)", "got 'offset(0)'"), "not 0"),
        ("offset(1, round)", ("offset(number, rounding)", "got 'offset(1, round)'"), "rounding"),
        ("cast()", ("cast(from, to)", "got 'cast()'"), ""),
        ("cast(?)", ("cast(to)", "got 'cast(?)'"), ""),
        ("cast(?, ?)", ("cast(to)", "got 'cast(?, ?)'"), ""),
        ("cast(float16, flaot32)", ("dtype 'flaot32'",), "Did you mean 'float32'?"),
        ("pad(x, 3)", ("'pad(x, 3)'", "axis 'x'", "no equation"), "'pad(0, 3)'"),
        (["pad(z, 3)", "x y -> y x"], ("'pad(z, 3)'", "axis 'z'"), "Known are: x, y."),
        (["pad(x, 3)", "(x y) -> x y"], ("'pad(x, 3)'", "axis 'x'", "groups"), "There is none."),
        (["x y -> y x", "a b -> b a"], ("one equation", "'x y -> y x' and 'a b -> b a'"), ""),
        ("x y -> x", ("'y'", "left side"), "1"),
        ("x ? -> x", ("column 3", "'?'"), ""),
        (["pad(x, size)", "x y -> y x"], ("'size'",), "sizes = { size = 12 }"),
    ],
)
def test_ops_that_are_not_well_formed_are_refused(ops, named, hint):
    with refused(RuleError, *named, hint=hint) as caught:
        Rule.rearrange("a", "b", ops)
    assert str(caught.value).startswith("rule 'a' -> 'b': ")


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
        ("cast(float16)", "cast(float16)"),
        ("cast(?, float16)", "cast(float16)"),
        ("cast(float16, ?)", "cast(float16, ?)"),
        ("offset(-(2))", "offset(-2.0)"),
        ("offset(n)", "offset(n)"),
        ("offset(-n, rounding)", "offset(-n, rounding)"),
        ("offset(a - b)", "offset(a - b)"),
        ("offset(-(-(-a)))", "offset(-a)"),
        ("scale(0.5)", "scale(0.5)"),
        ("scale(-2, rounding)", "scale(-2, rounding)"),
        ("scale(1/3)", "scale(1 / 3)"),
        ("scale(1 / (1 / n))", "scale(n)"),
        ("scale(1.0 / n)", "scale(1.0 / n)"),
        ("scale(d**-0.5)", "scale(d**-0.5)"),
        ("scale( bfloat16(sqrt( config.dim )) ,rounding)", "scale(bfloat16(sqrt(config.dim)), rounding)"),
        ("scale([2, 3][n])", "scale([2, 3][n])"),
        ("cut(v, 12, 10)", "cut(v, 12, 10)"),
        ("unpad(v, 12, 10, discard)", "cut(v, 12, 10)"),
        ("cut(v, 10)", "cut(v, 10)"),
        ("cut(-1)", "cut(-1)"),
        ("pad(v, 10, 12, discard)", "pad(v, 10, 12, discard)"),
        ("pad(v, n + 1, [8, 12][n % 2])", "pad(v, n + 1, [8, 12][n % 2])"),
        ("unpad(v, (a + b)*2, config.vocab)", "unpad(v, (a + b) * 2, config.vocab)"),
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
    ("where", "named", "hint"),
    [
        ("i", ("where = 'i'", "comparison"), ""),
        ("i = 5", ("got none", "'i = 5'"), "'i == 5'"),
        ("i = block*j", ("got 'i = block*j'",), "whole numbers as factors"),
        ("i = block*0 + j", ("got 1, 0",), "'i = a*12 + b*6 + c'"),
        ("i = block*6 - j", ("got 'i = block*6 - j'",), "whole numbers as factors"),
        ("2 = block*6 + j", ("got '2 = block*6 + j'",), "a name of one side"),
        ("i = block % 6 + j", ("got 'i = block % 6 + j'",), ""),
        ("i = [0, 3][block] + [0, 1][j]", ("got 'i = [0, 3]",), ""),
        ("i = 2*[0, 3][block] + j", ("got 'i = 2*",), ""),
        ("i = [0, 3, 3][block] + j", ("increasing", "[0, 3, 3]"), "each group"),
        ("i = 3[block] + j", ("a list", "'3' = 3"), ""),
        ("i = block / 2 + j", ("got 'i = block / 2 + j'",), ""),
        ("i = block*(1/2) + j", ("whole number", "'1 / 2"), ""),
        ("n counts block j", ("'n counts s, b'", "got 'n counts block j'"), ""),
        ("i < jj", ("'i < jj'", "jj is neither"), "Did you mean 'j'?"),
        ("i = a*12 + b*5 + c", ("multiple", "got 12, 5, 1"), "'i = a*12 + b*6 + c'"),
        ("i = block + j", ("multiple", "got 1, 1"), "'i = a*12 + b*6 + c'"),
        ("i = block*6 + block", ("'block' twice",), ""),
        ("i = i*6 + j", ("'i' twice",), ""),
        ("k = block*6 + j", ("k as a capture", "neither side"), ("{k:int}", "{block:int}, {j:int}")),
        ("i = block*6 + z", ("z has no value", "target side"), "{z:int} in the target pattern"),
        ("i = other*6 + j", ("other has no value", "target side"), "{other:int} in the target pattern"),
    ],
)
def test_numbers_that_are_not_made_of_others_are_refused(where, named, hint):
    with refused(RuleError, "where", *named, hint=hint) as caught:
        Rule.rearrange("h.{i:int}.w", "b_{j:int}.w", "out in -> block in out", where=where)
    assert str(caught.value).startswith("rule 'h.{i:int}.w' -> 'b_{j:int}.w': ")


@pytest.mark.parametrize(
    ("source", "target", "named", "hint"),
    [
        ("h.{i:int}", "b.{i:int}", ("i as a capture", "both sides"), ("{i:int}", "{a:int}, {b:int}")),
        ("h.{i}", "b.{a:int}.{b:int}", ("{i}", "'h.{i}'", "not a number"), "{i:int}"),
        ("h.{i:int}", "b.{a}.{b:int}", ("{a}", "not a number"), "{a:int}"),
        ("h.{i:int}.{a:int}", "b.{a:int}.{b:int}", ("a and i", "'h.{i:int}.{a:int}'"), "other side"),
    ],
)
def test_a_number_made_of_others_is_on_one_side(source, target, named, hint):
    with refused(RuleError, "where = 'i = a*2 + b'", *named, hint=hint):
        Rule.rearrange(source, target, where="i = a*2 + b")


def test_a_part_without_a_value_builds_no_number():
    with refused(RuleError, "'i = block*6 + j'", "j has no value", hint="{j:int}"):
        BLOCKS.build(BLOCKS.source, {"block": "0"})


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
    assert Expression.parse(str(rule.sizes["h"])) == rule.sizes["h"]


@pytest.mark.parametrize(
    ("size", "config", "named", "hint"),
    [
        ("config.head", CONFIG, ("'head'",), "Did you mean 'heads'?"),
        ("config.text.layer", CONFIG, ("'text.layer'",), "Did you mean 'layers'?"),
        ("config.text.size", CONFIG, ("'text.size'",), "another entry"),
        ("config.heads.size", CONFIG, ("'heads.size'",), "another entry"),
        ("config.heads", None, ("config.heads", "no config.json"), ("config.json", "number")),
        ("config.name", CONFIG, ("'name'", "got 'x'"), "number"),
        ("config.flag", CONFIG, ("'flag'", "got True"), "number"),
        ("config.hidden / 5", CONFIG, ("whole number", "'config.hidden / 5' = 12 / 5"), ""),
        ("config.hidden / 0", CONFIG, ("config.hidden / 0 cannot be computed for 12, 0",), ""),
    ],
)
def test_sizes_that_the_config_does_not_have_are_refused(size, config, named, hint):
    rule = Rule.rearrange("a", "b", "(h d) -> h d", sizes={"h": size}, origin="r.toml:4")
    with refused(RuleError, *named, hint=hint) as caught:
        resolve_sizes(rule, config)
    assert str(caught.value).startswith("r.toml:4: rule 'a' -> 'b': sizes.h: ")


@pytest.mark.parametrize(
    "size",
    [-1, True, 1.5, None, "config.", "4 /", "a b", "__import__('os')", "config.a.0", "[1, 2"],
)
def test_what_is_no_size_is_refused(size):
    with refused(RuleError, "sizes.h: "):
        Rule.rearrange("a", "b", "(h d) -> h d", sizes={"h": size})


def test_sizes_are_of_axes():
    with refused(RuleError, "sizes.hed: ", hint="Did you mean 'head'?"):
        Rule.rearrange("a", "b", "(head d) -> head d", sizes={"hed": 4})
    with refused(RuleError, "sizes.j", "where = 'i = a*2 + j'", hint="Remove sizes.j"):
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
    ("when", "named", "hint"),
    [
        ({"rnak": 2}, ("when.rnak",), "Did you mean 'rank'?"),
        ({"rank": "2"}, ("when.rank: ", "got '2'"), ""),
        ({"rank": True}, ("when.rank: ", "got True"), ""),
        ({"sizes": 3}, ("when.sizes: ", "{ in = 768 }", "got 3"), ""),
        ({"sizes": {"in": "3"}}, ("when.sizes.in: ", "got '3'"), ""),
        ({"sizes": {"inn": 3}}, ("when.sizes.inn: ",), "Did you mean 'in'?"),
        ({"config": 3}, ("when.config: ", "model_type", "got 3"), ""),
        ({"config": {"a": [1]}}, ("when.config.a: ", "got [1]"), ""),
    ],
)
def test_conditions_that_are_not_known_are_refused(when, named, hint):
    with refused(RuleError, *named, hint=hint) as caught:
        Rule.rearrange("a", "b", "out in -> in out", when=when)
    assert str(caught.value).startswith("rule 'a' -> 'b': ")


def test_only_moves_go_by_shapes():
    with refused(RuleError, "'rename'", "when.rank", hint="when.config"):
        Rule.rename("a", "b", when={"rank": 2})
    assert not Rule.rename("a", "b", when={"config": {"x": 1}}).applies(config={"x": 2})


def test_a_condition_on_an_unknown_config_is_refused():
    rule = Rule.rename("a", "b", when={"config": {"x": 1}}, origin="r.toml:2")
    with refused(RuleError, "when.config.x = 1", "no config.json", hint="config.json") as caught:
        rule.applies()
    assert str(caught.value).startswith("r.toml:2: rule 'a' -> 'b': ")


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
    with refused(RuleError, "'a': fill with 1", "no source"):
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
    with pytest.warns(DeprecationWarning, match=rf"\bRule\.{old}\b.*\bRule\.{new.__name__}\b") as seen:
        rule = getattr(Rule, old)(*arguments, **options)
    assert rule == new(*arguments, **options)
    assert rule.action == new.__name__
    assert seen[0].filename == __file__


@pytest.mark.parametrize(("old", "rule"), [("move", STACK), ("constant", Rule.fill("a", 1, reason="x"))])
def test_the_old_name_of_an_action_warns_and_works(old, rule):
    with pytest.warns(DeprecationWarning, match=f"'{old}'.*'{rule.action}'"):
        assert replace(rule, action=old) == rule


def test_the_old_names_of_what_a_rule_holds_warn_and_work():
    for old in ("radix", "flat_index"):
        with pytest.warns(DeprecationWarning, match=rf"\bRule\.{old}\b.*\bwhere\b"):
            assert getattr(BLOCKS, old) is BLOCKS.where
    with pytest.warns(DeprecationWarning, match=r"\bRule\.lists\b.*\blist_axes\b"):
        assert BLOCKS.lists is BLOCKS.list_axes
    with pytest.warns(DeprecationWarning, match=r"\bdrop\b.*\breason\b"):
        assert (gone("a").drop, STACK.drop) == ("not wanted", None)
