"""Keys: joined and split without loss, matched by patterns that can be undone, folded for reports."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from support.errors import refused

from bridge_core import KeyConflict, RuleError, as_key, join_key, split_name, split_names
from bridge_core.messages import fold_names
from bridge_core.rules.patterns import Pattern
from bridge_core.state.keys import (
    flat_names,
    flatten_tree,
    leaf_path,
    module_path,
    natural_order,
    separator_of,
    unflatten_tree,
)
from bridge_core.state.metadata import LayerInfo, StateMetadata

parts = st.text(st.sampled_from("ab.\\/*{}_01é\0"), min_size=0, max_size=4)
keys = st.lists(parts, min_size=1, max_size=4).map(tuple)
names = st.text(st.sampled_from("abc019_"), min_size=1, max_size=4)
plain_keys = st.lists(names, min_size=1, max_size=5).map(tuple)


@given(keys, st.sampled_from([".", "/"]))
def test_splitting_undoes_joining_for_any_parts(key, separator):
    assert split_name(join_key(key, separator, escape=True), separator, escaped=True) == key


@given(st.lists(st.text("ab.\\/", max_size=6)), st.sampled_from([".", "/"]), st.booleans())
def test_many_names_are_split_as_one_is_and_share_their_parts(flat, separator, escaped):
    split = list(split_names(flat, separator, escaped=escaped))
    assert split == [split_name(name, separator, escaped=escaped) for name in flat]
    parts = [part for key in split for part in key]
    assert len({*map(id, parts)}) == len({*parts})


@given(st.sets(keys, max_size=6))
def test_flat_names_are_unique_and_tell_whether_they_are_escaped(found):
    try:
        flat, escaped = flat_names(found)
    except KeyConflict:
        joined = [".".join(key) for key in found]
        assert len(set(joined)) < len(joined)
        return
    assert len(set(flat.values())) == len(found)
    assert {split_name(name, escaped=escaped) for name in flat.values()} == found


def test_two_keys_of_one_flat_name_are_refused_with_both():
    with refused(KeyConflict, "('a', 'b')", "('a.b',)", "'a.b'", hint="--format"):
        flat_names([("a", "b"), ("a.b",)])


def test_natural_order_counts():
    found = [("l", "10"), ("l", "9"), ("l", "b"), ("l", "1", "w"), ("l_2",), ("l_10",)]
    assert sorted(found, key=natural_order) == [
        ("l", "1", "w"),
        ("l", "9"),
        ("l", "10"),
        ("l", "b"),
        ("l_2",),
        ("l_10",),
    ]


@given(st.lists(keys, max_size=8))
def test_natural_order_orders_anything(found):
    assert sorted(sorted(found, key=natural_order), key=natural_order) == sorted(found, key=natural_order)


@given(st.dictionaries(plain_keys, st.integers(), max_size=8), st.sets(plain_keys, max_size=3))
def test_flattening_undoes_nesting(leaves, empty):
    def inner(key, others):
        return any(other != key and other[: len(key)] == key for other in others)

    leaves = {k: v for k, v in leaves.items() if not inner(k, leaves)}
    empty = {k for k in empty if k not in leaves and not inner(k, {*leaves, *empty})}
    empty = {k for k in empty if not any(k[:n] in leaves for n in range(1, len(k)))}
    found, nodes = flatten_tree(unflatten_tree(leaves, empty))
    assert found == leaves
    assert set(nodes) == empty


@pytest.mark.parametrize(
    ("leaves", "tensor", "other"),
    [
        ({("a",): 1, ("a", "b"): 2}, "a", "a.b"),
        ({("a", "b"): 2, ("a",): 1}, "a", "a.b"),
        ({("a", "b", "c"): 1, ("x",): 0, ("a", "b"): 2}, "a.b", "a.b.c"),
        ({("a",): 1, ("a", "b", "c"): 2}, "a", "a.b.c"),
    ],
)
def test_a_tensor_where_a_dict_is_needed_is_refused_with_both_keys(leaves, tensor, other):
    with refused(KeyConflict, repr(tensor), repr(other), "dict", hint="Rename", key=tuple(tensor.split("."))):
        unflatten_tree(leaves)


@pytest.mark.parametrize("path", [("a",), ("a", "b")])
def test_an_empty_node_at_or_below_a_tensor_is_refused(path):
    with refused(KeyConflict, "'a'", "dict", hint="Rename", key=("a",)):
        unflatten_tree({("a",): 1}, [path])


def test_a_tensor_without_a_name_is_refused():
    with refused(KeyConflict, "()", hint="Rename"):
        unflatten_tree({(): 1})


@pytest.mark.parametrize("tree", [{1: 0, "1": 0}, {None: 0}, {True: 0}, {("a",): 0}, {"a": {2.5: 1}}])
def test_names_that_are_none_are_refused(tree):
    with pytest.raises(KeyConflict):
        flatten_tree(tree)


def test_very_deep_trees_are_flattened():
    tree = leaf = {}
    for _ in range(5000):
        leaf["a"] = leaf = {}
    leaf["w"] = 1
    ((key, value),) = flatten_tree(tree)[0].items()
    assert (len(key), value) == (5001, 1)


segments = st.one_of(names, st.sampled_from(["*", "{i:int}", "{name}", "**", "w_{k:int}", "a{m}_{n:int}b"]))
patterns = st.lists(segments, min_size=1, max_size=5).filter(
    lambda found: all(found.count(s) <= 1 for s in {*found} if "{" in s or s == "**")
)


@given(patterns, plain_keys)
def test_filling_a_pattern_undoes_matching_it(found, key):
    pattern = Pattern.parse(".".join(found))
    captures = pattern.match(key)
    if captures is not None:
        assert pattern.fill(captures) == key
        assert set(captures) == set(pattern.captures)


@given(patterns, st.data())
def test_a_pattern_matches_what_it_was_filled_with(found, data):
    pattern = Pattern.parse(".".join(found))
    captures = {}
    for name in pattern.captures:
        if name == "**":
            captures[name] = "\0".join(data.draw(st.lists(names, max_size=3)))
        elif name in pattern.numbers:
            captures[name] = data.draw(st.sampled_from(["0", "7", "07", "10", "99"]))
        else:
            captures[name] = data.draw(names)
    assert pattern.match(pattern.fill(captures)) == captures


@given(patterns)
def test_a_pattern_reads_as_it_was_written(found):
    text = ".".join(found)
    assert str(Pattern.parse(text)) == text
    assert Pattern.parse(Pattern.parse(text)) == Pattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        ("a.**", "a", True),
        ("**.weight", "a.b.weight", True),
        ("a.**.c", "a.c", True),
        ("a.**.c", "a", False),
        ("a.{i:int}", "a.b", False),
        ("a.{i:int}", "a.٣", False),
        ("a.b", "a.b.c", False),
        ("a.**.b.c", "a.b.c", True),
        ("a.**.b.c", "a.c", False),
        ("**.a", "b.a.b", False),
        ("w_l{i:int}", "w_l12", True),
        ("w_l{i:int}", "w_l", False),
        ("w_l{i:int}", "w_l1x", False),
        ("w_l{i:int}", "w_l٣", False),
        ("{w}_l{i:int}", "_l1", False),
    ],
)
def test_what_fits(pattern, key, fits):
    assert (Pattern.parse(pattern).match(as_key(key)) is not None) is fits


@pytest.mark.parametrize("text", ["a.*b", "{x", "{x:float}", "a.{}", "***", "{x}.{x}", "**.a.**"])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(RuleError):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "key", "captures"),
    [
        ("lstm.weight_ih_l{i:int}", "lstm.weight_ih_l12", {"i": "12"}),
        ("layers_{i:int}.*", "layers_07.w", {"i": "07", "*0": "w"}),
        ("{w}_l{i:int}", "weight_l1_l2", {"w": "weight_l1", "i": "2"}),
        ("{i:int}_{w}", "1_2_x", {"i": "1", "w": "2_x"}),
        ("{i:int}_{j:int}x", "10_2x", {"i": "10", "j": "2"}),
        ("conv2{i:int}", "conv2123", {"i": "123"}),
        ("{w}_reverse", "a_reverse_reverse", {"w": "a_reverse"}),
    ],
)
def test_a_part_may_mix_literals_and_captures(pattern, key, captures):
    parsed = Pattern.parse(pattern)
    assert str(parsed) == pattern
    assert parsed.match(as_key(key)) == captures
    assert parsed.fill(captures) == as_key(key)
    assert parsed.captures == tuple(captures)


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("{w}_{b}_l{i:int}", ("two captures",), "{i:int}"),
        ("{i:int}{j:int}", ("between {i:int} and {j:int}",), "_"),
        ("{w}{i:int}", ("between {w} and {i:int}",), "_"),
        ("{i:int}0{j:int}", ("between {i:int} and {j:int}",), "_"),
        ("{w}12{i:int}", ("between {w} and {i:int}",), "_"),
        ("a_{i:int}.b_{i:int}", ("capture {i} twice",), "another name"),
        ("a.**.b.**", ("'**' 2 times",), "*"),
        ("a_{i:int}*", ("'{name:int}'",), "layer_{i:int}"),
    ],
)
def test_a_part_that_could_be_read_in_several_ways_is_refused(text, named, hint):
    with refused(RuleError, f"'{text}'", *named, hint=hint):
        Pattern.parse(text)


def test_a_pattern_tells_which_captures_are_numbers():
    assert Pattern.parse("{a}.x_{i:int}.*.{j:int}").numbers == ("i", "j")
    assert Pattern.parse("a.**").numbers == ()
    assert str(Pattern.parse("{a}.x_{b}y").with_numbers(["b", "c"])) == "{a}.x_{b:int}y"


@given(patterns, patterns, plain_keys)
def test_patterns_of_one_shape_match_the_same_keys(first, second, key):
    one, other = Pattern.parse(".".join(first)), Pattern.parse(".".join(second))
    if one.shape == other.shape:
        assert (one.match(key) is None) == (other.match(key) is None)


def test_names_of_captures_do_not_tell_patterns_apart_and_their_types_do():
    def shape(text):
        return Pattern.parse(text).shape

    assert shape("a.{i:int}.x_{j:int}.*") == shape("a.{n:int}.x_{m:int}.{p}")
    assert len({shape("a.{i}"), shape("a.{i:int}"), shape("a.**"), shape("a.i"), shape("a.x{i:int}")}) == 5


def test_an_unbound_capture_is_refused():
    with refused(RuleError, "'{x}.{y}'", "{y} has no value", hint="{y}"):
        Pattern.parse("{x}.{y}").fill({"x": "1"})


@given(st.lists(st.text(st.sampled_from("ab.0123456789"), min_size=1, max_size=6), max_size=12))
def test_folding_counts_every_name(found):
    assert sum(count for _, count in fold_names(found)) == len(found)


def test_folding_keeps_one_name_as_it_is():
    assert fold_names(["layers.007.w"]) == [("layers.7.w", 1)] or fold_names(["layers.007.w"]) == [
        ("layers.007.w", 1)
    ]
    assert fold_names(["a.1.x.5", "a.2.x.5"]) == [("a.{1..2}.x.5", 2)]
    assert fold_names([f"a.{i}" for i in (1, 3, 5)]) == [("a.{1,3,5}", 3)]


ATTENTION = LayerInfo("attention", "module", ("query.kernel", "scale"))


@pytest.mark.parametrize(
    ("key", "layer", "leaf"),
    [
        ("fc.kernel", "fc", "kernel"),
        ("attn.query.kernel", "attn", "query.kernel"),
        ("attn.query.bias", "attn.query", "bias"),
        ("attn.scale", "attn", "scale"),
        ("other.query.kernel", "other.query", "kernel"),
    ],
)
def test_a_key_belongs_to_the_layer_that_names_its_leaf_at_any_depth(key, layer, leaf):
    metadata = StateMetadata(layers={("attn",): ATTENTION, ("fc",): LayerInfo("linear", "rule", ("kernel",))})
    assert metadata.owner(as_key(key)) == (as_key(layer), leaf)
    assert leaf_path(as_key(layer), leaf) == as_key(key)


def test_a_key_of_one_part_belongs_to_the_root():
    assert StateMetadata().owner(("scale",)) == ((), "scale")
    assert module_path(("scale",)) == ()


@pytest.mark.parametrize(
    ("names", "separator"),
    [
        (["params/Dense_0/kernel", "params/Dense_0/bias"], "/"),
        (["mlp/~/linear_0/w", "step"], "/"),
        (["params.Dense_0.kernel", "norm.Dense_0/kernel/scale"], "."),
        (["Dense_0/kernel/scale", "a.b"], "."),
        (["weight", "bias"], "."),
        (["/params/kernel"], "."),
        (["a/b", "c//d"], "."),
        (["a/b", "c/"], "."),
        (["", "a/b"], "/"),
        ([], "."),
    ],
)
def test_the_separator_is_that_of_all_names(names, separator):
    assert separator_of(names) == separator
    assert separator_of(reversed(names)) == separator
