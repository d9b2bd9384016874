"""The values that a target would get if some rules were taken, made by a real conversion."""

from __future__ import annotations

from collections.abc import Sequence

from bridge_core.conversion import plan_conversion
from bridge_core.errors import BridgeError
from bridge_core.plugins import Registry
from bridge_core.proof.matching.matching import Matching, PatternPair
from bridge_core.proof.matching.rules_text import rules_text
from bridge_core.rules import rules_of_text
from bridge_core.state import FlatState, Key, StateMetadata

__all__ = ["made_by"]


def made_by(
    pairs: Sequence[PatternPair], source: FlatState, target: FlatState, registry: Registry
) -> FlatState | None:
    """Return the target's tensors that some rules make, as read when they are; None if they do not fit.

    Args:
        pairs: The rules.
        source: The source, with values.
        target: The target's template.
        registry: The plugins.
    """
    keys: tuple[dict[Key, None], dict[Key, None]] = ({}, {})
    for pair in pairs:
        for use in pair.keys:
            for side in (0, 1):
                keys[side].update(dict.fromkeys(use[side]))
    bare = [
        state.select(list(own)).replace(layout=state.layout, metadata=StateMetadata())
        for state, own in ((source, keys[0]), (target, keys[1]))
    ]
    text = rules_text(Matching(source.layout or "", target.layout or "", tuple(pairs), (), (), ()))
    try:
        plan = plan_conversion(
            bare[0],
            to=target.layout or "",
            like=bare[1],
            rules=rules_of_text(text, "rules.toml"),
            recipe="none",
            registry=registry,
        )
        return plan.apply(bare[0])
    except BridgeError:
        return None
