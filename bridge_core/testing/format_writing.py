"""The contract of writing: only what is asked for, only to the target, the same in every run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge_core.errors import BridgeError, MalformedFile
from bridge_core.state import (
    DTYPES,
    Array,
    FlatState,
    Key,
    LazyTensor,
    Region,
    StateMetadata,
    TensorSpec,
    as_tensor,
)
from bridge_core.testing.comparison import difference, snapshot
from bridge_core.testing.harness import MB, FormatHarness, left_open, open_files
from bridge_core.testing.strategies import plain_values

__all__ = ["WritingContract"]

_DAYS = 400 * 86400.0
"""Seconds between two writes that have to be equal."""


class WritingContract(FormatHarness):
    """Equal states give equal bytes, and nothing else of the system changes."""

    def test_a_dtype_it_lacks_is_refused_before_a_byte_is_written(self, tmp_path: Path) -> None:
        """All such tensors are refused, whatever else the state holds."""
        lacking = sorted(set(DTYPES) - set(self.format.capabilities.dtypes))
        if not lacking:
            pytest.skip(f"{self.format.name} holds every dtype")
        good = self.array(2)
        for name in lacking:
            folder = tmp_path / name
            folder.mkdir()
            state = self.state_of({("a", "good"): good, ("z", "bad"): plain_values(name, (4,))})
            try:
                self.write_plainly(state, folder)
            except BridgeError as err:
                text = str(err)
            except Exception as err:
                pytest.fail(
                    f"Writing {name}, which capabilities.dtypes does not have, raised {type(err).__name__}: "
                    f"{err}. Raise UnsupportedFeature(..., key=key) before writing."
                )
            else:
                pytest.fail(
                    f"Writing {name}, which capabilities.dtypes does not have, was not refused. Declare it "
                    "if its bits survive; otherwise raise UnsupportedFeature(..., key=key)."
                )
            left = [file.name for file in folder.rglob("*") if file.is_file() and file.stat().st_size]
            assert not left, (
                f"{name} was refused after bytes were written to {left}. Check all dtypes of the state "
                "before the first byte is written."
            )
            assert "bad" in text, f"The refusal of {name} does not name the tensor: {text!r}. Pass key=key."
            assert name in text, f"The refusal does not name the dtype {name}: {text!r}."

    def write_plainly(self, state: FlatState, folder: Path) -> None:
        """Write a state into an empty folder, with nothing that cleans up after a failure."""
        raise NotImplementedError

    def test_equal_states_give_equal_bytes(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At another time and place, in another process, with other numbers of threads, and less memory."""
        if not self.same_bytes:
            pytest.skip(f"{self.format.name} does not promise equal bytes")

        def state() -> FlatState:
            return self.state_of({**self.sample(), ("big", "w"): self.array(300, 1100)})

        first = self.content(self.write(state(), path, workers=1))
        again = path.with_name(f"again{path.suffix}")
        self.write(state(), again, workers=1)
        self._check_same(first, self.content(again), "at once")
        self.write(state(), again, workers=2, max_ram=MB)
        self._check_same(first, self.content(again), "with another number of threads and less memory")
        _shift_clock(monkeypatch)
        self.write(state(), again, workers=1)
        self._check_same(first, self.content(again), "at another time")
        _shift_place(monkeypatch, path.parent)
        self.write(state(), again, workers=1)
        self._check_same(first, self.content(again), "in another process, working folder and computer")

    def test_a_write_depends_on_nothing_that_was_written_before(self, path: Path) -> None:
        """Neither on an earlier write of the format object, nor on what was at the destination."""
        repeatable = self._repeatable(path)
        first = self.content(self.write(self.sample(), path))
        larger: dict[Key, Array] = {("else", "w"): self.array(64, 1100), ("m", "weight"): self.array(900)}
        self.write(self.state_of(larger), path)
        second = self.content(self.write(self.sample(), path))
        with self.read(path) as opened:
            problem = difference(opened, snapshot(self.sample()))
        if repeatable and not problem and first != second:
            problem = "The same state gave other bytes after a larger one was written."
        assert not problem, f"{problem} Keep nothing of a write in the format, and write every file anew."

    def test_nothing_is_written_beside_the_target(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not next to it, nor to the working directory, nor left among temporary files, nor at home.

        Of a state with many tensors and ties; neither by reading it, nor by a write that fails.
        """
        state = self._many_and_tied()
        self.write(state, tmp_path / f"warm{self.format.extensions[0]}")  # what a library sets up once
        places = {name: tmp_path / name for name in ("target", "working", "temporary", "home")}
        for place in places.values():
            place.mkdir()
        monkeypatch.chdir(places["working"])
        monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
        for variable in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(variable, str(places["home"]))
        self.write(state, destination := places["target"] / f"weights{self.format.extensions[0]}")
        with self.read(destination) as opened:
            opened.read(next(iter(opened)))
        with contextlib.suppress(Exception):  # its kind is another test's business
            self.write(self._failing(), places["target"].joinpath("failed").with_suffix(destination.suffix))
        strays = [
            f"{entry.name} in the {name} folder"
            for name, place in places.items()
            for entry in place.iterdir()
            if entry != destination and entry.stem != "failed"
        ]
        assert not strays, (
            f"Writing and reading left {strays}. The bridge moves only the target to its destination: write "
            "to target.path or target.file, and nowhere else; remove temporary files also after an error."
        )

    def _many_and_tied(self) -> FlatState:
        """Return a state of 50 tensors, tied ones among them where the format stores ties."""
        tensors: dict[Key, Any] = {("layers", str(n), "w"): self.array(6, seed=n) for n in range(50)}
        if not self.format.capabilities.metadata:
            return self.state_of(tensors)
        first, last = ("layers", "0", "w"), ("z", "w")
        metadata = StateMetadata(ties={last: first}, empty=(("nothing",),))
        shared = as_tensor(tensors[first])
        return self.state_of({**tensors, first: shared, last: shared}, metadata=metadata)

    def _failing(self) -> FlatState:
        """Return a state of which one tensor cannot be read."""

        def fail(region: Region) -> Array:
            raise MalformedFile("the source is damaged on purpose.")

        spec = TensorSpec((40, 50), DTYPES[self.some_dtype()])
        return self.state_of({("a", "w"): self.array(4), ("b", "w"): LazyTensor(spec, fail)})

    def test_a_moved_checkpoint_reads_the_same(self, path: Path, tmp_path: Path) -> None:
        """Files are copied and renamed; the first place is gone."""
        first = tmp_path / "first"
        first.mkdir()
        sample = snapshot(self.sample())
        written = self.write(self.sample(), first / path.name)
        moved = tmp_path / f"elsewhere{path.suffix}"
        shutil.move(written, moved)
        shutil.rmtree(first)
        try:
            with self.read(moved) as opened:
                problem = difference(opened, sample)
        except (BridgeError, OSError) as err:
            problem = f"It raised {type(err).__name__}: {err}"
        assert not problem, (
            f"A checkpoint was moved and renamed, and is not read as before. {problem} Store no paths, and "
            "read only what is in the checkpoint itself."
        )

    def test_what_was_read_can_be_written_again(self, path: Path) -> None:
        """From the open file to another one, and once more; the bytes are the same."""
        again, third = (path.with_name(f"{name}{path.suffix}") for name in ("again", "third"))
        repeatable = self._repeatable(path)
        written: dict[Key, Array] = {("m", "weight"): self.array(3, 4, 5)}  # one: its order is nobody's fault
        with self.reopened(self.state_of(written), path) as opened:
            self.write(opened, again)
        with self.read(again) as opened:
            problem = difference(opened, {("m", "weight"): self.array(3, 4, 5)})
            if not problem and repeatable:
                self.write(opened, third)
                if self.content(third) != self.content(again):
                    problem = "Each time a checkpoint is read and written again, its bytes are others."
        assert not problem, f"{problem} A state that is read must hold all that is written, and no more."

    def test_an_error_of_the_source_ends_the_write(self, path: Path) -> None:
        """A tensor that cannot be read is not written as something else."""
        try:
            self.write(self._failing(), path)
        except MalformedFile:
            return
        except Exception as err:
            pytest.fail(f"An error of the source, a MalformedFile, became {type(err).__name__}: {err}.")
        else:
            pytest.fail(
                "A tensor of the state could not be read, and the write ended as if nothing had happened. "
                "Let errors of target.blocks and Tensor.read pass."
            )

    def test_writing_leaves_the_source_open(self, path: Path) -> None:
        """Whoever opened a state closes it."""
        closed: list[bool] = []
        sample = self.sample()
        state = FlatState(sample.tensors(), layout=sample.layout, close=lambda: closed.append(True))
        self.write(state, path)
        assert not closed, "Writing closed the state that was written. Its owner closes it."

    def test_no_file_stays_open_after_a_write(self, path: Path) -> None:
        """Neither after a write that failed."""
        self.write(self.sample(), path)  # what a library opens once and for all
        before = open_files()
        self.write(self._many_and_tied(), path)
        left = left_open(before)
        assert not left, f"After a write, {sorted(left)} stayed open. Open files in a with block."
        try:
            self.write(self._failing(), path)
        except Exception:  # its kind is another test's business
            left = left_open(before)
        assert not left, f"After a write that failed, {sorted(left)} stayed open. Open files in a with block."

    def _repeatable(self, path: Path) -> bool:
        """Return whether two writes of one state are equal; a test of its own is for that."""
        one, other = (path.with_name(f"repeated{n}{path.suffix}") for n in "ab")
        if not self.same_bytes:
            return False
        self.write(self.sample(), one)  # after whatever was written before
        return self.content(self.write(self.sample(), one)) == self.content(self.write(self.sample(), other))

    def _check_same(self, first: dict[str, bytes], second: dict[str, bytes], when: str) -> None:
        advice = "Write no times, random numbers, addresses or names of temporary files."
        assert sorted(first) == sorted(second), (
            f"A state was written again {when}: the files are {sorted(second)}, not {sorted(first)}. {advice}"
        )
        for name, content in first.items():
            if content != second[name]:
                at = _first_difference(content, second[name])
                pytest.fail(
                    f"A state was written again {when}, and {name or 'the file'} differs from byte {at} on. "
                    f"{advice}"
                )


def _first_difference(one: bytes, other: bytes) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def _shift_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of the calendar be months ahead."""
    seconds, nanoseconds = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: seconds() + _DAYS)
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(_DAYS) * 10**9)
    for name in ("localtime", "gmtime"):
        monkeypatch.setattr(time, name, _shifted(getattr(time, name), seconds))
    monkeypatch.setattr(time, "ctime", _shifted(time.ctime, seconds))
    # these ask the clock themselves where they are given no time
    asctime, strftime = time.asctime, time.strftime
    monkeypatch.setattr(time, "asctime", lambda when=None: asctime(when or time.localtime()))
    monkeypatch.setattr(time, "strftime", lambda text, when=None: strftime(text, when or time.localtime()))


def _shift_place(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the process, the computer, the user and the working folder be others."""
    monkeypatch.setattr(os, "getpid", lambda: 1_234_567)
    for module in (socket, platform):
        for name in ("gethostname", "getfqdn", "node"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_: "another-computer")
    for variable in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        monkeypatch.setenv(variable, "another")
    monkeypatch.chdir(folder)


def _shifted(usual: Callable[[float], Any], seconds: Callable[[], float]) -> Callable[..., Any]:
    return lambda secs=None: usual(seconds() + _DAYS if secs is None else secs)
