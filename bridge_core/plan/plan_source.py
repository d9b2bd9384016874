"""The state that a plan is applied to: the tensors that it must have."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.errors import PlanError
from bridge_core.messages import count, listed
from bridge_core.state import FlatState, Key, TensorSpec, join_key

__all__ = ["check_source", "with_tied"]


def with_tied(source: FlatState, ties: Mapping[Key, Key]) -> FlatState:
    """Return a state with the tensors that it has only under the names that they are tied to.

    Args:
        source: The state.
        ties: Key that a model ties to another -> that other.
    """
    absent = {key: other for key, other in ties.items() if key not in source}
    if not absent or any(other not in source for other in absent.values()):
        return source
    added = {key: source.tensor(other) for key, other in absent.items()}
    metadata = source.metadata.with_(ties={**source.metadata.ties, **absent})
    return source.replace(tensors={**source.tensors(), **added}, metadata=metadata)


def check_source(source: FlatState, specs: Mapping[Key, TensorSpec]) -> None:
    """Refuse a state that a plan was not made for.

    Args:
        source: The state.
        specs: The specs that the plan was made for.

    Raises:
        PlanError: The state has other keys, shapes or dtypes.
    """
    if source.specs() == specs:
        return
    wrong = [join_key(key) for key, spec in specs.items() if key not in source or source.spec(key) != spec]
    wrong += [join_key(key) for key in source if key not in specs]
    if wrong:
        raise PlanError(
            f"the plan has other keys, shapes or dtypes: {count(len(wrong), 'tensor')}, {listed(wrong)}.",
            hint="Apply the plan to the state it was made for, or plan the conversion of this state.",
        )
