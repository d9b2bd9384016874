"""What the system does with the memory that holds parts of files: its page cache.

None of these calls changes what a file contains. Where a system does not have one, nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable

from bridge_core.io.syscalls import UNSUPPORTED, library_function

__all__ = [
    "cached_nbytes",
    "can_drop_pages",
    "drop_pages",
    "finish_writeback",
    "prefetch",
    "start_writeback",
]

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_CACHESTAT = 451
"""The number of Linux's ``cachestat``, the same on every architecture."""

_fadvise: Callable[..., None] | None = getattr(os, "posix_fadvise", None)


def prefetch(fd: int, offset: int, nbytes: int) -> None:
    """Announce that a range will be read soon; nothing happens where that is impossible (macOS, Windows)."""
    if _fadvise is not None:
        with contextlib.suppress(OSError):
            _fadvise(fd, offset, nbytes, os.POSIX_FADV_WILLNEED)


def can_drop_pages() -> bool:
    """Return whether a range can be written to the disk and leave the page cache (Linux)."""
    return _fadvise is not None and library_function("sync_file_range") is not None


def start_writeback(fd: int, offset: int, nbytes: int) -> None:
    """Ask the system to begin writing a range to the disk.

    The call does not wait, and the system may ignore it.

    Without ``sync_file_range`` (macOS, Windows) nothing happens: the final sync has more to do.
    """
    call = library_function("sync_file_range")
    if call is not None and nbytes:
        call(fd, ctypes.c_longlong(offset), ctypes.c_longlong(nbytes), _WRITE)


def finish_writeback(fd: int, offset: int, nbytes: int) -> None:
    """Wait until a range was written to the disk. The file has to be synced nevertheless.

    An error is raised, since the system reports a failed write once: the final sync may not see it.

    Without ``sync_file_range`` (macOS, Windows) nothing happens.

    Raises:
        OSError: Writing failed.
    """
    call = library_function("sync_file_range")
    if call is None or not nbytes:
        return
    flags = _WAIT_BEFORE | _WRITE | _WAIT_AFTER
    if call(fd, ctypes.c_longlong(offset), ctypes.c_longlong(nbytes), flags):
        code = ctypes.get_errno()
        if code not in UNSUPPORTED:
            raise OSError(code, os.strerror(code))


def drop_pages(fd: int, offset: int, nbytes: int) -> None:
    """Take a range out of the page cache; what is not on the disk yet stays in it.

    Without ``posix_fadvise`` (macOS, Windows) nothing happens.
    """
    if _fadvise is not None and nbytes:
        with contextlib.suppress(OSError):
            _fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


def cached_nbytes(fd: int, offset: int, nbytes: int) -> int | None:
    """Return how many bytes of a range are in the page cache, in complete pages.

    Returns:
        None where the system cannot be asked: only Linux 6.5 and later can.
    """
    call = library_function("syscall")
    if call is None or not hasattr(os, "sysconf"):
        return None
    extent = (ctypes.c_uint64 * 2)(offset, nbytes)
    counts = (ctypes.c_uint64 * 5)()
    if call(ctypes.c_long(_CACHESTAT), fd, extent, counts, 0) != 0:
        return None
    return int(counts[0]) * os.sysconf("SC_PAGE_SIZE")
