"""Element-wise ops by name, as rules write them: ``pad(vocab, 50304)``, ``scale(sqrt(config.dim))``."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bridge_core.axes.equation import Equation
from bridge_core.axes.expressions import Expression
from bridge_core.errors import RuleError
from bridge_core.messages import nearest, shown
from bridge_core.state import DTYPES, cast_is_exact, dtype_named

__all__ = ["Call", "Difference", "parse_ops"]

_CALLS = {
    "pad": "pad(axis), pad(axis, size), pad(axis, from, to) or pad(axis, +number)",
    "unpad": "unpad(axis), unpad(axis, size), unpad(axis, from, to) or unpad(axis, -number)",
    "cut": "cut(axis), cut(axis, size), cut(axis, from, to) or cut(axis, -number)",
    "offset": "offset(number) or offset(number, rounding)",
    "scale": "scale(number) or scale(number, rounding)",
    "cast": "cast(to) or cast(from, to)",
}
_SIZED = (
    "Write the axis by name or index, and sizes as whole numbers, names from sizes or expressions such as "
    "'config.vocab_size'."
)
_NUMBER = (
    "Write a finite number that is not 0, or an expression such as 'sqrt(config.hidden_size)'; the second "
    "argument can only be: rounding."
)
_HINTS = {"pad": _SIZED, "unpad": _SIZED, "cut": _SIZED, "offset": _NUMBER, "scale": _NUMBER}
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_INDEX = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Difference:
    """A size after that is given by the size before: so many elements more, or fewer.

    Args:
        number: How many, as an expression.
    """

    number: Expression

    @property
    def bracketed(self) -> str:
        """The text of the number, in parentheses if it is more than a name or digits."""
        text = str(self.number)
        return text if _NAME.fullmatch(text) or text.isdecimal() else f"({text})"


Argument = str | int | float | Expression | Difference | None


@dataclass(frozen=True)
class Call:
    """An element-wise op by name.

    Args:
        name: ``pad``, ``unpad``, ``offset``, ``scale`` or ``cast``; ``cut`` is an ``unpad`` that discards.
        args: ``pad`` and ``unpad``: the axis (its name, or its index), the size before, the size after, and
            whether the end may be discarded; a size is an expression, or None to take it from the shapes.
            The size after may be a `Difference`, without a size before.
            ``offset`` and ``scale``: the number or an expression, and whether rounding is allowed. ``cast``:
            both dtypes; None for the dtype that a tensor has.

    >>> str(Call.parse("pad(vocab, 50257, 50304)").inverse())
    'unpad(vocab, 50304, 50257)'
    >>> str(Call.parse("scale(sqrt(config.dim), rounding)").inverse())
    'scale(1 / sqrt(config.dim), rounding)'
    """

    name: str
    args: tuple[Argument, ...]

    @classmethod
    def parse(cls, text: str) -> Call:
        """Parse one call.

        Raises:
            RuleError: The text is not a call, the op is unknown, or the arguments are not those of the op.
        """
        match = _CALL.fullmatch(text)
        args = _split(match[2]) if match is not None else None
        if match is None or args is None:
            raise RuleError(
                "expected an equation such as 'out in -> in out', or a call such as 'pad(vocab, 50304)', got "
                f"{text!r}.",
                hint="Write -> between the axes of the sources and those of the targets.",
            )
        name = match[1]
        if name not in _CALLS:
            likely = nearest(name, _CALLS)
            if not likely.startswith("Did"):
                likely += " To move axes, write an equation such as 'out in -> in out'."
            raise RuleError(f"unknown op {name!r}.", hint=likely)
        try:
            read = _READERS[name]([arg.strip() for arg in args])
        except RuleError as err:
            raise RuleError(f"{text.strip()!r}: {err.message}", hint=err.hint) from err
        if read is None:
            raise RuleError(f"expected {_CALLS[name]}, got {text.strip()!r}.", hint=_HINTS.get(name))
        call = cls("unpad" if name == "cut" else name, read)
        if call.difference is not None and args[1].strip()[0] != call._sign:
            raise RuleError(f"expected {_CALLS[name]}, got {text.strip()!r}.", hint=_HINTS[name])
        if call.is_sized:
            first, second = (size.number if isinstance(size, Expression) else None for size in read[1:3])
            low, high = (first, second) if name == "pad" else (second, first)
            if low is not None and high is not None and low > high:
                change = "a longer" if name == "pad" else "a shorter"
                other = replace(call, name="unpad" if name == "pad" else "pad")
                raise RuleError(
                    f"{name} gives an axis {change} size, got {text.strip()!r} from {first} to {second}.",
                    hint=f"Write '{other}'.",
                )
        return call

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        name, args = self.name, self.args
        if self.is_sized:
            axis, before, after, discard = args
            args = (axis, before, "?" if after is None else after) if before is not None else (axis, after)
            if self.difference is not None:
                args = (axis, f"{self._sign}{self.difference.bracketed}")
            if discard:
                name, args = ("cut", args) if name == "unpad" else (name, (*args, "discard"))
        elif name in ("offset", "scale"):
            args = (args[0], "rounding" if args[1] else None)
        elif args[1] is None:
            args = (args[0], "?")
        return f"{name}({', '.join(str(arg) for arg in args if arg is not None)})"

    def inverse(self) -> Call:
        """Return the call that undoes this one."""
        if self.name == "cast":
            return Call("cast", self.args[::-1])
        if self.is_sized:
            axis, before, after, discard = self.args
            sizes = (before, after) if self.difference is not None else (after, before)
            return Call("unpad" if self.name == "pad" else "pad", (axis, *sizes, discard))
        value, rounding = self.args
        if isinstance(value, Expression):
            return Call(self.name, (_turned(value, "-" if self.name == "offset" else "/"), rounding))
        assert isinstance(value, float)
        return Call(self.name, (-value, rounding))

    def allowing_inexact(self) -> Call:
        """Return the call that may also round, or discard what is not the constant."""
        return replace(self, args=(*self.args[:-1], True)) if self.name in _LOSING else self

    @property
    def is_sized(self) -> bool:
        """Whether it changes the size of an axis."""
        return self.name in ("pad", "unpad")

    @property
    def difference(self) -> Difference | None:
        """By how much it makes an axis longer or shorter, if that is what is written."""
        after = self.args[2] if self.is_sized else None
        return after if isinstance(after, Difference) else None

    @property
    def _sign(self) -> str:
        return "+" if self.name == "pad" else "-"

    @property
    def _expressions(self) -> tuple[Expression, ...]:
        arguments = (arg.number if isinstance(arg, Difference) else arg for arg in self.args)
        return tuple(arg for arg in arguments if isinstance(arg, Expression))

    @property
    def names(self) -> frozenset[str]:
        """The names that its expressions use; entries of the config as ``config.n_head``."""
        return frozenset().union(*(arg.names for arg in self._expressions))

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names that are sizes by themselves, so that they are whole numbers."""
        sizes = map(str, self._expressions if self.is_sized else ())
        return tuple(size for size in sizes if _NAME.fullmatch(size))

    @property
    def divisor(self) -> Expression | None:
        """What a ``scale`` divides by, if it is written as ``1 / x``."""
        value = self.args[0]
        return _inner(value, "/") if self.name == "scale" and isinstance(value, Expression) else None

    @property
    def loss(self) -> str:
        """What it may lose, and what the way back gives; empty if nothing is lost."""
        if self.name == "cast":
            source, target = self.args
            if target is None or (
                source is not None and cast_is_exact(dtype_named(str(source)), dtype_named(str(target)))
            ):
                return ""
            return f"{self} may round; the way back gives the rounded values"
        if self.name not in _LOSING or not self.args[-1]:
            return ""
        if self.name == "unpad":
            return f"{self} discards the end of an axis; the way back fills zeros"
        way = "subtracts" if self.name == "offset" else "divides" if self.divisor is None else "multiplies"
        return f"{self} may round; the way back {way} and rounds"


