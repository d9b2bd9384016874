"""The actions and constructors of `Rule` under their old names: they still work, and warn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from bridge_core.errors import DeprecatedName

__all__ = ["current_action", "with_old_names"]

T = TypeVar("T")

_ACTIONS = {"move": "rearrange", "constant": "fill"}
_CONSTRUCTORS = {"move": "rearrange", "leave_out": "drop", "constant": "fill"}


def current_action(action: str) -> str:
    """Return the current name of an action; an old name also issues a `DeprecatedName` warning."""
    if action in _ACTIONS:
        _warn(f"the action {action!r}", repr(_ACTIONS[action]))
    return _ACTIONS.get(action, action)


def with_old_names(rule: type[T]) -> type[T]:
    """Add the old names of the constructors of `Rule`, and ``drop`` of an instance, which was its reason."""
    for old, new in _CONSTRUCTORS.items():
        setattr(rule, old, classmethod(_constructor(old, new)))
    setattr(rule, "drop", _DropOrReason(vars(rule)["drop"]))  # noqa: B010 (mypy: the type has a method)
    return rule


def _constructor(old: str, new: str) -> Callable[..., Any]:
    def make(cls: type[Any], *args: Any, **options: Any) -> Any:
        _warn(f"Rule.{old}", f"Rule.{new}")
        return getattr(cls, new)(*args, **options)

    make.__doc__ = f"Deprecated name of `{new}`."
    return make


class _DropOrReason:
    """``Rule.drop`` is the constructor; ``drop`` of an instance is its reason, under an old name."""

    def __init__(self, constructor: Any) -> None:
        self.constructor = constructor

    def __get__(self, rule: Any, owner: type[Any]) -> Any:
        if rule is None:
            return self.constructor.__get__(None, owner)
        _warn("the attribute drop of a rule", "reason, if action is 'drop'")
        return rule.reason if rule.action == "drop" else None


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated; use {new}.", DeprecatedName, stacklevel=3)
