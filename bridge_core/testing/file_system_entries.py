"""The part of a file system's contract on what is where: files, folders and nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bridge_core.errors import BridgeError, SourceNotFound
from bridge_core.io import RemoteEntry, child_url
from bridge_core.testing.file_system_harness import FileSystemHarness, content_of, outcome_of

__all__ = ["FileSystemEntries"]


class FileSystemEntries(FileSystemHarness):
    """What `entry` and `entries` return."""

    def test_a_file_has_its_name_and_size(self, tmp_path: Path) -> None:
        """In bytes, as an integer, and a version that is a text."""
        url = self._file(tmp_path, content_of(1000))
        entry = self._entry(url)
        assert entry.name == "plain.bin", (
            f"the name of the entry is {entry.name!r}, expected the last part of the path, 'plain.bin'"
        )
        assert type(entry.size) is int, f"the size of a file is {entry.size!r}, expected an int"
        assert entry.size == 1000, f"a file of 1000 bytes has the size {entry.size}"
        assert isinstance(entry.version, str), f"the version is {entry.version!r}, expected a text"

    def test_an_empty_file_is_a_file(self, tmp_path: Path) -> None:
        """Of no bytes, and not a folder or nothing."""
        entry = self._entry(self._file(tmp_path, b"", "empty.bin"), "an empty file")
        assert entry.size == 0, f"an empty file has the size {entry.size!r}: expected 0; None means a folder"

    def test_a_folder_is_a_folder(self, tmp_path: Path) -> None:
        """With a slash at the end, and without."""
        if not self.lists_folders:
            pytest.skip("the server does not list folders, and knows none")
        folder = self.put(tmp_path, {"inner/a.bin": b"a", "b.bin": b"b"}).rstrip("/")
        for url in (child_url(folder, "inner"), folder):
            for given in (url, f"{url}/"):
                entry = self._entry(
                    given, f"a folder {'with' if given != url else 'without'} a slash at the end"
                )
                assert entry.is_folder, f"a folder has the size {entry.size!r}: return RemoteEntry(name)"
        name = self._entry(child_url(folder, "inner")).name
        assert name == "inner", f"the name of the folder 'inner' is {name!r}"

    def test_nothing_is_none(self, tmp_path: Path) -> None:
        """Also where a name is the beginning of another's, or leads through a file."""
        folder = self.put(tmp_path, {"model.bin": b"weights", "inner/part.bin": b"part"})
        missing = (
            ("another.bin",),
            ("model",),
            ("model.bin.index.json",),
            ("inne",),
            ("inner", "part"),
            ("missing", "part.bin"),
            ("model.bin", "part.bin"),
        )
        for names in missing:
            url = folder
            for name in names:
                url = child_url(url, name)
            outcome = outcome_of(self.system.entry, url)
            assert outcome.error is None, f"`entry` of what is not there raised {outcome}: return None"
            assert outcome.value is None, (
                f"`entry` of {'/'.join(names)!r}, which is not there, gave {outcome}: return None. A name "
                "that only begins like another's is not there"
            )

    def test_a_folder_lists_what_is_directly_in_it(self, tmp_path: Path) -> None:
        """Each entry once, by its name, as `entry` describes it."""
        files = {f"{name}.bin": content_of(size) for size, name in enumerate("abcd", 1)}
        folder = self.put(tmp_path, {**files, "inner/part.bin": b"part", "inner/deeper/part.bin": b"part"})
        entries = self._entries(folder)
        if entries is None:
            return
        names = sorted(entry.name for entry in entries)
        expected = sorted([*files, "inner"])
        assert names == expected, f"the folder lists {names}, expected {expected}: no paths, each name once"
        listed = {entry.name: entry for entry in entries}
        assert listed["inner"].is_folder, "the folder 'inner' is listed as a file: leave its size None"
        for name, content in files.items():
            assert listed[name].size == len(content), (
                f"{name!r} is listed with the size {listed[name].size!r}, expected {len(content)}"
            )
            version, own = listed[name].version, self._entry(child_url(folder, name)).version
            assert version == own, (
                f"`entries` gives {name!r} the version {version!r}, and `entry` {own!r}: expected the same, "
                "since a file is opened by what was listed"
            )
        assert sorted(entry.name for entry in self._entries(f"{folder.rstrip('/')}/") or ()) == expected, (
            "a folder with a slash at the end of its URL lists something else"
        )

    def test_a_nested_folder_lists_its_own(self, tmp_path: Path) -> None:
        """Neither what is around it nor what is further down."""
        self._sound_listing(tmp_path)
        folder = self.put(
            tmp_path, {"a.bin": b"a", "one/b.bin": b"b", "one/two/c.bin": b"c", "one-more/d.bin": b"d"}
        )
        one = child_url(folder, "one")
        for url, expected in ((one, ["b.bin", "two"]), (child_url(one, "two"), ["c.bin"])):
            names = sorted(entry.name for entry in self._entries(url) or ())
            assert names == expected, f"a nested folder lists {names}, expected {expected}"

    def test_a_long_listing_is_complete(self, tmp_path: Path) -> None:
        """Servers send long lists in several pages."""
        self._sound_listing(tmp_path)
        names = [f"model-{number:05}-of-01100.bin" for number in range(1, self.long_listing + 1)]
        entries = self._entries(self.put(tmp_path, dict.fromkeys(names, b"x"))) or ()
        listed = {entry.name for entry in entries}
        assert listed >= set(names), (
            f"a folder of {len(names)} files lists {len(listed)}: ask for all pages of the list"
        )

    def test_a_folder_that_is_not_there_has_no_entries(self, tmp_path: Path) -> None:
        """An empty list, or `SourceNotFound`."""
        url = child_url(self.put(tmp_path, {"a.bin": b"a"}), "missing")
        outcome = outcome_of(self.system.entries, url)
        good = isinstance(outcome.error, SourceNotFound) or (outcome.error is None and not outcome.value)
        assert good, (
            f"`entries` of a folder that is not there gave {outcome}: return (), or raise SourceNotFound"
        )

    def test_names_of_every_kind_are_read(self, tmp_path: Path) -> None:
        """Names are encoded in URLs, and plain in entries: spaces, percent signs, letters of all scripts."""
        self._sound(tmp_path / "plain", content_of(100))
        files = {name: name.encode() + b"!" for name in self.odd_names}
        folder = self.put(tmp_path, files)
        for name, content in files.items():
            url = child_url(folder, name)
            entry = outcome_of(self.system.entry, url).value
            assert isinstance(entry, RemoteEntry), (
                f"{name!r} is not found at .../{url.rpartition('/')[2]}: decode the path of a URL, once"
            )
            assert entry.name == name, f"the name of the file {name!r} is {entry.name!r}: decode it, once"
            answer = outcome_of(self.system.read, url, 0, len(content), entry)
            data = bytes(answer.value.data) if answer.error is None else None
            assert data == content, (
                f"reading {name!r} gave {data!r}: names that differ by their "
                "encoding only are different files"
            )
        if "a+b.bin" in files:
            entry = outcome_of(self.system.entry, f"{folder.rstrip('/')}/a+b.bin").value
            assert getattr(entry, "name", "") == "a+b.bin", (
                "'a+b.bin' is not found at .../a+b.bin: a plus sign in a path does not mean a space"
            )
        if self._lists_correctly(tmp_path):
            listed = {entry.name for entry in self._entries(folder) or ()}
            missing = sorted(set(files) - listed)
            assert not missing, (
                f"a folder does not list {missing}, but {sorted(listed - set(files))}: decode names"
            )

    def _lists_correctly(self, place: Path) -> bool:
        """Return whether a folder of one plain file is listed."""
        folder = self.put(place / "listed", {"plain.bin": b"plain"})
        listing = outcome_of(self.system.entries, folder).value or ()
        return self.lists_folders and [getattr(entry, "name", "") for entry in listing] == ["plain.bin"]

    def _sound_listing(self, place: Path) -> None:
        """Go on where a folder of one plain file is listed; else leave that to the test of it."""
        if not self._lists_correctly(place):
            pytest.skip("the server does not list folders, or not correctly; see the test of that")

    def _entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return what is in a folder; None only where the author declared that."""
        try:
            entries = self.system.entries(url)
        except BridgeError as err:
            raise AssertionError(
                f"`entries` of a folder raised {type(err).__name__}: return a list, or None with "
                "lists_folders = False if the server lists none"
            ) from None
        if not self.lists_folders:
            assert entries is None, (
                f"`entries` gave {entries!r:.80} with lists_folders = False: return None, since an empty "
                "list means an empty folder"
            )
            return None
        assert entries is not None, (
            "`entries` gave None: return a list; if the server lists no folders, set lists_folders = False"
        )
        listing = list(entries)
        wrong = [one for one in listing if not isinstance(one, RemoteEntry)]
        assert not wrong, f"`entries` gave {wrong[0]!r:.80} in its list: expected RemoteEntry"
        return listing
