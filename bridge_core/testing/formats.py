"""The contract of a file format: what it declares, it must keep, for every input and every damage."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from bridge_core.errors import BridgeError, SystemFailure, UnsupportedFeature
from bridge_core.formats import Format
from bridge_core.io import SourceFile
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
from bridge_core.testing.harness import (
    MB,
    CountingFile,
    FormatHarness,
    builtin_formats,
    read_state,
    sniffs,
    write_state,
)
from bridge_core.testing.strategies import bit_patterns, flat_states, regions_of, same_bits
from bridge_core.transfer import Budget, FileTarget

__all__ = ["FormatContract"]

_EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # every subclass runs the inherited test
        HealthCheck.function_scoped_fixture,  # the folder is only a place to write to
        HealthCheck.too_slow,
    ],
)


class FormatContract(FormatHarness):
    """Subclass it as ``Test...`` and set ``format``.

    Attributes:
        format: The format under test.
        registry: Other formats, which must not take this one's files for theirs, nor this one theirs;
            by default those of the core.
    """

    # Declarations

    def test_is_a_format_with_usable_declarations(self) -> None:
        """Names, extensions and dtypes are what the bridge can use."""
        assert isinstance(self.format, Format)
        assert self.format.name
        assert self.format.extensions
        assert all(extension.startswith(".") for extension in self.format.extensions)
        assert set(self.format.capabilities.dtypes) <= set(DTYPES)
        names = self.format.names
        if names is not None:
            assert names.shard.format(index=1, count=2) != names.shard.format(index=2, count=2)

    # Values

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
        first = path.read_bytes()
        write_state(self.format, written, path, workers=1, max_ram=MB)
        assert path.read_bytes() == first

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

    # Laziness

    def test_opening_reads_no_values(self, path: Path) -> None:
        """Capability ``lazy``: few bytes, and damaged values are not noticed yet."""
        self.need("lazy")
        array = self.big()
        write_state(self.format, self.state_of({("a", "big"): array, ("b", "big"): array}), path)
        content = bytearray(path.read_bytes())
        at = content.find(array.tobytes()[: 64 << 10])
        if at >= 0:
            content[at + 100] ^= 0xFF
            path.write_bytes(content)
        file = CountingFile(path)
        with read_state(self.format, path, file=file) as opened:
            assert opened.spec(("a", "big")).shape == array.shape
            assert file.count < len(content) // 20

    def test_a_slice_reads_about_its_own_bytes(self, path: Path) -> None:
        """Capability ``sliceable``."""
        self.need("sliceable")
        array = self.big()
        write_state(self.format, self.state_of({("big",): array}), path)
        file = CountingFile(path)
        with read_state(self.format, path, file=file) as opened:
            before = file.count
            assert same_bits(opened.read(("big",), slice(500, 510)), array[500:510])
            assert file.count - before < array.nbytes // 20

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

    # Other than the values

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
            write_state(self.format, state, path)
        except BridgeError:
            assert not self.format.capabilities.nested
            hypothesis.event("refused")
            return
        with read_state(self.format, path) as opened:
            self.check_equal(opened, state)

    def test_dots_in_parts_are_no_separators(self, path: Path) -> None:
        """``("a.b",)`` and ``("a", "b")`` are two keys; a format that cannot hold both refuses."""
        dtype = DTYPES[self.some_dtype()]
        state = self.state_of({("a.b", "w"): np.zeros(2, dtype), ("a", "b", "w"): np.ones(2, dtype)})
        try:
            write_state(self.format, state, path)
        except BridgeError:
            assert not self.format.capabilities.nested
            assert not path.exists()
            return
        with read_state(self.format, path) as opened:
            self.check_equal(opened, state)

    # Refusals and damage

    def test_a_dtype_it_lacks_is_refused_before_a_byte_is_written(self, tmp_path: Path) -> None:
        """All such tensors are refused, whatever else the state holds."""
        lacking = sorted(set(DTYPES) - set(self.format.capabilities.dtypes))
        if not lacking:
            pytest.skip(f"{self.format.name} holds every dtype")
        good = np.zeros(2, DTYPES[self.some_dtype()])
        for name in lacking:
            target = tmp_path / name
            target.touch()
            state = self.state_of({("a", "good"): good, ("z", "bad"): np.zeros(4, DTYPES[name])})
            with pytest.raises(UnsupportedFeature) as caught:
                self.format.write(state, FileTarget(target, Budget(1)))
            assert target.stat().st_size == 0
            assert "bad" in str(caught.value)
            assert name in str(caught.value)

    def test_a_file_cut_off_anywhere_is_refused(self, path: Path) -> None:
        """At its ends at every byte, and at many places between."""
        content = write_state(self.format, self.sample(), path).read_bytes()
        ends = (*range(min(80, len(content))), *range(max(0, len(content) - 80), len(content)))
        between = np.random.default_rng(3).integers(0, len(content), 60).tolist()
        for cut in sorted({*ends, *between}):
            assert self.damaged(path, content[:cut]) is None, f"{cut} of {len(content)} bytes passed"

    def test_flipped_bits_are_found_or_harmless(self, path: Path) -> None:
        """Nothing but a `BridgeError` is raised, whatever the damage."""
        content = write_state(self.format, self.sample(), path).read_bytes()
        rng = np.random.default_rng(5)
        for _ in range(200):
            damaged = bytearray(content)
            for at in rng.integers(0, len(content), rng.integers(1, 4)):
                damaged[at] ^= 1 << int(rng.integers(0, 8))
            self.damaged(path, bytes(damaged))

    def test_bytes_put_in_or_taken_out_are_found_or_harmless(self, path: Path) -> None:
        """As above, for damage that moves what follows."""
        content = write_state(self.format, self.sample(), path).read_bytes()
        rng = np.random.default_rng(6)
        for _ in range(100):
            at, length = int(rng.integers(0, len(content))), int(rng.integers(1, 9))
            inserted = bytes(rng.integers(0, 256, length, np.uint8))
            self.damaged(path, content[:at] + inserted + content[at:])
            self.damaged(path, content[:at] + content[at + length :])

    # Files

    def test_sniffing_knows_its_own_files_and_no_others(self, tmp_path: Path, path: Path) -> None:
        """By content: the file's name has no effect."""
        registry = self.registry or builtin_formats()
        odd = tmp_path / "weights"
        for state in (self.sample(), self.state_of({})):
            write_state(self.format, state, odd)
            for name, other in {**registry.formats, self.format.name: self.format}.items():
                assert sniffs(other, odd) == (name == self.format.name), name
        for name, other in registry.formats.items():
            if name != self.format.name:
                tensors: dict[Key, Array] = {
                    ("a", "w"): np.zeros(4, DTYPES[sorted(other.capabilities.dtypes)[0]])
                }
                write_state(other, FlatState(tensors, layout=other.layout), odd)
                assert not sniffs(self.format, odd), name

    def test_an_empty_file_is_refused(self, path: Path) -> None:
        """A file of zero bytes is not a state without tensors."""
        assert self.damaged(path, b"") is None

    @pytest.mark.parametrize(
        "content", [b"", b"\0", b"{}", b"<html>", b"PK\3\4", bytes(4096), b"\xff" * 4096]
    )
    def test_foreign_content_raises_nothing_else(self, path: Path, content: bytes) -> None:
        """Whatever the file contains."""
        path.write_bytes(content)
        assert sniffs(self.format, path) in (True, False)
        self.damaged(path, content)

    def test_closing_the_state_closes_the_file(self, path: Path) -> None:
        """Once: a second close is harmless. A file that failed to open is left to the caller."""
        write_state(self.format, self.sample(), path)
        file = SourceFile(path)
        opened = self.format.open(file)
        values: dict[Key, Array] = dict(opened)
        opened.close()
        opened.close()
        with pytest.raises(SystemFailure):
            _ = file.fd
        self.check_equal(FlatState(values), self.sample())

    def test_reading_from_several_threads_gives_the_same(self, path: Path) -> None:
        """Tensors are shared between workers."""
        state = self.sample()
        with self.reopened(state, path) as opened, ThreadPoolExecutor(4) as pool:
            jobs = [
                (key, pool.submit(opened.read, key)) for key in itertools.islice(itertools.cycle(opened), 64)
            ]
            assert all(same_bits(job.result(), state[key]) for key, job in jobs)
