"""Compares a file's metadata with its tensors, once, when the file is opened."""

from __future__ import annotations

from bridge_core.plugins import Registry
from bridge_core.state import FlatState

__all__ = ["check_metadata"]


def check_metadata(state: FlatState, registry: Registry, path: str) -> None:
    """Check that the ties, layers, empty nodes and tree form in a file's metadata fit its tensors.

    Raises:
        MalformedFile: The metadata contradicts the tensors.
    """
    known = state.metadata
    if known.ties or known.empty or known.tree_form:
        from bridge_core.state import check_fit

        check_fit(state, path)
    if known.layers:
        from bridge_core.plugins import check_recorded_layers

        check_recorded_layers(state, registry, path)
