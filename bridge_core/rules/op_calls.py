"""Element-wise ops by name, as rules write them: ``pad(vocab, 50304)``, ``offset(1)``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge_core.axes import Equation
from bridge_core.errors import RuleError
from bridge_core.messages import nearest, shown
from bridge_core.rules.patterns import COUNT, NAME
from bridge_core.state import DTYPES

__all__ = ["Call", "parse_ops"]

Argument = str | int | float | bool | None

_CALLS = {
    "pad": "pad(axis), pad(axis, size) or pad(axis, from, to)",
    "unpad": "unpad(axis), unpad(axis, size) or unpad(axis, from, to)",
    "offset": "offset(number) or offset(number, rounding)",
    "cast": "cast(from, to)",
}
_HINTS = {
    "pad": "Write the axis by name or index, and sizes as whole numbers or names from sizes.",
    "unpad": "Write the axis by name or index, and sizes as whole numbers or names from sizes.",
    "offset": "Write a finite number that is not 0; the second argument can only be: rounding.",
}
_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")
_INDEX = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Call:
    """An element-wise op by name.

    Args:
        name: ``pad``, ``unpad``, ``offset`` or ``cast``.
        args: ``pad`` and ``unpad``: the axis (its name, or its index), the size before and the size after;
            a size is a number, a name from the rule's sizes, or None to take it from the shapes.
            ``offset``: the number, and whether rounding is allowed. ``cast``: both dtypes.

    >>> str(Call.parse("pad(vocab, 50257, 50304)").inverse())
    'unpad(vocab, 50304, 50257)'
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
        if match is None:
            raise RuleError(
                "expected an equation such as 'out in -> in out', or a call such as 'pad(vocab, 50304)', got "
                f"{text!r}.",
                hint="Write -> between the axes of the sources and those of the targets.",
            )
        name, inner = match[1], match[2].strip()
        if name not in _CALLS:
            likely = nearest(name, _CALLS)
            if not likely.startswith("Did"):
                likely += " To move axes, write an equation such as 'out in -> in out'."
            raise RuleError(f"unknown op {name!r}.", hint=likely)
        args = [arg.strip() for arg in inner.split(",")] if inner else []
        read = {"pad": _padding, "unpad": _padding, "offset": _offset, "cast": _cast}[name](args)
        if read is None:
            raise RuleError(f"expected {_CALLS[name]}, got {text.strip()!r}.", hint=_HINTS.get(name))
        if name in ("pad", "unpad"):
            first, second = read[1:] if name == "pad" else read[:0:-1]
            if isinstance(first, int) and isinstance(second, int) and first > second:
                change = "a longer" if name == "pad" else "a shorter"
                other = cls("unpad" if name == "pad" else "pad", read)
                raise RuleError(
                    f"{name} gives an axis {change} size, got {text.strip()!r} from {read[1]} to {read[2]}.",
                    hint=f"Write '{other}'.",
                )
        return cls(name, read)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        args = self.args
        if self.name in ("pad", "unpad"):
            axis, before, after = args
            args = (axis, before, "?" if after is None else after) if before is not None else (axis, after)
        elif self.name == "offset":
            args = (args[0], "rounding" if args[1] else None)
        return f"{self.name}({', '.join(str(arg) for arg in args if arg is not None)})"

    def inverse(self) -> Call:
        """Return the call that undoes this one."""
        if self.name == "offset":
            number, rounding = self.args
            assert isinstance(number, int | float)
            return Call("offset", (-number, rounding))
        if self.name == "cast":
            return Call("cast", self.args[::-1])
        axis, before, after = self.args
        return Call("unpad" if self.name == "pad" else "pad", (axis, after, before))

    @property
    def size_names(self) -> tuple[str, ...]:
        """The names in the rule's sizes that it uses."""
        sizes = self.args[1:] if self.name in ("pad", "unpad") else ()
        return tuple(size for size in sizes if isinstance(size, str))


def parse_ops(texts: Iterable[str]) -> tuple[Equation | None, tuple[Call, ...], tuple[Call, ...]]:
    """Return the equation, or None if there is none, the calls before it, and those after it.

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


def _padding(args: Sequence[str]) -> tuple[Argument, ...] | None:
    if not 1 <= len(args) <= 3:
        return None
    axis: Argument = int(args[0]) if _INDEX.fullmatch(args[0]) else args[0]
    if isinstance(axis, str) and not NAME.fullmatch(axis):
        return None
    sizes: list[Argument] = []
    for text in args[1:]:
        if COUNT.fullmatch(text):
            sizes.append(int(text))
        elif text == "?" or NAME.fullmatch(text):
            sizes.append(None if text == "?" else text)
        else:
            return None
    return axis, (sizes[0] if len(sizes) == 2 else None), (sizes[-1] if sizes else None)


def _offset(args: Sequence[str]) -> tuple[Argument, ...] | None:
    if not 1 <= len(args) <= 2 or args[1:] not in ([], ["rounding"]):
        return None
    try:
        number = float(args[0])
    except ValueError:
        return None
    return (number, len(args) == 2) if math.isfinite(number) and number != 0 else None


def _cast(args: Sequence[str]) -> tuple[Argument, ...] | None:
    if len(args) != 2:
        return None
    for name in args:
        if name not in DTYPES:
            raise RuleError(f"unknown dtype {name!r}.", hint=nearest(name, DTYPES))
    return tuple(args)
