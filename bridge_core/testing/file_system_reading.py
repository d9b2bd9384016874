"""The part of a file system's contract on bytes: exact ranges, versions that follow the content, threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bridge_core.checkpoint import save_state
from bridge_core.errors import BridgeError
from bridge_core.io import FileSystem, RangeAnswer, RemoteEntry, RemotePath, child_url, parent_url, scheme_of
from bridge_core.testing.file_system_harness import FileSystemHarness, content_of, outcome_of
from bridge_core.testing.strategies import same_bits

__all__ = ["FileSystemReading"]

_SIZE = 1_500_007
_THREADS = 12


class FileSystemReading(FileSystemHarness):
    """What `read` and `pinned` return."""

    # Ranges

    def test_a_range_is_exactly_its_bytes(self, tmp_path: Path) -> None:
        """At the start, in the middle, at the end; one byte, and everything."""
        content = content_of(_SIZE)
        url = self._file(tmp_path, content)
        entry = self._entry(url)
        for start, nbytes, what in (
            (0, 8, "the first 8 bytes"),
            (0, 1, "the first byte"),
            (_SIZE - 1, 1, "the last byte"),
            (_SIZE - 100, 100, "the last 100 bytes"),
            (777, 1, "one byte in the middle"),
            (65_535, 65_538, "a range in the middle"),
            (0, _SIZE, "the complete file"),
        ):
            outcome = outcome_of(self.system.read, url, start, nbytes, entry)
            assert isinstance(outcome.value, RangeAnswer), (
                f"reading {what} gave {outcome}: return RangeAnswer(data, version)"
            )
            data = bytes(memoryview(outcome.value.data).cast("B"))
            assert len(data) == nbytes, f"{what}: expected {nbytes} bytes, got {len(data)}"
            assert data == content[start : start + nbytes], (
                f"{what}: the bytes are those of another range; the end of a range in a request is often "
                "its last byte, and not the one after it"
            )

    def test_an_answer_stays_as_it_was(self, tmp_path: Path) -> None:
        """A later read does not write into the bytes of an earlier one."""
        content = content_of(4000)
        url, entry = self._sound(tmp_path, content)
        first = self._answer(url, 0, 1000, entry).data
        for start in (1000, 2000, 3000):
            self._answer(url, start, 1000, entry)
        assert bytes(first) == content[:1000], (
            "the bytes of an answer changed when the next range was read: give each answer its own buffer"
        )

    def test_files_are_read_by_many_threads_at_once(self, tmp_path: Path) -> None:
        """Each gets its own bytes."""
        contents = {name: content_of(50_000, seed) for seed, name in enumerate(("a.bin", "b.bin", "c.bin"))}
        for name, content in contents.items():
            url, _ = self._sound(tmp_path, content, name)
        folder = parent_url(url)
        together = threading.Barrier(_THREADS)

        def read(thread: int) -> str:
            name = ("a.bin", "b.bin", "c.bin")[thread % 3]
            place = child_url(folder, name)
            together.wait(timeout=60)
            for step in range(10):
                start = (thread * 3571 + step * 4093) % 45_000
                entry = self.system.entry(place)
                assert entry is not None
                data = self._read(place, start, 5000, entry)
                if data != contents[name][start : start + 5000]:
                    return name
            return ""

        with ThreadPoolExecutor(_THREADS) as pool:
            wrong = {outcome_of(task.result) for task in [pool.submit(read, n) for n in range(_THREADS)]}
        errors = [one for one in wrong if one.error is not None]
        assert not errors, (
            f"{_THREADS} threads that read at once got {errors[0]} ({errors[0].error}): methods are called "
            "from several threads; share no position, and no connection without a lock"
        )
        names = sorted({one.value for one in wrong} - {""})
        assert not names, f"threads that read at once got bytes of another range or file for {names[0]!r}"

    # Versions

    def test_an_answer_has_the_version_of_its_entry(self, tmp_path: Path) -> None:
        """As long as nothing changes: the core compares them."""
        url, entry = self._sound(tmp_path, content_of(100))
        again = self._entry(url).version
        assert again == entry.version, (
            f"the version was {entry.version!r} and is {again!r} at the next question, though nothing "
            "changed: make it of the content, not of the request"
        )
        version = self._answer(url, 10, 5, entry).version
        assert version == entry.version, (
            f"`read` gave the version {version!r}, and `entry` {entry.version!r}: expected the same, or the "
            "file counts as changed"
        )

    def test_a_version_changes_with_the_content(self, tmp_path: Path) -> None:
        """Also where the size stays; and what `entry` returns is not a memory of an earlier answer."""
        sizes = (3000, 3000, 40)
        versions, seen = [], []
        for seed, size in enumerate(sizes):
            entry = self._entry(self._file(tmp_path, content_of(size, seed)))
            versions.append(entry.version)
            seen.append(entry.size)
        if seen[:2] != list(sizes[:2]):
            pytest.skip("sizes are wrong; see the test of that")
        assert seen == list(sizes), (
            f"`entry` gave the size {seen[2]} after the file was replaced by one of {sizes[2]}: ask the "
            "server each time"
        )
        if not self.has_versions:
            assert versions == [""] * 3, (
                f"`entry` gave the version {versions[0]!r} with has_versions = False: leave it empty, or set "
                "has_versions = True"
            )
            return
        assert versions[0], (
            "the version is empty: give the server's ETag; if it has none, set has_versions = False"
        )
        assert len(set(versions)) == 3, (
            f"three contents had the versions {versions}: expected another version for each content"
        )

    def test_new_bytes_never_have_an_old_version(self, tmp_path: Path) -> None:
        """Of a file that changes after it was opened, or reading mixes two files."""
        if not self.has_versions:
            pytest.skip("the server gives no versions")
        old, new = content_of(3000, 1), content_of(3000, 2)
        url, _ = self._sound(tmp_path, old)
        pinned = self.system.pinned(url)
        opened = self.system.entry(pinned)
        if not isinstance(opened, RemoteEntry) or opened.is_folder:
            pytest.skip("a pinned URL is not that of the file; see the test of that")
        for start in (0, 1000):
            if start:
                self.put(tmp_path, {"plain.bin": new})
                changed = outcome_of(self.system.entry, url).value
                if getattr(changed, "version", "") == opened.version:
                    pytest.skip("the version did not change with the content; see the test of that")
            outcome = outcome_of(self.system.read, pinned, start, 1000, opened)
            if isinstance(outcome.error, BridgeError):
                continue
            assert isinstance(outcome.value, RangeAnswer)
            is_old = bytes(outcome.value.data) == old[start : start + 1000]
            has_old = outcome.value.version == opened.version
            assert is_old or not has_old, (
                "new bytes of a file that was replaced have the version of the old file: give the version "
                "that the answer declares, and not that of `entry`"
            )

    # Pinning

    def test_what_is_pinned_stays_the_same(self, tmp_path: Path) -> None:
        """A pinned URL is of the same scheme, pinned by itself, and equal at each call."""
        url = self._file(tmp_path, content_of(100))
        first = self.system.pinned(url)
        assert isinstance(first, str), f"`pinned` gave {first!r}, expected a URL"
        assert scheme_of(first) in (*self.system.schemes, scheme_of(url)), (
            "`pinned` gave a URL of another scheme"
        )
        second = self.system.pinned(first)
        assert second == first, (
            f"`pinned` of a pinned URL gave another one, {second!r} in place of {first!r}: return it "
            "unchanged"
        )
        assert self.system.pinned(url) == first, "`pinned` gave two URLs for one, though nothing changed"

    def test_what_is_pinned_is_the_same_content(self, tmp_path: Path) -> None:
        """Of a file, and of a folder with the files in it."""
        content = content_of(500)
        url, _ = self._sound(tmp_path, content)
        folder = parent_url(url)
        for pinned in (self.system.pinned(url), child_url(self.system.pinned(folder), "plain.bin")):
            entry = outcome_of(self.system.entry, pinned)
            assert isinstance(entry.value, RemoteEntry), f"at a pinned URL `entry` gave {entry}"
            data = outcome_of(self._read, pinned, 0, 500, entry.value).value
            assert data == content, "a pinned URL has other content than the URL that was pinned"

    # Weights

    def test_weights_are_read_as_from_a_disk(self, tmp_path: Path) -> None:
        """Of several formats, bit for bit."""
        random = np.random.default_rng(0)
        weights = {
            f"layers.{layer}.{name}": random.normal(size=shape).astype("float32")
            for layer in range(20)
            for name, shape in {"weight": (24, 40), "bias": (24,)}.items()
        }
        registry = self._registry()
        for name in ("model.safetensors", "model.npz"):
            save_state(weights, tmp_path / name, layout="torch", registry=registry)
            url, entry = self._sound(tmp_path / "remote", (tmp_path / name).read_bytes(), name)
            pinned = self.system.pinned(url)
            again = outcome_of(self.system.entry, pinned).value
            version = self._answer(url, 0, 1, entry).version
            if getattr(again, "version", None) != version or getattr(again, "size", None) != entry.size:
                pytest.skip("versions or pinned URLs are wrong; see the tests of them")
            place = RemotePath(_OneByOne(self.system), pinned)
            with registry.format(name.partition(".")[2]).open(place.open_source()) as state:
                assert {".".join(key) for key in state} == set(weights), f"{name}: other tensors were read"
                for key, value in state.items():
                    name_of_tensor = ".".join(key)
                    assert same_bits(value, weights[name_of_tensor]), (
                        f"{name}: {name_of_tensor} was read changed"
                    )


class _OneByOne:
    """A file system that is asked by one thread at a time, and whose answers are copied."""

    def __init__(self, system: FileSystem) -> None:
        self._system, self._lock = system, threading.Lock()
        self.name, self.schemes = system.name, system.schemes
        self.pinned, self.entry, self.entries = system.pinned, system.entry, system.entries

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file."""
        with self._lock:
            answer = self._system.read(url, start, nbytes, entry)
            return RangeAnswer(bytes(answer.data), answer.version)
