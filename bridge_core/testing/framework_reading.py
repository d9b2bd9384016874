"""The contract of a framework adapter's `state`: what an object holds is read exactly, and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.state import FlatState, TensorSpec, Ties, check_given
from bridge_core.testing.framework_harness import FrameworkHarness, values_of
from bridge_core.testing.live_objects import (
    Place,
    answers_yes,
    arrays_in,
    copied,
    empty_paths,
    leaves_of,
    native_bits,
    numpy_leaves,
    shown_key,
)
from bridge_core.testing.stored_otherwise import rearrangements, sharing_memory
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkReading"]


class FrameworkReading(FrameworkHarness):
    """The tests of `state`; those of what an object holds see plain containers of numpy's arrays only."""

    def test_states_are_in_its_layout_with_usable_keys(self) -> None:
        """Every key has parts, none of them empty, and the metadata is valid."""
        for value, state in self._states():
            what = type(value).__name__
            assert state.layout == self.framework.name, (
                f"{what}: expected the layout {self.framework.name!r}, got {state.layout!r}: write "
                "FlatState(..., layout=self.name)"
            )
            assert len(state), f"{what}: `state` returned no tensor"
            for key in state:
                assert all(key or [""]), f"{what}: the key {key!r} has an empty part"
            check_given(state.metadata)

    def test_specs_tell_the_real_shapes_and_dtypes(self) -> None:
        """Before anything is read."""
        for _, state in self._states():
            for key, spec in state.specs().items():
                value = state.tensor(key).read(tuple(slice(0, size, 1) for size in spec.shape))
                assert isinstance(value, np.ndarray), (
                    f"{shown_key(key)}: expected an array of numpy, got a {type(value).__name__}"
                )
                assert (value.shape, value.dtype) == (spec.shape, spec.dtype), (
                    f"{shown_key(key)}: the spec is {spec}, and what is read is "
                    f"{value.dtype.name}{list(value.shape)}: give the tensor the spec of its values"
                )

    def test_parts_are_read_as_they_stand_in_the_whole(self) -> None:
        """Slices with steps of either sign, with a start, and without elements."""
        for _, state in self._states():
            for key, spec in state.specs().items():
                whole = state[key]
                for start, stop, step in _PARTS:
                    index = tuple(slice(start, stop, step) for _ in spec.shape)
                    try:
                        part = np.asarray(state.read(key, index))
                    except Exception as err:
                        pytest.fail(
                            f"{shown_key(key)}: reading [{start}:{stop}:{step}] of each axis raised "
                            f"{type(err).__name__}: {err}. Parts may be empty"
                        )
                    assert same_bits(part, np.asarray(whole[index])), (
                        f"{shown_key(key)}: the part [{start}:{stop}:{step}] of each axis differs from that "
                        "part of the tensor: read exactly the region that `Tensor.read` is given"
                    )

    def test_several_threads_read_the_same(self) -> None:
        """Tensors are shared between workers."""
        for _, state in self._states():
            before = {key: np.array(array) for key, array in values_of(state).items()}
            with ThreadPoolExecutor(4) as pool:
                jobs = [(key, pool.submit(state.read, key)) for _ in range(4) for key in state]
                for key, job in jobs:
                    assert same_bits(np.asarray(job.result()), before[key]), (
                        f"{shown_key(key)} is read differently by several threads: tensors must have no "
                        "state of their own"
                    )

    # What the object holds

    def test_leaves_are_those_of_the_object(self) -> None:
        """Every array is read with its values, and none is passed over without a word."""
        for value, state in self._states():
            misread = self._misread(value, state)
            assert not misread, (
                f"{type(value).__name__}: {misread}: read each array unchanged, or name what is left out in "
                "StateMetadata(left_out=...)"
            )
            assert _dtypes_and_sizes(value, state), (
                f"{type(value).__name__}: its arrays are {_listed_specs(arrays_in(value))}, and `state` "
                "returned other dtypes: change none when reading"
            )
            self._check_strange_leaf(value)

    def _check_strange_leaf(self, sample: Any) -> None:
        """Check that something else in the place of an array is not passed over without a word."""
        value = copied(sample) if numpy_leaves(sample) is not None else None
        places = numpy_leaves(value) if value is not None else None
        if not places or places[0].put is None:
            return
        place, put = places[0], places[0].put
        put(object())
        if answers_yes(self.framework.accepts, value):
            try:
                state = self._state(value)
            except Exception:  # refused
                return
            assert state.metadata.left_out, (
                f"at {shown_key(place.path)} is an object and not an array, and `state` passed it over: let "
                "`accepts` be false, or raise UnsupportedFeature"
            )

    def test_keys_are_in_the_order_of_the_object(self) -> None:
        """Or sorted, as in pytrees; and the same each time."""
        for value, state in self._states():
            assert list(self._state(value)) == list(state), "two calls of `state` gave other orders of keys"
            assert not self._disordered(value, state), (
                f"the keys are in another order than the leaves of the object: got {_listed(state)}, "
                f"expected {', '.join(shown_key(place.path) for place in (leaves_of(value) or [])[:6])}"
            )

    def test_arrays_of_every_memory_order_and_shape_are_read_exactly(self) -> None:
        """Fortran order, steps, either byte order, without elements or axes; narrow dtypes, too."""
        for sample, state in self._states():
            if numpy_leaves(sample) is None or self._misread(sample, state):
                continue
            for name, changed in rearrangements(sample):
                if not self.framework.accepts(changed):
                    continue
                try:
                    misread = self._misread(changed, self._state(changed))
                except BridgeError:  # refused
                    continue
                assert not misread, f"an array {name}: {misread}: read it through numpy, as np.asarray(leaf)"

    def test_ties_are_those_of_the_object(self) -> None:
        """A tie joins two keys of one tensor, and an array that is in two places is a tie."""
        for value, state in self._states():
            for alias, root in state.metadata.ties.items():
                for key in (alias, root):
                    assert key in state, f"metadata.ties names {shown_key(key)}, which is not in the state"
                assert same_bits(np.asarray(state[alias]), np.asarray(state[root])), (
                    f"{shown_key(alias)} is tied to {shown_key(root)}, and has other values"
                )
            ties = Ties(state.metadata.ties)
            for one, other in _shared(value, state):
                assert ties.root(one) == ties.root(other), (
                    f"{shown_key(one)} and {shown_key(other)} are one array in the object: add "
                    f"{{{other!r}: {one!r}}} to StateMetadata(ties=...)"
                )
            for what, changed in sharing_memory(value):
                if not answers_yes(self.framework.accepts, changed):
                    continue
                state = self._state(changed)
                for alias, root in state.metadata.ties.items():
                    assert same_bits(np.asarray(state[alias]), np.asarray(state[root])), (
                        f"{shown_key(alias)} and {shown_key(root)} are {what}, and are reported as tied: "
                        "compare shapes and strides as well as the memory"
                    )

    def test_modules_name_what_is_there(self) -> None:
        """Types are qualified names, and a module's own leaves are keys below its path."""
        collections = set(self.framework.collections)
        for _, state in self._states():
            keys = {*state, *(key[1:] for key in state if key[0] in collections)}
            for path, info in state.metadata.modules.items():
                where = f"the module at {shown_key(path)}"
                assert info.types, f"{where} has no type"
                for name in info.types:
                    assert "." in name, f"{where}: expected qualified names as types, got {name!r}"
                below = {".".join(key[len(path) :]) for key in keys if key[: len(path)] == path}
                for leaf in info.parameters:
                    assert leaf in below, f"{where} names the leaf {leaf!r}, which no key has"

    def test_module_types_are_given_where_transforms_need_them(self) -> None:
        """The evidence that a layer transform asks for comes from `state`."""
        transforms = self._registry().transforms_of.get(self.framework.name, ())
        named = [transform for transform in transforms if transform.modules]
        objects = (*self.samples(), *self.abstract())
        if named and not any(self._state(value).metadata.modules for value in objects):
            pytest.fail(
                f"transforms name types of modules, as {named[0].modules[0]} in {named[0].name}, and no "
                "object of samples() or abstract() has any: fill StateMetadata(modules=...) in `state`"
            )

    def test_empty_nodes_are_recorded(self) -> None:
        """So that what is built has them again."""
        for value, state in self._states():
            for path in empty_paths(value) if numpy_leaves(value) is not None else ():
                assert path in state.metadata.empty, (
                    f"the object is empty at {shown_key(path)}: add {path!r} to StateMetadata(empty=...)"
                )

    # An object that changes

    def test_reading_changes_no_object(self) -> None:
        """It still has its values, and its keys in their order."""
        for value in self.samples():
            leaves = leaves_of(value)
            before = None if leaves is None else _fingerprint(leaves)
            first = self._state(value)
            copies = {key: np.array(array) for key, array in values_of(first).items()}
            self.framework.accepts(value)
            answers_yes(self.framework.owns, first.specs())
            if before is not None:
                assert _fingerprint(leaves_of(value) or []) == before, (
                    f"`state` changed the {type(value).__name__} that it read: copy what you change"
                )
            again = self._state(value)
            for key, array in copies.items():
                same = key in again and same_bits(np.asarray(again[key]), array)
                assert same, (
                    f"{shown_key(key)} has other values after the object was read: `state` changes it"
                )

    def test_a_changed_object_is_read_anew(self) -> None:
        """Nothing of an object is remembered from an earlier call."""
        for sample in self.samples():
            value = copied(sample)
            if value is None:
                continue
            before = {key: np.array(array) for key, array in values_of(self._state(value)).items()}
            if not self.change(value):
                continue
            after = values_of(self._state(value))
            assert not all(
                key in after and same_bits(np.asarray(after[key]), before[key]) for key in before
            ), (
                f"the {type(value).__name__} was changed, and `state` returned its old values: read the "
                "object at each call"
            )

    def test_a_state_agrees_with_itself_when_its_object_changes(self) -> None:
        """It has the old values or the new ones, and always the shapes of its specs."""
        for sample in self.samples():
            value = copied(sample)
            if value is None:
                continue
            state = self._state(value)
            specs = state.specs()
            known = {key: np.asarray(array) for key, array in values_of(state).items()}
            even = {key: tuple(slice(None, None, 2) for _ in spec.shape) for key, spec in specs.items()}
            sound = [k for k in known if same_bits(np.asarray(state.read(k, even[k])), known[k][even[k]])]
            if self.change(value):
                for key in sound:
                    whole = np.asarray(state[key])
                    assert same_bits(np.asarray(state.read(key, even[key])), whole[even[key]]), (
                        f"{shown_key(key)}: after a change of the object a part has other values than the "
                        "entire tensor: keep either a view or a copy"
                    )
            for place in numpy_leaves(value) or ():
                if place.put is not None:
                    place.put(np.zeros((*place.leaf.shape, 2), np.int16))
            for key, array in known.items():
                later = np.asarray(state[key])
                assert (later.shape, later.dtype) == (array.shape, array.dtype), (
                    f"{shown_key(key)}: a leaf of the object was replaced, and the tensor reads the new one: "
                    "hold the array, and do not look it up when it is read"
                )

    # Abstract objects

    def test_abstract_objects_have_specs(self) -> None:
        """Without values: they serve as templates."""
        layouts = {state.layout for _, state in self._states()}
        for value in self.abstract():
            state = self._state(value)
            assert state.layout in layouts, (
                f"an abstract {type(value).__name__}: expected the layout {self.framework.name!r}, got "
                f"{state.layout!r}"
            )
            assert len(state), f"{type(value).__name__}: `state` returned no tensor"
            for key in state:
                try:
                    state[key]
                except Exception:
                    continue
                pytest.fail(
                    f"{shown_key(key)} of an abstract object was read: raise UsageError, since it has no "
                    "values"
                )

    def test_abstract_objects_have_the_specs_of_live_ones(self) -> None:
        """Where a sample has the same names; and the same module types, where it is of the same type."""
        states = [(sample, state) for sample, state in self._states()]
        for value in self.abstract():
            specs = self._state(value).specs()
            alike = [(sample, state) for sample, state in states if set(state) == set(specs)]
            for key in specs if alike else ():
                live = [state.spec(key) for _, state in alike]
                assert any(_agree(specs[key], spec) for spec in live), (
                    f"{shown_key(key)}: the abstract {type(value).__name__} has {specs[key]}, a live object "
                    f"with the same names {live[0]}"
                )
            for sample, state in alike:
                if type(sample) is type(value):
                    own, other = self._state(value).metadata.modules, state.metadata.modules
                    types = {path: info.types for path, info in other.items()}
                    assert {path: info.types for path, info in own.items()} == types, (
                        f"an abstract and a live {type(value).__name__} have other modules in their metadata"
                    )


