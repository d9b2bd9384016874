"""System calls that Python does not offer, each with what to do where the system lacks it."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from pathlib import Path
from typing import Any

__all__ = ["EXCHANGE", "NO_REPLACE", "allocate", "rename_with", "start_writeback"]

NO_REPLACE, EXCHANGE = 1, 2
_AT_FDCWD = -100
_SYNC_FILE_RANGE_WRITE = 2
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def rename_with(first: Path, second: Path, flags: int) -> bool:
    """Rename in one step, refusing to replace or exchanging both.

    Returns:
        Whether the system and the file system can; if not, nothing was done.

    Raises:
        OSError: The rename failed.
    """
    call = _function("renameat2")
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), str(second))


def allocate(fd: int, size: int) -> None:
    """Give an empty file its size and its blocks, so that a full disk shows before any work is done.

    Raises:
        OSError: There is not enough room.
    """
    call = _function("fallocate")
    # The C library's posix_fallocate would write to every block where the file system cannot do this.
    if size and call is not None:
        if call(fd, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (*_LACKING, errno.EINTR):
            raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size)


def start_writeback(fd: int, offset: int, nbytes: int) -> None:
    """Ask the system to begin writing a range to the disk; waits for nothing, promises nothing."""
    call = _function("sync_file_range")
    if call is not None and nbytes:
        call(fd, ctypes.c_longlong(offset), ctypes.c_longlong(nbytes), _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)
