"""Concatenations with +, whole numbers and repeated axes: what they make, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from support.arrays import assert_same_bits
from support.errors import refused
from support.rule_files import nothing_written, saved

from bridge_core import PlanError, Rule, RuleError, TensorSpec, convert, open_state
from bridge_core.axes.equation import Equation, Group, ListAxes, Term
from bridge_core.axes.rearrangement import rearrange
from bridge_core.axes.structure import check_equation
from bridge_core.ops.chain import inverse_chain
from bridge_core.ops.split_concat import Split

F32 = np.dtype("float32")


def numbers(*shape, start=0):
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def run(chain, arrays):
    for op in chain:
        arrays = op.apply(arrays)
    return arrays


# Texts.


def test_products_bind_tighter_than_plus():
    (left,) = Equation.parse("(h q + h k+z) -> a").left
    assert left == Term((Group((Group(("h", "q")), Group(("h", "k")), "z"), marked=True),))
    assert left == Equation.parse("((h q) + (h k) + z) -> a").left[0]
    assert left.names == ("h", "q", "h", "k", "z")


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("(q+k  +v) in -> a", "(q + k + v) in -> a"),
        ("((h q)+(h k)) -> a", "(h q + h k) -> a"),
        ("(h (q + k)) -> a", "(h (q + k)) -> a"),
        ("((a + b) + c) -> a", "((a + b) + c) -> a"),
        ("((a) + ((b c)) + 1) -> a", "((a) + ((b c)) + 1) -> a"),
        ("((h (a+b)) + c) -> a", "(h (a + b) + c) -> a"),
        ("a,a->2(a 1)", "a, a -> 2 (a 1)"),
        (",,->3", ", , -> 3"),
        ("2->,", "2 -> ,"),
    ],
)
def test_what_is_read_is_printed_and_read_again(written, printed):
    equation = Equation.parse(written)
    assert str(equation) == printed
    assert Equation.parse(printed) == equation
    assert Equation.parse(str(equation.inverse())).inverse() == equation


def test_numbers_are_no_names():
    equation = Equation.parse("(n h) d, (n h) d -> (2 n) d ... h 1")
    assert equation.axes == {"n", "h", "d"}
    assert [term.numbers for term in equation.right] == [("2",)]
    assert Equation.parse("2 a -> a, a").left[0].position("2") is None


# What is made.

Q, K, V, Z = numbers(4, 5), numbers(6, 5, start=100), numbers(2, 5, start=200), numbers(8, 5, start=300)
HEADS = [w.reshape(2, -1, 5) for w in (Q, K, V, Z)]
A, B = numbers(6, 4), numbers(6, 4, start=100)
KV = numbers(6, 4)  # three heads of two
MADE = {
    "parts change places": ("(a + b) i -> (b + a) i", [A], {"a": 2}, [np.concatenate([A[2:], A[:2]])]),
    "a mark on one side is enough": (
        "(a b) i -> i (b + a)",
        [A],
        {"b": 4},
        [np.concatenate([A[2:], A[:2]]).T],
    ),
    "an axis in several parts": (
        "((h q) + (h k) + (h v)) i, (h z) i -> i (h (q + k + v + z))",
        [np.concatenate([Q, K, V]), Z],
        {"h": 2, "q": 2, "k": 3},
        [np.concatenate(HEADS, 1).reshape(20, 5).T],
    ),
    "a class token before positions": ("(1 + n) d -> d, n d", [A], {}, [A[0], A[1:]]),
    "parts inside parts": (
        "((a + b) + c) d -> d (c + a), b d",
        [A],
        {"a": 1, "b": 2},
        [np.concatenate([A[3:], A[:1]]).T, A[1:3]],
    ),
    "parts along two axes": (
        "(a + b) (c + d) -> (d + c) (b + a)",
        [A],
        {"a": 2, "c": 1},
        [np.block([[A[2:, 1:].T, A[:2, 1:].T], [A[2:, :1].T, A[:2, :1].T]])],
    ),
    "k and v": (
        "(n h) d, (n h) d -> 2 n d h",
        [A, B],
        {"n": 3},
        [np.stack([A, B]).reshape(2, 3, 2, 4).swapaxes(2, 3)],
    ),
    "gate and up, one after the other": ("f d, f d -> (2 f) d", [A, B], {}, [np.concatenate([A, B])]),
    "gate and up, interleaved": ("f d, f d -> d (f 2)", [A, B], {}, [np.stack([A, B], 1).reshape(12, 4).T]),
    "unstacked": (
        "3 f d -> d f, f d, f d",
        [numbers(3, 2, 4)],
        {},
        [numbers(2, 4).T, *numbers(3, 2, 4)[1:]],
    ),
    "each in an order of its own": ("a b, b a -> 2 a b", [A, B.T], {}, [np.stack([A, B])]),
    "numbers in parts": (
        "g d (2 f + 2 h) -> d (f + h) g, d (f + h) g",
        [numbers(1, 4, 10)],
        {"f": 2},
        [numbers(1, 4, 10)[..., rows].transpose(1, 2, 0) for rows in ([0, 1, 4, 5, 6], [2, 3, 7, 8, 9])],
    ),
    "scalars": (", , -> 3", [np.float32(n).reshape(()) for n in range(3)], {}, [numbers(3)]),
    "heads of keys repeated": (
        "(kv d) in -> in (kv r) d",
        [KV],
        {"kv": 3, "r": 2},
        [np.repeat(KV.reshape(3, 2, 4), 2, axis=0).transpose(2, 0, 1)],
    ),
    "a tensor repeated": ("a b -> (r a) b", [A], {"r": 3}, [np.tile(A, (3, 1))]),
    "one part repeated": ("(q + k) i -> (q + r k) i", [A], {"q": 4, "r": 2}, [np.concatenate([A, A[4:]])]),
    "copies taken back to one": ("(r a) b -> b a", [np.tile(A, (2, 1))], {"r": 2}, [A.T]),
    "a scalar repeated": ("-> r", [np.float32(7).reshape(())], {"r": 4}, [np.full(4, 7, np.float32)]),
    "one copy": ("a -> 1 r a", [A[0]], {"r": 1}, [A[None, :1]]),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_and_the_way_back(name):
    text, arrays, sizes, expected = MADE[name]
    equation = Equation.parse(text)
    made = rearrange(equation, [TensorSpec(a.shape, F32) for a in arrays], sizes=sizes)
    outputs = run(made.ops, tuple(arrays))
    back = rearrange(equation.inverse(), made.specs, sizes=made.sizes)
    for found, wanted in (
        *zip(outputs, expected, strict=True),
        *zip(run(inverse_chain(made.ops), outputs), arrays, strict=True),
        *zip(run(back.ops, tuple(expected)), arrays, strict=True),
    ):
        assert_same_bits(found, np.asarray(wanted, F32))


def test_a_number_stacks_the_tensors_of_every_layer():
    layers = [numbers(4, 3, start=100 * n) for n in range(6)]
    equation = Equation.parse("i 3 n d h -> (n h) d, (n h) d, (n h) d")
    stack = np.stack(layers).reshape(3, 2, 2, 2, 3).transpose(1, 0, 2, 4, 3)
    lists = ListAxes(((),), (("i",),) * 3)
    made = rearrange(equation, [TensorSpec(stack.shape, F32)], list_axes=lists)
    for found, wanted in zip(run(made.ops, (stack,)), layers, strict=True):
        assert_same_bits(found, wanted)
    back = rearrange(equation.inverse(), made.specs, sizes=made.sizes, list_axes=lists.inverse())
    assert_same_bits(*run(back.ops, tuple(layers)), stack)


def test_a_marked_group_is_never_a_product():
    specs = [TensorSpec((4, 3), F32)]
    assert Split(0, (2, 2)) in rearrange(Equation.parse("(a + b) i -> (b + a) i"), specs, sizes={"a": 2}).ops
    with refused(RuleError, "'(a + b) i' on the left side", "axes a, i", hint="by +"):
        check_equation(Equation.parse("(a + b) i -> a b i"))


def test_the_size_of_a_repeated_axis_may_come_from_the_shapes():
    equation = Equation.parse("in (kv r) d -> (kv d) in")
    made = rearrange(equation, [TensorSpec((5, 6, 2), F32)], sizes={"kv": 3}, stated=["r"])
    assert made.sizes["r"] == 2
    back = rearrange(equation.inverse(), made.specs, stated=["r"], sizes={"kv": 3}, wanted=[(5, 6, 2)])
    assert back.specs[0].shape == (5, 6, 2)
    with refused(RuleError, "axis 'r'", hint="sizes = { r = 12 }"):
        rearrange(equation.inverse(), made.specs, stated=["r"], sizes={"kv": 3})


def test_copies_that_differ_are_refused_when_they_are_read():
    made = rearrange(Equation.parse("(a r) b -> a b"), [TensorSpec((6, 4), F32)], sizes={"r": 2})
    assert made.specs == (TensorSpec((3, 4), F32),)
    copies = np.repeat(numbers(3, 4), 2, axis=0)
    assert_same_bits(*run(made.ops, (copies,)), numbers(3, 4))
    copies[3, 2] = -1
    with refused(PlanError, "must hold the same values", "[1, 2]", "6.0 and -1.0"):
        run(made.ops, (copies,))


def test_parts_that_no_shape_shows_are_not_taken_as_equal():
    specs = [TensorSpec((6, 4), F32)]
    for text in ("(a + b) i -> i (b + a)", "(a b) i -> i (b + a)", "i (b + a) -> (a + b) i"):
        with refused(RuleError, "size of axis", hint="to the rule, such as sizes = { ") as caught:
            rearrange(Equation.parse(text), specs if text[0] == "(" else [TensorSpec((4, 6), F32)])
        assert "--like" not in caught.value.hint
    made = rearrange(Equation.parse("(a + b) i -> i a, b i"), specs)
    assert made.specs[1].shape == (3, 4)


# What is refused.


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("(q k v) d -> (q k) d, v d", ("'(q k v)'", "q and k", "q and v are not"), "'(q k + v)'"),
        ("(a b c) d -> (a c) d, b d", ("'(a b c)'", "a and c"), "'(a + b + c)'"),
        ("(q k + v) d -> q d, k d, v d", ("'(q k + v) d' on the left side", "axes d, k, q"), "by +"),
        ("(f + f) d -> f d, f d", ("'(f + f) d'", "two parts", "axes d, f"), ("(f1 + f2)", "(2 f)")),
        ("(a b + b a) -> a b", ("two parts", "axes a, b"), "name of its own"),
        ("((a + a b) + (c + a)) -> a, a b, c", ("two parts", "axes a"), "name of its own"),
        ("(a + a b) a -> a b", ("'a' twice",), "name of its own"),
        ("a b -> a", ("'b'", "left side"), ("write 1", "to repeat", "sizes = { b = 2 }")),
        (
            "2 a -> a",
            ("axis 2", "expected 2 on the right side, got 1"),
            ("2 tensors", "'n a -> a'", "{ n = 2 }"),
        ),
        ("a n -> 2 a (n 1)", ("got 1",), "'a n -> m a (n 1)' with sizes = { m = 2 }"),
        ("a, a, a -> 2 a", ("expected 2 on the left side, got 3",), ("Write 3 in place of 2", "2 tensors")),
        ("a, a -> 123456789 a", ("123456789", "got 2"), "Write 2"),
        ("2 a -> a 2", ("2 is on both sides",), "'n a -> a n' with sizes = { n = 2 }"),
        ("2 3 a -> a, a", ("2 and 3",), "'2 n a -> a, a' with sizes = { n = 3 }"),
        ("2 a -> 3 a", ("2 and 3",), ""),
        ("2 a 2 -> a, a", ("'2' twice",), ""),
        ("a, b -> 2 a b", ("'a' and 'b'", "same axes"), "(q + k)"),
        ("a, a b -> 2 a b", ("'a' and 'a b'", "got a and a, b"), ""),
        ("a, ... a -> 2 ... a", ("'a' and '... a'", "..., a"), ""),
        ("a, a, b -> 3 a, b", ("'a' and 'b'",), ""),
        ("a, a -> 2 a, a", ("'a' on the right side", "axes a,"), ""),
        (
            " ".join(f"(a{i} + b{i})" for i in range(9))
            + " -> "
            + " ".join(f"(b{i} + a{i})" for i in range(9)),
            ("256 pieces",),
            "",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_both_ways(text, named, hint):
    with refused(RuleError, *named, hint=hint):
        check_equation(Equation.parse(text))
    with pytest.raises(RuleError):
        check_equation(Equation.parse(text).inverse())


def test_repeats_on_both_sides_are_refused():
    with refused(RuleError, "'width'", "left side", hint="Did you mean 'with'?"):
        check_equation(Equation.parse("width in -> with in"), stated=["with"])
    with refused(RuleError, "'width' is only on the left", "'with' only on the right", hint="both sides"):
        check_equation(Equation.parse("width in -> with in"), stated=["with", "width"])
    with refused(RuleError, "'...'", "left side", hint="both sides"):
        check_equation(Equation.parse("... a -> a"), stated=["..."])


@pytest.mark.parametrize(
    ("text", "shapes", "sizes", "named", "hint"),
    [
        ("2 d -> d, d", [(3, 4)], {}, ("2 in '2 d' (float32[3, 4])", "size 2, got 3"), ""),
        ("(f 2) d -> f d, f d", [(7, 4)], {}, ("'(f 2)'", "multiple of size 2 (2)", "got 7"), ""),
        ("(a + b) -> (b + a)", [(7,)], {"a": 8}, ("'(a + b)' in '(a + b)'", "a = 8", "got 7"), ""),
        (
            "(h a + h b) -> (h b + h a)",
            [(7,)],
            {"a": 8, "b": 1, "h": 2},
            ("size 18", "(h a) = 16, (h b) = 2", "got 7"),
            "",
        ),
        ("d, d -> 2 d", [(3,), (4,)], {}, ("'d'", "3 in 'd' (float32[3])", "4 in 'd' (float32[4])"), ""),
        ("a -> r a", [(3,)], {"r": 0}, ("repeated axis 'r'", "got none"), "sizes = { r = 2 }"),
        ("a -> r a", [(3,)], {"r": 10**12}, ("1024 copies", "10" + "0" * 11), ""),
        ("a -> r a", [(3,)], {}, ("'r' is only on the right",), "sizes = { r = 2 }"),
        ("a r -> a", [(6, 3)], {"r": 2}, ("'r'", "2 in sizes", "3 in 'a r'"), ""),
    ],
)
def test_tensors_that_do_not_fit_are_refused(text, shapes, sizes, named, hint):
    with refused(RuleError, *named, hint=hint):
        rearrange(Equation.parse(text), [TensorSpec(shape, F32) for shape in shapes], sizes=sizes)


# In rules.


def test_rules_with_marks_numbers_and_repeats_convert_both_ways(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text("""
source = "torch"
target = "flax"

