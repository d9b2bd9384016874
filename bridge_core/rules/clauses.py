"""The small texts of a rule beside its patterns, equation and calls, read into plain data.

Numbers made of others, such as ``i = block*6 + j``; sizes, such as
``config.hidden_size / config.num_attention_heads``; and the conditions of ``when``.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.errors import RuleError

__all__ = ["COUNT", "NAME", "Radix", "Size", "When", "nearest"]

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
COUNT = re.compile(r"0|[1-9][0-9]{0,17}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what to tell about an unknown name: the nearest known one, or all.

    >>> nearest("unpadd", ["pad", "unpad"])
    "Did you mean 'unpad'?"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Known are: {', '.join(names)}." if names else "There is none."


@dataclass(frozen=True)
class Radix:
    """A number made of others, the largest first: ``i = block*6 + j``.

    Args:
        whole: The name of the number.
        parts: Name and bound of each part; the first has none.

    Raises:
        RuleError: A name stands twice, or a bound is missing.

    >>> Radix.parse("i = block*6 + j")
    Radix(whole='i', parts=(('block', None), ('j', 6)))
    >>> Radix.parse("i = block*6 + j").split("20")
    {'block': '3', 'j': '2'}
    """

    whole: str
    parts: tuple[tuple[str, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> Radix:
        """Read ``whole = a*12 + b*6 + c``.

        Raises:
            RuleError: It is none, or its factors do not nest.
        """
        whole, equals, sum_ = (side.strip() for side in text.partition("="))
        terms = [_factor(term) for term in sum_.split("+")]
        known = [term for term in terms if term is not None]
        if not equals or not NAME.fullmatch(whole) or len(known) != len(terms) or len(terms) < 2:
            raise RuleError(f"where = {text!r} is not of the form 'i = block*6 + j'.")
        known.sort(key=lambda term: -term[1])
        steps = [step for _, step in known]
        if steps[-1] != 1 or any(a % b or a == b for a, b in itertools.pairwise(steps)):
            raise RuleError(
                f"where = {text!r}: the factors {', '.join(map(str, steps))} do not nest; each must be a "
                "multiple of the next and more than it, and the last number stands alone, "
                "as in 'i = a*12 + b*6 + c'."
            )
        bounds = [None, *(a // b for a, b in itertools.pairwise(steps))]
        return cls(whole, tuple((name, bound) for (name, _), bound in zip(known, bounds, strict=True)))

    def __post_init__(self) -> None:
        """Check."""
        names = (self.whole, *self.names)
        bounds = [bound for _, bound in self.parts]
        if len(set(names)) != len(names):
            raise RuleError(f"where = '{self}': a name stands twice.")
        if len(names) < 3 or bounds[0] is not None or any(not bound for bound in bounds[1:]):
            raise RuleError(f"where: all parts of {self.whole} but the first need a bound.")

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        texts, step = [], 1
        for name, bound in reversed(self.parts):
            texts.append(name if step == 1 else f"{name}*{step}")
            step *= bound or 1
        return f"{self.whole} = {' + '.join(reversed(texts))}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, the largest first."""
        return tuple(name for name, _ in self.parts)

    @property
    def sizes(self) -> dict[str, int]:
        """The bounds that are known: how many values a part takes."""
        return {name: bound for name, bound in self.parts if bound is not None}

    def join(self, captures: Mapping[str, str]) -> str:
        """Return the whole that the parts make.

        Raises:
            RuleError: A part is missing, no plain number, or not below its bound.
        """
        total = 0
        for name, bound in self.parts:
            part = _number(name, captures.get(name))
            if bound is not None and part >= bound:
                raise RuleError(f"{name} is {part}; with '{self}' it must be below {bound}.")
            total = total * (bound or 1) + part
        return str(total)

    def split(self, text: str) -> dict[str, str]:
        """Return the parts of the whole.

        Raises:
            RuleError: It is no plain number.
        """
        rest = _number(self.whole, text)
        found: dict[str, str] = {}
        for name, bound in reversed(self.parts):
            found[name] = str(rest if bound is None else rest % bound)
            rest //= bound or 1
        return {name: found[name] for name in self.names}


def _factor(text: str) -> tuple[str, int] | None:
    pieces = [piece.strip() for piece in text.split("*")]
    if len(pieces) == 2 and COUNT.fullmatch(pieces[0]):
        pieces.reverse()
    if len(pieces) > 2 or not NAME.fullmatch(pieces[0]) or not all(map(COUNT.fullmatch, pieces[1:])):
        return None
    step = int(pieces[1]) if pieces[1:] else 1
    return (pieces[0], step) if step else None


def _number(name: str, text: str | None) -> int:
    if text is None:
        raise RuleError(f"nothing binds {name}.")
    if not COUNT.fullmatch(text):
        raise RuleError(f"{name} is {text!r}; a plain number without leading zeros was expected.")
    return int(text)