_PARTS = ((None, None, 2), (None, None, -1), (1, None, 1), (1, 1, 1), (-1, None, 1))
"""Start, stop and step."""


def _listed_specs(places: list[Place]) -> str:
    return ", ".join(str(TensorSpec(place.leaf.shape, place.leaf.dtype)) for place in places[:6])


def _dtypes_and_sizes(value: Any, state: FlatState) -> bool:
    """Return whether a state has the dtypes of an object's arrays, where these have the same sizes."""
    arrays = [place.leaf for place in arrays_in(value)]
    specs = list(state.specs().values())
    if sorted(array.size for array in arrays) != sorted(spec.size for spec in specs):
        return True
    held = sorted((array.size, array.dtype.name) for array in arrays)
    return held == sorted((spec.size, spec.dtype.name) for spec in specs)


def _agree(abstract: TensorSpec, live: TensorSpec) -> bool:
    """Return whether two specs may be of one leaf in models of two sizes."""
    same_axes = abstract.shape == live.shape or sorted(abstract.shape) != sorted(live.shape)
    return abstract.dtype == live.dtype and len(abstract.shape) == len(live.shape) and same_axes


def _listed(state: FlatState) -> str:
    return ", ".join(shown_key(key) for key in list(state)[:6])


def _fingerprint(places: list[Place]) -> list[Any]:
    return [
        (place.path, native_bits(place.leaf) if isinstance(place.leaf, np.ndarray) else id(place.leaf))
        for place in places
    ]


def _shared(value: Any, state: FlatState) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the keys of arrays that are in two places of plain containers."""
    leaves = numpy_leaves(value)
    if leaves is None or len(leaves) != len(state):
        return
    first: dict[int, tuple[str, ...]] = {}
    by_path = {place.path: place for place in leaves}
    for key in state:
        place = by_path.get(key)
        if place is None or not place.leaf.size:
            continue
        owner = first.setdefault(id(place.leaf), key)
        if owner != key:
            yield owner, key
