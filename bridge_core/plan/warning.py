"""What is worth a warning about a plan that can be run: weights that may be right and give other outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.state import Key, join_key

__all__ = ["PlanWarning"]


@dataclass(frozen=True)
class PlanWarning:
    """Something about a conversion that only its user can decide.

    Args:
        code: What it is: ``flatten`` (a linear layer next to a flattened feature map), ``norm_axes`` (a norm
            over channels and space), ``overflow`` (a cast that left the range of its dtype), or what the
            source is, where parts of a layer are left out or copied: ``quantised``, ``adapter``, ``scaled``.
        message: What may be wrong and what to do, in one paragraph.
        keys: The tensors: the plan's source keys; for ``overflow`` the keys written.
        rule: Rules as TOML that mend it; empty if no rule does.
    """

    code: str
    message: str
    keys: tuple[Key, ...] = ()
    rule: str = ""

    def traced(self, origin: Mapping[Key, Key]) -> PlanWarning:
        """Return it with the keys of an earlier plan's source.

        Args:
            origin: Key here -> source key of the earlier plan.
        """
        return replace(self, keys=tuple(origin.get(key, key) for key in self.keys))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "code": self.code,
            "message": self.message,
            "keys": [join_key(key) for key in self.keys],
            "rule": self.rule,
        }
