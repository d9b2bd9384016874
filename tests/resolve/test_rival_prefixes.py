"""Of prefixes that match a template alike, none is chosen."""

import re

import numpy as np
import pytest
from support.errors import refused

import bridge_core
from bridge_core import MismatchError, Rule
from bridge_core.resolve.path_matching import match_paths


def paths(*names):
    return [tuple(name.split(".")) for name in names]


def under(prefix, *names):
    return paths(*(f"{prefix}.{name}" for name in names))


MANY = [f"layers.{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("source", "target", "rivals", "side"),
    [
        (under("student", "fc") + under("teacher", "fc"), paths("fc"), "student teacher", "source"),
        (
            under("model", "a", "b") + under("ema", "a", "b") + paths("o.x", "o.y", "o.z"),
            paths("a", "b"),
            "model ema",
            "source",
        ),
        (
            under("s", "a", "b", "p", "q", "r") + under("t", "a", "b"),
            paths("a", "b"),
            "s t",
            "source",
        ),
        (under("m.s", "a", "b") + under("m.t", "a", "b"), paths("a", "b"), "m.s m.t", "source"),
        (under("net_0", "a") + under("net_1", "a"), paths("a"), "net_0 net_1", "source"),
        (
            under("s", *MANY) + under("t", *MANY[:-1]),
            paths(*MANY, "head"),
            "s t",
            "source",
        ),
        (paths("a", "b"), under("s", "a", "b") + under("t", "a", "b"), "s t", "template"),
        (
            under("s", "a", "b") + under("t", "a", "b"),
            under("net", "a", "b"),
            "s t",
            "source",
        ),
    ],
    ids=["two", "no half", "other counts", "deep", "numbered", "nearly", "template", "replaced"],
)
def test_rivals_are_named_and_none_is_chosen(source, target, rivals, side):
    for given in (source, source[::-1]):
        match = match_paths(given, target)
        assert match.targets == {}
        assert match.rivals.side == side
        assert sorted(match.rivals.names) == sorted(rivals.split())


@pytest.mark.parametrize(
    ("source", "target", "matched"),
    [
        (paths("fc", "student.fc", "teacher.fc"), paths("fc"), 1),
        (under("s", *MANY) + under("t", *MANY[:-1]), paths(*MANY), 20),
        (under("g", "a", "b", "c") + under("d", "a", "x", "y"), paths("a", "b", "c"), 3),
        (under("bert", "a", "b", "c") + paths("cls.x"), paths("a", "b", "c"), 3),
        (under("backbone", "a", "b"), paths("a", "b", "head"), 2),
        (under("s", "a", "b") + under("t", "x", "y"), paths("a", "b", "x", "y"), 2),
        (paths("encoder.a", "decoder.a"), paths("encoder.a", "decoder.a", "x"), 2),
    ],
    ids=["exact", "complete", "other parts", "one prefix", "head missing", "two parts", "both exact"],
)
def test_a_better_match_has_no_rivals(source, target, matched):
    for given in (source, source[::-1]):
        match = match_paths(given, target)
        assert match.rivals is None
        assert len(match.targets) == matched


def test_a_prefix_whose_shapes_do_not_fit_is_no_rival():
    source = under("s", "a", "b") + under("t", "a", "b")
    assert match_paths(source, paths("a", "b"), lambda s, _: s[0] == "s").removed == ("s",)


def test_the_error_names_them_and_the_rule_that_it_names_mends_it():
    source = {f"{name}.fc.weight": np.full((5, 4), i, "f4") for i, name in enumerate(("student", "teacher"))}
    source |= {f"{name}.fc.bias": np.zeros(5, "f4") for name in ("student", "teacher")}
    like = {"fc": {"kernel": np.zeros((4, 5), "f4"), "bias": np.zeros(5, "f4")}}
    options = {"to": "flax", "layout": "torch", "like": like, "allow_unexpected": True, "allow_missing": True}
    with refused(MismatchError, "2 prefixes", "student, teacher") as caught:
        bridge_core.plan_conversion(source, **options)
    assert 'source = "teacher.**"' in caught.value.hint
    plan = bridge_core.plan_conversion(source, **options, check=False)
    assert plan.to_json()["rivals"] == ["student", "teacher"]
    assert "rival prefix: teacher" in plan.describe()
    plan = bridge_core.plan_conversion(source, **options, rules=[Rule.drop("teacher.**", "not needed")])
    made = plan.apply(bridge_core.as_state(source, layout="torch"))
    assert not made["fc", "kernel"].any()


def test_the_rule_for_a_template_with_rivals_mends_it():
    source = {"fc.weight": np.ones((5, 4), "f4"), "fc.bias": np.zeros(5, "f4")}
    layer = {"kernel": np.zeros((4, 5), "f4"), "bias": np.zeros(5, "f4")}
    options = {"to": "flax", "layout": "torch", "like": {"s": {"fc": layer}, "t": {"fc": layer}}}
    with pytest.raises(MismatchError) as caught:
        bridge_core.plan_conversion(source, **options, allow_missing=True)
    assert 'source = "**", rename = "s.**"' in caught.value.hint
    bridge_core.plan_conversion(source, **options, allow_missing=True, rules=[Rule.rename("**", "s.**")])


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")], ids=str)
def test_the_way_on_leaves_one_copy_and_converts_it(names):
    layer = {"fc.weight": np.ones((5, 4), "f4"), "fc.bias": np.ones(5, "f4")}
    source = {f"{prefix}.{name}": value for prefix in names for name, value in layer.items()}
    like = {"fc": {"kernel": np.ones((4, 5), "f4"), "bias": np.ones(5, "f4")}}
    options = {"to": "flax", "layout": "torch", "like": like}
    with refused(MismatchError, ", ".join(names)) as caught:
        bridge_core.plan_conversion(source, **options)
    patterns = re.findall(r"--allow-unexpected '([^']*)'", caught.value.hint)
    assert len(patterns) == len(names) - 1
    plan = bridge_core.plan_conversion(source, **options, allow_unexpected=patterns)
    assert {key[0] for step in plan.steps for key in step.sources} == {"a"}
