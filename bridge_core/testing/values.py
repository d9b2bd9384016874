"""The contract of what any format does with dtypes, shapes, memory orders and regions."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bridge_core.errors import BridgeError
from bridge_core.state import DTYPES, PACKED, Array, Key, LazyTensor, Region, StateMetadata, TensorSpec
from bridge_core.testing.comparison import snapshot, value_difference
from bridge_core.testing.harness import FormatHarness
from bridge_core.testing.strategies import bit_patterns, plain_values, same_bits

__all__ = ["EXAMPLES", "ValuesContract"]

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # every subclass runs the inherited test
        HealthCheck.function_scoped_fixture,  # the folder is only a place to write to
        HealthCheck.too_slow,
    ],
)

_PARTS = (
    "Tensor.read takes one slice for each axis, with start, stop and step; any of them may be empty, and a "
    "tensor without axes has none."
)
_FORMS = (
    *("transposed", "fortran", "reversed", "last axis reversed", "strided", "inner", "broadcast"),
    *("stride0", "read-only"),
)


class ValuesContract(FormatHarness):
    """What is written is what is read, bit for bit."""

    # Dtypes

    def test_every_declared_dtype_is_stored(self, path: Path) -> None:
        """Each by itself, with ordinary values."""
        for name in sorted(set(self.format.capabilities.dtypes) & set(DTYPES)):
            advice = f"Store the bytes of {name} unchanged, or take it out of capabilities.dtypes."
            try:
                self.check_survives({("t", "w"): plain_values(name, (4,))}, _fresh(path), advice)
            except BridgeError as err:
                pytest.fail(f"capabilities.dtypes declares {name}, but the format refuses it: {err} {advice}")

    def test_every_bit_pattern_of_every_declared_dtype_survives(self, path: Path, tmp_path: Path) -> None:
        """NaN payloads and negative zeros included; in a second tensor, too."""
        names = self.sound_dtypes(tmp_path)
        self.check_survives(
            {
                **{("t", name): bit_patterns(name) for name in names},
                **{("again", name): np.stack([bit_patterns(name)[::-1][:1024]] * 2) for name in names},
            },
            path,
            "Move bytes, not numbers: arithmetic, casts and text lose NaN payloads and negative zeros.",
        )

    # Shapes

    def test_tensors_without_axes_survive(self, path: Path, tmp_path: Path) -> None:
        """Shape ``()``, in every dtype."""
        names = [name for name in self.sound_dtypes(tmp_path) if name not in PACKED]
        self.check_survives(
            {("t", name): plain_values(name, ()) for name in names},
            path,
            "Store the number of axes; a tensor without axes has one value, and numpy's functions such as "
            "ascontiguousarray or atleast_1d give it an axis.",
        )

    def test_tensors_without_elements_survive(self, path: Path, tmp_path: Path) -> None:
        """Shapes with a size of zero, in every dtype."""
        written: dict[Key, Array] = {}
        for name in self.sound_dtypes(tmp_path):
            for shape in ((0,), (3, 0, 2), (0, 0)):
                written["t", name, "x".join(map(str, shape))] = np.zeros(shape, DTYPES[name])
        self.check_survives(written, path, "Store the complete shape of a tensor that has no bytes.")

    def test_axes_of_size_one_and_many_axes_survive(self, path: Path, tmp_path: Path) -> None:
        """Up to six axes, in every dtype."""
        written: dict[Key, Array] = {}
        for name in self.sound_dtypes(tmp_path):
            shapes = [(2,), (1, 2, 1, 3, 1, 2)] + ([] if name in PACKED else [(1,), (1, 1, 1)])
            for shape in shapes:
                written["t", name, "x".join(map(str, shape))] = plain_values(name, shape)
        self.check_survives(written, path, "Store every axis, those of size 1 too.")

    def test_large_tensors_survive(self, path: Path, tmp_path: Path) -> None:
        """More elements and bytes than two bytes can count, in every dtype."""
        tensors: dict[Key, Array] = {("t", "row"): self.array(70_001)}
        for name in self.sound_dtypes(tmp_path):
            tensors["grid", name] = plain_values(name, (257, 300))
        self.check_survives(tensors, path, "Look at fixed sizes of counters, buffers and blocks.")

    def test_an_empty_state_survives(self, path: Path) -> None:
        """A state without tensors is not an error."""
        with self.reopened(self.state_of({}), path) as opened:
            assert len(opened) == 0, f"An empty state was written, and {len(opened)} tensors were read."

    # Memory

    @pytest.mark.parametrize("form", _FORMS)
    def test_every_memory_order_is_written_exactly(self, path: Path, tmp_path: Path, form: str) -> None:
        """Transposed, negative strides, broadcast, sliced, read-only; from arrays and lazy tensors.

        With one axis, two and three, and one array that is large.
        """
        written: dict[Key, Any] = {}
        for name in self.sound_dtypes(tmp_path):
            laid = _laid_out(plain_values(name, (6, 4, 8), seed=1), form)
            written["array", name] = laid
            written["lazy", name] = LazyTensor(
                TensorSpec(laid.shape, laid.dtype), functools.partial(_part, laid)
            )
            written["grid", name] = _laid_out(plain_values(name, (8, 16), seed=2), form)
            written["row", name] = _laid_out(plain_values(name, (32,), seed=3), form)
        written["large", "grid"] = _laid_out(self.array(160, 400), form)
        self.check_survives(
            written,
            path,
            f"The array in memory is {form}: write the values in row-major order, as target.blocks gives "
            "them, and not the memory as it lies.",
        )

    def test_big_endian_arrays_are_written_by_value(self, path: Path, tmp_path: Path) -> None:
        """Of every dtype that has a byte order."""
        written: dict[Key, Array] = {}
        for name in self.sound_dtypes(tmp_path):
            if DTYPES[name].isbuiltin == 1 and DTYPES[name].itemsize > 1:
                for shape in ((3, 4), ()):
                    plain = plain_values(name, shape)
                    if shape or self.holds(plain, tmp_path):
                        swapped = plain.astype(plain.dtype.newbyteorder(">"))
                        written["t", name, str(len(shape))] = swapped
                        if shape and self.holds(plain.T, tmp_path):
                            written["turned", name] = swapped.T
        self.check_survives(
            written, path, "Convert to the byte order of the file before taking the bytes of an array."
        )

    def test_the_input_is_not_changed(self, path: Path) -> None:
        """Neither the arrays nor the mapping nor the metadata."""
        arrays: dict[Key, Array] = {
            ("m", "nan"): np.resize(bit_patterns(self.some_dtype()), 24).reshape(2, 3, 4),
            ("m", "swapped"): self.array(5, 3).astype(DTYPES[self.some_dtype()].newbyteorder(">")),
            ("m", "fortran"): np.asfortranarray(self.array(4, 3)),
            ("m", "reversed"): self.array(6).copy()[::-1],
            ("m", "plain"): self.array(3, 4).copy(),
        }
        copies = {key: array.copy() for key, array in arrays.items()}
        metadata = StateMetadata(collections={("m", "plain"): "batch_stats"}, extra={"note": "a text"})
        given = {"metadata": metadata} if self.format.capabilities.metadata else {}
        state = self.state_of(arrays, **given)
        before = (list(state), state.layout, copy.deepcopy(state.metadata), state.specs())
        self.write(state, path)
        for key, same in copies.items():
            array = arrays[key]
            assert (array.dtype, array.shape) == (same.dtype, same.shape), f"writing changed the array {key}"
            assert array.tobytes() == same.tobytes(), (
                f"Writing changed the values of the caller's array {key}. Copy an array before changing it."
            )
            assert array.flags.writeable, f"writing made the caller's array {key} read-only"
        after = (list(state), state.layout, state.metadata, state.specs())
        assert before == after, (
            "Writing changed the caller's state: its keys, layout, metadata or specs. Change copies only."
        )

    # Random

    @given(data=st.data())
    @EXAMPLES
    def test_random_states_survive(self, path: Path, tmp_path: Path, data: st.DataObject) -> None:
        """Any number of tensors, of any dtypes and sizes, in any order."""
        names = self.sound_dtypes(tmp_path)
        entries = data.draw(st.lists(st.tuples(st.sampled_from(names), _shapes), max_size=6))
        by_width = sorted(set(names) - set(PACKED), key=lambda name: DTYPES[name].itemsize)
        entries += [(name, [3]) for name in (*by_width[:1], *by_width[-1:])]  # an odd size, then a wide dtype
        written: dict[Key, Any] = {
            ("layer", str(number), name): plain_values(name, _filled(shape, name), seed=number)
            for number, (name, shape) in enumerate(entries)
        }
        self.check_survives(
            written,
            _fresh(path),
            "Each tensor survives by itself: look at the offsets, and at padding after odd sizes.",
            workers=2,
        )

    # Regions

    def test_a_region_is_a_slice_of_the_whole(self, path: Path, tmp_path: Path) -> None:
        """With steps, empty parts, negative steps, numbers and ellipses, in several dtypes."""
        rng = np.random.default_rng(11)
        tensors = self._for_regions(tmp_path)
        expected = snapshot(tensors)
        with self.reopened(self.state_of(tensors), path) as opened:
            for key, whole in expected.items():
                for _ in range(25):
                    region = _random_region(whole.shape, rng)
                    _check_region(key, region, opened.tensor(key).read, whole)
                for index in _indices(whole.shape):
                    _check_region(key, index, functools.partial(opened.read, key), whole)

    def _for_regions(self, folder: Path) -> dict[Key, Array]:
        sound = self.sound_dtypes(folder)
        names = {self.some_dtype(), *[name for name in ("bool", "bfloat16", "int64") if name in sound]}
        written: dict[Key, Array] = {}
        for name in sorted(names):
            for shape in ((7,), (5, 6), (4, 3, 5), (2, 3, 2, 4), (3, 0, 2), ()):
                array = plain_values(name, shape, seed=len(shape))
                if (shape and 0 not in shape) or self.holds(array, folder):
                    written["r", name, "x".join(map(str, shape)) or "scalar"] = array
        for name in sorted({*sound} - names - set(PACKED)):
            written["r", name] = plain_values(name, (5, 6))
        written["r", "large"] = self.array(300, 100)
        return written

    def test_reading_from_several_threads_gives_the_same(self, path: Path) -> None:
        """Tensors are shared between workers; each thread looks at its values at once."""
        tensors: dict[Key, Array] = {("t", str(n)): self.array(40, 50, seed=n) for n in range(6)}

        def problem(key: Key) -> str:
            try:
                return value_difference(key, opened.tensor(key), expected[key])
            except Exception as err:
                return f"{key}: it raised {type(err).__name__}: {err}."

        expected = snapshot(tensors)
        with self.reopened(self.state_of(tensors), path) as opened, ThreadPoolExecutor(4) as pool:
            keys = itertools.islice(itertools.cycle(opened), 96)
            problems = [text for text in pool.map(problem, keys) if text]
        assert not problems, (
            f"Several threads read at once: {problems[0]} Read by position (SourceFile.read_into), since "
            "threads share the position of an open file; and keep no buffer that two reads share."
        )


_shapes = st.lists(st.integers(2, 5), min_size=1, max_size=4)


def _filled(shape: list[int], name: str) -> tuple[int, ...]:
    """Return a shape with a last axis that fills complete bytes of a packed dtype."""
    return (*shape[:-1], shape[-1] * PACKED.get(name, 1))


def _part(array: Array, region: Region) -> Array:
    part: Array = array[region]
    return part


def _fresh(path: Path) -> Path:
    """Return a name that is not used yet: each example has a file of its own."""
    return path.with_name(f"{sum(1 for _ in path.parent.iterdir())}{path.suffix}")


def _laid_out(base: Array, form: str) -> Array:
    """Return an array in some memory order; all of its values are those of ``base`` in some places."""
    rank = base.ndim
    if form == "transposed":
        return base.transpose(*range(rank)[-1:], *range(rank)[:-1])
    if form == "fortran":
        return np.asfortranarray(base)
    if form == "reversed":
        return base[(slice(None, None, -1),) * rank]
    if form == "last axis reversed":
        return base[..., ::-1]
    if form == "strided":
        return base[1::2, ..., ::2] if rank > 1 else base[::2]
    if form == "inner":
        return base[:, 1:3, 2:6] if rank > 2 else base[..., 2:6]
    if form == "broadcast":
        return np.broadcast_to(base[..., :1], base.shape)
    if form == "stride0":
        return np.broadcast_to(base[(0,) * rank], (4, 8 * rank))
    read_only = base.copy()
    read_only.flags.writeable = False
    return read_only


def _random_region(shape: tuple[int, ...], rng: np.random.Generator) -> Region:
    """Return one slice for each axis, with steps, some of them empty."""
    region = []
    for n in shape:
        start = int(rng.integers(0, n + 1))
        region.append(slice(start, int(rng.integers(start, n + 1)), int(rng.integers(1, 4))))
    return tuple(region)


def _indices(shape: tuple[int, ...]) -> list[Any]:
    """Return indices as users write them."""
    indices: list[Any] = [..., (..., *[slice(None, None, -1)] * len(shape))]
    if shape and 0 not in shape:
        indices += [
            -1,
            slice(-2, None),
            slice(2, 1),
            (..., 0),
            (slice(None, None, 2), ...),
            slice(None, None, -2),
        ]
    return indices


def _check_region(key: Key, index: Any, read: Callable[[Any], Any], whole: Array) -> None:
    expected = np.asarray(whole[index])
    try:
        got = np.asarray(read(index))
    except Exception as err:
        pytest.fail(f"{key}{list(whole.shape)}: reading {index} raised {type(err).__name__}: {err}. {_PARTS}")
    assert got.shape == expected.shape, (
        f"{key}{list(whole.shape)}: the part {index} has the shape {expected.shape}, but {got.shape} was "
        f"read. {_PARTS}"
    )
    assert same_bits(got, expected), (
        f"{key}{list(whole.shape)}: the part {index} was read with other values than the complete tensor has "
        f"there. {_PARTS}"
    )
