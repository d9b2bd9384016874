"""What the contract tests of a format use: writing, reading, damaging and comparing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bridge_core.errors import BridgeError
from bridge_core.formats import Format
from bridge_core.io import SourceFile, replacing_file
from bridge_core.plugins import Registry
from bridge_core.state import DTYPES, PACKED, Array, FlatState, Key, TensorSpec, as_state, full
from bridge_core.testing.strategies import bit_patterns, same_bits
from bridge_core.transfer import Budget, FileTarget

__all__ = ["MB", "CountingFile", "FormatHarness", "builtin_formats", "read_state", "sniffs", "write_state"]

MB = 1 << 20


def write_state(
    format: Format,
    state: Mapping[Key, Any],
    path: Path,
    *,
    max_ram: int | None = None,
    workers: int | None = None,
) -> Path:
    """Write a state as the bridge does, replacing what is there, and return the path.

    Args:
        format: The format to write.
        state: Key -> array or lazy tensor.
        path: The destination.
        max_ram: Bytes of all buffers together; None for the default.
        workers: Number of threads; None for the default.
    """
    with replacing_file(path, overwrite=True) as temporary:
        format.write(as_state(state), FileTarget(temporary, Budget(workers, max_ram)))
    return path


def read_state(format: Format, path: Path, *, file: SourceFile | None = None) -> FlatState:
    """Open a file as the bridge does; the caller closes the state.

    Args:
        format: The format.
        path: The file.
        file: The file opened already, e.g. one that counts what is read.
    """
    source = file or SourceFile(path)
    try:
        return format.open(source)
    except BaseException:
        source.close()
        raise


class CountingFile(SourceFile):
    """A file that counts the bytes read from it."""

    count = 0

    def read_into(self, offset: int, buffer: Any) -> None:
        """Count, and read."""
        self.count += memoryview(buffer).nbytes
        super().read_into(offset, buffer)

    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Count, and read."""
        self.count += memoryview(buffer).nbytes
        super().read_runs(offset, stride, nbytes, buffer)


class FormatHarness:
    """A format under test, and what its tests do with it."""

    format: ClassVar[Any]
    registry: ClassVar[Registry | None] = None

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where a test writes."""
        return tmp_path / f"file{self.format.extensions[0]}"

    @contextmanager
    def reopened(self, state: Mapping[Key, Any], path: Path, **budget: Any) -> Iterator[FlatState]:
        """Write a state and read it again."""
        self.write(state, path, **budget)
        with self.read(path) as found:
            yield found

    def write(self, state: Mapping[Key, Any], path: Path, **budget: Any) -> Path:
        """Write a state as the bridge does, replacing what is there, and return the path."""
        return write_state(self.format, state, path, **budget)

    def read(self, path: Path) -> FlatState:
        """Open what was written, as the bridge does."""
        return read_state(self.format, path)

    def content(self, path: Path) -> object:
        """Return what has to be equal if two equal states were written."""
        return path.read_bytes()

    def state_of(self, tensors: Mapping[Key, Any], **fields: Any) -> FlatState:
        """Return a state in a layout that the format can hold."""
        return FlatState(tensors, layout=self.format.layout or "torch", **fields)

    def check_equal(self, found: FlatState, wanted: Mapping[Key, Any]) -> None:
        """Compare keys, dtypes, shapes and bits."""
        assert set(found) == set(wanted)
        for key in wanted:
            array = np.asarray(wanted[key])
            plain = array.astype(array.dtype.newbyteorder("=")) if array.dtype.isbuiltin == 0 else array
            assert found.spec(key) == TensorSpec(plain.shape, plain.dtype), key
            assert same_bits(found[key], plain), key

    def need(self, capability: str) -> None:
        """Skip a test of a capability that the format does not declare."""
        if not getattr(self.format.capabilities, capability):
            pytest.skip(f"{self.format.name} does not declare {capability}")

    def some_dtype(self) -> str:
        """Return a declared dtype that is not packed, float32 if there is a choice."""
        names: list[str] = sorted(set(self.format.capabilities.dtypes) - set(PACKED))
        return "float32" if "float32" in names else names[0]

    def big(self, megabytes: int = 8) -> Array:
        """Return a two-dimensional array of random bits."""
        dtype = DTYPES[self.some_dtype()]
        rng = np.random.default_rng(7)
        raw = rng.integers(0, 2, megabytes * MB, np.uint8) if dtype == np.bool_ else rng.bytes(megabytes * MB)
        return np.frombuffer(raw, dtype).reshape(1024, -1)

    def sample(self) -> FlatState:
        """Return a small state of several dtypes."""
        chosen = [
            n
            for n in ("bool", "bfloat16", "float32", "int64", "uint8")
            if n in self.format.capabilities.dtypes
        ]
        arrays: dict[Key, Any] = {("m", str(i), n): bit_patterns(n)[:24] for i, n in enumerate(chosen)}
        arrays["m", "grid"] = np.resize(bit_patterns(self.some_dtype()), 60).reshape(3, 4, 5)
        return self.state_of(arrays)

    def damaged(self, path: Path, content: bytes) -> FlatState | None:
        """Read all tensors of damaged content; return None where a `BridgeError` was raised.

        Any other error fails the test.
        """
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with read_state(self.format, path) as found:
                    arrays = {key: found.tensor(key).read(full(found.spec(key).shape)) for key in found}
                    return FlatState(arrays)
            except BridgeError:
                return None


def builtin_formats() -> Registry:
    """Return a registry of only the core."""
    from bridge_core import builtin_plugin

    return Registry().extend(builtin_plugin, name="bridge_core", distribution="ckptbridge")


def sniffs(format: Format, path: Path) -> bool:
    """Return whether a format takes a file for its own."""
    with SourceFile(path) as file:
        return format.sniff(file)
