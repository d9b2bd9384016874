"""What the contract of a framework adapter is made of: objects, states to build from, and comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.plugins import Framework, Registry, default_registry
from bridge_core.state import Array, ArrayTensor, FlatState, Key, StateMetadata, Tensor, TensorSpec, Ties
from bridge_core.testing.live_objects import arrays_in, leaves_of, native_bits, numpy_leaves, shown_key
from bridge_core.testing.strategies import bit_patterns, same_bits

__all__ = ["Difference", "FrameworkHarness", "field_of", "fresh_array", "fresh_name", "named", "values_of"]


@dataclass(frozen=True)
class Difference:
    """One way in which an object that was built differs from the state that it was built from.

    Args:
        sort: ``missing``, ``unexpected``, ``shape``, ``dtype``, ``exchanged``, ``template`` or ``bits``.
        key: The leaf.
        text: What was expected, and what was found.
    """

    sort: str
    key: Key
    text: str


class FrameworkHarness(ABC):
    """An adapter under test, and what its tests do with it."""

    framework: Framework
    registry: Registry | None = None

    @abstractmethod
    def samples(self) -> Iterable[Any]:
        """Return live objects with values, of every type that the adapter takes.

        Two leaves of one shape, a tie, an empty node and a narrow dtype in them show more faults.
        """

    def abstract(self) -> Iterable[Any]:
        """Return live objects without values, if the framework has any.

        One whose leaves have the names of a sample has its shapes and dtypes, too.
        """
        return ()

    def foreign(self) -> Iterable[Any]:
        """Return further objects that are not this framework's."""
        return ()

    def change(self, value: Any) -> bool:
        """Change values of an object in place, and return whether that was possible.

        The default changes numpy's arrays in containers; override it for other objects that can be changed.

        Args:
            value: A copy of a sample.
        """
        places = arrays_in(value) if leaves_of(value) is not None else []
        changed = False
        for number, place in enumerate(places):
            if place.leaf.size and place.leaf.flags.writeable:
                place.leaf[...] = fresh_array(TensorSpec(place.leaf.shape, place.leaf.dtype), 900 + number)
                changed = True
        return changed

    def _registry(self) -> Registry:
        return self.registry or default_registry()

    def _states(self) -> list[tuple[Any, FlatState]]:
        pairs = [(sample, self._state(sample)) for sample in self.samples()]
        assert pairs, "samples() gives nothing to test with: return at least one live object"
        return pairs

    def _state(self, value: Any) -> FlatState:
        state = self.framework.state(value)
        assert isinstance(state, FlatState), (
            f"expected `state` to return a FlatState, got a {type(state).__name__}"
        )
        return state

    def _cases(self) -> Iterator[tuple[Any, FlatState, Any]]:
        """Yield each sample and its state, to be built without a template, and with the sample as one.

        An adapter with ``needs_template = True`` builds nothing without one.
        """
        for value, state in self._states():
            if not self._needs_template():
                yield value, state, None
            yield value, state, value

    def _needs_template(self) -> bool:
        return getattr(self.framework, "needs_template", False) is True

    def _given(
        self,
        state: FlatState,
        *,
        seed: int = 0,
        dtype: np.dtype[Any] | None = None,
        shape: tuple[int, ...] | None = None,
        keys: Iterable[Key] | None = None,
        wrap: Callable[[Array], Tensor] = ArrayTensor,
        untied: bool = False,
    ) -> FlatState:
        """Return a state with the keys and the metadata of another, and with other values in each leaf.

        Args:
            state: The other state.
            seed: Another seed gives other values.
            dtype: The dtype of all leaves; None for their own.
            shape: The shape of all leaves; None for their own.
            keys: The keys in their order; None for those of the state.
            wrap: Makes a tensor of a leaf's array.
            untied: Whether tied leaves get values of their own.
        """
        ties = {key: root for key, root in state.metadata.ties.items() if key in state and root in state}
        canonical = Ties({} if untied else ties)
        tensors: dict[Key, Tensor] = {}
        for number, key in enumerate(state):
            root = canonical.root(key)
            if root in tensors:
                tensors[key] = tensors[root]
                continue
            spec = state.spec(key)
            wanted = TensorSpec(spec.shape if shape is None else shape, dtype or spec.dtype)
            tensors[key] = tensors[root] = wrap(fresh_array(wanted, 1000 * seed + number))
        order = list(state if keys is None else keys)
        # A plan gives no types of modules: those of the result are the template's.
        metadata = state.metadata.with_(modules={}, ties={} if untied else state.metadata.ties)
        return FlatState({key: tensors[key] for key in order}, layout=self.framework.name, metadata=metadata)

    def _built(self, state: FlatState, like: Any) -> FlatState:
        """Build an object from a copy of a state, and read it again."""
        return self._read(self.framework.build(_duplicate(state), like))

    def _built_or_refused(self, state: FlatState, like: Any) -> FlatState | None:
        """Return None where the adapter refuses the state."""
        try:
            built = self.framework.build(_duplicate(state), like)
        except BridgeError:
            return None
        return self._read(built)

    def _read(self, built: Any) -> FlatState:
        """Read what was built; where `state` does so wrongly, the tests of reading fail, and not this one."""
        state = self._state(built)
        if numpy_leaves(built) is not None and self._misread(built, state):
            pytest.skip("`state` does not return what this object holds; see the tests of reading")
        return state

    def _misread(self, value: Any, state: FlatState) -> str:
        """Return a leaf of plain containers that a state does not hold unchanged; empty if there is none."""
        leaves = numpy_leaves(value)
        if leaves is None:
            return ""
        held = {native_bits(place.leaf) for place in leaves}
        read = {native_bits(np.asarray(array)): key for key, array in values_of(state).items()}
        for bits, key in read.items():
            if bits not in held:
                return f"{shown_key(key)} is read as {bits[0]}{list(bits[1])} with values that no leaf has"
        for place in leaves:
            if native_bits(place.leaf) not in read and not state.metadata.left_out:
                leaf = f"{place.leaf.dtype.name}{list(place.leaf.shape)}"
                return f"the leaf at {shown_key(place.path)}, {leaf}, is at none of the state's keys"
        return ""

    def _disordered(self, value: Any, state: FlatState) -> bool:
        """Return whether keys are in another order than the leaves of plain containers, sorted or not."""
        leaves = numpy_leaves(value)
        if leaves is None or len(leaves) != len(state) or self._misread(value, state):
            return False
        read = [native_bits(np.asarray(state[key])) for key in state]
        orders = (leaves, sorted(leaves, key=lambda place: place.path))
        return not any(read == [native_bits(place.leaf) for place in order] for order in orders)

    def _differences(
        self, found: FlatState, given: FlatState, own: Mapping[Key, Array] | None = None
    ) -> Iterator[Difference]:
        """Yield how an object that was built differs from the state that it was built from.

        Args:
            found: What was read from the object.
            given: The state.
            own: The values that the template has.
        """
        for key in given:
            if key not in found:
                yield Difference("missing", key, f"{shown_key(key)} of the state is not in what was built")
        for key in found:
            if key not in given:
                yield Difference("unexpected", key, f"{shown_key(key)} was built, and is not in the state")
        held = values_of(given)
        for key in (key for key in given if key in found):
            value = np.asarray(found[key])
            own_value = None if own is None else own.get(key)
            if same_bits(value, held[key]):
                continue
            expected, got = given.spec(key), TensorSpec(value.shape, value.dtype)
            if own_value is not None and same_bits(value, own_value):
                text = f"{shown_key(key)} has the template's values, not those of the state"
                yield Difference("template", key, text)
            elif got.shape != expected.shape:
                yield Difference("shape", key, f"{shown_key(key)}: expected {expected}, got {got}")
            elif got.dtype != expected.dtype:
                yield Difference("dtype", key, f"{shown_key(key)}: expected {expected}, got {got}")
            else:
                twin = next((k for k in given if k != key and same_bits(value, held[k])), None)
                text = f"{shown_key(key)} has other values than in the state"
                if twin is not None:
                    text = f"{shown_key(key)} has the values of {shown_key(twin)}"
                yield Difference("bits" if twin is None else "exchanged", key, text)

    def _check(
        self,
        sorts: str,
        advice: str,
        found: FlatState,
        given: FlatState,
        own: Mapping[Key, Array] | None = None,
    ) -> None:
        """Fail for the first difference of some sorts, with advice."""
        for difference in self._differences(found, given, own):
            assert difference.sort not in sorts.split(), f"{difference.text}: {advice}"

    def _own(self, value: Any) -> dict[Key, Array]:
        """Return copies of the values that a template has; none of an abstract one."""
        try:
            return {key: np.array(array) for key, array in values_of(self._state(value)).items()}
        except BridgeError:
            return {}


