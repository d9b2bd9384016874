"""Other tensors for some keys of a state, so that no tie breaks by accident."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.errors import UsageError, about_tensor
from bridge_core.state.keys import Key, join_key
from bridge_core.state.tensors import Tensor, as_tensor

__all__ = ["new_tensors"]


def new_tensors(
    values: Mapping[Key, Any], ties: Mapping[Key, Key], known: Mapping[Key, Any]
) -> dict[Key, Tensor]:
    """Return values as tensors, one for each object, after checking that they name both ends of each tie.

    Args:
        values: Key -> array, numpy scalar or `Tensor`.
        ties: Key -> the key whose values it has, as in the metadata.
        known: The keys of the state; a tie to another key is ignored.

    Raises:
        UsageError: A key is tied to one that has no new value.
        UnsupportedFeature: A value is not an array of numbers or booleans.
    """
    for ends in ties.items():
        for key, other in (ends, ends[::-1]):
            if key in values and other not in values and other in known:
                raise UsageError(
                    f"this tensor is tied to {join_key(other)!r}, which would keep its old values.",
                    key=key,
                    hint=f"Give a tensor for {join_key(other)!r}, too. The order of its axes may differ: an "
                    "embedding is the transpose of the kernel of its head.",
                )
    by_identity: dict[int, Tensor] = {}
    for key, value in values.items():
        with about_tensor(key):
            by_identity.setdefault(id(value), as_tensor(value))
    return {key: by_identity[id(value)] for key, value in values.items()}
