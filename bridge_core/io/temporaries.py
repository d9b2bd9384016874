"""Temporary neighbours of a destination: made, locked while their writer lives, and removed.

A temporary's name repeats the destination's, so the next writer to the same destination finds and removes
what a killed process left behind. A living writer is known from its lock; where there are no locks, from the
age of what it wrote last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.errors import SystemFailure
from bridge_core.io import syscalls
from bridge_core.io.system_errors import system_failures

__all__ = [
    "ABANDONED_SECONDS",
    "neighbour",
    "OLD",
    "remove",
    "scratch_folder",
    "sweep",
    "TEMP_MARK",
    "temporary",
]

TEMP_MARK = ".ckptbridge-"
"""Part of the name of every temporary: ``.<name>.ckptbridge-<random>``."""

OLD = "old-"
"""Follows the mark in the name of an old folder, which must come back if the new one never came."""

ABANDONED_SECONDS = 24 * 60 * 60
"""Age after which a temporary without a lock is a dead writer's, on systems that have no locks."""

_LONGEST_NAME = 200
"""Bytes of a destination's name that a temporary's name can repeat; file systems allow 255 in all."""

_NO_LOCK = -1


@contextlib.contextmanager
def temporary(final: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Make a neighbour of ``final``, locked while the block runs, and remove it afterwards.

    Args:
        final: The destination, as an absolute path without links.
        create: Makes a file or folder at the path that it is given.

    Raises:
        OSError: The system refuses.
    """
    lock: int | None = None
    path = final
    try:
        while lock is None:
            path = neighbour(final)
            create(path)
            lock = _lock(path)
            if lock is None:
                remove(path)
        yield path
    finally:
        if path != final:
            remove(path)
        if lock is not None and lock != _NO_LOCK:
            os.close(lock)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a private folder among the system's temporary files, and remove it afterwards.

    What killed processes left there is removed first. ``TMPDIR`` names the folder of temporary files, as for
    the module `tempfile`; if a failure of the block is that the disk is full, its hint mentions that.

    Raises:
        SystemFailure: The system refuses.
    """
    import tempfile

    final = Path(tempfile.gettempdir()).resolve() / "upload"
    with contextlib.ExitStack() as stack:
        with system_failures(final.parent, "making a temporary folder"):
            sweep(final)
            path = stack.enter_context(temporary(final, lambda new: new.mkdir(mode=0o700)))
        try:
            yield path
        except SystemFailure as err:
            if err.errno == errno.ENOSPC:
                err.hint = (
                    f"Files are written to {final.parent} before they are uploaded: let TMPDIR name a folder "
                    "with more room, or pass a smaller max_shard_size= (--max-shard-size)."
                )
            raise


def neighbour(final: Path, kind: str = "") -> Path:
    """Return a new name next to ``final``."""
    return final.parent / f"{_prefix(final)}{kind}{os.urandom(8).hex()}"


def sweep(final: Path) -> None:
    """Remove what killed writers to this destination left behind, and put back an old folder."""
    prefix = _prefix(final)
    with os.scandir(final.parent) as entries:
        leftovers = [final.parent / entry.name for entry in entries if entry.name.startswith(prefix)]
    for path in leftovers:
        with contextlib.suppress(OSError):
            lock = syscalls.lock_path(path, exclusive=True)
            try:
                if path.name.startswith(prefix + OLD) and not final.exists():
                    path.rename(final)
                elif lock is not None or _is_abandoned(path):
                    remove(path)
            finally:
                if lock is not None:
                    os.close(lock)


def remove(path: Path) -> None:
    """Remove a file or an entire folder, even if the user interrupts; what cannot be removed stays."""
    try:
        _remove_once(path)
    except KeyboardInterrupt:
        _remove_once(path)
        raise


def _lock(path: Path) -> int | None:
    """Return a descriptor that locks a new temporary; None if a sweeper took it for a dead writer's."""
    try:
        lock = syscalls.lock_path(path, exclusive=False)
    except (BlockingIOError, FileNotFoundError):
        if not path.parent.is_dir():
            raise
        return None
    if lock is None:
        return _NO_LOCK
    is_same = False
    try:
        with contextlib.suppress(FileNotFoundError):
            is_same = os.path.samestat(os.fstat(lock), path.lstat())
    finally:
        if not is_same:
            os.close(lock)
    return lock if is_same else None


def _prefix(final: Path) -> str:
    name = final.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{TEMP_MARK}"


def _is_abandoned(path: Path) -> bool:
    """Return whether a temporary, and every file in it, was last written long ago."""
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    newest = max(file.lstat().st_mtime for file in files)
    return time.time() - newest > ABANDONED_SECONDS


def _remove_once(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        import shutil

        shutil.rmtree(path, ignore_errors=True)
