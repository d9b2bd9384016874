"""The contract of a framework adapter's `build`, on structure: that of a template, which is not changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.state import ArrayTensor, FlatState, Key, Ties
from bridge_core.testing.framework_harness import Difference, FrameworkHarness, field_of, named, values_of
from bridge_core.testing.live_objects import (
    containers_of,
    empty_paths,
    leaves_of,
    native_bits,
    numpy_leaves,
    shown_key,
    structure_difference,
)
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkStructure"]


class FrameworkStructure(FrameworkHarness):
    """The tests of `build` with an object as the template."""

    def test_a_missing_template_is_refused_where_one_is_needed(self) -> None:
        """By an error that names ``like=``; for adapters with ``needs_template = True``."""
        for _, state in self._states() if self._needs_template() else ():
            with pytest.raises(BridgeError, match="like"):
                self.framework.build(self._given(state), None)

    def test_what_is_built_has_the_structure_of_its_template(self) -> None:
        """Its type and its containers; where the framework returns plain trees, its order of keys."""
        for value, state in self._states():
            needs = self._needs_template()
            plain = None if needs else type(self.framework.build(self._given(state), None))
            built = self.framework.build(self._given(state, keys=list(state)[::-1]), value)
            expected, got = type(value).__name__, type(built).__name__
            if leaves_of(value) is not None:
                assert isinstance(built, type(value)), f"like is a {expected}, and a {got} was built"
                if type(built) is type(value):
                    difference = structure_difference(value, built)
                    assert not difference, f"the containers are not those of like: at {difference}"
            elif type(built) is not type(value):
                found = [key for key in self._state(built) if key in state]
                follows = type(built) is plain and found == [key for key in state if key in found]
                assert follows, (
                    f"like is a {expected}, and a {got} was built that has nothing of it: return the "
                    "structure of like with the values of the state"
                )

    def test_ties_survive(self) -> None:
        """Tied keys of the state share one tensor in what is built."""
        for value, state in self._states():
            own = {key: other for key, other in state.metadata.ties.items() if {key, other} <= {*state}}
            if not own:
                continue
            expected = _groups(own)
            for like in (value,) if self._needs_template() else (value, None):
                for keys in (list(state), list(state)[::-1]):
                    ties = self._built(self._given(state, keys=keys), like).metadata.ties
                    assert _groups(ties) == expected, (
                        f"expected the ties {expected}, got {_groups(ties)}, like={named(like)}: build one "
                        "array for tied keys, whatever their order, and put it in each place"
                    )

    def test_equal_values_are_no_ties(self) -> None:
        """Leaves are tied by sharing a tensor; many have equal values by chance, as biases of zeros."""
        for _, state in self._states() if not self._needs_template() else ():
            zeros = {key: np.zeros((2, 3), np.float32) for key in state}
            given = FlatState(zeros, layout=self.framework.name, metadata=state.metadata.with_(ties={}))
            found = self._built_or_refused(given, None)
            if found is not None:
                usual = self._built(self._given(state, untied=True), None).metadata.ties
                ties = {key: other for key, other in found.metadata.ties.items() if key not in usual}
                assert not ties, (
                    f"leaves of equal values are reported as tied: {_groups(ties)}: compare the objects or "
                    "their memory, and not the values"
                )

    def test_empty_nodes_survive(self) -> None:
        """What is empty in the template is empty in what is built."""
        for value, state, like in self._cases():
            built = self.framework.build(self._given(state), like)
            if type(built) is type(value):
                paths = empty_paths(value) if numpy_leaves(value) is not None else []
                if like is None:
                    paths = [path for path in paths if path in state.metadata.empty]
                lost = [path for path in paths if path not in empty_paths(built)]
                rebuilt = field_of(self._state(built).metadata, "empty")
                kept = not lost if paths else rebuilt == field_of(state.metadata, "empty")
                assert kept, (
                    f"expected the empty nodes {paths or field_of(state.metadata, 'empty')}, got "
                    f"{empty_paths(built) if paths else rebuilt}, like={named(like)}: build those of "
                    "state.metadata.empty, or of like"
                )

    def test_collections_and_forms_survive(self) -> None:
        """The collection of each key, and the form of the tree."""
        for value, state in self._states():
            built = self.framework.build(self._given(state), value)
            if type(built) is type(value):
                for field in ("collections", "tree_form"):
                    expected = field_of(state.metadata, field)
                    found = field_of(self._state(built).metadata, field)
                    assert found == expected, (
                        f"expected metadata.{field} as in like, {expected}, got {found}: take it from like"
                    )

    def test_module_types_survive(self) -> None:
        """An object of modules has them again."""
        for value, state in self._states():
            built = self.framework.build(self._given(state), value)
            if type(built) is type(value) and not structure_difference(value, built):
                expected = {path: info.types for path, info in state.metadata.modules.items()}
                rebuilt = {p: info.types for p, info in self._state(built).metadata.modules.items()}
                for path, types in expected.items():
                    assert rebuilt.get(path) == types, (
                        f"the module at {shown_key(path)}: expected the types {types} of like, got "
                        f"{rebuilt.get(path)}"
                    )

    # What is refused

    def test_leaves_are_neither_invented_nor_dropped(self) -> None:
        """A state that does not match the template is refused, or what is built has exactly its leaves."""
        for value, state in self._states():
            own = self._own(value)
            given = self._given(state)
            usual = self._result(given, value)
            if usual is None or any(d.sort == "template" for d in self._differences(usual, given, own)):
                continue
            free = [key for key in state if not _in_ties(key, state)] or list(state)
            last = free[-1]
            less = self._result(self._given(state, keys=[k for k in state if k != last]), value)
            assert less is None or last not in less, (
                f"{shown_key(last)} is in like and not in the state, and was built all the same: raise "
                "MismatchError, and fill nothing from like"
            )
            for extra in ((*last[:-1], "no_such_leaf"), ("no_such_collection", *last[1:])):
                more = self._result(given.union({extra: np.ones((2, 3), np.float32)}), value)
                assert more is None or extra in more, (
                    f"{shown_key(extra)} is in the state and not in like, and was dropped: raise "
                    "MismatchError"
                )
            for first in sorted({key[0] for key in state}):
                part = [key for key in state if key[0] != first]
                less = self._result(self._given(state, keys=part), value) if part else None
                assert less is None or not any(key[0] == first for key in less), (
                    f"all below {first!r} is in like and not in the state, and was built all the same: raise "
                    "MismatchError, and fill nothing from like"
                )
            longer = np.zeros((*state.spec(last).shape, 3), state.spec(last).dtype)
            other = self._result(given.replace(tensors={**given.tensors(), last: longer}), value)
            assert other is None or last not in other or other.spec(last).shape == longer.shape, (
                f"{shown_key(last)}: like has {state.spec(last)}, the state {longer.dtype.name}"
                f"{list(longer.shape)}, and {other.spec(last)} was built: raise MismatchError"
            )

    def _result(self, state: FlatState, like: Any) -> FlatState | None:
        """Build and read; None for what is refused in any way."""
        try:
            return self._built(state, like)
        except Exception:
            return None

    def test_a_template_of_no_framework_is_refused(self) -> None:
        """So that a mistake is not taken for no template."""
        for _, state in self._states():
            for like in (3, "text", object(), {"a": "b"}, {"no_such": np.ones(2)}):
                try:
                    self.framework.build(self._given(state), like)
                except Exception:
                    continue
                pytest.fail(
                    f"like={like!r} is not an object of this framework, and was accepted: raise UsageError"
                )

    # What is not touched

    def test_building_changes_neither_state_nor_template(self) -> None:
        """Their values, and the order of their keys."""
        for value, state, like in self._cases():
            own, leaves = self._own(value), numpy_leaves(value)
            before = [(place.path, native_bits(place.leaf)) for place in leaves or ()]
            modules = {} if like is None else self._types(value)
            given = self._given(state)
            keys, copies = list(given), {key: np.array(array) for key, array in values_of(given).items()}
            self.framework.build(given, like)
            same = list(given) == keys and all(same_bits(given[key], copies[key]) for key in keys)
            assert same, (
                f"`build` changed the state that it was given, like={named(like)}: copy before you change"
            )
            after = [(place.path, native_bits(place.leaf)) for place in numpy_leaves(value) or ()]
            unchanged = {key: np.asarray(array) for key, array in self._own(value).items()}
            assert (after, list(unchanged)) == (before, list(own)), "`build` changed the object given as like"
            for key, array in own.items():
                assert same_bits(unchanged[key], array), f"`build` changed {shown_key(key)} of like"
            assert like is None or self._types(value) == modules, "`build` changed the modules of like"

    def _types(self, value: Any) -> dict[Key, tuple[str, ...]]:
        """Return the types of an object's modules."""
        return {path: info.types for path, info in self._state(value).metadata.modules.items()}

    def test_what_is_built_has_memory_of_its_own(self) -> None:
        """It shares none with the state, with the template, or with what is built next."""
        for value, state, like in self._cases():
            own = self._own(value)
            given = self._given(state)
            first, second = (self._read(self.framework.build(given, like)) for _ in range(2))
            others = {"the state": given, "the object that is built next": second}
            still_own = like is not None and all(
                same_bits(np.asarray(array), own[key]) for key, array in values_of(self._state(value)).items()
            )
            if still_own:  # else `build` changed the template
                others["like"] = self._state(value)
            for key in (key for key in first if key in given and given.spec(key).size):
                array = np.asarray(first[key])
                for what, other in others.items():
                    if same_bits(array, given[key]) and key in other:
                        assert not np.shares_memory(array, np.asarray(other[key])), (
                            f"{shown_key(key)} shares its memory with {what}, like={named(like)}: copy it, "
                            "np.array(state[key])"
                        )
            if still_own and not any(d.sort == "template" for d in self._differences(first, given, own)):
                self._check_apart(value, state)

    def _check_apart(self, value: Any, state: FlatState) -> None:
        """Check that an object that is built from a template's own values shares nothing with it."""
        built = self.framework.build(_copied(state), value)
        shared = sorted(containers_of(value).items() & containers_of(built).items())
        assert not shared, (
            f"the container at {shown_key(shared[0][0])} is the same in like and in what was built: make a "
            "new one, so that a change of one does not change the other"
        )
        own, found = self._state(value), self._read(built)
        for key in (key for key in found if key in own and own.spec(key).size):
            assert not np.shares_memory(np.asarray(found[key]), np.asarray(own[key])), (
                f"{shown_key(key)} has the values of like, and shares its memory: copy it, "
                "np.array(state[key])"
            )

    # Abstract objects

    def test_abstract_objects_serve_as_templates(self) -> None:
        """What is built has the state's values, and the abstract object is not changed."""
        states = self._states()
        for value in self.abstract():
            specs = self._state(value).specs()
            given = self._given(self._state(value))
            templates = [
                *([] if self._needs_template() else [None]),
                *(sample for sample, state in states if set(state) == set(given)),
            ]
            usual = {(d.sort, d.key) for like in templates for d in self._found(given, like)}
            try:
                rebuilt = self._built(given, value)
                values_of(rebuilt)
            except BridgeError as err:
                pytest.fail(f"an abstract {type(value).__name__} cannot be filled: {err}")
            for difference in self._differences(rebuilt, given):
                if (difference.sort, difference.key) not in usual:  # else a matter of the other tests
                    pytest.fail(f"like is an abstract {type(value).__name__}: {difference.text}")
            assert self._state(value).specs() == specs, "`build` changed the abstract object"

    def _found(self, given: FlatState, like: Any) -> list[Difference]:
        """Return how a result differs from a state; nothing where it is refused."""
        found = self._result(given, like)
        return [] if found is None else list(self._differences(found, given))


def _copied(state: FlatState) -> FlatState:
    """Return a state with copies of its values, and the same ties."""
    copies = {id(tensor): ArrayTensor(np.array(state[key])) for key, tensor in state.tensors().items()}
    tensors = {key: copies[id(tensor)] for key, tensor in state.tensors().items()}
    return FlatState(tensors, layout=state.layout, metadata=state.metadata.with_(modules={}))


def _groups(ties: Any) -> list[list[str]]:
    """Return the names that are tied to each other."""
    groups = Ties(ties).groups()
    return sorted(sorted(".".join(key) for key in (root, *tied)) for root, tied in groups.items())


def _in_ties(key: Key, state: FlatState) -> bool:
    return key in state.metadata.ties or key in state.metadata.ties.values()
