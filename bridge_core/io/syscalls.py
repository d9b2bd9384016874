"""System calls that not every system or Python has, each with what is done where one is missing.

Only this module, `page_cache` and `machine` use what differs between Linux, macOS and Windows. What is
missing is found out once, when they are imported.
``docs/security.md`` lists what each fallback promises less.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import os
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None

__all__ = [
    "allocate",
    "copy_range",
    "create_file",
    "exchange",
    "library_function",
    "lock_path",
    "open_source",
    "open_to_write",
    "preadv",
    "pwrite",
    "rename_new",
    "sync_file",
    "sync_folder",
]

_NO_REPLACE, _EXCHANGE = 1, 2
_AT_FDCWD = -100
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of systems and file systems that do not have a call or a flag of it."""


def _flags(*names: str) -> int:
    """Return flags of `os.open` joined, without those that the system does not have."""
    joined = 0
    for name in names:
        joined |= getattr(os, name, 0)
    return joined


# --- opening

_ALWAYS = _flags("O_CLOEXEC", "O_BINARY")
_READ = os.O_RDONLY | _ALWAYS
_READ_WRITE = os.O_RDWR | _ALWAYS
_SOURCE = _READ | _flags("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY")
_REFUSES_LINKS = hasattr(os, "O_NOFOLLOW")


def open_source(path: Path) -> int:
    """Open a file for reading; no symbolic link, and without waiting for the other end of a FIFO.

    Where the system cannot refuse links (Windows), the path is looked at before, and what was opened is
    compared with that. A FIFO that replaces the file in between can block there.

    Raises:
        OSError: The path is a link (``ELOOP``) or cannot be opened.
    """
    if _REFUSES_LINKS:
        return os.open(path, _SOURCE)
    before = path.lstat()
    if stat.S_ISLNK(before.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    fd = os.open(path, _SOURCE)
    try:
        if not os.path.samestat(before, os.fstat(fd)):
            raise OSError(errno.ELOOP, "the file was replaced while it was opened", str(path))
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_to_write(path: str | os.PathLike[str]) -> int:
    """Open an existing file for reading and writing."""
    return os.open(path, _READ_WRITE)


def create_file(path: str | os.PathLike[str], mode: int = 0o666) -> int:
    """Create a file and open it for reading and writing.

    Args:
        path: The file.
        mode: Permission bits, from which the system takes those of the umask.

    Raises:
        FileExistsError: It exists.
    """
    return os.open(path, _READ_WRITE | os.O_CREAT | os.O_EXCL, mode)


# --- reading and writing by position

_LOCKS = tuple(threading.Lock() for _ in range(64))


def _file_lock(fd: int) -> threading.Lock:
    """Return the lock of an open file; descriptors of one file, which may share a position, share it."""
    status = os.fstat(fd)
    return _LOCKS[hash((status.st_dev, status.st_ino)) % len(_LOCKS)]


_HAS_POSITIONS = hasattr(os, "preadv") and hasattr(os, "pwrite")


def _seek_and_read(fd: int, buffers: Sequence[Any], offset: int) -> int:
    with _file_lock(fd):
        os.lseek(fd, offset, os.SEEK_SET)
        return io.FileIO(fd, "rb", closefd=False).readinto(buffers[0]) or 0


def _seek_and_write(fd: int, data: Any, offset: int) -> int:
    with _file_lock(fd):
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """Read from an offset into buffers; return the number of bytes, 0 at the end of the file.

    Where the system cannot (Windows), the position of the file is set and one read follows, under a lock of
    the file: threads that read one file take turns, and only the first buffer is filled.
    """
    # Looked up in `os` at each call, where tests and tools put faults.
    return os.preadv(fd, buffers, offset) if _HAS_POSITIONS else _seek_and_read(fd, buffers, offset)


def pwrite(fd: int, data: Any, offset: int) -> int:
    """Write bytes at an offset; return how many. Where the system cannot (Windows), as `preadv`."""
    return os.pwrite(fd, data, offset) if _HAS_POSITIONS else _seek_and_write(fd, data, offset)


CAN_COPY_RANGES = hasattr(os, "copy_file_range")
"""Whether the kernel copies between two files; if not (macOS, Windows), this process reads and writes."""


def copy_range(source: int, target: int, nbytes: int, offset: int, position: int) -> int:
    """Copy bytes between two files inside the kernel; only where `CAN_COPY_RANGES`."""
    return os.copy_file_range(source, target, nbytes, offset, position)


# --- calls that Python does not offer


@functools.cache
def library_function(name: str) -> Any:
    """Return a function of Linux's C library whose offsets have 64 bits; None anywhere else."""
    if not sys.platform.startswith("linux") or sys.maxsize <= 2**32:
        return None
    try:
        return getattr(ctypes.CDLL(None, use_errno=True), name, None)
    except (AttributeError, OSError, TypeError):
        return None


def allocate(fd: int, size: int) -> None:
    """Allocate the blocks of an empty file, so that a full disk shows before any work.

    Without ``fallocate`` (macOS, Windows) the file gets its size only; a full disk shows while it is written.

    Raises:
        OSError: There is not enough room.
    """
    call = library_function("fallocate")
    # The C library's posix_fallocate would write to every block where the file system cannot do this.
    if size and call is not None:
        if call(fd, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (*UNSUPPORTED, errno.EINTR):
            raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size)


def _rename_with(first: Path, second: Path, flags: int) -> bool:
    """Rename in one step with flags; return whether the system and the file system can."""
    call = library_function("renameat2")
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(second))