[[rule]]
source = ["{i:int}.k", "{i:int}.v"]
target = "kv"
rearrange = "(n h) d, (n h) d -> i 2 n d h"
sizes = { n = 3 }

[[rule]]
source = "gate"
target = "turned"
rearrange = "(a + b) i -> i (b + a)"
sizes = { a = 2 }

[[rule]]
source = "bias"
target = "biases"
rearrange = "(kv d) -> (kv r) d"
sizes = { kv = 3, r = "kv - 1" }
""")
    layers = {f"{i}.{x}": numbers(6, 4, start=100 * i + 10 * n) for i in range(2) for n, x in enumerate("kv")}
    state = {**layers, "gate": A, "bias": numbers(6)}
    source = saved(state, "torch", tmp_path / "a.safetensors")
    there, back = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    assert convert(source, there, to="flax", rules=rules, layout="torch").exact
    with open_state(there) as made:
        pairs = np.stack([np.stack([layers[f"{i}.{x}"] for x in "kv"]) for i in range(2)])
        assert np.array_equal(made["kv"], pairs.reshape(2, 2, 3, 2, 4).swapaxes(3, 4))
        assert np.array_equal(made["turned"], np.concatenate([A[2:], A[:2]]).T)
        assert np.array_equal(made["biases"], np.repeat(numbers(6).reshape(3, 2), 2, axis=0))
    assert convert(there, back, to="torch", rules=rules, layout="flax").exact
    with open_state(back) as found:
        for key, array in state.items():
            assert_same_bits(found[key], array)

    unlike = numbers(6, 2)
    other = saved(
        {"kv": numbers(2, 2, 3, 4, 2), "turned": A, "biases": unlike}, "flax", tmp_path / "d.safetensors"
    )
    with refused(PlanError, "must hold the same values"):
        convert(other, tmp_path / "e.safetensors", to="torch", rules=rules, layout="flax")
    assert nothing_written(tmp_path, source, rules, there, back, other)


def test_a_rule_without_the_size_of_an_axis_of_one_side_is_refused():
    with refused(RuleError, "'r' is only on the right side", hint="sizes = { r = 2 }"):
        Rule.rearrange("a", "b", "x -> r x")
    rule = Rule.rearrange("a", "b", "x -> r x", sizes={"r": "config.groups"})
    assert rule.reversed().reversed() == rule
    with refused(RuleError, "2 tensors on the left side", "got 1", hint="commas"):
        Rule.rearrange(["a", "b"], "c", "2 x -> x, x")
