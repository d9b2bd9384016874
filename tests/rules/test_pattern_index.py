"""The index finds what the plain loop over all patterns and all keys finds, in the same order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings, strategies as st
from support.examples import examples

from bridge_core import BridgeError, FlatState, Rule, RuleError, plan_conversion
from bridge_core.rules import KeyIndex, Pattern, PatternIndex

words = st.sampled_from(["a", "b", "layers", "layers_0", "w", "weight", "0", "1", "12"])
keys = st.lists(words, max_size=5).map(tuple)
parts = st.one_of(
    words,
    st.sampled_from(
        ["*", "{n}", "{i:int}", "layers_{j:int}", "{m}_0", "{a|layers.0|}", "{w|weight}", "lay{ers|}"]
    ),
)
often = settings(max_examples=examples(150), deadline=None)


@st.composite
def patterns(draw):
    segments = draw(st.lists(parts, max_size=4, unique_by=lambda part: part if "{" in part else object()))
    if draw(st.booleans()):
        segments.insert(draw(st.integers(0, len(segments))), "**")
    try:
        return Pattern.parse(tuple(segments))
    except RuleError:  # alternatives leave no part
        reject()


def matching(pattern, names):
    return [name for name in names if pattern.match(name) is not None]


@often
@given(st.lists(st.lists(patterns(), max_size=2), max_size=8), st.lists(keys, max_size=8))
def test_the_patterns_that_match_a_key_are_among_those_found(groups, names):
    index = PatternIndex(groups)
    for name in names:
        found = list(index.candidates(name))
        assert found == sorted(set(found))
        wanted = [n for n, group in enumerate(groups) if any(matching(p, [name]) for p in group)]
        assert [n for n in found if n in wanted] == wanted


@often
@given(st.lists(patterns(), min_size=1, max_size=3), st.lists(keys, max_size=12, unique=True))
def test_the_keys_that_a_pattern_matches_are_among_those_found(group, names):
    index = KeyIndex(names)
    for _ in range(2):  # what a place holds is gathered once
        found = list(index.candidates(*group))
        wanted = [name for name in names if any(matching(p, [name]) for p in group)]
        assert [name for name in found if name in wanted] == wanted
        assert found == [name for name in names if name in found]
    assert [index.has_match(p) for p in group] == [bool(matching(p, names)) for p in group]


def test_few_are_found_of_many():
    groups = [[Pattern.parse(f"model.{{i:int}}.part_{n}.**")] for n in range(50)]
    names = [("model", str(i), f"part_{n}", leaf) for n in range(50) for i in range(3) for leaf in "ab"]
    assert list(PatternIndex(groups).candidates(names[-1])) == [49]
    assert list(KeyIndex(names).candidates(groups[7][0])) == names[42:48]


modules = st.sampled_from(["enc", "dec.{i:int}", "{t}.0", "**.proj", "*.1", "{enc|dec}.{i:int}"])


@st.composite
def some_rules(draw):
    source = draw(modules)
    options = {"optional": draw(st.booleans()), "fallback": draw(st.booleans())}
    match draw(st.sampled_from(["rename", "drop", "layer", "rearrange"])):
        case "rename":
            target = draw(st.sampled_from([f"new.{source}", f"{source}.new"]))
            rest = "" if "**" in source else ".**"
            return Rule.rename(source + rest, target + rest, **options)
        case "drop":
            return Rule.drop(
                f"{source}.bias", "not needed", fill=draw(st.sampled_from([None, 0.0])), **options
            )
        case "layer":
            return Rule.layer(source, draw(st.sampled_from(["linear", "parameter"])), **options)
    ops = draw(st.sampled_from([(), "o i -> i o"]))
    return Rule.rearrange(f"{source}.weight", f"{source}.moved", ops, optional=options["optional"])


def outcome(state, rules, like, to):
    try:
        return plan_conversion(state, to=to, rules=rules, like=like, check=False).to_json()
    except BridgeError as err:
        return type(err), str(err)


@pytest.fixture(scope="module")
def sides():
    modules = ("enc", "dec.0", "dec.1", "enc.0", "dec.1.proj")
    shapes = {"weight": (2, 3), "bias": (2,)}
    tensors = {f"{m}.{leaf}": np.zeros(shape, "f4") for m in modules for leaf, shape in shapes.items()}
    state = FlatState(tensors, layout="torch")
    return state, plan_conversion(state, to="flax", accept_guesses=True).apply(state)


@settings(max_examples=examples(60), deadline=None)
@given(rules=st.lists(some_rules(), min_size=1, max_size=4), turned=st.booleans(), with_like=st.booleans())
def test_plans_and_refusals_are_those_of_the_plain_loop(sides, rules, turned, with_like):
    (source, like), to = (sides[::-1], "torch") if turned else (sides, "flax")
    found = outcome(source, rules, like if with_like else None, to)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PatternIndex, "__init__", lambda self, groups: setattr(self, "count", len(list(groups)))
        )
        patch.setattr(PatternIndex, "candidates", lambda self, key: range(self.count))
        patch.setattr(KeyIndex, "candidates", lambda self, *patterns: iter(self._keys))
        assert found == outcome(source, rules, like if with_like else None, to)
