"""Arithmetic on sizes, indexes and entries of a config: ``config.hidden // heads``, ``[0, 3, 7][s] + b``.

An expression is read into plain data and evaluated by walking it: nothing is ever run. Whole numbers and
quotients are exact; only roots, powers with fractions and roundings give floating-point numbers.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from bridge_core.axes.expression_text import Node, Parser, number_node
from bridge_core.errors import RuleError
from bridge_core.messages import shown

__all__ = ["absent_entry", "Comparison", "Expression", "Lookup", "Value", "whole_number"]

Scalar = int | Fraction | float | str | bool
Value = Scalar | tuple["Value", ...]
Lookup = Callable[[str], Value]
"""Gives the value of a name: a capture, a size, or an entry of the config, ``config.n_head``.

Raises:
    RuleError: The name has no value.
"""


def absent_entry(problem: str, hint: str) -> RuleError:
    """Return the error for no config, no such entry in it, or null: ``or`` then takes what follows it."""
    error = RuleError(problem, hint=hint)
    vars(error)[_ABSENT] = True
    return error


_ABSENT = "is_absent_entry"


_LARGEST = 1 << 62
_MOST_BITS = 1024
"""Of the denominator of a fraction, which would else grow with every operation."""

_ROUNDINGS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Expression:
    """An expression.

    Args:
        node: Its last operation.

    >>> half = Expression.parse("config.hidden / heads // 2")
    >>> str(half), sorted(half.names)
    ('config.hidden / heads // 2', ['config.hidden', 'heads'])
    >>> half.value({"config.hidden": 64, "heads": 4}.__getitem__)
    8
    """

    node: Node

    @classmethod
    def parse(cls, value: object) -> Expression:
        """Read a whole number, a list of them, or a text.

        Raises:
            RuleError: It is none of them, or the text is not an expression.
        """
        if isinstance(value, Expression):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(number_node(value))
        if isinstance(value, list | tuple) and value:
            return cls(Node("list", tuple(cls.parse(item).node for item in value)))
        if not isinstance(value, str):
            raise RuleError(
                f"expected a whole number, a list of them, or an expression such as 'config.n_head', got "
                f"{shown(value)}."
            )
        parser = Parser(value)
        node = Node("?") if parser.token == "?" and parser.take() else parser.choice(0)
        parser.finish()
        return cls(node)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return str(self.node)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names that it uses; entries of the config as ``config.n_head``."""
        return frozenset(str(node.value) for node in self.node.walk() if node.sign == "name")

    @property
    def number(self) -> int | None:
        """The whole number that is written; None if it is not one."""
        return self.node.value if self.node.sign == "number" and isinstance(self.node.value, int) else None

    @property
    def is_unset(self) -> bool:
        """Whether it is ``?``: a size without a value."""
        return self.node.sign == "?"

    def value(self, lookup: Lookup) -> Value:
        """Return the value.

        Args:
            lookup: Gives the values of names.

        Raises:
            RuleError: A name has no value, or an operation is not possible with the values.
        """
        return _value(self.node, lookup, self)


@dataclass(frozen=True)
class Comparison:
    """Expressions with signs between them, all of which must hold: ``2 <= i < n``.

    >>> str(Comparison.parse("2<=i<n"))
    '2 <= i < n'
    >>> Comparison.parse("i % 2 == 1").holds({"i": 3}.__getitem__)
    True
    """

    operands: tuple[Expression, ...]
    signs: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Comparison:
        """Read a comparison.

        Raises:
            RuleError: The text is not one.
        """
        parser = Parser(text)
        operands, signs = [parser.choice(0)], []
        while parser.kind == "sign" and parser.token in _COMPARISONS:
            signs.append(parser.take())
            operands.append(parser.choice(0))
        if not signs:
            parser.fail("expected a comparison such as 'i < 6', got no sign of one")
        parser.finish()
        return cls(tuple(map(Expression, operands)), tuple(signs))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        pairs = zip(self.signs, self.operands[1:], strict=True)
        return f"{self.operands[0]}" + "".join(f" {sign} {operand}" for sign, operand in pairs)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names that it uses."""
        return frozenset().union(*(operand.names for operand in self.operands))

    def holds(self, lookup: Lookup) -> bool:
        """Return whether it holds.

        Raises:
            RuleError: A name has no value, or values cannot be compared.
        """
        values = [operand.value(lookup) for operand in self.operands]
        try:
            return all(
                _COMPARISONS[sign](first, second)
                for sign, first, second in zip(self.signs, values, values[1:], strict=False)
            )
        except TypeError as err:
            raise RuleError(f"'{self}': {', '.join(map(shown, values))} cannot be compared.") from err


def whole_number(value: Value, text: object, *, signed: bool = False) -> int:
    """Return a value as a whole number, of 0 or more unless it may be ``signed``.

    Args:
        value: The value of an expression.
        text: The expression, for the message.
        signed: Whether it may be negative.

    Raises:
        RuleError: It is not one.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_whole |= isinstance(value, Fraction | float) and value % 1 == 0  # false for infinity and NaN
    if is_whole and (signed or value >= 0):  # type: ignore[operator]
        return int(value)  # type: ignore[arg-type]
    raise RuleError(
        f"expected a whole number, got '{text}' = {_shown(value)}.",
        hint="Write the number in the rule instead.",
    )


