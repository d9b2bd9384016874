"""Which dtype each target tensor is cast to, by the patterns that a caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.errors import RuleError, UsageError
from bridge_core.messages import nearest
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.resolve import keys_named, spellings_in_plan
from bridge_core.state import Key, dtype_named, join_key

__all__ = ["REST", "target_dtypes"]

REST = "**"
"""The pattern for what no other matches."""


def target_dtypes(plan: Plan, dtype: str | Mapping[str, str], registry: Registry) -> dict[Key, Any]:
    """Return target key -> the dtype that it is cast to; unchanged targets are not in it.

    Args:
        plan: A plan that can be run.
        dtype: The name of a dtype, or pattern -> name. Of the patterns that match a target the last decides;
            ``**`` is for the others. Tensors that a tie joins have all of their names.
        registry: Where frameworks are found.

    Raises:
        UsageError: A pattern matches no target, or is not valid.
    """
    by_pattern = {REST: dtype} if isinstance(dtype, str) else dtype
    targets = [key for step in plan.steps for key in step.targets]
    rest = {key: dtype_named(by_pattern[REST]) for key in targets} if REST in by_pattern else {}
    patterns = [pattern for pattern in by_pattern if pattern != REST]
    if not patterns:
        return rest
    spellings = spellings_in_plan(plan, registry)
    ties = {**plan.metadata.ties, **plan.ties}
    chosen: dict[Key, Any] = {}
    for pattern in patterns:
        try:
            matching = keys_named(pattern, dict.fromkeys((*targets, *plan.ties)), spellings)
        except RuleError as err:
            raise UsageError(f"dtype= (--dtype): {err.message}", hint=err.hint) from err
        if not matching:
            raise UsageError(
                f"dtype= (--dtype): no target tensor matches {pattern!r}.",
                hint=nearest(pattern, map(join_key, targets)),
            )
        chosen.update((ties.get(key, key), dtype_named(by_pattern[pattern])) for key in matching)
    named = {key: chosen[ties.get(key, key)] for key in targets if ties.get(key, key) in chosen}
    return {**rest, **named}
