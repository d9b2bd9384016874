"""How the keys of a state name layers and leaves, as its metadata and the framework's adapter know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bridge_core.errors import BridgeError
from bridge_core.plugins.framework import Framework, TreeNaming
from bridge_core.state import FlatState, Key, TensorSpec, VariableCollections

__all__ = ["names_of", "random_state_of"]


def names_of(state: FlatState, framework: Framework) -> VariableCollections:
    """Return the collections and the boxes in the keys of a state.

    Args:
        state: In the framework's layout.
        framework: The framework's adapter.

    Raises:
        KeyConflict: The names do not show whether they begin with collections.
    """
    if not isinstance(framework, TreeNaming):
        return VariableCollections.of_state(state, framework.name, framework.collections)
    form = state.metadata.tree_form.get(framework.name)
    specs = _Specs(state, {key: key for key in state})
    # The adapter opens the boxes of live modules and states itself.
    boxed = frozenset(() if form == "nnx" else framework.boxes(specs))
    if form is not None:
        return VariableCollections(framework.collections, form == "variables", boxed)
    if boxed:
        specs = _Specs(state, {key[:-1] if key in boxed else key: key for key in state})
    try:
        present = framework.has_collections(specs)
    except BridgeError as err:
        err.path = err.path or state.metadata.provenance.get("path")
        raise
    return VariableCollections(framework.collections, present, boxed)


def random_state_of(state: FlatState, framework: Framework, names: VariableCollections) -> frozenset[Key]:
    """Return the keys of a state that hold random state and no weights.

    States of live objects do not contain these keys either.

    Args:
        state: In the framework's layout.
        framework: The framework's adapter.
        names: What `names_of` gives.
    """
    if not isinstance(framework, TreeNaming):
        return frozenset()
    keys = {name: key for key, name in names.names(state).items()}
    return frozenset(keys[name] for name in framework.random_state(_Specs(state, keys)))


class _Specs(Mapping[Key, TensorSpec]):
    """The specs of a state under other names, each looked up when it is asked for, which is seldom."""

    def __init__(self, state: FlatState, keys: Mapping[Key, Key]) -> None:
        self._state = state
        self._keys = keys

    def __getitem__(self, name: Key) -> TensorSpec:
        return self._state.spec(self._keys[name])

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, name: object) -> bool:
        return name in self._keys
