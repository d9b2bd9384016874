"""A folder at a URL, read as one on this machine: its entries by name, and nothing outside of it."""

from __future__ import annotations

from bridge_core.errors import LimitExceeded, UnsafeFile
from bridge_core.io.location import Location
from bridge_core.io.remote_path import RemotePath
from bridge_core.io.source_file import SourceFile
from bridge_core.io.source_folder import SourceFolder, is_inside

__all__ = ["RemoteFolder", "folder_at"]


class RemoteFolder(SourceFolder):
    """A folder at a URL whose files are opened by name.

    Args:
        place: The folder.
        follow_links: Without meaning: there are no links at URLs.
        most_inner: The most folders in it that are listed, one request each; None for no limit.

    Raises:
        NeedsLocalPath: The server lists no folders.
        LimitExceeded: More folders in it would be listed.
    """

    def __init__(
        self, place: RemotePath, *, follow_links: bool = False, most_inner: int | None = None
    ) -> None:
        self.path = place  # type: ignore[assignment]
        self.follow_links = follow_links
        self._place = place
        self._files: frozenset[str] | None = None
        self._folders: frozenset[str] | None = None
        self._left = _Left(most_inner)

    def _list(self) -> None:
        if self._files is not None:
            return
        entries = {entry.name: entry.is_dir() for entry in self._place.iterdir()}
        self._files = frozenset(name for name, is_folder in entries.items() if not is_folder)
        self._folders = frozenset(entries) - self._files

    def place(self, name: str) -> RemotePath:  # type: ignore[override]
        """Return the URL of an entry, which need not exist.

        Raises:
            UnsafeFile: The name leads out of the folder.
        """
        parts = name.split("/")
        if not all(map(is_inside, parts)):
            raise UnsafeFile(
                f"the name {name!r} leads out of the folder, or is not a valid name.", path=self._place
            )
        return self._place.joinpath(*parts)

    def open(self, name: str) -> SourceFile:
        """Open a file of the folder; errors are those of `RemotePath.open_source`."""
        return self.place(name).open_source()

    def folder(self, name: str) -> RemoteFolder:
        """Return a folder in the folder; errors are those of `place`, and of listing too many."""
        self._left.use_one(self._place)
        inner = RemoteFolder(self.place(name), follow_links=self.follow_links)
        inner._left = self._left
        return inner


class _Left:
    """How many more folders may be listed; shared by a folder and those in it."""

    def __init__(self, number: int | None) -> None:
        self._number = number

    def use_one(self, place: RemotePath) -> None:
        if self._number is None:
            return
        if self._number == 0:
            raise LimitExceeded("the folder has more folders than are listed to recognise it.", path=place)
        self._number -= 1


def folder_at(place: Location, *, follow_links: bool = False, most_inner: int | None = None) -> SourceFolder:
    """Return a folder of this machine or at a URL, to be read by names.

    Args:
        place: The folder.
        follow_links: Whether symbolic links in it may lead out of it.
        most_inner: The most folders in one at a URL that are listed; None for no limit.
    """
    if isinstance(place, RemotePath):
        return RemoteFolder(place, follow_links=follow_links, most_inner=most_inner)
    return SourceFolder(place, follow_links=follow_links)
