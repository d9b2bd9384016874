"""Numbers in names that others give: offsets, strides, lists of starts and counts, there and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import random_array
from support.errors import refused
from support.examples import examples
from support.rule_files import assert_holds, saved, state_of

import bridge_flax
import bridge_torch
from bridge_core import Rule, RuleError, convert, load_rules
from bridge_core.axes import SizeLookup
from bridge_core.rules import Pattern, Where
from bridge_core.rules.records import identity_of_record, identity_of_rule, read_recorded, recorded
from bridge_core.state import unflatten_tree

BOTH = ("torch", "flax")
DEPTHS = (3, 4, 6, 3)


def key(name):
    return tuple(name.split("."))


# -- numbers ----------------------------------------------------------------------------------------


@st.composite
def equations(draw):
    """Text, names of parts, and the numbers of parts that are valid."""
    bounds = draw(st.lists(st.integers(2, 9), max_size=2))
    names = ["a", "b", "c"][: len(bounds) + 1]
    unit = draw(st.sampled_from([1, 1, 1, 2, 5]))
    factors = [unit * math.prod(bounds[n:]) for n in range(len(names))]
    constant = draw(st.integers(0, 50))
    limits = [draw(st.integers(1, 10**6)), *bounds]
    terms = [
        f"{f}*{name}" if draw(st.booleans()) else f"{name} * {f}"
        for name, f in zip(names, factors, strict=True)
    ]
    terms.append(str(constant))
    if draw(st.booleans()):
        spans = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
        starts = [sum(spans[:n]) * factors[0] for n in range(len(spans))]
        shift = draw(st.integers(-1, 1))
        terms.append(f"{starts}[s{shift:+}]" if shift else f"{starts}[s]")
        place = draw(st.integers(max(shift, 0), len(spans) - 1))
        limits[0] = spans[place] if place + 1 < len(spans) else limits[0]
        parts = {"s": place - shift}
    else:
        parts = {}
    parts.update((name, draw(st.integers(0, limit - 1))) for name, limit in zip(names, limits, strict=True))
    return "n = " + " + ".join(draw(st.permutations(terms))), parts


@given(equations(), st.integers(0, 10**7))
@settings(max_examples=examples(40), deadline=None)
def test_splitting_a_number_and_joining_it_are_inverse(made, number):
    text, parts = made
    where = Where.parse(text)
    texts = {name: str(part) for name, part in parts.items()}
    whole = where.join(texts, ("n",))["n"]
    assert where.split({"n": whole}) == texts
    split = where.split({"n": str(number)})
    assert split is None or where.join(split, ("n",))["n"] == str(number)
    again = Where.parse(str(where))
    assert (again, str(again)) == (where, str(where))
    assert again.split({"n": whole}) == texts


@settings(max_examples=examples(20), deadline=None)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=1))
def test_a_count_numbers_what_exists(pairs):
    where = Where.parse("n counts s, b").at(SizeLookup({}), {"n counts s, b": tuple(sorted(pairs))})
    for place, (s, b) in enumerate(sorted(pairs)):
        parts = {"s": str(s), "b": str(b)}
        assert where.split({"n": str(place)}) == parts
        assert where.join(parts, ("n",)) == {**parts, "n": str(place)}
    assert where.split({"n": str(len(pairs))}) is None


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("i = block*6 + j", "i = block*6 + j"),
        ("i=j+6*block", "i = block*6 + j"),
        ("i = 1 + 2*(b + 3)", "i = b*2 + 7"),
        ("n=m- 1", "n = m - 1"),
        ("n = starts[ s-1 ]+b", "n = starts[s - 1] + b"),
        ("i = 6*(config.n // 6)+r", "i = 6 * (config.n // 6) + r"),
        ("n  counts s ,b", "n counts s, b"),
        (["i = j + 1", "2<=i<9"], "i = j + 1; 2 <= i < 9"),
        ("config.kinds[i] == 'a = b; c'", "config.kinds[i] == 'a = b; c'"),
        ((), ""),
    ],
)
def test_texts_are_read_and_written(given, text):
    where = Where.parse(given, {"starts"})
    assert str(where) == text
    assert Where.parse(text, {"starts"}) == where
    assert bool(where) == bool(text)


@pytest.mark.parametrize("wrong", [3, [3], {"i": 6}.keys() | {1}, ["i = j", None]])
def test_texts_are_texts(wrong):
    with refused(RuleError, "where", "'i = block*6 + j'"):
        Rule.rename("a.{i:int}", "b.{j:int}", where=wrong)


def shifted(where, **options):
    return Rule.rename("x{s:int}.{b:int}", "y{n:int}", where=where, **options)


@pytest.mark.parametrize(
    ("where", "name", "named"),
    [
        ("n = [0, 3, 7][s - 1] + b", "x1.3", ("at most 3 numbers for s = 1", "b = 3")),
        ("n = [0, 3, 7][s - 1] + b", "x0.1", ("s from 1 to 3", "got 0")),
        ("n = [0, 3, 7][s - 1] + b", "x4.1", ("s from 1 to 3", "got 4")),
        ("n = s*4 + b", "x4.4", ("b below 4", "got 4")),
        ("n = s*4 + b - 9", "x1.1", ("the parts give -4",)),
        ("n = s*4 + b", "x4.03", ("leading zeros", "'03'")),
        (["n = s*4 + b", "n < 10"], "x4.1", ()),
        (["n counts s, b", "s < 2", "b < 2"], "x2.0", ()),
        ("n = config.k*s + b", "x2.0", ("config.k", "config.json")),
        ("n = starts[s] + b", "x2.0", ("starts",)),
        ("n counts s, b", "x2.0", ("values of s, b are not known",)),
    ],
)
def test_parts_that_contradict_an_index_are_refused(where, name, named):
    rule = shifted(where, sizes={"starts": "config.starts"} if "starts" in where else None)
    if not named:
        assert rule.renamed(key(name)) is None or "counts" in str(rule.where)
        return
    with refused(RuleError, "'x{s:int}.{b:int}' -> 'y{n:int}'", "where = 'n ", *named):
        rule.renamed(key(name))


def test_a_size_without_a_value_says_how_to_pass_one():
    with refused(RuleError, "starts", hint="--set starts="):
        shifted("n = starts[s] + b", sizes={"starts": "?"}).renamed(key("x2.0"))


def test_a_number_that_parts_do_not_give_does_not_match():
    rules = [
        Rule.rename("layer_norm{n:int}", "LayerNorm_{m:int}", where="n = m + 1"),
        Rule.rename("l{i:int}", "even{b:int}", where="i = 2*b"),
        Rule.rename("l{i:int}", "odd{b:int}", where="i = 2*b + 1"),
        Rule.rename("t{i:int}", "rest{r:int}", where=["i = 24 + r", "i < 26"]),
        Rule.drop("u{i:int}", "more than the model has", where="i >= 3"),
    ]
    names = {
        "layer_norm0": [None] * 5,
        "layer_norm1": ["LayerNorm_0", None, None, None, None],
        "l4": [None, "even2", None, None, None],
        "l5": [None, None, "odd2", None, None],
        "t23": [None] * 5,
        "t25": [None, None, None, "rest1", None],
        "t26": [None] * 5,
    }
    for name, news in names.items():
        assert [rule.renamed(key(name)) for rule in rules] == [new and key(new) for new in news]
        for rule, new in zip(rules, news, strict=True):
            assert new is None or rule.reversed().renamed(key(new)) == key(name)
    assert rules[3].reversed().renamed(key("rest2")) is None
    assert [rules[4].bind(rules[4].source, key(name)) for name in ("u2", "u3")] == [None, {"i": "3"}]


@given(st.text(alphabet="0123456789", min_size=1, max_size=5000))
@settings(max_examples=examples(20), deadline=None)
def test_numbers_of_any_length_are_refused_or_split(digits):
    rule = Rule.rename("l{i:int}", "b{k:int}.{j:int}", where=["i = k*6 + j", "i != 7"])
    try:
        new = rule.renamed((f"l{digits}",))
    except RuleError:
        assert digits.startswith("0") or len(digits) > 18
    else:
        assert new is None or rule.reversed().renamed(new) == (f"l{digits}",)


def test_a_count_is_bounded_by_comparisons():
    bounds = ["n counts s, b", "1 <= s <= 4", "b < [3, 4, 6, 3][s - 1]"]
    rule = shifted(bounds)
    made = [rule.reversed().renamed((f"y{n}",)) for n in range(17)]
    assert made == [(f"x{s + 1}", str(b)) for s, d in enumerate(DEPTHS) for b in range(d)] + [None]
    for wrong, named in (("s >= 0", "upper bound"), ("s < 1; b < 10**9", "10000")):
        with refused(RuleError, "where = 'n counts s, b'", named, hint=("--like", "1 <= s <= 4")):
            shifted(["n counts s, b", wrong]).renamed(key("x0.1"))


# -- rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        Rule.rename("a{n:int}.*", "b{m:int}.*", where="n = m + 1", optional=True),
        Rule.rearrange("a.{i:int}", "b", "o -> r o", where="i = 6*(config.n // k) + r", sizes={"k": 6}),
        Rule.rearrange(
            "a.{s:int}.{b:int}",
            "b.{n:int}",
            where=["n = starts[s] + b", "s < 3"],
            sizes={"starts": [0, 3, 7]},
        ),
        Rule.rename("a.{s:int}.{b:int}", "b.{n:int}", where="n counts s, b"),
        Rule.drop("a.{i:int}", "none", where="config.kinds[i] == 'x'", fill=0),
    ],
)
def test_rules_are_recorded_as_they_are_written(rule):
    for one in (rule, rule.reversed()):
        record = recorded(one, "torch")
        assert identity_of_record(record) == identity_of_rule(one)
        assert "described" not in json.loads(record.text)
        read = read_recorded(record)
        assert (read.where, read.sizes) == (one.where, one.sizes)
    counted = rule.where.at(SizeLookup({}), {"n counts s, b": ((1, 0), (1, 1))})
    record = recorded(Rule.rename("a.{s:int}.{b:int}", "b.{n:int}", where="n counts s, b"), "torch")
    if rule.where.counts:
        with_pairs = recorded(type(rule)("rename", rule.sources, rule.targets, where=counted), "torch")
        assert "[[1, 0], [1, 1]]" in with_pairs.text
        assert identity_of_record(with_pairs) == identity_of_record(record) == identity_of_rule(rule)
        assert read_recorded(with_pairs) == read_recorded(record)


def test_rules_of_other_numbers_do_not_overlap(tmp_path):
    path = tmp_path / "r.toml"
    text = """
