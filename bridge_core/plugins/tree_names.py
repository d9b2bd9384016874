"""How the keys of a state name layers and leaves, as its metadata and the framework's adapter know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bridge_core.errors import BridgeError
from bridge_core.plugins.framework import Framework, TreeNaming
from bridge_core.state import FlatState, Key, TensorSpec, VariableCollections

__all__ = ["SpecsByName", "names_of", "random_state_of", "specs_without_boxes"]


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
    specs, boxed = specs_without_boxes(state, framework)
    if form is not None:
        return VariableCollections(framework.collections, form == "variables", boxed)
    try:
        present = framework.has_collections(specs)
    except BridgeError as err:
        err.path = err.path or state.metadata.provenance.get("path")
        raise
    return VariableCollections(framework.collections, present, boxed)


def specs_without_boxes(state: FlatState, framework: TreeNaming) -> tuple[SpecsByName, frozenset[Key]]:
    """Return the specs of a state by names without boxes, and the keys that are in boxes.

    Args:
        state: In the framework's layout.
        framework: The framework's adapter.
    """
    specs = SpecsByName(state, {key: key for key in state})
    name = framework.name if isinstance(framework, Framework) else ""
    # The adapter opens the boxes of live modules and states itself.
    nnx = state.metadata.tree_form.get(name) == "nnx"
    boxed = frozenset(() if nnx else framework.boxes(specs))
    if not boxed:
        return specs, boxed
    return SpecsByName(state, {key[:-1] if key in boxed else key: key for key in state}), boxed


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
    return frozenset(keys[name] for name in framework.random_state(SpecsByName(state, keys)))


class SpecsByName(Mapping[Key, TensorSpec]):
    """The specs of a state under other names, each looked up when it is asked for, which is seldom."""

    def __init__(self, state: FlatState, keys: Mapping[Key, Key]) -> None:
        self._state = state
        self.keys_by_name = keys

    def __getitem__(self, name: Key) -> TensorSpec:
        return self._state.spec(self.keys_by_name[name])

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys_by_name)

    def __len__(self) -> int:
        return len(self.keys_by_name)

    def __contains__(self, name: object) -> bool:
        return name in self.keys_by_name