def named(like: Any) -> str:
    """Return what a template is, for messages."""
    return "None" if like is None else f"a {type(like).__name__}"


def values_of(state: FlatState) -> dict[Key, Array]:
    """Read every tensor of a state."""
    return {key: state[key] for key in state}


def _duplicate(state: FlatState) -> FlatState:
    """Return a state with copies of plain arrays, so that a `build` that writes to them changes no other."""
    copies: dict[int, Tensor] = {}
    for tensor in state.tensors().values():
        if isinstance(tensor, ArrayTensor) and tensor.array.flags.carray and tensor.array.dtype.isnative:
            copies[id(tensor)] = ArrayTensor(np.array(tensor.array))
    tensors = {key: copies.get(id(tensor), tensor) for key, tensor in state.tensors().items()}
    return state.replace(tensors=tensors, metadata=state.metadata)


def fresh_array(spec: TensorSpec, seed: int) -> Array:
    """Return an array of random bits that its dtype has; of floats the first is a NaN with a payload."""
    name = spec.dtype.name
    patterns = bit_patterns(name)
    rng = np.random.default_rng(seed)
    chosen = patterns[rng.integers(0, patterns.size, spec.size)]
    if name in ("float32", "float64") and spec.size > 1:
        chosen[0] = patterns[seed % 3]
    return np.ascontiguousarray(chosen.reshape(spec.shape)).reshape(spec.shape)


def fresh_name(key: Key) -> Key:
    """Return an equal key, no part of which is the same object."""
    return tuple("".join(list(part)) for part in key)


def field_of(metadata: StateMetadata, name: str) -> Any:
    """Return a field of metadata without an order."""
    value = getattr(metadata, name)
    return sorted(value) if isinstance(value, tuple) else dict(value)
