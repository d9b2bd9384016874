"""Sizes of axes, as numbers or from a model's config: `config.n_head`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.patterns import COUNT, NAME

__all__ = ["Size", "config_entry", "parse_sizes"]

_MOST_ENTRIES = 1000
"""How many entries of a config are compared with a name that it does not have."""


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
        """Parse a number, ``config.NAME``, or two of them with one ``*`` or ``/`` between.

        Raises:
            RuleError: The value is not of this form.
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
            "expected a size: a number, 'config.n_head' or 'config.hidden_size / config.n_head', got "
            f"{value!r}."
        )

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        texts = [str(s) if isinstance(s, int) else ".".join(("config", *s)) for s in (self.left, self.right)]
        return f"{texts[0]} {self.sign} {texts[1]}" if self.sign else texts[0]

    def value(self, config: Mapping[str, Any] | None) -> int:
        """Return the size.

        Args:
            config: The checkpoint's config; None if there is none.

        Raises:
            RuleError: The config is needed and there is none, it has no such entry, the entry is not a size,
                or the quotient is not a whole number.
        """
        left, right = (s if isinstance(s, int) else _size_entry(config, s) for s in (self.left, self.right))
        if self.sign != "/":
            return left * right
        if right == 0 or left % right:
            raise RuleError(f"expected a whole number, got {self} = {left} / {right}.")
        return left // right


def parse_sizes(sizes: Mapping[str, int | str]) -> dict[str, Size]:
    """Parse the size of each axis.

    Raises:
        RuleError: A size is not of the form that `Size.parse` reads; the message names its axis.
    """
    parsed = {}
    for name, size in sizes.items():
        try:
            parsed[name] = Size.parse(size)
        except RuleError as err:
            raise RuleError(f"sizes.{name}: {err.message}", hint=err.hint) from err
    return parsed


def _operand(text: str) -> int | tuple[str, ...] | None:
    if COUNT.fullmatch(text):
        return int(text)
    head, *names = text.split(".")
    return tuple(names) if head == "config" and names and all(map(NAME.fullmatch, names)) else None


def config_entry(config: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the entry of a nested config, or None if there is none."""
    entry: Any = config
    for name in names:
        if not isinstance(entry, Mapping) or name not in entry:
            return None
        entry = entry[name]
    return entry


def _size_entry(config: Mapping[str, Any] | None, names: Sequence[str]) -> int:
    text = ".".join(names)
    if config is None:
        raise RuleError(
            f"config.{text} has no value: the checkpoint has no config.json.",
            hint="Put the model's config.json next to the source file, or write the number.",
        )
    entry = config_entry(config, names)
    if entry is None:
        parent = config_entry(config, names[:-1])
        entries = list(itertools.islice(parent, _MOST_ENTRIES)) if isinstance(parent, Mapping) else []
        likely = nearest(names[-1], map(str, entries))
        raise RuleError(
            f"the checkpoint's config has no entry {text!r}.",
            hint=likely if likely.startswith("Did") else "Write the name of another entry, or the number.",
        )
    if isinstance(entry, bool) or not isinstance(entry, int) or entry < 0:
        raise RuleError(
            f"the entry {text!r} of the checkpoint's config is not a size: expected a whole number, got "
            f"{entry!r}.",
            hint="Write the number in the rule instead.",
        )
    return entry
