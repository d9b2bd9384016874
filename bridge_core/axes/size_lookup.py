"""What names in expressions are: stated sizes, entries of a config, and sizes that are known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bridge_core.axes.expressions import Expression, Value, absent_entry
from bridge_core.errors import RuleError
from bridge_core.messages import nearest

__all__ = ["SizeLookup", "config_entry", "parse_sizes"]

_MOST_ENTRIES = 1000
"""How many entries of a config are compared with a name that it does not have."""

_CONFIG = "config."


def parse_sizes(sizes: Mapping[str, Any]) -> dict[str, Expression]:
    """Read the size of each name.

    Raises:
        RuleError: A size is not an expression; the message names it.
    """
    parsed = {}
    for name, size in sizes.items():
        try:
            if isinstance(size, int) and size < 0:
                raise RuleError(f"expected a size of 0 or more, got {size!r}.")
            parsed[name] = Expression.parse(size)
        except RuleError as err:
            raise RuleError(f"sizes.{name}: {err.message}", hint=err.hint) from err
    return parsed


class SizeLookup:
    """Gives names their values: known sizes first, then what the rule states, then the config.

    Args:
        stated: Name -> its expression, as the rule states it.
        config: The checkpoint's config; None if there is none.
        known: Names whose values are known: captures, and axes by the shapes of tensors.
    """

    def __init__(
        self,
        stated: Mapping[str, Expression],
        config: Mapping[str, Any] | None = None,
        known: Mapping[str, Value] = MappingProxyType({}),
    ) -> None:
        self._stated = stated
        self._config = config
        self._known = dict(known)
        self._open: list[str] = []

    def states(self, name: str) -> bool:
        """Return whether a name is a size not left open by ``?``, or an entry of the config."""
        pending, seen = [name], set(self._known)
        while pending:
            one = pending.pop()
            if one in seen or one.startswith(_CONFIG):
                continue
            seen.add(one)
            expression = self._stated.get(one)
            if (expression is None and one == name) or (expression is not None and expression.is_unset):
                return False
            pending += expression.names if expression is not None else ()
        return True

    def needs_config(self, name: str) -> bool:
        """Return whether a size is by an entry of the config, if it has one."""
        pending, seen = [name], set[str]()
        while pending:
            one = pending.pop()
            if one.startswith(_CONFIG):
                return True
            expression = None if one in seen else self._stated.get(one)
            seen.add(one)
            pending += expression.names if expression is not None else ()
        return False

    def __call__(self, name: str) -> Value:
        """Return the value of a name.

        Raises:
            RuleError: It has none, or depends on itself.
        """
        self.lacks_value = False
        if name in self._known:
            return self._known[name]
        self.lacks_value = self._config is None and name.startswith(_CONFIG)
        if name.startswith(_CONFIG):
            return _config_value(self._config, name.removeprefix(_CONFIG).split("."))
        expression = self._stated.get(name)
        if expression is None:
            likely = nearest(name, [*self._known, *self._stated])
            raise RuleError(
                f"{name} has no value.",
                hint=likely if likely.startswith("Did") else f"State it, such as sizes = {{ {name} = 12 }}.",
            )
        if expression.is_unset:
            self.lacks_value = True
            raise RuleError(f"the size {name} has no value.", hint=f"Pass its value (--set {name}=VALUE).")
        if name in self._open:
            raise RuleError(f"the size {name} depends on itself: {' -> '.join((*self._open, name))}.")
        self._open.append(name)
        try:
            value = self._known[name] = expression.value(self)
        except RecursionError:
            raise RuleError(f"the size {name} depends on too many others, one after another.") from None
        finally:
            self._open.pop()
        return value


def config_entry(config: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the entry of a nested config, or None if there is none."""
    entry: Any = config
    for name in names:
        if not isinstance(entry, Mapping) or name not in entry:
            return None
        entry = entry[name]
    return entry


def _config_value(config: Mapping[str, Any] | None, names: Sequence[str]) -> Value:
    text = ".".join(names)
    if config is None:
        raise absent_entry(
            f"config.{text} has no value: the checkpoint has no config.json.",
            hint="Put the model's config.json next to the source file, write the number, or pass a size of "
            "[sizes] (--set NAME=VALUE).",
        )
    entry = config_entry(config, names)
    if entry is None:
        parent = config_entry(config, names[:-1])
        entries = list(itertools.islice(parent, _MOST_ENTRIES)) if isinstance(parent, Mapping) else []
        likely = nearest(names[-1], map(str, entries))
        raise absent_entry(
            f"the checkpoint's config has no entry {text!r}.",
            hint=likely if likely.startswith("Did") else "Write the name of another entry, or the number.",
        )
    if not isinstance(entry, int | float | str | list):
        raise RuleError(
            f"the entry {text!r} of the checkpoint's config is not a number: got {entry!r}.",
            hint="Write the number in the rule instead.",
        )
    return tuple(entry) if isinstance(entry, list) else entry
