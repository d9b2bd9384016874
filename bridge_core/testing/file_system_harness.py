"""What the tests of a file system share: files put where it reads, and plain ones to compare with."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bridge_core.errors import BridgeError
from bridge_core.io import FileSystem, RangeAnswer, RemoteEntry, WritableFileSystem, child_url
from bridge_core.plugins import Registry, default_registry

__all__ = ["FileSystemHarness", "Outcome", "content_of", "outcome_of"]


def content_of(nbytes: int, seed: int = 0) -> bytes:
    """Return bytes of which no part equals another."""
    return random.Random(seed).randbytes(nbytes)


class Outcome:
    """What a call came to: a value, or what it raised.

    Args:
        value: What it returned.
        error: What it raised; None for nothing.
    """

    def __init__(self, value: Any, error: Exception | None) -> None:
        self.value, self.error = value, error

    @property
    def is_foreign(self) -> bool:
        """Whether it raised what is not a `BridgeError`."""
        return self.error is not None and not isinstance(self.error, BridgeError)

    def __str__(self) -> str:
        """Return it as messages show it; the text of an error may hold what is not to be shown."""
        return type(self.error).__name__ if self.error is not None else f"{self.value!r:.80}"


def outcome_of(call: Callable[..., Any], *given: Any) -> Outcome:
    """Call, and return what it came to."""
    try:
        return Outcome(call(*given), None)
    except Exception as err:
        return Outcome(None, err)


class FileSystemHarness(ABC):
    """The attributes and methods that an author gives.

    Attributes:
        system: The file system under test.
        registry: Where it is registered; by default everything installed, and the file system.
        lists_folders: Whether its server lists folders; if not, `entries` returns None.
        has_versions: Whether its server gives a version, such as an ETag.
        odd_names: Names of files that the server can have.
        long_listing: How many files are put into one folder: more than the server lists on one page.
    """

    system: FileSystem
    registry: Registry | None = None
    lists_folders: bool = True
    has_versions: bool = True
    long_listing: int = 1100
    odd_names: tuple[str, ...] = (
        "two words.bin",
        "größe-ß-重み.bin",
        "a+b.bin",
        "50%.bin",
        "a%20b.bin",
        "a b.bin",
        "a#b.bin",
        "a?b=c&d.bin",
        "it's [1] {2} @home,;=~$!.bin",
        ".hidden",
    )

    @abstractmethod
    def put(self, place: Path, files: Mapping[str, bytes]) -> str:
        """Put files into the folder that belongs to a place, and return the folder's URL.

        Called again with the same place, it replaces the files that have the same names, and leaves others.

        Args:
            place: A local folder that is different for each test, to put them into; a server that has no
                local folder makes a name of it.
            files: Path in the folder -> content: ``{"model.bin": b"...", "inner/part.bin": b"..."}``.
        """

    def failing(self, fault: str) -> AbstractContextManager[object] | None:
        """Return a context in which the server fails in one way; None if it cannot be made to.

        Args:
            fault: ``"denied"``: it permits nothing, as status 403; ``"unavailable"``: it answers nothing
                now, as status 503; ``"no ranges"``: it sends the complete file in place of a range;
                ``"cut"``: an answer ends before its end.
        """
        del fault
        return None

    def _registry(self) -> Registry:
        if self.registry is not None:
            return self.registry
        installed = default_registry()
        if installed.filesystems.get(self.system.name) is self.system:
            return installed
        return installed.extend(self.system)

    def _file(self, place: Path, content: bytes, name: str = "plain.bin") -> str:
        """Put one file, and return its URL."""
        return child_url(self.put(place, {name: content}), name)

    def _entry(self, url: str, what: str = "a file that was put there") -> RemoteEntry:
        outcome = outcome_of(self.system.entry, url)
        assert isinstance(outcome.value, RemoteEntry), (
            f"`entry` of {what} gave {outcome}: return RemoteEntry(name, size, version)"
        )
        return outcome.value

    def _read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> bytes:
        """Return a range, for tests of something else than its value."""
        return bytes(self._answer(url, start, nbytes, entry).data)

    def _answer(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        answer = self.system.read(url, start, nbytes, entry)
        assert isinstance(answer, RangeAnswer), (
            f"`read` gave {type(answer).__name__}: return RangeAnswer(data, version)"
        )
        return answer

    def _sound(self, place: Path, content: bytes, name: str = "plain.bin") -> tuple[str, RemoteEntry]:
        """Put a file and return its URL and entry, if it is read correctly; else leave that to others."""
        url = self._file(place, content, name)
        outcome = outcome_of(self.system.entry, url)
        entry = outcome.value
        named = (entry.name, type(entry.size), entry.size) if isinstance(entry, RemoteEntry) else None
        if named != (name, int, len(content)):
            pytest.skip("`entry` of a plain file is wrong; see the tests of that")
        for start, nbytes in ((0, len(content)), (1, 1)):
            answer = outcome_of(self.system.read, url, start, nbytes, entry).value
            if not isinstance(answer, RangeAnswer) or bytes(answer.data) != content[start : start + nbytes]:
                pytest.skip("a plain file is not read correctly; see the tests of that")
        return url, entry

    def _writable(self, place: Path) -> WritableFileSystem:
        """Return the file system, if its files can be written and read."""
        if not isinstance(self.system, WritableFileSystem):
            pytest.skip("the file system does not write")
        self._sound(place / "plain", content_of(100))
        return self.system
