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
    """Return target key -> the dtype that it is cast to; keys that stay as they are have none.

    Args:
        plan: A plan that can be run.
        dtype: The name of a dtype, or pattern -> name. Of the patterns that match a target the last decides;
            ``**`` is for the others. Tensors that a tie joins have all of their names.
        registry: Where frameworks are found.

    Raises:
        UsageError: A pattern matches no target, or is not valid.
    """
    by_pattern = {REST: dtype} if isinstance(dtype, str) else dtype
    made = [key for step in plan.steps for key in step.targets]
    dtypes = dict.fromkeys(made, dtype_named(by_pattern[REST])) if REST in by_pattern else {}
    patterns = [pattern for pattern in by_pattern if pattern != REST]
    spellings = spellings_in_plan(plan, registry) if patterns else None
    for pattern in patterns:
        assert spellings is not None
        try:
            matching = keys_named(pattern, [*made, *plan.ties], spellings)
        except RuleError as err:
            raise UsageError(f"dtype= (--dtype): {err.message}", hint=err.hint) from err
        if not matching:
            raise UsageError(
                f"dtype= (--dtype): no target tensor matches {pattern!r}.",
                hint=nearest(pattern, map(join_key, made)),
            )
        wanted = dtype_named(by_pattern[pattern])
        dtypes.update((plan.ties.get(key, key), wanted) for key in matching)
    return dtypes
