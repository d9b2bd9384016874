"""Opening input files safely: one descriptor, regular files only, and a check that nothing changed.

A `SourceFile` reads by position (`preadv`), so that a file truncated while it is read is an error and never a
SIGBUS, and several threads can share it.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from bridge_core.errors import (
    BridgeError,
    IntegrityError,
    MalformedFile,
    OutOfMemory,
    SourceIsFolder,
    SourceNotFound,
    SystemFailure,
    TruncatedFile,
    UnsafeFile,
    UsageError,
)
from bridge_core.io import page_cache, syscalls
from bridge_core.io.byte_source import ByteSource
from bridge_core.public import renamed

__all__ = ["is_plain_name", "nearest_file", "SourceFile"]

_MAX_READ = 1 << 30
_NO_COPY = (*syscalls.UNSUPPORTED, errno.EXDEV, errno.EBADF, errno.EPERM)
"""Errors of systems that cannot copy between two files."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that come from the destination of a copy."""
_COMPARED = 1000
"""Files of a folder that a missing one is compared with."""
_DEVICES = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?:\..*)?", re.I | re.S
)
"""Names that are devices in every folder of Windows, whatever their suffix."""


@renamed(expect="prefetch")
class SourceFile(ByteSource):
    """A regular file opened once for positional reading.

    Args:
        path: The file.
        name: What errors call the file; by default its path.
        follow: Whether symbolic links in the path are followed, once, before opening. A path that a
            file names, and not the user, is opened without.

    Raises:
        SourceNotFound: It does not exist; a `MalformedFile` with ``follow`` off.
        SourceIsFolder: It is a folder.
        MalformedFile: It is a FIFO, socket or device.
        UnsafeFile: It is a symbolic link, and ``follow`` is off.
        SystemFailure: The system refuses to open it.
        UsageError: The path is not a valid file name.
    """

    identity: tuple[int, int]
    """Device and inode."""
    can_copy = syscalls.CAN_COPY_RANGES

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None, follow: bool = True) -> None:
        self.name = name or str(path)
        try:
            self.path = Path(path).absolute()
            real = self.path.resolve(strict=True) if follow else self.path
            # Opening a device can act on it, so its type is looked at first.
            _refuse_special(real.stat(follow_symlinks=follow), self.name)
            self._fd = syscalls.open_source(real)
        except BridgeError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            # A path that a file names is that file's mistake; one that the user names is the user's.
            kind = SourceNotFound if follow else MalformedFile
            what = "file that the symbolic link leads to" if self.path.is_symlink() else "file"
            raise kind(
                f"cannot open the source: the {what} does not exist.",
                path=self.name,
                hint=nearest_file(self.path) or "Check the path.",
            ) from None
        except (OSError, RuntimeError) as err:
            cause = err if isinstance(err, OSError) else OSError(errno.ELOOP, str(err))
            many = cause.errno == errno.EMFILE
            hint = "Allow more open files, for example with 'ulimit -n 8192'." if many else None
            raise SystemFailure.of(cause, "cannot open the file", path=self.name, hint=hint) from err
        except ValueError as err:
            raise UsageError(f"the path is not a valid file name: {err}.", path=self.name) from err
        try:
            status = os.fstat(self._fd)
            _refuse_special(status, self.name)
        except BaseException:
            os.close(self._fd)
            raise
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self._stamp = _stamp(status)
        self._open = True

    def duplicate(self) -> SourceFile:
        """Return the same open file as an object that can be closed by itself."""
        duplicate = copy.copy(self)
        duplicate._fd = os.dup(self.fd)
        return duplicate

    @property
    def fd(self) -> int:
        """The descriptor, for copies inside the kernel and for other processes.

        Raises:
            SystemFailure: The file was closed.
        """
        if not self._open:
            raise SystemFailure(
                "the file was closed, and cannot be read any more.",
                path=self.name,
                hint="Read inside the 'with' block of open_state, or call close() later.",
            )
        return self._fd

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset``.

        Raises:
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            try:
                got = syscalls.preadv(self.fd, [view[done : done + _MAX_READ]], offset + done)
            except OSError as err:
                raise self._failure("reading", err, offset + done) from err
            if got == 0:
                raise self._truncated(offset + len(view), offset + done)
            done += got

    @renamed(pitch="stride")
    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of ``nbytes``, one every ``stride`` bytes.

        Raises:
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        fd, pread = self.fd, syscalls.preadv
        try:
            for at in range(0, len(view), nbytes):
                if pread(fd, (view[at : at + nbytes],), offset) != nbytes:
                    self.read_into(offset, view[at : at + nbytes])
                offset += stride
        except OSError as err:
            raise self._failure("reading", err, offset) from err

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly ``nbytes`` bytes from ``offset``.

        Raises:
            TruncatedFile: The range is not inside the file; checked before any memory is taken.
            OutOfMemory: There is not enough memory for it.
            SystemFailure: The system reports a read error.
        """
        if nbytes < 0 or offset < 0 or offset + nbytes > self.size:
            raise self._truncated(offset + nbytes, self.size)
        try:
            buffer = bytearray(nbytes)
            self.read_into(offset, buffer)
            return bytes(buffer)
        except MemoryError as err:
            raise OutOfMemory(
                f"reading {nbytes} bytes at once needs more memory than there is.", path=self.name
            ) from err

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read soon."""
        page_cache.prefetch(self.fd, offset, nbytes)

    def prefetch_header(self) -> None:
        """Announce that the header will be read next; for a file on this machine, do nothing."""

    def copy_to(self, fd: int, offset: int, nbytes: int, position: int) -> bool:
        """Copy a range into another file without passing it through this process.

        Returns:
            Whether the system can; if not, nothing was copied.

        Raises:
            TruncatedFile: The file ends first.
            SystemFailure: The system reports an error.
            OSError: The other file cannot grow further.
        """
        if not syscalls.CAN_COPY_RANGES:
            return False
        done = 0
        while done < nbytes:
            try:
                got = syscalls.copy_range(self.fd, fd, nbytes - done, offset + done, position + done)
            except OSError as err:
                if done == 0 and err.errno in _NO_COPY:
                    return False
                if err.errno in _FULL:
                    raise
                raise self._failure("copying", err, offset + done) from err
            if got == 0:
                raise self._truncated(offset + nbytes, offset + done)
            done += got
        return True

    def check_unchanged(self) -> None:
        """Check that the bytes read belong to one version of the file.

        Raises:
            IntegrityError: The file was written to, truncated or replaced since it was opened.
        """
        changed = _stamp(os.fstat(self.fd)) != self._stamp
        try:
            changed = changed or _stamp(self.path.stat())[:2] != self._stamp[:2]
        except OSError:
            changed = True
        if changed:
            raise IntegrityError(
                "the file was written to, replaced or removed while it was read.",
                path=self.name,
                hint="Run the conversion again when nothing else writes to it.",
            )

    def close(self) -> None:
        """Close the descriptor; further reads fail."""
        if self._open:
            self._open = False
            os.close(self._fd)

    def _failure(self, doing: str, err: OSError, position: int) -> SystemFailure:
        return SystemFailure.of(err, f"{doing} at byte {position} failed", path=self.name)

    def _truncated(self, expected: int, got: int) -> TruncatedFile:
        return TruncatedFile(
            f"expected data up to byte {expected}, but the file ends at byte {got}.",
            path=self.name,
            hint="Copy or download the file again.",
        )

    def __enter__(self) -> SourceFile:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        """Close when forgotten; ``os`` may be gone already when the interpreter ends."""
        if getattr(self, "_open", False):
            self._open = False
            _close(self._fd)


