"""An order that changes inside one axis: refused unless sizes show that it is a product."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused
from support.rule_files import nothing_written, saved

from bridge_core import Rule, RuleError, convert, open_state

UNCLEAR = [
    ("(a b) i -> i (b a)", {}),
    ("(a b) i -> i (b a)", {"a": 2}),
    ("(a b) c -> (b a) c", {"b": 3}),
    ("i (b a) -> (a b) i", {"a": 2}),
    ("((a b) c) i -> i ((b a) c)", {"a": 2, "c": 2}),
    ("(a b c) i -> i (c a b)", {"a": 2}),
    ("(a b 1) i -> i (b a)", {"a": 2}),
    ("(a b) (c + d) -> (b a) (d + c)", {"a": 2}),
]
CLEAR = [
    ("(a b) i -> i (b a)", {"a": 2, "b": 3}),
    ("(a b c) i -> i (c a b)", {"a": 2, "b": 2}),
    ("(h two half) in -> in (h half two)", {"h": 2, "two": 2}),
    ("(h d) i -> i h d", {"h": 2}),
    ("(h d) i -> d h i", {"h": 2}),
    ("(h d) i -> i (h d)", {}),
    ("a (b c) -> (c a b)", {"b": 2}),
    ("d h i -> i (h d)", {}),
    ("(a + b) i -> i (b + a)", {}),
    ("(a b) i -> i (b + a)", {}),
    ("(h (q + k)) i -> ((q + k) h) i", {}),
]


@pytest.mark.parametrize(("equation", "sizes"), UNCLEAR)
def test_an_unclear_order_is_refused_both_ways(equation, sizes):
    left, right = equation.split(" -> ")
    for text in (equation, f"{right} -> {left}"):
        with refused(RuleError, f"'{text}'", hint="sizes = { ") as caught:
            Rule.rearrange("x.w", "y.w", text, sizes=sizes)
        assert "a times b" in str(caught.value) or "b times a" in str(caught.value)


@pytest.mark.parametrize(("equation", "sizes"), CLEAR)
def test_a_clear_one_is_not(equation, sizes):
    Rule.rearrange("x.w", "y.w", equation, sizes=sizes)


def test_the_parts_of_a_list_have_known_sizes():
    Rule.rearrange("x.{a:int}.w", ["y.w", "z.w"], "(b c) -> a (c b), a (b c)", sizes={"b": 2, "c": 3})
    with refused(RuleError, "(b c) becomes (c b)", hint="sizes = { b = ..., c = ... }"):
        Rule.rearrange("x.{a:int}.w", "y.w", "(b c) -> a (c b)", sizes={"b": 2})


WEIGHT = np.arange(24, dtype=np.float32).reshape(6, 4)


def rule_file(path, sources, targets, equation, sizes):
    path.write_text(
        f"[[rule]]\nsource = {sources}\ntarget = {targets}\nrearrange = '{equation}'\nsizes = {sizes}\n"
    )
    return path


def test_both_ways_on_that_the_message_names_do_what_it_says(tmp_path):
    source = saved({"x.w": WEIGHT}, "torch", tmp_path / "a.safetensors")
    rules, out = tmp_path / "1.toml", tmp_path / "out.safetensors"
    rule_file(rules, ["x.w"], ["y.w"], "(a b) i -> (b a) i", "{ a = 2 }")
    marked = "(a + b) i -> (b + a) i"
    with refused(RuleError, "1.toml:1: ", "sizes = { a = ..., b = ... }", f"'{marked}'", "all sizes but one"):
        convert(source, out, to="flax", rules=rules, layout="torch")
    assert nothing_written(tmp_path, source, rules)

    rule_file(rules, ["x.w"], ["y.w"], "(a b) i -> (b a) i", "{ a = 2, b = 3 }")
    convert(source, out, to="flax", rules=rules, layout="torch")
    with open_state(out) as state:
        assert np.array_equal(state["y.w"], WEIGHT.reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4))
    out.unlink()

    rule_file(rules, ["x.w"], ["y.w"], marked, "{ a = 2 }")
    convert(source, out, to="flax", rules=rules, layout="torch")
    with open_state(out) as state:
        assert np.array_equal(state["y.w"], np.concatenate([WEIGHT[2:], WEIGHT[:2]]))
    rule_file(rules, ["y.w"], ["x.w"], "(b + a) i -> (a + b) i", "{ a = 2 }")
    assert convert(out, tmp_path / "back.safetensors", to="flax", rules=rules, layout="torch").exact
    with open_state(tmp_path / "back.safetensors") as state:
        assert np.array_equal(state["x.w"], WEIGHT)


def test_marks_are_written_in_groups_inside_groups():
    with refused(RuleError, "(a b) becomes (b a)", hint="'(c (a + b)) i -> i (b + a) c'"):
        Rule.rearrange("x.w", "y.w", "(c (a b)) i -> i (b a) c", sizes={"a": 2})
