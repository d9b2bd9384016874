"""The contract of a framework adapter's `build`: all that a state holds, in the structure of a template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.state import DTYPES, PACKED, Array, FlatState, Key, LazyTensor, Region, Tensor, TensorSpec
from bridge_core.testing.framework_harness import FrameworkHarness, field_of, fresh_name, values_of
from bridge_core.testing.live_objects import (
    empty_paths,
    leaves_of,
    native_bits,
    numpy_leaves,
    shown_key,
    structure_difference,
)
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkBuilding"]


class FrameworkBuilding(FrameworkHarness):
    """The tests of `build`; values are new in each leaf, so that none can be taken for another's."""

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

    def test_a_missing_template_is_refused_where_one_is_needed(self) -> None:
        """By an error that names ``like=``."""
        for _, state in self._states() if self._needs_template() else ():
            with pytest.raises(BridgeError, match="like"):
                self.framework.build(self._given(state), None)

    # Keys and values

    def test_what_is_built_is_accepted(self) -> None:
        """It is an object of the framework."""
        for _, state, like in self._cases():
            built = self.framework.build(self._given(state), like)
            assert self.framework.accepts(built), (
                f"`build` returned a {type(built).__name__} that `accepts` does not take, like={_name(like)}"
            )

    def test_what_is_built_holds_the_same_keys(self) -> None:
        """No leaf is lost, and none is added."""
        for _, state, like in self._cases():
            given = self._given(state)
            self._check(
                "missing unexpected",
                f"build a leaf for each key, like={_name(like)}",
                self._built(given, like),
                given,
            )

    def test_what_is_built_holds_the_same_bits(self) -> None:
        """In every dtype: NaN payloads, signs of zeros, and nothing of the template's values."""
        for value, state, like in self._cases():
            own = None if like is None else self._own(value)
            for dtype in (None, *_dtypes()):
                given = self._given(state, dtype=dtype)
                found = self._built_or_refused(given, like) if dtype else self._built(given, like)
                if found is not None:
                    advice = "copy every value as it is, from the state and not from `like`"
                    self._check("bits template" if dtype is None else "bits", advice, found, given, own)

    def test_every_dtype_is_built_or_refused(self) -> None:
        """None is changed silently, neither to a wider one nor to that of the template."""
        for value, state, like in self._cases():
            own = None if like is None else self._own(value)
            for dtype in (None, *_dtypes()):
                given = self._given(state, dtype=dtype)
                found = self._built_or_refused(given, like)
                if found is not None:
                    advice = "build each leaf in the dtype of the state, or raise UnsupportedFeature"
                    self._check("dtype", advice, found, given, own)

    def test_every_shape_is_built_or_refused(self) -> None:
        """Without axes, without elements, and of one element."""
        for _, state in self._states():
            for shape in ((), (0,), (3, 0), (1,), (1, 1)):
                given = self._given(state, shape=shape)
                found = self._built_or_refused(given, None)
                if found is not None:
                    self._check("shape", "build each leaf in the shape of the state", found, given)

    def test_leaves_of_one_shape_are_not_exchanged(self) -> None:
        """Each leaf has the values of its own key."""
        exchangeable = False
        for _, state, like in self._cases():
            given = self._given(state, shape=(2, 3)) if like is None else self._given(state)
            specs = [spec for spec in given.specs().values() if spec.size > 1]
            exchangeable = exchangeable or (like is not None and len(set(specs)) < len(specs))
            found = self._built(given, like) if like is not None else self._built_or_refused(given, like)
            if found is not None:
                self._check("exchanged", "give each leaf the tensor of its own key", found, given)
        if not exchangeable:
            pytest.skip("no sample has two leaves of one shape: add them, so that exchanged ones are noticed")

    def test_values_go_by_name_and_not_by_order(self) -> None:
        """A state in another order gives the same object, and equal names are the same name."""
        for _, state, like in self._cases():
            keys = list(state)
            usual = self._built(self._given(state), like)
            for what, order in (("in reverse order", keys[::-1]), ("as new texts", map(fresh_name, keys))):
                given = self._given(state, keys=order)
                try:
                    found = self._built(given, like)
                except Exception as err:
                    pytest.fail(
                        f"a state with its keys {what} is not built, like={_name(like)}: "
                        f"{type(err).__name__}: {err}. Look keys up by name, and compare them with =="
                    )
                for key in usual:
                    assert key in found and same_bits(np.asarray(found[key]), np.asarray(usual[key])), (
                        f"{shown_key(key)} is built otherwise from a state with its keys {what}, "
                        f"like={_name(like)}: look keys up by name, and compare them with =="
                    )

    def test_keys_keep_their_order(self) -> None:
        """That of the template, whatever that of the state is; without one, that of the state."""
        for value, state, like in self._cases():
            order = list(state)
            given = self._given(state, keys=order if like is None else order[::-1])
            built = self.framework.build(given, like)
            if type(built) is type(value):
                found = [key for key in self._state(built) if key in order]
                assert found == [key for key in order if key in found], (
                    f"like={_name(like)}: expected the keys in the order "
                    f"{', '.join(map(shown_key, order[:6]))}, got {', '.join(map(shown_key, found[:6]))}"
                )

    def test_every_memory_order_is_built_exactly(self) -> None:
        """Fortran order, steps, either byte order, read-only and lazy tensors."""
        for _, state, like in self._cases():
            usual = self._built(self._given(state), like)
            for name, wrap in _WRAPPERS.items():
                found = self._built(self._given(state, wrap=wrap), like)
                for key in usual:
                    assert key in found and same_bits(np.asarray(found[key]), np.asarray(usual[key])), (
                        f"{shown_key(key)} is built otherwise from a tensor {name}, like={_name(like)}: copy "
                        "it by np.array(state[key]), and use neither its memory nor its strides"
                    )

    def test_each_value_is_read_once(self) -> None:
        """A state may be a file of many gigabytes."""
        for _, state, like in self._cases():
            counts: list[_Counted] = []

            def counted(array: Array, counts: list[_Counted] = counts) -> Tensor:
                counts.append(_Counted(array))
                return LazyTensor(TensorSpec(array.shape, array.dtype), counts[-1].read)

            self.framework.build(self._given(state, wrap=counted, untied=True), like)
            for count in counts:
                assert count.elements <= count.array.size, (
                    f"a tensor of {count.array.size} elements was read {count.elements / count.array.size:g} "
                    f"times, like={_name(like)}: read each key once"
                )

    # Structure

    def test_what_is_built_has_the_structure_of_its_template(self) -> None:
        """Its type and its containers; where the framework returns plain trees, its order of keys."""
        for value, state in self._states():
            plain = None if self._needs_template() else type(self.framework.build(self._given(state), None))
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
                    f"like is a {expected}, and a {got} was built that has nothing of it: return the structure "
                    "of like with the values of the state"
                )

    def test_ties_survive(self) -> None:
        """Tied keys of the state share one tensor in what is built."""
        for value, state in self._states():
            if not state.metadata.ties:
                continue
            ties = self._built(self._given(state), value).metadata.ties
            expected = _groups(state.metadata.ties)
            assert _groups(ties) == expected, (
                f"expected the ties {expected}, got {_groups(ties)}: build one array for tied keys, and put "
                "it in each place"
            )

    def test_equal_values_are_no_ties(self) -> None:
        """Leaves are tied by sharing a tensor; many have equal values by chance, as biases of zeros."""
        for _, state in self._states():
            zeros = {key: np.zeros((2, 3), np.float32) for key in state}
            given = FlatState(zeros, layout=self.framework.name, metadata=state.metadata.with_(ties={}))
            found = self._built_or_refused(given, None)
            if found is not None:
                assert not found.metadata.ties, (
                    f"leaves of equal values are reported as tied: {_groups(found.metadata.ties)}: compare the "
                    "objects or their memory, and not the values"
                )

    def test_empty_nodes_survive(self) -> None:
        """What is empty in the template is empty in what is built."""
        for value, state, like in self._cases():
            built = self.framework.build(self._given(state), like)
            if type(built) is type(value):
                paths = empty_paths(value) if numpy_leaves(value) is not None else []
                lost = [path for path in paths if path not in empty_paths(built)]
                found = field_of(self._state(built).metadata, "empty")
                assert not lost and (lost or paths or found == field_of(state.metadata, "empty")), (
                    f"expected the empty nodes {paths or field_of(state.metadata, 'empty')}, got "
                    f"{empty_paths(built) if paths else found}, like={_name(like)}: build those of "
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
            if type(built) is type(value):
                expected = {path: info.types for path, info in state.metadata.modules.items()}
                found = {p: info.types for p, info in self._state(built).metadata.modules.items()}
                for path, types in expected.items():
                    assert found.get(path) == types, (
                        f"the module at {shown_key(path)}: expected the types {types} of like, got "
                        f"{found.get(path)}"
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
            extra = (*last[:-1], "no_such_leaf")
            more = self._result(given.union({extra: np.ones((2, 3), np.float32)}), value)
            assert more is None or extra in more, (
                f"{shown_key(extra)} is in the state and not in like, and was dropped: raise MismatchError"
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
            return self._state(self.framework.build(state, like))
        except Exception:
            return None

    def test_a_template_of_no_framework_is_refused(self) -> None:
        """So that a mistake is not taken for no template."""
        for _, state in self._states():
            for like in (3, "text", object()):
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
            given = self._given(state)
            keys, copies = list(given), {key: np.array(array) for key, array in values_of(given).items()}
            self.framework.build(given, like)
            assert list(given) == keys and all(same_bits(given[key], copies[key]) for key in keys), (
                f"`build` changed the state that it was given, like={_name(like)}: copy before you change"
            )
            after = [(place.path, native_bits(place.leaf)) for place in numpy_leaves(value) or ()]
            unchanged = {key: np.asarray(array) for key, array in self._own(value).items()}
            assert after == before and list(unchanged) == list(own), (
                "`build` changed the object given as like"
            )
            for key, array in own.items():
                assert same_bits(unchanged[key], array), f"`build` changed {shown_key(key)} of like"

    def test_what_is_built_has_memory_of_its_own(self) -> None:
        """It shares none with the state, with the template, or with what is built next."""
        for value, state, like in self._cases():
            own = self._own(value)
            given = self._given(state)
            first, second = self._built(given, like), self._built(given, like)
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
                            f"{shown_key(key)} shares its memory with {what}, like={_name(like)}: copy it, "
                            "np.array(state[key])"
                        )

    # Abstract objects

    def test_abstract_objects_serve_as_templates(self) -> None:
        """What is built has the state's values, and the abstract object stays as it is."""
        for value in self.abstract():
            specs = self._state(value).specs()
            given = self._given(self._state(value))
            try:
                found = self._built(given, value)
                values_of(found)
            except BridgeError as err:
                pytest.fail(f"an abstract {type(value).__name__} cannot be filled: {err}")
            for difference in self._differences(found, given):
                pytest.fail(f"like is an abstract {type(value).__name__}: {difference.text}")
            assert self._state(value).specs() == specs, "`build` changed the abstract object"


class _Counted:
    def __init__(self, array: Array) -> None:
        self.array = array
        self.elements = 0

    def read(self, region: Region) -> Array:
        part = self.array[(*region, ...)]
        self.elements += part.size
        return np.asarray(part)


def _lazily(array: Array) -> Tensor:
    return LazyTensor(TensorSpec(array.shape, array.dtype), lambda region: np.asarray(array[(*region, ...)]))


def _stored(way: Callable[[Array], Array]) -> Callable[[Array], Tensor]:
    from bridge_core.state import ArrayTensor

    return lambda array: ArrayTensor(way(array))


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


_WRAPPERS: dict[str, Callable[[Array], Tensor]] = {
    "in Fortran order": _stored(lambda a: np.asfortranarray(a).reshape(a.shape, order="F")),
    "with negative steps": _stored(lambda a: np.ascontiguousarray(a[::-1])[::-1] if a.ndim else a),
    "with gaps": _stored(lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a),
    "in the other byte order": _stored(
        lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.isbuiltin == 1 else a
    ),
    "that is read-only": _stored(_read_only),
    "that is read on request": _lazily,
}


def _dtypes() -> tuple[np.dtype[Any], ...]:
    return tuple(dtype for name, dtype in DTYPES.items() if name not in PACKED)


def _name(like: Any) -> str:
    return "None" if like is None else f"a {type(like).__name__}"


def _groups(ties: Any) -> list[list[str]]:
    """Return the names that are tied to each other."""
    from bridge_core.state import Ties

    groups = Ties(ties).groups()
    return sorted(sorted(".".join(key) for key in (root, *tied)) for root, tied in groups.items())


def _in_ties(key: Key, state: FlatState) -> bool:
    return key in state.metadata.ties or key in state.metadata.ties.values()