def _refuse_special(status: os.stat_result, name: str) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise SourceIsFolder("expected a file, got a folder.", path=name)
    if stat.S_ISLNK(mode):
        raise UnsafeFile("expected a regular file, got a symbolic link.", path=name)
    if not stat.S_ISREG(mode):
        raise MalformedFile("expected a regular file, got a FIFO, socket or device.", path=name)


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def nearest_file(path: Path) -> str:
    """Return a hint that names the most similar file of the folder, or an empty text."""
    import difflib  # only errors need it

    try:
        names = [entry.name for entry in itertools.islice(os.scandir(path.absolute().parent), _COMPARED)]
        names = [name for name in names if name != path.name]
    except (OSError, ValueError):
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.82)
    return f"Did you mean {near[0]!r}?" if near else ""


def is_plain_name(name: str) -> bool:
    """Return whether a text names a file in the same folder on every system.

    Windows reads a backslash as a separator and a colon as a drive or an alternate stream, drops dots and
    spaces at the end, and takes some names for devices; such names are refused on every system.

    >>> [is_plain_name(name) for name in ("model.safetensors", "../model", "C:model", "nul.txt", "model.")]
    [True, False, False, False, False]
    """
    return (
        bool(name)
        and not set(name) & set("/\\:\0")
        and name[-1] not in ". "
        and _DEVICES.fullmatch(name) is None
    )