# --- renaming


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or folders in one step.

    Returns:
        Whether the system and the file system can (Linux); if not, nothing was done.

    Raises:
        OSError: The renaming failed.
    """
    return _rename_with(first, second, _EXCHANGE)


def rename_new(first: Path, second: Path) -> None:
    """Rename a file without replacing what another writer put there meanwhile.

    By ``renameat2`` (Linux), by Windows' rename, which replaces nothing, or by a hard link, after which both
    names exist. Where the file system has none of these, the destination is looked at and the file renamed:
    what another writer puts there in between is replaced.

    Raises:
        FileExistsError: The destination exists.
        OSError: The renaming failed.
    """
    if _rename_with(first, second, _NO_REPLACE):
        return
    if os.name == "nt":
        first.rename(second)
        return
    try:
        second.hardlink_to(first)
    except NotImplementedError:  # an OSError as well, from Python 3.13 on
        pass
    except OSError as err:
        if err.errno not in (*UNSUPPORTED, errno.EPERM, errno.EMLINK):
            raise
    else:
        return
    if second.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(second))
    first.replace(second)


# --- forcing to the disk

_SYNC = _READ_WRITE if os.name == "nt" else _READ  # Windows syncs only what is open for writing
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


def sync_file(path: Path) -> None:
    """Force a file to the disk; on macOS through the disk's own cache, where the disk can.

    On Windows a read-only file, which only the old folder can have given, is left to the system.
    """
    try:
        fd = os.open(path, _SYNC)
    except PermissionError:
        if os.name == "nt":
            return
        raise
    try:
        if _FULL_SYNC is not None:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, _FULL_SYNC)
                return
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Force the names of a folder to the disk; nothing happens where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, _READ | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- locks


def lock_path(path: Path, *, exclusive: bool) -> int | None:
    """Lock a file or folder for this process, without waiting.

    Returns:
        A descriptor that holds the lock until it is closed; None where the system (Windows) or the file
        system has no such locks.

    Raises:
        BlockingIOError: Somebody else holds a lock that excludes this one.
        OSError: It cannot be opened, or is a symbolic link.
    """
    if fcntl is None:
        return None
    fd = os.open(path, _SOURCE)
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    except OSError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd
