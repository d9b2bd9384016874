"""Expressions are read, evaluated exactly, written again, and refused where they are none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st
from support.errors import refused
from support.examples import examples

from bridge_core.axes import Comparison, Expression, SizeLookup, whole_number
from bridge_core.errors import RuleError

VALUES = {"s": 3, "heads": 4, "config.a": 7, "config.b": 2, "config.kinds": ("full", "sliding")}


def lookup(name):
    if name not in VALUES:
        raise RuleError(f"{name} has no value.")
    return VALUES[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (12, 12),
        ([0, 3, 7], (0, 3, 7)),
        ("config.a / config.b", Fraction(7, 2)),
        ("config.a // config.b * 2 - -3", 9),
        ("(1 + 2) * 3 % 5", 4),
        ("2**3**2", 512),
        ("-2**2", -4),
        ("[0, 3, 7, 13][s]", 13),
        ("[0, 3, 7, 13][s - 1] + 5", 12),
        ("heads ** -0.5", 0.5),
        ("heads ** -1", Fraction(1, 4)),
        ("sqrt(heads)", 2.0),
        ("bfloat16(sqrt(300))", 17.375),
        ("config.kinds[s - 2]", "sliding"),
        ("8 / 2", 4),
    ],
)
def test_values(text, value):
    expression = Expression.parse(text)
    made = expression.value(lookup)
    assert made == value
    assert type(made) is type(value)
    assert Expression.parse(str(expression)) == expression


@pytest.mark.parametrize(
    ("text", "config", "value"),
    [
        ("config.a or config.b", {"a": 3, "b": 5}, 3),
        ("config.a or config.b", {"b": 5}, 5),
        ("config.a or config.b", {"a": None, "b": 5}, 5),
        ("2 * (config.a or config.b.c or 7)", {"b": {}}, 14),
        ("config.a or 7", None, 7),
        ("config.a or 7", {"a": 0}, 0),
    ],
)
def test_what_counts_where_a_config_has_no_entry(text, config, value):
    expression = Expression.parse(text)
    assert expression.value(SizeLookup({}, config)) == value
    assert Expression.parse(str(expression)) == expression


def test_an_entry_is_not_passed_over_because_it_is_wrong():
    with refused(RuleError, "'a'"):
        Expression.parse("config.a or 7").value(SizeLookup({}, {"a": {"b": 1}}))
    with refused(RuleError, "config.head_dim"):
        Expression.parse("heads or 7")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "a b",
        "f(3)",
        "__import__('os')",
        "a.b.",
        "(1",
        "[1, 2",
        "1 < 2",
        "'text",
        "(" * 30 + "1" + ")" * 30,
        "-" * 500 + "1",
        "1" + "+1" * 500,
        "1" * 3000,
        "9" * 40,
        True,
        None,
        1.5,
        [],
    ],
)
def test_what_is_no_expression_is_refused(text):
    with refused(RuleError):
        Expression.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0",
        "9**9**9",
        "2**70",
        "[1, 2][s]",
        "heads[0]",
        "config.kinds + 1",
        "sqrt(-1)",
        "(-8) ** 0.5",
        "x",
    ],
)
def test_what_cannot_be_computed_is_refused(text):
    with refused(RuleError):
        Expression.parse(text).value(lookup)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("2 <= s < 4", True),
        ("s < 3", False),
        ("s % 2 == 1", True),
        ("config.kinds[s - 2] == 'sliding'", True),
        ("s != heads", True),
        ("s >= heads - 1 > 3", False),
    ],
)
def test_comparisons(text, holds):
    comparison = Comparison.parse(text)
    assert comparison.holds(lookup) is holds
    assert Comparison.parse(str(comparison)) == comparison


def test_comparisons_of_texts_and_numbers_are_refused():
    for text in ("s", "s <", "s = 3"):
        with refused(RuleError):
            Comparison.parse(text)
    with refused(RuleError, "cannot be compared"):
        Comparison.parse("s < config.kinds[0]").holds(lookup)


LEAVES = st.integers(0, 50).map(str) | st.sampled_from(["s", "heads", "config.a"])
SUMS = st.recursive(
    LEAVES,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
    ),
    max_leaves=8,
)


@settings(max_examples=examples(100))
@given(SUMS)
def test_random_expressions_are_what_python_computes(text):
    expression = Expression.parse(text)
    assert Expression.parse(str(expression)) == expression
    plain = text.replace("config.a", "7").replace("heads", "4").replace("s", "3")
    try:
        expected = eval(plain)
    except ZeroDivisionError:
        with refused(RuleError):
            expression.value(lookup)
    else:
        assert expression.value(lookup) == expected


@pytest.mark.parametrize("value", [10**400, 3.0, Fraction(6, 2), 0])
def test_whole_numbers_are_of_any_size_and_kind(value):
    assert whole_number(value, "n") == value


@pytest.mark.parametrize(
    "value", [float("inf"), -float("inf"), float("nan"), 2.5, Fraction(1, 2), True, "2", (1,)]
)
def test_other_values_are_not_whole_numbers(value):
    for signed in (False, True):
        with refused(RuleError, "'n'"):
            whole_number(value, "n", signed=signed)


def test_only_signed_whole_numbers_are_negative():
    assert whole_number(-3, "n", signed=True) == -3
    with refused(RuleError, "-3"):
        whole_number(-3, "n")
