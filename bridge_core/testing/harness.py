"""What the contract tests of a format use: writing, reading and measuring."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bridge_core.errors import BridgeError
from bridge_core.formats import Format
from bridge_core.io import SourceFile, replacing_file
from bridge_core.plugins import Registry
from bridge_core.state import DTYPES, PACKED, Array, FlatState, Key, as_state
from bridge_core.testing.comparison import difference, snapshot
from bridge_core.testing.strategies import plain_values
from bridge_core.transfer import Budget, FileTarget

__all__ = [
    "MB",
    "FormatHarness",
    "Measured",
    "builtin_formats",
    "counted_reads",
    "left_open",
    "open_files",
    "read_state",
    "sniffs",
    "traced_memory",
    "write_state",
]

MB = 1 << 20

_TIME_TO_CLOSE = 0.5
"""Seconds in which a library's own threads, such as those of tensorstore, close their files."""


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


class Measured:
    """Bytes that were counted while a block ran.

    Attributes:
        nbytes: Bytes that were read, or the most that were allocated at once.
        still: Bytes that were allocated and are still in use.
        system: Bytes that this process read in any way, where the system counts them.
    """

    nbytes = 0
    still = 0
    system = 0


@contextmanager
def counted_reads() -> Iterator[Measured]:
    """Count the bytes that are read from every `SourceFile`, and by the process."""
    counted = Measured()
    before = _system_reads()
    usual = {name: getattr(SourceFile, name) for name in ("read_into", "read_runs")}

    def read_into(self: SourceFile, offset: int, buffer: Any) -> None:
        counted.nbytes += memoryview(buffer).nbytes
        usual["read_into"](self, offset, buffer)

    def read_runs(self: SourceFile, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        counted.nbytes += memoryview(buffer).nbytes
        usual["read_runs"](self, offset, stride, nbytes, buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SourceFile, "read_into", read_into)
        patch.setattr(SourceFile, "read_runs", read_runs)
        try:
            yield counted
        finally:
            counted.system = _system_reads() - before


def _system_reads() -> int:
    """Return how many bytes this process has read; 0 where the system does not count."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), 0)


@contextmanager
def traced_memory() -> Iterator[Measured]:
    """Measure the memory that a block allocates through Python and numpy."""
    measured = Measured()
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start(1)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        yield measured
    finally:
        now, peak = tracemalloc.get_traced_memory()
        measured.nbytes, measured.still = peak - before, now - before
        if not running:
            tracemalloc.stop()


def open_files() -> set[str]:
    """Return the regular files that this process has open; empty where the system does not show them."""
    files = set()
    folder = Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.is_dir() else ():
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of this very listing
            continue
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/")):
            files.add(f"{target} (descriptor {entry.name})")
    return files


def left_open(before: set[str]) -> set[str]:
    """Return the files that were opened since and stay open.

    Those of other threads get time to be closed.
    """
    deadline = time.monotonic() + _TIME_TO_CLOSE
    while (left := open_files() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


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

    def content(self, path: Path) -> dict[str, bytes]:
        """Return the bytes of each file that a checkpoint consists of, by its name in the checkpoint."""
        return {"": path.read_bytes()}

    def put(self, path: Path, content: Mapping[str, bytes]) -> None:
        """Write what `content` returned."""
        path.write_bytes(content[""])

    same_bytes: ClassVar[bool] = True
    """Whether equal states give equal bytes."""

    def state_of(self, tensors: Mapping[Key, Any], **fields: Any) -> FlatState:
        """Return a state in a layout that the format can hold."""
        return FlatState(tensors, layout=self.format.layout or "torch", **fields)

    def check_equal(self, found: FlatState, expected: Mapping[Key, Any]) -> None:
        """Compare keys, dtypes, shapes and bits."""
        problem = difference(found, snapshot(expected))
        assert not problem, problem

    def check_survives(self, tensors: Mapping[Key, Any], path: Path, advice: str, **budget: Any) -> None:
        """Write tensors, read them again, and compare them with what they were before.

        Args:
            tensors: Key -> array or lazy tensor.
            path: The destination.
            advice: What the author should change where they differ.
            budget: Threads and memory.
        """
        expected = snapshot(tensors)
        self.write(self.state_of(tensors), path, **budget)
        try:
            with self.read(path) as opened:
                problem = difference(opened, expected)
        except BridgeError as err:
            problem = f"What was written cannot be read: {err}"
        assert not problem, f"{problem} {advice}"

    def holds(self, array: Array, folder: Path) -> bool:
        """Return whether an array survives by itself.

        A fault that one test is for should fail that test only; the others leave such arrays out.

        Args:
            array: The array.
            folder: A folder; files for each call are made in it.
        """
        number = sum(1 for _ in folder.iterdir())
        tensors: dict[Key, Array] = {("only", "one"): array}
        expected = snapshot(tensors)
        try:
            with self.reopened(
                self.state_of(tensors), folder / f"single{number}{self.format.extensions[0]}"
            ) as opened:
                return not difference(opened, expected)
        except Exception:
            return False

    def sound_dtypes(self, folder: Path) -> list[str]:
        """Return the declared dtypes whose plain values survive; a test of its own reports the others."""
        known: dict[type, list[str]] = self._sound_dtypes
        if type(self) not in known:
            known[type(self)] = [
                name
                for name in sorted(self.format.capabilities.dtypes)
                if name in DTYPES and self.holds(plain_values(name, (4,)), folder)
            ]
        return known[type(self)]

    _sound_dtypes: ClassVar[dict[type, list[str]]] = {}

    def need(self, capability: str) -> None:
        """Skip a test of a capability that the format does not declare."""
        if not getattr(self.format.capabilities, capability):
            pytest.skip(f"{self.format.name} does not declare {capability}")

    def some_dtype(self) -> str:
        """Return a declared dtype that is not packed, float32 if there is a choice."""
        names: list[str] = sorted(set(self.format.capabilities.dtypes) - set(PACKED))
        return "float32" if "float32" in names else names[0]

    def array(self, *shape: int, seed: int = 0) -> Array:
        """Return an array of ordinary values of a dtype that the format holds."""
        return plain_values(self.some_dtype(), shape, seed=seed)

    def big(self, megabytes: int = 8) -> Array:
        """Return a two-dimensional array of 1024 rows."""
        columns = megabytes * MB // 1024 // DTYPES[self.some_dtype()].itemsize
        return self.array(1024, columns, seed=7)

    def sample(self) -> FlatState:
        """Return a small state of one dtype, of ordinary values."""
        return self.state_of(
            {
                ("m", "weight"): self.array(3, 4, 5, seed=1),
                ("m", "bias"): self.array(24, seed=2),
                ("n", "scale"): self.array(7, seed=3),
            }
        )

    def varied_sample(self) -> FlatState:
        """Return a small state of several dtypes, for tests that damage it."""
        names = ("bool", "bfloat16", "float32", "int64", "uint8")
        chosen = [name for name in names if name in self.format.capabilities.dtypes]
        arrays: dict[Key, Any] = {("m", str(i), n): plain_values(n, (24,)) for i, n in enumerate(chosen)}
        arrays["m", "grid"] = self.array(3, 4, 5)
        return self.state_of(arrays)

    def refused_to_write(self, state: FlatState, path: Path) -> bool:
        """Write a state, and return whether the format refused it."""
        try:
            self.write(state, path)
        except BridgeError:
            return True
        return False


def builtin_formats() -> Registry:
    """Return a registry of only the core."""
    from bridge_core import builtin_plugin

    return Registry().extend(builtin_plugin, name="bridge_core", distribution="ckptbridge")


def sniffs(format: Format, path: Path) -> bool:
    """Return whether a format takes a file for its own."""
    with SourceFile(path) as file:
        return format.sniff(file)
