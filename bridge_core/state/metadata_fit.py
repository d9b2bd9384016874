"""Whether the metadata of a file belongs to the tensors that are read with it.

Metadata about what is not there is allowed: a part of a state may have been written. What contradicts the
tensors that are there is not, nor is a tie of which an end is missing.
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
    """Check the ties, the form of the tree and the empty nodes of a state against its tensors.

    Args:
        state: The state, as a format opened it.
        path: Its file, for errors.

    Raises:
        MalformedFile: The metadata does not belong to the tensors.
    """
    for problem in _problems(state):
        raise misfit(problem, path)


def misfit(problem: str, path: str) -> MalformedFile:
    """Return the error of metadata that does not belong to the tensors beside it."""
    return MalformedFile(f"its metadata does not belong to its tensors: {problem}.", path=path, hint=STALE)


def _problems(state: FlatState) -> Iterator[str]:
    ties = state.metadata.ties
    for key, other in ties.items():
        yield from _tie_problems(state, key, other)
    if ties:
        yield from (
            f"'ties' lead in a circle from {join_key(root)!r} back to it"
            for root in dict.fromkeys(root for _, root in Ties(ties))
            if root in ties
        )
    if state.metadata.tree_form.get(state.layout or "") == "variables":
        yield from (
            f"'forms' says that names begin with a collection, and {join_key(key)!r} has one part alone"
            for key in state
            if len(key) < 2
        )
    for node in state.metadata.empty:
        if node and node in state:
            yield f"'empty' calls {join_key(node)!r} an empty node, and it is a tensor, {state.spec(node)}"


def _tie_problems(state: FlatState, key: Key, other: Key) -> Iterator[str]:
    tie = f"'ties' gives {join_key(key)!r} the values of {join_key(other)!r}"
    if key == other:
        yield f"{tie}, of itself"
    for end in (key, other):
        if end not in state:
            yield f"{tie}, and there is no tensor {join_key(end)!r}"
    one, two = state.spec(key), state.spec(other)
    if not may_be_tied(one, two):
        yield f"{tie}, and the one is {one}, the other {two}"
