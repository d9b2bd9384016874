"""The contract of a framework adapter's `build`, on values: all that a state holds, under its names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bridge_core.state import DTYPES, PACKED, Array, ArrayTensor, LazyTensor, Region, Tensor, TensorSpec
from bridge_core.testing.framework_harness import FrameworkHarness, fresh_name, named
from bridge_core.testing.live_objects import numpy_leaves, shown_key
from bridge_core.testing.stored_otherwise import rearrangements
from bridge_core.testing.strategies import same_bits

__all__ = ["FrameworkValues"]


class FrameworkValues(FrameworkHarness):
    """The tests of `build`; values are new in each leaf, so that none can be taken for another's."""

    # Keys and values

    def test_what_is_built_is_accepted(self) -> None:
        """It is an object of the framework."""
        for _, state, like in self._cases():
            built = self.framework.build(self._given(state), like)
            assert self.framework.accepts(built), (
                f"`build` returned a {type(built).__name__} that `accepts` does not take, like={named(like)}"
            )

    def test_what_is_built_holds_the_same_keys(self) -> None:
        """No leaf is lost, and none is added."""
        for _, state, like in self._cases():
            given = self._given(state)
            self._check(
                "missing unexpected",
                f"build a leaf for each key, like={named(like)}",
                self._built(given, like),
                given,
            )
        for _, state in self._states() if not self._needs_template() else ():
            for ending in _ENDINGS:
                given = self._given(state).rename({key: (*key[:-1], key[-1] + ending) for key in state})
                try:
                    found = self._built(given, None)
                except Exception:  # an object of such names is not made
                    continue
                self._check("missing unexpected", f"names that end in {ending!r} are others", found, given)

    def test_what_is_built_holds_the_same_bits(self) -> None:
        """In every dtype: NaN payloads, signs of zeros, and nothing of the template's values."""
        for value, state, like in self._cases():
            own = None if like is None else self._own(value)
            advice = "copy every value unchanged, from the state and not from `like`"
            for dtype in (None, *_dtypes(few=like is not None)):
                given = self._given(state, dtype=dtype)
                found = self._built_or_refused(given, like) if dtype else self._built(given, like)
                if found is not None:
                    self._check("bits template" if dtype is None else "bits", advice, found, given, own)
            given = self._given(state, seed=1)
            advice = "keep nothing of what was built before, and copy every value unchanged"
            self._check("bits", advice, self._built(given, like), given)
            given = self._given(state, shape=_LARGE)
            found = self._built_or_refused(given, None) if like is None else None
            if found is not None:
                self._check("bits", "copy all values of large tensors, too", found, given)

    def test_every_dtype_is_built_or_refused(self) -> None:
        """None is changed silently, neither to a wider one nor to that of the template."""
        for value, state, like in self._cases():
            own = None if like is None else self._own(value)
            for dtype in (None, *_dtypes(few=like is not None)):
                given = self._given(state, dtype=dtype)
                rebuilt = self._built_or_refused(given, like)
                if rebuilt is not None:
                    advice = "build each leaf in the dtype of the state, or raise UnsupportedFeature"
                    self._check("dtype", advice, rebuilt, given, own)
            for dtype in _dtypes(few=True) if like is None else ():
                for shape in ((), _LARGE):
                    given = self._given(state, dtype=dtype, shape=shape)
                    rebuilt = self._built_or_refused(given, None)
                    if rebuilt is not None:
                        advice = f"build leaves of the shape {shape} in the dtype of the state, too"
                        self._check("dtype", advice, rebuilt, given)

    def test_every_shape_is_built_or_refused(self) -> None:
        """Without axes, without elements, and of one element; with a template of such leaves, too."""
        for _, state in self._states() if not self._needs_template() else ():
            for shape in ((), (0,), (3, 0), (1,), (1, 1)):
                given = self._given(state, shape=shape)
                found = self._built_or_refused(given, None)
                if found is not None:
                    self._check("shape", "build each leaf in the shape of the state", found, given)
        for name, like, _ in self._templates("without axes", "without elements"):
            given = self._given(self._state(like))
            found = self._built_or_refused(given, like)
            if found is not None:
                advice = f"build each leaf in the shape of the state; those of like are {name}"
                self._check("shape", advice, found, given)

    def test_leaves_of_one_shape_are_not_exchanged(self) -> None:
        """Each leaf has the values of its own key."""
        exchangeable = False
        for _, state, like in self._cases():
            given = self._given(state)
            if like is None:
                given = self._given(state, shape=(2, 3), dtype=DTYPES["float32"])
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
                    rebuilt = self._built(given, like)
                except Exception as err:
                    pytest.fail(
                        f"a state with its keys {what} is not built, like={named(like)}: "
                        f"{type(err).__name__}: {err}. Look keys up by name, and compare them with =="
                    )
                for key in usual:
                    same = key in rebuilt and same_bits(np.asarray(rebuilt[key]), np.asarray(usual[key]))
                    assert same, (
                        f"{shown_key(key)} is built otherwise from a state with its keys {what}, "
                        f"like={named(like)}: look keys up by name, and compare them with =="
                    )

    def test_keys_keep_their_order(self) -> None:
        """That of the template, whatever that of the state is; without one, that of the state."""
        for value, state, like in self._cases():
            if self._disordered(value, state):
                continue
            order = list(state)
            given = self._given(state, keys=order if like is None else order[::-1])
            built = self.framework.build(given, like)
            if type(built) is type(value):
                found = [key for key in self._state(built) if key in order]
                assert found == [key for key in order if key in found], (
                    f"like={named(like)}: expected the keys in the order "
                    f"{', '.join(map(shown_key, order[:6]))}, got {', '.join(map(shown_key, found[:6]))}"
                )

    def test_every_memory_order_is_built_exactly(self) -> None:
        """Fortran order, steps, either byte order, read-only and lazy tensors."""
        for _, state, like in self._cases():
            usual = self._built(self._given(state), like)
            for name, wrap in _WRAPPERS.items():
                try:
                    rebuilt = self._built(self._given(state, wrap=wrap), like)
                except Exception as err:
                    pytest.fail(
                        f"a tensor {name} is not built, like={named(like)}: {type(err).__name__}: {err}. Do "
                        "not write to what is read; copy it by np.array(state[key])"
                    )
                for key in usual:
                    same = key in rebuilt and same_bits(np.asarray(rebuilt[key]), np.asarray(usual[key]))
                    assert same, (
                        f"{shown_key(key)} is built otherwise from a tensor {name}, like={named(like)}: copy "
                        "it by np.array(state[key]), and use neither its memory nor its strides"
                    )
        orders = ("in Fortran order", "with gaps", "in the other byte order")
        for name, like, sample in self._templates(*orders):
            given = self._given(self._state(like))
            plain, reordered = self._built_or_refused(given, sample), self._built_or_refused(given, like)
            if plain is None or reordered is None:
                continue
            for key in plain:
                same = key in reordered and same_bits(np.asarray(reordered[key]), np.asarray(plain[key]))
                assert same, (
                    f"{shown_key(key)} is built otherwise where the arrays of like are {name}: take neither "
                    "memory nor strides from like"
                )

    def _templates(self, *names: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield copies of the samples, where these are containers of numpy's arrays, that are stored so.

        The sample itself comes last.
        """
        for sample, state in self._states():
            if numpy_leaves(sample) is not None and not self._misread(sample, state):
                for name, changed in rearrangements(sample):
                    if name in names and self._is_read(changed):
                        yield name, changed, sample

    def _is_read(self, value: Any) -> bool:
        """Return whether an object is accepted, and read unchanged."""
        try:
            return self.framework.accepts(value) and not self._misread(value, self._state(value))
        except Exception:  # the matter of the tests of reading
            return False

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
                    f"times, like={named(like)}: read each key once"
                )


class _Counted:
    def __init__(self, array: Array) -> None:
        self.array = array
        self.elements = 0

    def read(self, region: Region) -> Array:
        part = ArrayTensor(self.array).read(region)
        self.elements += part.size
        return np.asarray(part)


def _lazily(array: Array) -> Tensor:
    return LazyTensor(TensorSpec(array.shape, array.dtype), ArrayTensor(array).read)


def _stored(way: Callable[[Array], Array]) -> Callable[[Array], Tensor]:
    return lambda array: ArrayTensor(way(array))


def _read_only(array: Array) -> Array:
    owner = array.copy()
    owner.flags.writeable = False
    return owner


_WRAPPERS: dict[str, Callable[[Array], Tensor]] = {
    "in Fortran order": _stored(lambda a: np.asfortranarray(a).reshape(a.shape, order="F")),
    "with negative steps": _stored(lambda a: np.ascontiguousarray(a[::-1])[::-1] if a.ndim else a),
    "with gaps": _stored(lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a),
    "in the other byte order": _stored(
        lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.isbuiltin == 1 else a
    ),
    "in the other byte order, with gaps": _stored(
        lambda a: (
            np.repeat(a.astype(a.dtype.newbyteorder(">")), 2, axis=-1)[..., ::2]
            if a.dtype.isbuiltin == 1 and a.ndim
            else a
        )
    ),
    "that is read-only": _stored(_read_only),
    "that is read on request": _lazily,
}


_LARGE = (257, 300)
"""More elements than two bytes can count."""
_ENDINGS = ("_é", "_e\u0301", "_\ufb01", "_A", " b")
"""Of names with the same letters in other forms, with capitals, and with spaces."""
_FEW = ("bool", "int16", "uint64", "bfloat16", "float16", "float64", "complex64", "float8_e5m2")


def _dtypes(*, few: bool) -> tuple[np.dtype[Any], ...]:
    names = _FEW if few else [name for name in DTYPES if name not in PACKED]
    return tuple(DTYPES[name] for name in names)
