"""Files that are written to a folder of a store one after the other, and taken back if the run fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.checkpoint.destinations import StoreFolder
from bridge_core.checkpoint.sidecar_files import copy_file
from bridge_core.errors import BridgeError
from bridge_core.messages import listed, log

__all__ = ["Changes"]


class Changes:
    """What a run changes in a folder of a store.

    A store has no step that changes several files, so each change is recorded before it is made: an upload
    that fails may have arrived.

    Args:
        folder: The folder.
        before: A local folder, for the content of the files that are replaced.
    """

    def __init__(self, folder: StoreFolder, before: Path) -> None:
        self._folder = folder
        self._before = before
        self._replaced: list[str] = []
        self._added: list[str] = []

    def add(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write a file that does not exist yet, and return its size.

        Args:
            name: Its name.
            fill: Writes its content to a local file.
        """
        self._added.append(name)
        return self._folder.put(name, fill)

    def replace(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write a small file in place of one that exists, and return its size.

        Args:
            name: Its name.
            fill: Writes its content to a local file.
        """
        with self._folder.place(name).open_source() as file:
            copy_file(file, self._before / name)
        self._replaced.append(name)
        return self._folder.put(name, fill)

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Take everything back if the block raises an error or is interrupted.

        What cannot be taken back is named in the error.
        """
        try:
            yield
        except BaseException as err:
            left = self._undo()
            if left:
                text = f"Not taken back at {self._folder.name}: {listed(left)}."
                log("checkpoint", "%s", text)
                if isinstance(err, BridgeError):
                    err.hint = f"{err.hint} {text}" if err.hint else text
            raise

    def _undo(self) -> list[str]:
        """Restore and remove; return the names of the files for which that failed."""
        left: list[str] = []
        for name in reversed(self._replaced):
            try:
                self._folder.upload(name, self._before / name)
            except BridgeError:
                left.append(name)
        if left:
            return [*left, *self._added]  # an index that was not restored may name the new files
        for name in reversed(self._added):
            try:
                if left:  # what failed after all its repetitions is not waited for again
                    self._folder.system.remove(self._folder.place(name).url)
                else:
                    self._folder.remove(name)
            except BridgeError:
                left.append(name)
        return left
