"""Values that a model computes while it runs, and stores in a collection of its own, on the way elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bridge_core.plugins import Framework, PassingValues, Registry
from bridge_core.state import FlatState, Key

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["passing_values"]


def passing_values(
    state: FlatState, registry: Registry, target: Framework, like: FlatState | None, rules: Iterable[Rule]
) -> dict[Key, str]:
    """Return the tensors of a neutral state that are left out, with the reason.

    They are those in a collection such as Flax's ``cache``, on the way to a framework without collections,
    which neither a rule takes nor the template may have a place for.

    Args:
        state: The neutral state.
        registry: The adapters, which know the collections.
        target: The framework of the result.
        like: The template; None for none.
        rules: The rules of the conversion.
    """
    if target.collections or not state.metadata.collections:
        return {}
    collections = {
        name
        for framework in registry.frameworks.values()
        if isinstance(framework, PassingValues)
        for name in framework.passing_collections
    }
    found = {key: name for key, name in state.metadata.collections.items() if name in collections}
    if not found:
        return {}
    wanted = {key[-1] for key in like} if like is not None else set()
    patterns = [pattern for rule in rules for pattern in rule.sources]
    waiting = {key for rule in state.metadata.rules or () for key in rule.pending}
    return {
        key: f"from the collection {name!r}, which holds no weights"
        for key, name in found.items()
        if key in state
        and key[-1] not in wanted
        and key not in waiting
        and not any(pattern.match(key) is not None for pattern in patterns)
    }