@dataclass(frozen=True)
class Size:
    """A size that the checkpoint's config tells, or a product or quotient of two.

    Args:
        left: A number, or the parts of a name in the config.
        sign: ``*``, ``/``, or empty where there is no right side.
        right: As ``left``.

    >>> Size.parse("config.hidden_size / config.num_heads").value({"hidden_size": 8, "num_heads": 2})
    4
    """

    left: int | tuple[str, ...]
    sign: str = ""
    right: int | tuple[str, ...] = 1

    @classmethod
    def parse(cls, value: int | str) -> Size:
        """Read a number, ``config.NAME``, or two of them with one ``*`` or ``/`` between.

        Raises:
            RuleError: It is none of these.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        if isinstance(value, str):
            pieces = re.split(r"([*/])", value)
            operands = [_operand(piece.strip()) for piece in pieces[::2]]
            known = [operand for operand in operands if operand is not None]
            if len(known) == len(operands) <= 2 and any(isinstance(operand, tuple) for operand in known):
                return cls(known[0], pieces[1], known[1]) if pieces[1:] else cls(known[0])
        raise RuleError(
            f"the size {value!r} is neither a number nor of the form 'config.n_head' or "
            "'config.hidden_size / config.n_head'."
        )

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        texts = [str(s) if isinstance(s, int) else ".".join(("config", *s)) for s in (self.left, self.right)]
        return f"{texts[0]} {self.sign} {texts[1]}" if self.sign else texts[0]

    def value(self, config: Mapping[str, Any] | None) -> int:
        """Return the number.

        Raises:
            RuleError: The config lacks an entry, or does not divide.
        """
        left, right = (s if isinstance(s, int) else _whole_entry(config, s) for s in (self.left, self.right))
        if self.sign != "/":
            return left * right
        if right == 0 or left % right:
            raise RuleError(f"{self} is {left} / {right}, which is no whole number.")
        return left // right


def _operand(text: str) -> int | tuple[str, ...] | None:
    if COUNT.fullmatch(text):
        return int(text)
    head, *names = text.split(".")
    return tuple(names) if head == "config" and names and all(map(NAME.fullmatch, names)) else None


def _entry(config: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the entry, or None where there is none."""
    found: Any = config
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def _whole_entry(config: Mapping[str, Any] | None, names: Sequence[str]) -> int:
    text = ".".join(names)
    if config is None:
        raise RuleError(f"the size config.{text} is asked for, and no config of the checkpoint is known.")
    found = _entry(config, names)
    if found is None:
        raise RuleError(f"the config has no entry {text!r}; a size is asked for there.")
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise RuleError(f"the config's entry {text!r} is {found!r}; a size was expected.")
    return found


@dataclass(frozen=True)
class When:
    """Conditions under which a rule holds; all of them must.

    Args:
        rank: Number of axes of the first tensor.
        sizes: Axis of the first tensor -> its size.
        config: Name of an entry of the checkpoint's config, dotted where it is nested -> its value.
        of_target: Whether the first tensor is that of the targets; it is the sources' otherwise.

    >>> bool(When())
    False
    """

    rank: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    config: tuple[tuple[str, str | int | float | bool], ...] = ()
    of_target: bool = False

    @classmethod
    def parse(cls, conditions: Mapping[str, Any]) -> When:
        """Read ``{"rank": 2, "sizes": {"in": 768}, "config": {"model_type": "gpt2"}}``.

        Raises:
            RuleError: A condition is not known or of a wrong type.
        """
        known = ("rank", "sizes", "config")
        for name in conditions:
            if name not in known:
                raise RuleError(f"when has no condition {name!r}. {nearest(name, known)}")
        rank, sizes, config = (conditions.get(name) for name in known)
        if rank is not None and not _is_count(rank):
            raise RuleError(f"when.rank is {rank!r}; a number was expected.")
        for name, group in (("sizes", sizes), ("config", config)):
            if group is not None and not isinstance(group, Mapping):
                raise RuleError(f"when.{name} is {group!r}; names with their values were expected.")
        for axis, size in (sizes or {}).items():
            if not _is_count(size):
                raise RuleError(f"when.sizes.{axis} is {size!r}; a number was expected.")
        flat = dict(_flat(config or {}))
        for entry, value in flat.items():
            if not isinstance(value, str | int | float):
                raise RuleError(
                    f"when.config.{entry} is {value!r}; a text, a number, true or false was expected."
                )
        return cls(rank, tuple((sizes or {}).items()), tuple(flat.items()))

    def __bool__(self) -> bool:
        """Tell whether there is any condition."""
        return self.rank is not None or bool(self.sizes or self.config)

    def __str__(self) -> str:
        """Return one line."""
        texts = [] if self.rank is None else [f"rank {self.rank}"]
        texts += [f"{axis} = {size}" for axis, size in self.sizes]
        texts += [f"config.{name} = {value!r}" for name, value in self.config]
        return " and ".join(texts)

    def reversed(self) -> When:
        """Return the same conditions for the rule that is read the other way."""
        return replace(self, of_target=not self.of_target) if self.rank is not None or self.sizes else self

    def holds(
        self, shape: Sequence[int], axes: Mapping[str, int], config: Mapping[str, Any] | None = None
    ) -> bool:
        """Tell whether all conditions hold.

        Args:
            shape: Shape of the first tensor of the side that the conditions are about.
            axes: Name of an axis -> its place in the shape.
            config: The checkpoint's config; None if none is known.

        Raises:
            RuleError: It goes by the config, and none is known.
        """
        if self.config and config is None:
            name, value = self.config[0]
            raise RuleError(
                f"it holds where config.{name} = {value!r}, and no config of the checkpoint is known."
            )
        if self.rank is not None and len(shape) != self.rank:
            return False
        for axis, size in self.sizes:
            place = axes[axis]
            if not -len(shape) <= place < len(shape) or shape[place] != size:
                return False
        return all(_same(_entry(config or {}, name.split(".")), value) for name, value in self.config)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flat(config: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", value


def _same(found: Any, wanted: str | int | float | bool) -> bool:
    """Compare as JSON does: true is no number."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
