"""The contract of states that were opened: what they share, how long values are valid, what closing does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_core.errors import BridgeError
from bridge_core.state import Array, FlatState, Key
from bridge_core.testing.comparison import difference, snapshot, value_difference
from bridge_core.testing.harness import FormatHarness, left_open, open_files
from bridge_core.testing.strategies import plain_values, same_bits

__all__ = ["LifetimeContract"]


class LifetimeContract(FormatHarness):
    """Each opened state stands for itself, and each value that was read is the caller's."""

    def test_values_stay_valid_after_the_next_read(self, path: Path) -> None:
        """Reading one tensor does not overwrite what was read of another."""
        tensors: dict[Key, Array] = {("t", str(n)): self.array(20, 30, seed=n) for n in range(3)}
        with self.reopened(self.state_of(tensors), path) as opened:
            parts = []
            for index in (..., slice(3, 9)):
                for key in tensors:
                    part = opened.read(key, index)
                    parts.append((key, part, part.copy()))
            for key, part, copy in parts:
                assert same_bits(part, copy), (
                    f"The values that were read of {key} changed when other tensors were read. Return a new "
                    "array from each read; keep no buffer."
                )

    def test_a_change_of_what_was_read_reaches_nothing_else(self, path: Path, tmp_path: Path) -> None:
        """Two readings of a file share no array; with capability ``lazy``, two reads neither."""
        written: dict[Key, Array] = {
            ("changed", name): plain_values(name, (20, 32), seed=5) for name in self.sound_dtypes(tmp_path)
        }
        tensors = snapshot(written)
        self.write(self.state_of(written), path)
        with self.read(path) as first:
            for key in tensors:
                if self.format.capabilities.lazy and _overwrite(first[key]):
                    problem = value_difference(key, first.tensor(key), tensors[key])
                    assert not problem, (
                        f"An array that was read was changed, and the next read gave the change: {problem} "
                        "Return a new array from each read, or a read-only one."
                    )
            for key in tensors:
                _overwrite(first[key])
            with self.read(path) as second:
                problem = difference(second, tensors)
        assert not problem, (
            f"An array that was read was changed, and the next opening of the file gave the change: "
            f"{problem} Keep no arrays in the format or its module."
        )

    def test_a_second_file_at_the_same_path_is_read_afresh(self, path: Path) -> None:
        """Of the same size, and with the same time."""
        for seed in (1, 2):
            tensors: dict[Key, Array] = {("t", "w"): self.array(20, 30, seed=seed)}
            expected = snapshot(tensors)
            self.write(self.state_of(tensors), path)
            os.utime(path, (1_700_000_000, 1_700_000_000))
            for _ in range(2):
                with self.read(path) as opened:
                    problem = difference(opened, expected)
                assert not problem, (
                    f"Another file was written to the same path, and the values are not its own: {problem} "
                    "Remember nothing about paths; read the file that is given to open."
                )

    def test_two_states_can_be_open_at_once(self, path: Path) -> None:
        """Of two files, or of one, read in turn; closing one leaves the other."""
        paths = [path.with_name(f"{name}{path.suffix}") for name in "ab"]
        tensors: list[dict[Key, Array]] = []
        for place, seed in zip(paths, (1, 2), strict=True):
            one: dict[Key, Array] = {("t", "w"): self.array(20, 30, seed=seed)}
            tensors.append(snapshot(one))
            self.write(self.state_of(one), place)
        with self.read(paths[0]) as first:
            problems: list[str] = []
            for place, its in zip((paths[1], paths[0]), (tensors[1], tensors[0]), strict=True):
                with self.read(place) as second:
                    problems += [difference(first, tensors[0]), difference(second, its)]
                try:
                    problems.append(difference(first, tensors[0]))
                except BridgeError as err:
                    problems.append(f"After the second was closed, the first raised: {err}")
        found = [text for text in problems if text]
        assert not found, (
            f"Two states were open at once, and one of them gave wrong values: {found} Keep nothing of an "
            "open file on the format object, which serves all files."
        )

    def test_values_that_were_read_outlive_the_state(self, path: Path) -> None:
        """Closing changes nothing that was read."""
        sample = self.sample()
        expected = snapshot(sample)
        self.write(sample, path)
        opened = self.read(path)
        values: dict[Key, Array] = dict(opened)
        opened.close()
        problem = difference(FlatState(values), expected)
        assert not problem, f"After the state was closed: {problem} Copy what closing takes away."

    def test_reading_after_closing_is_refused_or_right(self, path: Path) -> None:
        """Never other values."""
        sample = self.sample()
        expected = snapshot(sample)
        self.write(sample, path)
        opened = self.read(path)
        opened.close()
        try:
            problem = difference(opened, expected)
        except BridgeError:
            return
        except Exception as err:
            pytest.fail(f"Reading after closing raised {type(err).__name__}: {err}. Raise a BridgeError.")
        assert not problem, f"Reading after closing gave other values: {problem}"

    def test_closing_twice_is_harmless(self, path: Path) -> None:
        """A second close does nothing."""
        self.write(self.sample(), path)
        opened = self.read(path)
        opened.close()
        try:
            opened.close()
        except Exception as err:
            pytest.fail(
                f"Closing a state twice raised {type(err).__name__}: {err}. Let close do nothing the second "
                "time."
            )

    def test_no_file_stays_open_after_closing(self, path: Path) -> None:
        """Files that the format opened itself are closed with the state."""
        self.write(self.sample(), path)
        self.read(path).close()  # what a library opens once and for all
        before = open_files()
        opened, close_given = self.read_and_close(path)
        count = len([opened.read(key) for key in opened])  # dropped: they may be views of a mapped file
        opened.close()
        close_given()  # a test of its own is for the file that the format was given
        left = left_open(before)
        assert not left, (
            f"After the state was closed, {sorted(left)} stayed open ({count} tensors were read). Give "
            "FlatState a close function that closes all that open opened."
        )

    def test_no_file_stays_open_after_a_refusal(self, path: Path) -> None:
        """Files that the format opened itself are closed where it refuses damaged content, too."""
        content = self.content(self.write(self.sample(), path))
        self.read(path).close()  # what a library opens once and for all
        before = open_files()
        opened, close_given = self.read_and_close(path)
        opened.close()
        close_given()
        if left_open(before):
            pytest.skip("test_no_file_stays_open_after_closing is for this")
        damaged = path.with_name(f"damaged{path.suffix}")
        for name, data in content.items():
            self.put(damaged, {**content, name: data[: len(data) // 2]})
            before = open_files()
            try:
                opened, close_given = self.read_and_close(damaged)
            except Exception:  # its kind is another test's business
                left = left_open(before)
                assert not left, (
                    f"{name or 'The file'} was cut off and refused, and {sorted(left)} stayed open. Close "
                    "what open opened before an exception leaves it."
                )
            else:
                opened.close()
                close_given()

    def read_and_close(self, path: Path) -> tuple[FlatState, Callable[[], None]]:
        """Open a checkpoint, and return what closes the file that the format was given."""
        return self.read(path), lambda: None


def _overwrite(array: Array) -> bool:
    """Change an array, if it can be changed; return whether it was."""
    if not array.flags.writeable:
        return False
    array[...] = array[::-1].copy()
    return True