[[rule]]
source = "l{{i:int}}.**"
rename = "even{{b:int}}.**"
where = "i = 2*b"
[[rule]]
source = "l{{i:int}}.**"
rename = "odd{{b:int}}.**"
where = ["i = 2*b{more}", "i < 10"]
"""
    path.write_text(text.format(more=" + 1"))
    assert [rule.where.texts for rule in load_rules(path)] == [("i = b*2",), ("i = b*2 + 1", "i < 10")]
    tensors = {f"l{i}.gain": random_array((2,), "float32", seed=i) for i in range(4)}
    with refused(RuleError, "two rules match this tensor", key=key("l0.gain")):
        path.write_text(text.format(more=""))
        convert(
            saved(tensors, "torch", tmp_path / "a.safetensors"), tmp_path / "b.msgpack", to="flax", rules=path
        )


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("l{s:int}.{b}", "k", ("n is an axis", "'l{s:int}.{b}' has not")),
        ("l{s:int}.{c:int}", "k{c:int}", ("n is an axis", "'l{s:int}.{c:int}' has not")),
        ("l", "k", ("n is an axis", "no pattern has")),
    ],
)
def test_an_axis_is_a_number_of_all_its_parts(source, target, named):
    with refused(RuleError, "where = 'n counts s, b'", *named, hint="{s:int}, {b:int}"):
        Rule.rearrange(source, target, "o i -> n o i", where="n counts s, b")


@pytest.mark.parametrize("where", [["n = m + 1", "m = k + 1"], ["n = m + 1", "n = m + 2"]])
def test_a_number_is_computed_once(where):
    with refused(RuleError, "where = ", "n"):
        Rule.rename("a.{n:int}", "b.{m:int}", where=where)


def test_an_index_is_no_rule_of_layers():
    with refused(RuleError, "'layer' cannot have 'where'"):
        Rule.layer("a.{i:int}", "linear", where="i < 3")


# -- there and back ---------------------------------------------------------------------------------


def arrays(names, shape=(4, 3)):
    return {name: random_array(shape, "float32", seed=n) for n, name in enumerate(names)}


def moved(tensors, names, **more):
    return {**{new: tensors[old] for old, new in names.items()}, **more}


def resnet(name):
    """Blocks by stage in torch, by number in Flax; only the first of a stage has a downsample."""
    blocks = [(s + 1, b) for s, depth in enumerate(DEPTHS) for b in range(depth)]
    names = {f"layer{s}.{b}.conv.{name}": f"Block_{n}.conv.{name}" for n, (s, b) in enumerate(blocks)}
    down = {f"layer{s}.{b}.down.gain": f"Block_{n}.proj.gain" for n, (s, b) in enumerate(blocks) if not b}
    return names, down


def case_shift():
    rules = [Rule.rename("layer_norm{n:int}.*", "LayerNorm_{m:int}.*", where="n = m + 1", layouts=BOTH)]
    source = arrays([f"layer_norm{n + 1}.{leaf}" for n in range(3) for leaf in ("gain", "shift")])
    names = {
        f"layer_norm{n + 1}.{leaf}": f"LayerNorm_{n}.{leaf}" for n in range(3) for leaf in ("gain", "shift")
    }
    return rules, source, moved(source, names), {}


def case_shift_of_moves():
    rules = [Rule.rearrange("ln{n:int}.gain", "LN_{m:int}.k", "o i -> i o", where="n = m + 1", layouts=BOTH)]
    source = arrays([f"ln{n + 1}.gain" for n in range(3)])
    return rules, source, {f"LN_{n}.k": source[f"ln{n + 1}.gain"].T for n in range(3)}, {}


def case_starts(where=("n = [0, 3, 7, 13][s - 1] + b",), **more):
    more.update(where=where, layouts=BOTH)
    rules = [
        Rule.rename("layer{s:int}.{b:int}.conv.*", "Block_{n:int}.conv.*", **more),
        Rule.rearrange("layer{s:int}.{b:int}.down.gain", "Block_{n:int}.proj.gain", "o i -> i o", **more),
    ]
    names, down = resnet("gain")
    source = arrays([*names, *down])
    turned = {new: source[old].T for old, new in down.items()}
    return rules, source, moved(source, names, **turned), {}


def case_counts():
    return case_starts(("n counts s, b", "1 <= s <= 4", "b < [3, 4, 6, 3][s - 1]"))


def stack(where):
    sides = "h.{i:int}.gain", "b.in_{j:int}.k", "o i_ -> block i_ o"
    return Rule.rearrange(*sides, where=where, layouts=BOTH)


def case_remainder():
    count = 14
    full = "6*(config.num_hidden_layers // 6)"
    rules = [
        Rule.rearrange(
            "h.{i:int}.gain",
            "b.in_{j:int}.k",
            "o i_ -> block i_ o",
            where=["i = block*6 + j", f"i < {full}"],
            layouts=BOTH,
        ),
        Rule.rearrange(
            "h.{i:int}.gain", "rest_{r:int}.k", "o i -> i o", where=f"i = {full} + r", layouts=BOTH
        ),
    ]
    source = arrays([f"h.{i}.gain" for i in range(count)])
    target = {f"b.in_{j}.k": np.stack([source[f"h.{b * 6 + j}.gain"].T for b in range(2)]) for j in range(6)}
    target.update({f"rest_{r}.k": source[f"h.{12 + r}.gain"].T for r in range(2)})
    return rules, source, target, {"num_hidden_layers": count}


def case_ragged():
    """The last block ends early, at a bound."""
    rules = [
        Rule.rearrange(
            "h.{i:int}.gain",
            "b.in_{j:int}.k",
            "o i_ -> block i_ o",
            where=["i = block*6 + j", "i < 8"],
            layouts=BOTH,
        )
    ]
    source = arrays([f"h.{i}.gain" for i in range(8)])
    blocks = [[i for i in range(8) if i % 6 == j] for j in range(6)]
    target = {f"b.in_{j}.k": np.stack([source[f"h.{i}.gain"].T for i in b]) for j, b in enumerate(blocks)}
    return rules, source, target, {}


def case_parity():
    rules = [
        Rule.rearrange("h.{i:int}.gain", "local.k", "o i_ -> b i_ o", where="i = 2*b", layouts=BOTH),
        Rule.rearrange("h.{i:int}.gain", "global_{b:int}.k", "o i -> i o", where="i = 2*b + 1", layouts=BOTH),
    ]
    source = arrays([f"h.{i}.gain" for i in range(5)])
    target = {f"global_{b}.k": source[f"h.{2 * b + 1}.gain"].T for b in range(2)}
    return rules, source, {**target, "local.k": np.stack([source[f"h.{i}.gain"].T for i in (0, 2, 4)])}, {}


def case_kinds():
    kinds = ["full", "sliding", "sliding", "full"]
    rules = [
        Rule.rename(
            "h.{i:int}.**", f"{kind}_{{i:int}}.**", where=f"config.layer_types[i] == '{kind}'", layouts=BOTH
        )
        for kind in ("full", "sliding")
    ]
    source = arrays([f"h.{i}.gain" for i in range(4)])
    return (
        rules,
        source,
        {f"{k}_{i}.gain": source[f"h.{i}.gain"] for i, k in enumerate(kinds)},
        {"layer_types": kinds},
    )


def case_stacked_by_kind():
    """The layers of one kind, stacked in their order."""
    kinds = ["sliding", "full", "sliding", "full", "full"]
    where = "config.kinds[i] == '{}'"
    rules = [
        Rule.rearrange(
            "h.{i:int}.gain",
            f"{kind}.k",
            f"o i_ -> i_ {n} o",
            where=[f"{n} counts i", where.format(kind), "i < config.layers"],
            layouts=BOTH,
        )
        for n, kind in (("n", "full"), ("m", "sliding"))
    ]
    source = arrays([f"h.{i}.gain" for i in range(5)])
    places = {kind: [i for i in range(5) if kinds[i] == kind] for kind in kinds}
    target = {f"{k}.k": np.stack([source[f"h.{i}.gain"].T for i in own], 1) for k, own in places.items()}
    return rules, source, target, {"kinds": kinds, "layers": 5}


def case_stacked_by_starts():
    where = "n = [0, 3][s - 1] + b"
    rules = [Rule.rearrange("l{s:int}.{b:int}.gain", "l.k", "o i -> n i o", where=where, layouts=BOTH)]
    source = arrays([f"l{s}.{b}.gain" for s, b in ((1, 0), (1, 1), (1, 2), (2, 0), (2, 1))])
    return rules, source, {"l.k": np.stack([array.T for array in source.values()])}, {}


CASES = [make for name, make in list(globals().items()) if name.startswith("case_")]


@pytest.fixture(scope="module")
def everything():
    """The rules, tensors and configs of all cases, each below a name of its own."""
    rules, source, target, config = [], {}, {}, {}
    for number, make in enumerate(CASES):
        more, before, after, entries = make()
        for rule in more:
            sides = (
                tuple(Pattern.parse(f"p{number}.{p}") for p in side) for side in (rule.sources, rule.targets)
            )
            rules.append(replace(rule, **dict(zip(("sources", "targets"), sides, strict=True))))
        source.update((f"p{number}.{name}", array) for name, array in before.items())
        target.update((f"p{number}.{name}", array) for name, array in after.items())
        config.update(entries)
    return rules, source, target, config


@pytest.fixture
def folder(tmp_path):
    """A maker of folders with a config."""

    def make(name, config):
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        return path

    return make


@pytest.mark.parametrize("like", [False, True])
def test_files_are_converted_there_and_back(folder, everything, like):
    rules, source, target, config = everything
    here, there, back = (folder(name, config) for name in ("here", "there", "back"))
    before = saved(source, "torch", here / "a.safetensors")
    known = {"like": saved(target, "flax", here / "like.msgpack")} if like else {}
    convert(before, there / "b.msgpack", to="flax", rules=rules, **known)
    assert_holds(there / "b.msgpack", target)
    known = {"like": before} if like else {}
    convert(there / "b.msgpack", back / "c.safetensors", to="torch", rules=rules, **known)
    assert_holds(back / "c.safetensors", source)


@pytest.mark.parametrize("again", [False, True], ids=["recorded", "given again"])
def test_two_steps_do_the_same(folder, everything, again):
    rules, source, target, config = everything
    here, there, back, end = (folder(name, config) for name in ("here", "there", "back", "end"))
    given = {"rules": rules} if again else {}
    before = saved(source, "torch", here / "a.safetensors")
    convert(before, there / "n.safetensors", to="neutral", rules=rules)
    convert(there / "n.safetensors", there / "b.msgpack", to="flax", **given)
    assert_holds(there / "b.msgpack", target)
    convert(there / "b.msgpack", back / "n.safetensors", to="neutral", rules=rules)
    convert(back / "n.safetensors", end / "c.safetensors", to="torch", **given)
    assert_holds(end / "c.safetensors", source)
    if again:  # from the neutral form back to where it came from
        convert(there / "n.safetensors", end / "d.safetensors", to="torch", rules=rules)
        assert_holds(end / "d.safetensors", source)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_two_steps_in_memory(again):
    rules, source, target, _ = case_counts()
    given = {"rules": rules} if again else {}
    neutral = bridge_torch.to_neutral(state_of(source, "torch"), rules=rules)
    flax_tree = bridge_flax.from_neutral(neutral, **given)
    tree = unflatten_tree({key(name): array for name, array in target.items()})
    assert_holds(bridge_torch.from_neutral(bridge_flax.to_neutral(tree, rules=rules), **given), source)
    flat = {}

    def walk(node, path=()):
        for name, child in node.items():
            if hasattr(child, "items"):
                walk(child, (*path, name))
            else:
                flat[".".join((*path, name))] = np.asarray(child)

    walk(flax_tree)
    assert_holds(flat, target)


@pytest.mark.parametrize("open_size", [False, True])
def test_counts_come_from_names_or_from_the_template(tmp_path, open_size):
    where = ["n counts s, b", "1 <= s <= 4", "b < depths[s - 1]"] if open_size else ["n counts s, b"]
    rules, source, target, _ = case_starts(where, sizes={"depths": "?"} if open_size else {})
    before = saved(source, "torch", tmp_path / "a.safetensors")
    convert(before, tmp_path / "b.msgpack", to="flax", rules=rules)
    assert_holds(tmp_path / "b.msgpack", target)
    convert(tmp_path / "b.msgpack", tmp_path / "c.safetensors", to="torch", rules=rules, like=before)
    assert_holds(tmp_path / "c.safetensors", source)
    hint = ("--like", "--set depths=" if open_size else "where = [")
    with refused(RuleError, "n counts s, b", hint=hint):
        convert(tmp_path / "b.msgpack", tmp_path / "d.safetensors", to="torch", rules=rules)
    # In two steps the numbers are recorded, though the renames are done and only downsamples wait.
    convert(before, tmp_path / "n.safetensors", to="neutral", rules=rules)
    convert(tmp_path / "n.safetensors", tmp_path / "e.msgpack", to="flax")
    assert_holds(tmp_path / "e.msgpack", target)
    convert(tmp_path / "n.safetensors", tmp_path / "f.safetensors", to="torch", rules=rules)
    assert_holds(tmp_path / "f.safetensors", source)


def test_counts_of_a_stage_are_those_of_the_names_it_sees():
    from bridge_core.resolve.printed_names import NamedSide
    from bridge_core.resolve.rule_reading import read_rules

    names = [key(f"net.{s}-{b}.gain") for s, b in ((1, 0), (1, 2), (3, 0))]
    rules = [
        Rule.rename("net.{s:int}-{b:int}.*", "layer{s:int}.{b:int}.*"),
        Rule.rename("layer{s:int}.{b:int}.*", "Block_{n:int}.*", where="n counts s, b", stage=1),
    ]
    _, counted = read_rules([(rule, NamedSide((), names), NamedSide(())) for rule in rules], None)
    assert [counted.renamed(key(f"layer{s}.{b}.gain")) for s, b in ((1, 0), (1, 2), (3, 0))] == [
        key(f"Block_{n}.gain") for n in range(3)
    ]
    back = [rule.reversed() for rule in rules][::-1]
    counted, _ = read_rules([(rule, NamedSide(()), NamedSide((), names)) for rule in back], None)
    assert counted.renamed(key("Block_1.gain")) == key("layer1.2.gain")


def test_a_stack_is_not_longer_than_its_bound(tmp_path):
    rules, _, target, _ = case_ragged()
    target["b.in_2.k"] = np.concatenate([target["b.in_2.k"]] * 2)
    before = saved(target, "flax", tmp_path / "b.msgpack")
    with refused(RuleError, "'i < 8' does not hold for i = 8"):
        convert(before, tmp_path / "a.safetensors", to="torch", rules=rules)


def test_a_stack_is_not_longer_than_what_is_counted(folder):
    rules, _, target, config = case_stacked_by_kind()
    target["full.k"] = np.concatenate([target["full.k"]] * 2, 1)
    path = folder("here", config)
    before = saved(target, "flax", path / "b.msgpack")
    with refused(RuleError, "where = 'n counts i'", "n = 3"):
        convert(before, path / "a.safetensors", to="torch", rules=rules)


@pytest.mark.parametrize(
    ("missing", "where", "named"),
    [
        ((8,), ["i = block*6 + j"], ("complete blocks of 6", "3 missing", "9, 10, 11")),
        ((7,), ["i = block*6 + j", "i < 9"], ("missing", "i = 7")),
        ((), ["i = block*6 + j", "i < 9", "i != 4"], ("missing: i = 8.",)),
        ((10**17,), ["i = block*6 + j", "i < 10**18"], ("missing", "h.10.gain")),
        ((10**17,), ["i = block*6 + j", "i >= 10**12"], ("missing",)),
    ],
)
def test_gaps_are_refused(tmp_path, missing, where, named):
    rules = [Rule.rearrange("h.{i:int}.gain", "b.in_{j:int}.k", "o i_ -> block i_ o", where=where)]
    if where[-1] == "i >= 10**12":  # the blocks are in names, too
        rules = [Rule.rearrange("h.{i:int}.gain", "b{block:int}.in_{j:int}.k", where=where)]
    numbers = [i for i in range(8) if i not in missing] + [i for i in missing if i > 7]
    if missing == (7,):
        numbers.append(8)
    before = saved(arrays([f"h.{i}.gain" for i in numbers]), "torch", tmp_path / "a.safetensors")
    with refused(RuleError, *named):
        convert(before, tmp_path / "b.msgpack", to="flax", rules=rules, allow_unexpected=["**"])