def parse_ops(texts: Iterable[str]) -> tuple[Equation | None, tuple[Call, ...], tuple[Call, ...]]:
    """Return the equation (None without one), the calls before it, and those after it.

    Without an equation all calls are those before it.

    Raises:
        RuleError: A text is neither an equation nor a call, or there are two equations.
    """
    equation: Equation | None = None
    before: list[Call] = []
    after: list[Call] = []
    for text in texts:
        if not isinstance(text, str):
            raise RuleError(f"expected an equation or the call of an op, got {shown(text)}.")
        if "->" not in text:
            (before if equation is None else after).append(Call.parse(text))
        elif equation is not None:
            raise RuleError(
                f"expected at most one equation in a rule, got two: '{equation}' and '{text}'.",
                hint="Write one equation that does both.",
            )
        else:
            equation = Equation.parse(text)
    return equation, tuple(before), tuple(after)


def _split(text: str) -> list[str] | None:
    """Return what is between the commas outside of brackets; None if the brackets are not in pairs."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([") - (sign in ")]")
        if depth < 0:
            return None
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    if depth:
        return None
    return parts if len(parts) > 1 or parts[0].strip() else []


def _padding(args: Sequence[str]) -> tuple[Argument, ...] | None:
    discard = list(args[-1:]) == ["discard"]
    args = args[:-1] if discard else args
    if not 1 <= len(args) <= 3:
        return None
    axis: Argument = int(args[0]) if _INDEX.fullmatch(args[0]) else args[0]
    if isinstance(axis, str) and not _NAME.fullmatch(axis):
        return None
    if len(args) == 2 and args[1][:1] in ("+", "-"):
        return axis, None, Difference(Expression.parse(args[1][1:])), discard
    sizes = [None if text == "?" else Expression.parse(text) for text in args[1:]]
    if any(size is not None and _number(str(size)) is not None and size.number is None for size in sizes):
        return None
    return axis, (sizes[0] if len(sizes) == 2 else None), (sizes[-1] if sizes else None), discard


def _valued(args: Sequence[str], undone_by: str) -> tuple[Argument, ...] | None:
    if not 1 <= len(args) <= 2 or args[1:] not in ([], ["rounding"]):
        return None
    number, rounding = _number(args[0]), len(args) == 2
    if number is not None and not (math.isfinite(number) and number != 0):
        return None
    if number is not None and undone_by == "-":
        return number, rounding
    value = Expression.parse(args[0])
    while (once := _inner(value, undone_by)) and (twice := _inner(once, undone_by)):
        value = twice
    number = _number(str(value))
    if number == 0:
        return None
    return (value if undone_by == "/" or number is None else number), rounding


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _turned(value: Expression, sign: str) -> Expression:
    """Return ``-x`` for x and ``1 / x`` for x, and x for them."""
    text = f"-({value})" if sign == "-" else f"1 / ({value})"
    return _inner(value, sign) or Expression.parse(text)


def _inner(value: Expression, sign: str) -> Expression | None:
    """Return x of ``-x``, or of ``1 / x``."""
    node = value.node
    if node.sign != sign or len(node.arguments) != (1 if sign == "-" else 2):
        return None
    *one, inner = map(Expression, node.arguments)
    return inner if not one or one[0].number == 1 else None


def _cast(args: Sequence[str]) -> tuple[Argument, ...] | None:
    if not 1 <= len(args) <= 2:
        return None
    source, target = args if len(args) == 2 else ("?", args[0])
    for name in (source, target):
        if name not in DTYPES and name != "?":
            raise RuleError(f"unknown dtype {name!r}.", hint=nearest(name, DTYPES))
    if source == target == "?":
        return None
    return (None if source == "?" else source), (None if target == "?" else target)


_READERS: Mapping[str, Callable[[Sequence[str]], tuple[Argument, ...] | None]] = {
    "pad": _padding,
    "unpad": _padding,
    "cut": lambda args: _padding([*args, "discard"]),
    "offset": functools.partial(_valued, undone_by="-"),
    "scale": functools.partial(_valued, undone_by="/"),
    "cast": _cast,
}
_LOSING = ("unpad", "offset", "scale")
"""The ops that refuse a loss unless their last argument allows it."""
