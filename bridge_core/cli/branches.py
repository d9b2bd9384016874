"""The branches of a train state, as ``ckptbridge inspect`` shows them: weights, and what else there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.errors import BridgeError
from bridge_core.messages import count, listed, size_text

if TYPE_CHECKING:
    from bridge_core.plugins import Registry
    from bridge_core.state import FlatState, Key, LeftOut

__all__ = ["axes_of_weights", "branches_json", "branches_lines", "branches_of_state"]


def branches_of_state(state: FlatState, registry: Registry) -> tuple[LeftOut, ...]:
    """Return the branches of a train state; none for another state."""
    from bridge_core.plugins import branches_of

    return branches_of(state, registry.frameworks.get(state.layout or ""))


def axes_of_weights(state: FlatState, registry: Registry) -> Mapping[Key, tuple[str, ...]]:
    """Return key -> names of the axes of the weights, as `axis_names` gives them for other states."""
    from bridge_core.plugins import weights_of
    from bridge_core.resolve import axis_names

    try:
        weights = weights_of(state, registry.frameworks.get(state.layout or ""))
    except BridgeError:  # a conversion reports what is wrong
        return {}
    names = weights.metadata.source_names if weights is not state else {}
    return {names.get(key, key): axes for key, axes in axis_names(weights, registry).items()}


def branches_json(branches: tuple[LeftOut, ...]) -> dict[str, Any]:
    """Return the key of the JSON document about branches; nothing unless the state is a train state."""
    if not branches:
        return {}
    rows = [
        {
            "name": branch.name,
            "tensors": branch.tensors,
            "bytes": branch.nbytes,
            "weights": not branch.reason,
            "reason": branch.reason,
        }
        for branch in branches
    ]
    return {"collections": rows}


def branches_lines(branches: tuple[LeftOut, ...]) -> list[str]:
    """Return lines about branches; none unless the state is a train state."""
    if not branches:
        return []
    weights = [
        f"{branch.name} ({count(branch.tensors, 'tensor')}, {size_text(branch.nbytes)})"
        for branch in branches
        if not branch.reason
    ]
    lines = ["", f"weights: {listed(weights)}", "not weights (--entry):"]
    return lines + [
        f"  {branch.name}: {branch.reason}, {count(branch.tensors, 'tensor')}, {size_text(branch.nbytes)}"
        for branch in branches
        if branch.reason
    ]
