"""Comparing the metadata of a file with its tensors.

Metadata of absent tensors is allowed, since a file may hold a part of a state. Metadata that contradicts a
tensor is refused, and so is a tie to or from an absent tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from bridge_core.errors import MalformedFile
from bridge_core.state.flat_state import FlatState
from bridge_core.state.keys import Key, join_key
from bridge_core.state.metadata_schema import STALE
from bridge_core.state.ties import Ties, may_be_tied

__all__ = ["check_fit", "misfit"]


def check_fit(state: FlatState, path: str) -> None:
    """Compare the ties, the form of the tree and the empty nodes of a state with its tensors.

    Args:
        state: The state, as a format opened it.
        path: The file, for errors.

    Raises:
        MalformedFile: The metadata contradicts the tensors.
    """
    for problem in _problems(state):
        raise misfit(problem, path)


def misfit(problem: str, path: str) -> MalformedFile:
    """Return the error for metadata that does not match the tensors of its file."""
    return MalformedFile(f"the metadata does not match the tensors: {problem}.", path=path, hint=STALE)


def _problems(state: FlatState) -> Iterator[str]:
    ties = state.metadata.ties
    for key, other in ties.items():
        yield from _tie_problems(state, key, other)
    if ties:
        yield from (
            f"'ties' tie {join_key(root)!r} to itself, in a circle"
            for root in dict.fromkeys(root for _, root in Ties(ties))
            if root in ties
        )
    if state.metadata.tree_form.get(state.layout or "") == "variables":
        yield from (
            f"'forms' declares that keys begin with a collection, but {join_key(key)!r} has only one part"
            for key in state
            if len(key) < 2
        )
    for node in state.metadata.empty:
        if node and node in state:
            yield f"'empty' declares an empty node {join_key(node)!r}, but it is a tensor, {state.spec(node)}"


def _tie_problems(state: FlatState, key: Key, other: Key) -> Iterator[str]:
    tie = f"'ties' tie {join_key(key)!r} to {join_key(other)!r}"
    if key == other:
        yield f"'ties' tie {join_key(key)!r} to itself"
    for end in (key, other):
        if end not in state:
            yield f"{tie}, but the file has no tensor {join_key(end)!r}"
    one, two = state.spec(key), state.spec(other)
    if not may_be_tied(one, two):
        yield f"{tie}, but these are {one} and {two}"
