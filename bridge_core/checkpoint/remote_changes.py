"""Files that are written to a folder of a store one after the other, and taken back if the run fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.checkpoint.destinations import StoreFolder
from bridge_core.checkpoint.sidecar_files import copy_file
from bridge_core.errors import BridgeError
from bridge_core.io import scratch_folder
from bridge_core.messages import listed, log

__all__ = ["Changes"]


class Changes:
    """What a run changes in a folder of a store.

    A store has no step that changes several files, so each change is recorded before it is made: an upload
    that fails may have arrived.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: StoreFolder) -> None:
        self._folder = folder
        self._open = contextlib.ExitStack()
        self._before: Path | None = None
        self._replaced: list[str] = []
        self._added: list[str] = []
        self._is_complete = False

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
        if self._before is None:
            self._before = self._open.enter_context(scratch_folder())
        with self._folder.place(name).open_source() as file:
            copy_file(file, self._before / name)
        self._replaced.append(name)
        return self._folder.put(name, fill)

    def replace_last(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write the last file of all in place of one that exists and is too large to be restored.

        If that fails and the file has arrived all the same, nothing is taken back: it belongs to what was
        written before it.

        Args:
            name: Its name.
            fill: Writes its content to a local file.
        """
        before = self._folder.place(name).entry()
        try:
            return self._folder.put(name, fill)
        except BaseException:
            with contextlib.suppress(BridgeError):
                self._is_complete = self._folder.place(name).entry() != before
            raise

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Take everything back if the block raises an error or is interrupted.

        What cannot be taken back is named in the error.
        """
        with self._open:
            try:
                yield
            except BaseException as err:
                left = [] if self._is_complete else self._undo()
                if left or self._is_complete:
                    text = (
                        "All new files have arrived all the same."
                        if self._is_complete
                        else f"Not taken back at {self._folder.name}: {listed(left)}."
                    )
                    log("checkpoint", "%s", text)
                    if isinstance(err, BridgeError):
                        err.hint = f"{err.hint} {text}" if err.hint else text
                raise

    def _undo(self) -> list[str]:
        """Restore and remove; return the names of the files for which that failed."""
        left: list[str] = []
        for name in reversed(self._replaced):
            assert self._before is not None
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
