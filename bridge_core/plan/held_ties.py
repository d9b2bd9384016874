"""Which ties of a plan hold for the values that it has made."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.state import Key, Tensor, equal_values

__all__ = ["held_ties"]


def held_ties(declared: Mapping[Key, Key], tensors: dict[Key, Tensor], layout: str) -> dict[Key, Key]:
    """Let declared ties share a tensor where their values are equal; return them without the other ties.

    In the neutral layout tied tensors may differ in their axes; there a tie is only recorded.

    Args:
        declared: Key -> the key that it is tied to.
        tensors: What the plan has made; tied keys get the tensor that they share.
        layout: The layout of these.
    """
    ties: dict[Key, Key] = {}
    for key, canonical_key in declared.items():
        if key not in tensors or canonical_key not in tensors:
            continue
        one, other = tensors[key], tensors[canonical_key]
        if one is not other and layout != "neutral" and one.spec == other.spec:
            if not equal_values(one, other):
                continue
            tensors[key] = other
        ties[key] = canonical_key
    return ties