def _shown(value: Value) -> str:
    if isinstance(value, Fraction):
        return f"{value.numerator} / {value.denominator}"
    return shown(value)


def _finite(value: Value, node: Node) -> Value:
    """Return a value that a config may have given; a number must be one that can be computed with."""
    most = _LARGEST if isinstance(value, int) else math.inf
    if isinstance(value, int | float) and not abs(value) < most:
        raise RuleError(f"expected a finite number below 2**62, got '{node}' = {shown(value)}.")
    return value


def _value(node: Node, lookup: Lookup, expression: Expression) -> Value:
    def fail(problem: str) -> NoReturn:
        raise RuleError(f"'{expression}': {problem}.")

    if node.sign == "or":
        try:
            return _value(node.arguments[0], lookup, expression)
        except RuleError as err:
            if _ABSENT not in vars(err):
                raise
            return _value(node.arguments[1], lookup, expression)
    values = [_value(argument, lookup, expression) for argument in node.arguments]
    match node.sign:
        case "number" | "text":
            return node.value
        case "name":
            return _finite(lookup(str(node.value)), node)
        case "list":
            return tuple(values)
        case "?":
            raise RuleError("the size has no value.", hint="Pass its value (--set NAME=VALUE).")
        case "index":
            items, index = values
            if not isinstance(items, tuple | list):
                fail(f"expected a list before '[', got {_shown(items)}")
            if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(items):
                fail(f"expected an index from 0 to {len(items) - 1}, got {_shown(index)}")
            return _finite(items[index], node)
    numbers = [v for v in values if isinstance(v, int | Fraction | float) and not isinstance(v, bool)]
    if len(numbers) != len(values):
        fail(f"expected numbers for '{node.sign}', got {', '.join(map(_shown, values))}")
    try:
        result = _computed(node.sign, numbers)
    except (ArithmeticError, ValueError):
        fail(f"{node} cannot be computed for {', '.join(map(_shown, values))}")
    if isinstance(result, complex) or not abs(result) < _LARGEST:
        fail(f"{node} is not a number below 2**62")
    if isinstance(result, Fraction) and result.denominator.bit_length() > _MOST_BITS:
        fail(f"{node} is a fraction of more than {_MOST_BITS} bits")
    whole = isinstance(result, Fraction) and result.denominator == 1
    made: Value = int(result) if whole else result
    return made


def _computed(sign: str, numbers: list[Any]) -> Any:
    first, *rest = numbers
    if not rest:
        if sign == "-":
            return -first
        return math.sqrt(first) if sign == "sqrt" else float(_ROUNDINGS[sign](float(first)))
    second = rest[0]
    match sign:
        case "+":
            return first + second
        case "-":
            return first - second
        case "*":
            return first * second
        case "/":
            exact = not isinstance(first, float) and not isinstance(second, float)
            return Fraction(first) / second if exact else first / second
        case "//":
            return first // second
        case "%":
            return first % second
    if isinstance(second, int) and not isinstance(first, float):
        if abs(second) > 64:
            raise ValueError
        return Fraction(first) ** second
    return float(first) ** float(second)
