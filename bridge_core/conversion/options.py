"""What the caller of a conversion asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bridge_core.plugins import Guidance
from bridge_core.rules import Allowed, Rules, as_rules

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """What settles a plan; see `bridge_core.plan_conversion` for each."""

    to: str
    like: Any = None
    model: Any = None
    rules: Rules = ()
    accept_guesses: bool = False
    allow_missing: Allowed = ()
    allow_unexpected: Allowed = ()
    allow_mismatched: Allowed = ()

    def guided(self, known: Guidance) -> Asked:
        """Return this with what a library knows, wherever the caller says nothing."""
        return replace(
            self,
            model=known.model if self.model is None or isinstance(self.model, str) else self.model,
            like=known.like if self.like is None else self.like,
            rules=(*as_rules(self.rules), *(replace(rule, fallback=True) for rule in known.rules)),
        )
