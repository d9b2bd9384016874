"""The contract of a file format: what it declares, it must keep, for every input and every damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bridge_core.errors import SystemFailure, UnsupportedFeature
from bridge_core.formats import Format
from bridge_core.io import SourceFile
from bridge_core.state import (
    DTYPES,
    Array,
    FlatState,
    Key,
)
from bridge_core.testing.harness import (
    CountingFile,
    builtin_formats,
    read_state,
    sniffs,
    write_state,
)
from bridge_core.testing.strategies import same_bits
from bridge_core.testing.values import ValuesContract
from bridge_core.transfer import Budget, FileTarget

__all__ = ["FormatContract"]


class FormatContract(ValuesContract):
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
