"""The part of a file system's contract on writing: each file complete, or as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.errors import BridgeError
from bridge_core.io import CommitsFolders, RemoteEntry, child_url
from bridge_core.testing.file_system_harness import FileSystemHarness, content_of, outcome_of

__all__ = ["FileSystemWriting"]


class FileSystemWriting(FileSystemHarness):
    """What `upload` and `remove` do, of a file system that has them."""

    def test_an_upload_is_read_back(self, tmp_path: Path) -> None:
        """Of any size, into a folder that is not there yet; the local file stays."""
        system = self._writable(tmp_path)
        folder = self.put(tmp_path / "remote", {"other.bin": b"other"})
        for size in (1, 1000, 3_000_000, 0):
            content = content_of(size, size)
            local = tmp_path / f"local-{size}.bin"
            local.write_bytes(content)
            url = child_url(child_url(folder, "new folder"), f"new {size}.bin")
            system.upload(url, local)
            assert self._content(url) == content, f"an upload of {size} bytes is read back as something else"
            assert local.is_file(), "`upload` removed the local file: leave it"
            assert local.read_bytes() == content, "`upload` changed the local file: leave it"

    def test_an_upload_replaces_a_file(self, tmp_path: Path) -> None:
        """By a longer and by a shorter one, and changes no other file."""
        system = self._writable(tmp_path)
        folder = self.put(tmp_path / "remote", {"model.bin": content_of(500), "model.bin.bak": b"other"})
        url = child_url(folder, "model.bin")
        for size in (900, 20):
            local = tmp_path / "local.bin"
            local.write_bytes(content_of(size, 7))
            outcome = outcome_of(system.upload, url, local)
            assert outcome.error is None, (
                f"an upload to a file that is there raised {outcome}: replace the file"
            )
            assert self._content(url) == content_of(size, 7), (
                "a file that was replaced by an upload is not read back as what was uploaded"
            )
        assert self._content(child_url(folder, "model.bin.bak")) == b"other", "an upload changed another file"

    def test_a_failed_upload_leaves_the_old_file(self, tmp_path: Path) -> None:
        """And nothing of the new one, whether the local file or the server fails."""
        system = self._writable(tmp_path)
        old = content_of(500)
        folder = self.put(tmp_path / "remote", {"model.bin": old})
        (tmp_path / "local.bin").write_bytes(content_of(800, 3))
        cases = [("a local file that does not exist", tmp_path / "missing.bin", "")]
        cases += [(f"a server that fails ({fault!r})", tmp_path / "local.bin", fault) for fault in _FAULTS]
        for what, local, fault in cases:
            for name in ("model.bin", "new.bin"):
                context = self.failing(fault) if fault else None
                if fault and context is None:
                    continue
                url = child_url(folder, name)
                if context is None:
                    outcome = outcome_of(system.upload, url, local)
                else:
                    with context:
                        outcome = outcome_of(system.upload, url, local)
                assert isinstance(outcome.error, BridgeError), (
                    f"an upload with {what} gave {outcome}: raise SourceNotFound, AccessDenied or "
                    "RemoteFailure"
                )
            assert self._content(child_url(folder, "model.bin")) == old, (
                "a failed upload changed the file that was there: replace it once the new one is complete"
            )
            left = outcome_of(system.entry, child_url(folder, "new.bin")).value
            assert left is None, "a failed upload left a file: remove what was sent"

    def test_removing_a_file_twice_is_no_error(self, tmp_path: Path) -> None:
        """The file is gone, and others stay."""
        system = self._writable(tmp_path)
        folder = self.put(tmp_path, {"model.bin": b"weights", "model.bin.bak": b"other"})
        url = child_url(folder, "model.bin")
        for time in ("first", "second"):
            outcome = outcome_of(system.remove, url)
            assert outcome.error is None, (
                f"removing a file for the {time} time raised {outcome}: accept one that does not exist"
            )
            entry = outcome_of(system.entry, url).value
            assert entry is None or entry.is_folder, "a file is still there after it was removed"
        other = outcome_of(system.entry, child_url(folder, "model.bin.bak")).value
        assert isinstance(other, RemoteEntry), "`remove` removed another file, whose name begins alike"
        if self.lists_folders:
            listed = [entry.name for entry in system.entries(folder) or ()]
            assert "model.bin" not in listed, "a file that was removed is still listed"

    def test_a_folder_is_uploaded_in_one_step(self, tmp_path: Path) -> None:
        """The files that are named, and no others; what is there stays, and a failure changes nothing."""
        system = self.system
        if not isinstance(system, CommitsFolders):
            pytest.skip("the file system does not upload folders in one step")
        self._sound(tmp_path / "plain", content_of(100))
        old = {"other.bin": b"other", "model.bin": b"old", "old.bin": b"removed"}
        target = self.put(tmp_path / "remote", old)
        new = {"model.bin": content_of(2000), "inner/config.json": b"{}"}
        local = tmp_path / "local"
        for name, content in {**new, "notes.txt": b"not named"}.items():
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            (local / name).write_bytes(content)
        for fault in _FAULTS:
            context = self.failing(fault)
            if context is None:
                continue
            with context:
                outcome = outcome_of(system.upload_folder, target, local, list(new), ["old.bin"])
            assert isinstance(outcome.error, BridgeError), (
                f"an upload to a server that fails ({fault!r}) gave {outcome}: raise AccessDenied or "
                "RemoteFailure"
            )
            for name in ("model.bin", "old.bin"):
                entry = outcome_of(system.entry, child_url(target, name)).value
                assert isinstance(entry, RemoteEntry), (
                    "a failed upload of a folder removed a file: write all files in one step, or none"
                )
                assert self._content(child_url(target, name)) == old[name], (
                    "a failed upload of a folder changed a file: write all files in one step, or none"
                )
        url = system.upload_folder(target, local, list(new), ["old.bin"])
        assert isinstance(url, str), (
            f"`upload_folder` gave {url!r:.80}: return the URL at which the files are read"
        )
        for name, content in {**new, "other.bin": b"other"}.items():
            at = url
            for part in name.split("/"):
                at = child_url(at, part)
            what = "changed" if name == "other.bin" else "is not read back as what was uploaded"
            entry = outcome_of(system.entry, at).value
            assert isinstance(entry, RemoteEntry), f"{name!r} is missing after the upload of a folder"
            assert self._content(at) == content, f"{name!r} {what} by the upload of a folder"
        extra = outcome_of(system.entry, child_url(url, "notes.txt")).value
        assert extra is None, "'notes.txt' was uploaded, which is not among the names"
        gone = outcome_of(system.entry, child_url(url, "old.bin")).value
        assert gone is None, "'old.bin' is still there: remove the files in removed= in the same step"

    def _content(self, url: str) -> bytes:
        """Return what is at a URL now."""
        entry = outcome_of(self.system.entry, url).value
        assert isinstance(entry, RemoteEntry), "an uploaded file does not exist: `entry` gave None"
        if not entry.size:
            return b""
        outcome = outcome_of(self._read, url, 0, entry.size, entry)
        assert outcome.error is None, f"reading what was uploaded raised {outcome} ({outcome.error})"
        content: bytes = outcome.value
        return content


_FAULTS = ("denied", "unavailable")
"""What a server does with an upload."""
