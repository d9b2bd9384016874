"""The contract of a framework adapter: objects are read exactly, built as they were, never changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from bridge_core.plugins import Framework, Registry, default_registry
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.state import Array, FlatState, Key, full
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkContract"]

_FOREIGN: tuple[Any, ...] = (
    None,
    3,
    "text",
    b"bytes",
    object(),
    [],
    {},
    {"a": "b"},
    FlatState({("a",): np.zeros(2)}),
)


class FrameworkContract(ABC):
    """Subclass it as ``Test...``, set ``framework`` and give it live objects.

    Attributes:
        framework: The adapter under test.
        registry: Where it is registered, with the transforms of its layers; by default everything installed.
    """

    framework: Framework
    registry: Registry | None = None

    @abstractmethod
    def samples(self) -> Iterable[Any]:
        """Return live objects with values, of every type that the adapter takes."""

    def abstract(self) -> Iterable[Any]:
        """Return live objects without values, if the framework has any."""
        return ()

    def foreign(self) -> Iterable[Any]:
        """Return further objects that are not this framework's."""
        return ()

    def _registry(self) -> Registry:
        return self.registry or default_registry()

    def _states(self) -> list[tuple[Any, FlatState]]:
        pairs = [(sample, self.framework.state(sample)) for sample in self.samples()]
        assert pairs, "samples() gives nothing to test with"
        return pairs

    # Declarations

    def test_is_a_framework_with_usable_declarations(self) -> None:
        """Its name is that of its layout, and its default format is installed."""
        assert isinstance(self.framework, Framework)
        assert self.framework.name
        assert self._registry().framework(self.framework.name) is not None
        assert self.framework.default_format in self._registry().formats
        assert all(isinstance(roles, tuple) for roles in self.framework.collections.values())

    # Recognising

    def test_accepts_its_own_objects_and_no_others(self) -> None:
        """And no other adapter takes them for its own."""
        others = [f for f in self._registry().frameworks.values() if f.name != self.framework.name]
        for value in (*self.samples(), *self.abstract()):
            assert self.framework.accepts(value)
            assert not [f.name for f in others if f.accepts(value)]
        for value in (*_FOREIGN, *self.foreign()):
            assert not self.framework.accepts(value), f"{value!r} was accepted"

    def test_owns_no_names_of_others(self) -> None:
        """A framework does not own the names of another, or of an empty state.

        Names that two frameworks own determine nothing.
        """
        assert not self.framework.owns({})
        for _, state in self._states():
            specs = state.specs()
            others = [f for f in self._registry().frameworks.values() if f.name != self.framework.name]
            if self.framework.owns(specs):
                assert not [f.name for f in others if f.owns(specs)]

    # Reading

    def test_states_are_in_its_layout_with_usable_keys(self) -> None:
        """Every key has parts, none of them empty."""
        for _, state in self._states():
            assert state.layout == self.framework.name
            assert len(state)
            assert all(key and all(key) for key in state)

    def test_specs_tell_the_real_shapes_and_dtypes(self) -> None:
        """Before anything is read."""
        for _, state in self._states():
            for key, spec in state.specs().items():
                value = state[key]
                assert (value.shape, value.dtype) == (spec.shape, spec.dtype)

    def test_parts_are_read_as_they_stand_in_the_whole(self) -> None:
        """Slices with steps of either sign."""
        for _, state in self._states():
            for key, spec in state.specs().items():
                whole = state[key]
                for step in (2, -1):
                    index = tuple(slice(None, None, step) for _ in spec.shape)
                    assert same_bits(state.read(key, index), whole[index])

    def test_ties_and_modules_name_what_is_there(self) -> None:
        """A tie joins two keys of one shape; a module's leaves are keys below its path."""
        for value, state in self._states():
            del value
            for alias, kept in state.metadata.ties.items():
                assert state.spec(alias) == state.spec(kept)
                assert same_bits(state[alias], state[kept])
            for info in state.metadata.modules.values():
                assert info.types
                assert all("." in name for name in info.types)

    def test_abstract_objects_have_specs(self) -> None:
        """Without values: they serve as templates."""
        for value in self.abstract():
            state = self.framework.state(value)
            assert state.layout == self.framework.name
            assert len(state.specs()) == len(state)

    # Building

    def test_what_is_built_is_accepted_and_holds_the_same_bits(self) -> None:
        """Without a template, and with the object itself as one."""
        for value, state in self._states():
            for like in (None, value):
                built = self.framework.build(state, like)
                assert self.framework.accepts(built)
                found = self.framework.state(built)
                assert set(found) == set(state)
                for key in state:
                    assert same_bits(found[key], state[key])

    def test_reading_and_building_change_nothing(self) -> None:
        """The object still has its values, and what is built has memory of its own."""
        for value, state in self._states():
            before = _copies(state)
            built = self.framework.state(self.framework.build(state, value))
            for key in state:
                if state.spec(key).size:
                    assert not np.shares_memory(np.asarray(built[key]), np.asarray(state[key]))
            after = self.framework.state(value)
            assert list(after) == list(before)
            for key, array in before.items():
                assert same_bits(after[key], array)

    def test_other_values_are_built_into_the_structure_of_an_object(self) -> None:
        """The values of the object that serves as the template are not mixed in."""
        for value, state in self._states():
            other = state.replace(tensors={key: _negated(array) for key, array in _copies(state).items()})
            found = self.framework.state(self.framework.build(other, value))
            for key in state:
                assert same_bits(found[key], other[key])

    # Converting

    def test_objects_come_back_from_neutral_form_bit_for_bit(self) -> None:
        """With the object as evidence and as the template."""
        registry = self._registry()
        for value, state in self._states():
            neutral = plan_to_neutral(state, registry).apply(state)
            assert neutral.layout == "neutral"
            back = plan_from_neutral(neutral, registry, self.framework.name, like=state).apply(neutral)
            found = self.framework.state(self.framework.build(back, value))
            assert set(found) == set(state)
            for key in state:
                assert same_bits(found[key], state[key])


def _copies(state: FlatState) -> dict[Key, Array]:
    return {key: np.array(state.tensor(key).read(full(state.spec(key).shape))) for key in state}


def _negated(array: Array) -> Array:
    """Return other bits of the same dtype that are a value of it."""
    return np.ascontiguousarray(array[::-1]) if array.ndim else array
