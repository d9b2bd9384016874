"""Sizes of axes, as numbers or from a model's config: `config.n_head`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.rules.patterns import COUNT, NAME

__all__ = ["Size", "config_entry", "parse_sizes"]


@dataclass(frozen=True)
class Size:
    """A number, an entry of the checkpoint's config, or the product or quotient of two.

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


def parse_sizes(sizes: Mapping[str, int | str]) -> dict[str, Size]:
    """Read the size of each axis.

    Raises:
        RuleError: One is not well formed; the message names its axis.
    """
    parsed = {}
    for name, size in sizes.items():
        try:
            parsed[name] = Size.parse(size)
        except RuleError as err:
            raise RuleError(f"sizes.{name}: {err.message}") from err
    return parsed


def _operand(text: str) -> int | tuple[str, ...] | None:
    if COUNT.fullmatch(text):
        return int(text)
    head, *names = text.split(".")
    return tuple(names) if head == "config" and names and all(map(NAME.fullmatch, names)) else None


def config_entry(config: Mapping[str, Any], names: Sequence[str]) -> Any:
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
    found = config_entry(config, names)
    if found is None:
        raise RuleError(f"the config has no entry {text!r}; a size is asked for there.")
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise RuleError(f"the config's entry {text!r} is {found!r}; a size was expected.")
    return found
