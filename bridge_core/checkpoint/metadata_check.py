"""What a file says of its tensors is compared with them, once, when it is opened."""

from __future__ import annotations

from bridge_core.plugins import Registry
from bridge_core.state import FlatState

__all__ = ["check_metadata"]


def check_metadata(state: FlatState, registry: Registry, path: str) -> None:
    """Check that a file's metadata belongs to its tensors.

    Raises:
        MalformedFile: It does not.
    """
    known = state.metadata
    if known.ties or known.empty or known.tree_form:
        from bridge_core.state import check_fit

        check_fit(state, path)
    if known.layers:
        from bridge_core.plugins import check_recorded_layers

        check_recorded_layers(state, registry, path)
