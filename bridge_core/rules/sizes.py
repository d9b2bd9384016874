"""The sizes of axes that a rule states, resolved with the checkpoint's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.axes import SizeLookup, config_entry, whole_number
from bridge_core.errors import RuleError

if TYPE_CHECKING:
    from bridge_core.axes import Expression
    from bridge_core.rules.rule import Rule

__all__ = ["resolve_sizes"]


def resolve_sizes(
    rule: Rule, config: Mapping[str, Any] | None = None, left_open: dict[str, RuleError] | None = None
) -> dict[str, int]:
    """Return the sizes of axes that a rule states, including the bounds in its ``where``.

    Args:
        rule: The rule.
        config: The checkpoint's config; None if there is none.
        left_open: Gets the names whose sizes need a config or a value that is not there, with the error about
            it: shapes may still show these sizes. None if that is an error at once.

    Raises:
        RuleError: A size is an entry of the config that is missing, or it is not a whole number.
    """
    lookup = SizeLookup(rule.sizes, config)
    sizes = _bounds(rule, lookup) if rule.where.bounded else {}
    for name, expression in rule.sizes.items():
        if name not in rule.size_names or (expression.is_unset and left_open is None):
            continue
        try:
            size = whole_number(lookup(name), expression)
            if config is None and left_open is not None and lookup.needs_config(name):
                lookup.lacks_value = True
                raise RuleError(
                    "the checkpoint has no config.json.", hint=f"Put it there, or --set {name}={size}."
                )
            sizes[name] = size
        except RuleError as err:
            error = rule.error(f"sizes.{name}: {err.message}{_entries(expression, config)}", hint=err.hint)
            if left_open is None or not lookup.lacks_value:
                raise error from err
            left_open[name] = error
    return sizes


def _entries(expression: Expression, config: Mapping[str, Any] | None) -> str:
    """Return a sentence about the entries of the config that an expression names; empty if there are none."""
    names = sorted(n.removeprefix("config.") for n in expression.names if n.startswith("config."))
    known = [(name, config_entry(config or {}, name.split("."))) for name in names]
    texts = [f"{name!r}, got {value!r}" for name, value in known if value is not None]
    return f" Entries of the checkpoint's config: {'; '.join(texts)}." if texts else ""


def _bounds(rule: Rule, lookup: SizeLookup) -> dict[str, int]:
    """Return the sizes of parts that the equations in ``where`` state."""
    where = rule.where if rule.where.lookup is not None else rule.where.at(lookup)
    try:
        return {name: size for _, numbers in where.sums() for name, size in numbers.sizes.items()}
    except RuleError as err:
        raise rule.error(err.message, hint=err.hint) from err
