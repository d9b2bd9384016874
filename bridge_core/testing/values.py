"""The contract of what any format does with values, keys and metadata, in files or in folders."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bridge_core.errors import BridgeError
from bridge_core.state import (
    DTYPES,
    PACKED,
    Array,
    AuxiliaryTensor,
    FlatState,
    Key,
    LayerInfo,
    LazyTensor,
    Region,
    StateMetadata,
    TensorSpec,
    as_tensor,
)
from bridge_core.testing.harness import MB, FormatHarness
from bridge_core.testing.strategies import bit_patterns, flat_states, regions_of, same_bits

__all__ = ["ValuesContract"]

_EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # every subclass runs the inherited test
        HealthCheck.function_scoped_fixture,  # the folder is only a place to write to
        HealthCheck.too_slow,
    ],
)


class ValuesContract(FormatHarness):
    """What `FormatContract` and `FolderFormatContract` have in common."""

    def test_every_bit_pattern_of_every_declared_dtype_survives(self, path: Path) -> None:
        """NaN payloads included."""
        written: dict[Key, Array] = {
            ("t", name): bit_patterns(name) for name in sorted(self.format.capabilities.dtypes)
        }
        with self.reopened(self.state_of(written), path) as opened:
            self.check_equal(opened, written)

    def test_shapes_without_elements_or_axes_survive(self, path: Path) -> None:
        """Zero-size, 0-d, and up to six axes, in every dtype."""
        written: dict[Key, Array] = {}
        for name in sorted(self.format.capabilities.dtypes):
            shapes = [(0,), (3, 0, 2), (0, 0), (2,), (1, 2, 1, 3, 1, 2)]
            shapes += [] if name in PACKED else [(), (1,), (1, 1, 1)]
            for shape in shapes:
                size = int(np.prod(shape))
                written["t", name, "x".join(map(str, shape)) or "scalar"] = np.resize(
                    bit_patterns(name)[::-1], size
                ).reshape(shape)
        with self.reopened(self.state_of(written), path) as opened:
            self.check_equal(opened, written)

    def test_an_empty_state_survives(self, path: Path) -> None:
        """A state without tensors is not an error."""
        with self.reopened(self.state_of({}), path) as opened:
            assert len(opened) == 0

    def test_every_memory_order_is_written_exactly(self, path: Path) -> None:
        """Transposed, negative strides, broadcast, sliced, big-endian, read-only."""
        base = np.resize(bit_patterns(self.some_dtype()), 6 * 4 * 5).reshape(6, 4, 5)
        written: dict[Key, Array] = {
            ("transposed",): base.transpose(2, 0, 1),
            ("fortran",): np.asfortranarray(base),
            ("reversed",): base[::-1, ::-1, ::-1],
            ("sliced",): base[1::2, :, ::3],
            ("broadcast",): np.broadcast_to(base[:, :, :1], base.shape),
            ("stride0",): np.broadcast_to(base[0, 0, 0], (4, 6)),
        }
        if base.dtype.isbuiltin == 1:
            written["big", "endian"] = base.astype(base.dtype.newbyteorder(">"))
        read_only = base.copy()
        read_only.flags.writeable = False
        written["read_only",] = read_only
        before = {key: array.tobytes() for key, array in written.items()}
        with self.reopened(self.state_of(written), path) as opened:
            self.check_equal(opened, written)
        assert before == {key: array.tobytes() for key, array in written.items()}, "the input was changed"

    @given(data=st.data())
    @_EXAMPLES
    def test_random_states_survive(self, path: Path, data: st.DataObject) -> None:
        """Any keys, shapes, dtypes and memory orders, and equal states give equal bytes."""
        written = data.draw(flat_states(self.format.capabilities.dtypes, layout=self.format.layout))
        with self.reopened(written, path, workers=2) as opened:
            self.check_equal(opened, written)
        first = self.content(path)
        self.write(written, path, workers=1, max_ram=MB)
        assert self.content(path) == first

    @given(data=st.data())
    @_EXAMPLES
    def test_a_region_is_a_slice_of_the_whole(self, path: Path, data: st.DataObject) -> None:
        """With steps, empty parts, and every dtype."""
        state = data.draw(flat_states(self.format.capabilities.dtypes, layout=self.format.layout))
        with self.reopened(state, path) as opened:
            for key in opened:
                shape = opened.spec(key).shape
                region = data.draw(regions_of(shape))
                assert same_bits(opened.tensor(key).read(region), opened[key][region])
                assert same_bits(
                    opened.read(key, (..., *[slice(None, None, -1)] * len(shape))),
                    opened[key][tuple([slice(None, None, -1)] * len(shape))],
                )

    @pytest.mark.parametrize("workers", [1, 2])
    def test_writing_asks_for_bounded_blocks(self, path: Path, workers: int) -> None:
        """Capability ``streaming_write``: no block is larger than the budget."""
        self.need("streaming_write")
        array = self.big()
        asked: list[int] = []

        def read(region: Region) -> Array:
            part: Array = array[region]
            asked.append(part.nbytes)
            return part

        state = self.state_of({("big",): LazyTensor(TensorSpec(array.shape, array.dtype), read)})
        with self.reopened(state, path, max_ram=MB, workers=workers) as opened:
            assert max(asked) <= MB
            assert same_bits(opened["big",], array)

    def test_metadata_survives(self, path: Path) -> None:
        """Capability ``metadata``: all of a state's metadata survives.

        Layers, ties, auxiliary tensors, collections, empty nodes and forms are compared.
        """
        self.need("metadata")
        dtype = DTYPES[self.some_dtype()]
        shared = as_tensor(np.zeros((2, 3), dtype))
        state = FlatState(
            {
                ("emb", "weight"): shared,
                ("head", "weight"): shared,
                ("layers", "0", "bias"): np.ones(4, dtype),
            },
            layout="neutral",
            metadata=StateMetadata(
                layers={
                    ("emb",): LayerInfo("embedding", "module", ("weight",)),
                    ("head",): LayerInfo(
                        None, "", ("weight",), candidates=("torch.linear",), transforms={"flax": "dense"}
                    ),
                    ("a.b", "ü"): LayerInfo("linear", "guess", ("bias",)),
                },
                ties={("head", "weight"): ("emb", "weight")},
                collections={("layers", "0", "bias"): "batch_stats"},
                boxes={("layers", "0", "bias"): "value"},
                separators={"flax": "/"},
                auxiliary_tensors={("bn", "count"): AuxiliaryTensor.of(np.array(7, np.int64))},
                empty=(("nothing", "here"),),
                tree_form={"flax": "variables"},
            ),
        )
        with self.reopened(state, path) as opened:
            self.check_equal(opened, state)
            assert opened.layout == "neutral"
            assert opened.metadata.with_(extra={}, provenance={}) == state.metadata

    @pytest.mark.parametrize("layout", ["torch", "flax", "neutral"])
    def test_every_layout_survives(self, path: Path, layout: str) -> None:
        """A file records its layout."""
        self.need("metadata")
        state = FlatState({("a", "w"): np.zeros(2, DTYPES[self.some_dtype()])}, layout=layout)
        with self.reopened(state, path) as opened:
            assert opened.layout == layout

    @given(data=st.data())
    @_EXAMPLES
    def test_parts_of_keys_may_hold_any_text(self, path: Path, data: st.DataObject) -> None:
        """A format stores any key exactly, or refuses it.

        A format that declares ``nested`` must store it.
        """
        state = data.draw(
            flat_states({self.some_dtype()}, layout=self.format.layout or "neutral", any_text=True)
        )
        try:
            self.write(state, path)
        except BridgeError:
            assert not self.format.capabilities.nested
            hypothesis.event("refused")
            return
        with self.read(path) as opened:
            self.check_equal(opened, state)

    def test_dots_in_parts_are_no_separators(self, path: Path) -> None:
        """``("a.b",)`` and ``("a", "b")`` are two keys; a format that cannot hold both refuses."""
        dtype = DTYPES[self.some_dtype()]
        state = self.state_of({("a.b", "w"): np.zeros(2, dtype), ("a", "b", "w"): np.ones(2, dtype)})
        try:
            self.write(state, path)
        except BridgeError:
            assert not self.format.capabilities.nested
            assert not path.exists()
            return
        with self.read(path) as opened:
            self.check_equal(opened, state)

    def test_reading_from_several_threads_gives_the_same(self, path: Path) -> None:
        """Tensors are shared between workers."""
        state = self.sample()
        with self.reopened(state, path) as opened, ThreadPoolExecutor(4) as pool:
            jobs = [
                (key, pool.submit(opened.read, key)) for key in itertools.islice(itertools.cycle(opened), 64)
            ]
            assert all(same_bits(job.result(), state[key]) for key, job in jobs)
