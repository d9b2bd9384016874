"""Opening input files safely: one descriptor, regular files only, and a check that nothing changed.

A `SourceFile` reads by position (`pread`), so that a file truncated under a reader is an error and never a
SIGBUS, and several threads can share it.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import os
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
from bridge_core.io.byte_source import ByteSource
from bridge_core.public import renamed

__all__ = ["is_plain_name", "open_listed", "SourceFile"]

_MAX_READ = 1 << 30
_NO_COPY = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)
"""Errors of systems that cannot copy between two files."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors that come from the destination of a copy."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


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
    """

    identity: tuple[int, int]
    """Device and inode."""
    can_copy = True

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None, follow: bool = True) -> None:
        self.name = name or str(path)
        try:
            self.path = Path(path).absolute()
            real = self.path.resolve(strict=True) if follow else self.path
            # Opening a device can act on it, so its type is looked at first.
            _refuse_special(real.stat(follow_symlinks=follow), self.name)
            self._fd = os.open(real, _FLAGS)
        except BridgeError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            # A path that a file names is that file's mistake; one that the user names is the user's.
            kind = SourceNotFound if follow else MalformedFile
            raise kind("cannot open the source: there is no such file.", path=self.name) from None
        except (OSError, RuntimeError) as err:
            cause = err if isinstance(err, OSError) else OSError(errno.ELOOP, str(err))
            many = cause.errno == errno.EMFILE
            hint = "Allow more open files, e.g. with 'ulimit -n 8192'." if many else None
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
        """The descriptor, for copies inside the kernel."""
        if not self._open:
            raise SystemFailure("the file was closed; keep its state open while reading.", path=self.name)
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
                got = os.preadv(self.fd, [view[done : done + _MAX_READ]], offset + done)
            except OSError as err:
                raise SystemFailure(
                    f"reading at byte {offset + done} failed: {err}.", path=self.name
                ) from err
            if got == 0:
                raise TruncatedFile(
                    f"ends at byte {offset + done}; data was expected through byte {offset + len(view)}.",
                    path=self.name,
                )
            done += got

    @renamed(pitch="stride")
    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of ``nbytes`` that begin ``stride`` bytes apart.

        Raises:
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        fd, pread = self.fd, os.preadv
        try:
            for at in range(0, len(view), nbytes):
                if pread(fd, (view[at : at + nbytes],), offset) != nbytes:
                    self.read_into(offset, view[at : at + nbytes])
                offset += stride
        except OSError as err:
            raise SystemFailure(f"reading at byte {offset} failed: {err}.", path=self.name) from err

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly ``nbytes`` bytes from ``offset``.

        Raises:
            TruncatedFile: The range leaves the file; checked before any memory is taken.
            OutOfMemory: There is not enough memory for it.
        """
        if nbytes < 0 or offset < 0 or offset + nbytes > self.size:
            raise TruncatedFile(
                f"is {self.size} bytes long; bytes {offset} through {offset + nbytes} were expected.",
                path=self.name,
            )
        try:
            buffer = bytearray(nbytes)
            self.read_into(offset, buffer)
            return bytes(buffer)
        except MemoryError as err:
            raise OutOfMemory(f"{nbytes} bytes do not fit into memory.", path=self.name) from err

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read soon."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fd, offset, nbytes, os.POSIX_FADV_WILLNEED)

    def copy_to(self, fd: int, offset: int, nbytes: int, position: int) -> bool:
        """Copy a range into another file without passing it through this process.

        Returns:
            Whether the system can; if not, nothing was copied.

        Raises:
            TruncatedFile: The file ends first.
            SystemFailure: The system reports an error.
            OSError: The other file cannot grow further.
        """
        done = 0
        while done < nbytes:
            try:
                got = os.copy_file_range(self.fd, fd, nbytes - done, offset + done, position + done)
            except OSError as err:
                if done == 0 and err.errno in _NO_COPY:
                    return False
                if err.errno in _FULL:
                    raise
                raise SystemFailure(
                    f"copying from byte {offset + done} failed: {err}.", path=self.name
                ) from err
            if got == 0:
                raise TruncatedFile(
                    f"ends at byte {offset + done}; data was expected through byte {offset + nbytes}.",
                    path=self.name,
                )
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
            raise IntegrityError("changed while it was read.", path=self.name, hint="Start again.")

    def close(self) -> None:
        """Close the descriptor; further reads fail."""
        if self._open:
            self._open = False
            os.close(self._fd)

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
        raise UnsafeFile("is a symbolic link where a plain file was expected.", path=name)
    if not stat.S_ISREG(mode):
        raise MalformedFile("is no regular file (a FIFO, socket or device).", path=name)


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def is_plain_name(name: str) -> bool:
    """Return whether a text names a file in the same folder, and nothing elsewhere."""
    return bool(name) and name not in (".", "..") and Path(name).name == name and "\0" not in name


def open_listed(path: Path, *, follow_links: bool = False) -> SourceFile:
    """Open a file that another file or a plugin names, and not the user.

    A symbolic link may lead anywhere within its folder, and from a snapshot of Hugging Face's cache to the
    blobs of the same model.

    Args:
        path: The file.
        follow_links: Whether a link may lead anywhere.

    Raises:
        UnsafeFile: It is a link that leads elsewhere.
        BadInputError, SystemFailure: As `SourceFile`.
    """
    target = _link_target(path, follow_links) if path.is_symlink() else path
    return SourceFile(target, name=str(path), follow=False)


def _link_target(link: Path, follow_links: bool) -> Path:
    try:
        target = link.resolve()
        folder = link.parent.resolve()
    except (OSError, RuntimeError) as err:  # links in a circle
        raise MalformedFile("is a symbolic link that leads nowhere.", path=link) from err
    allowed = [folder]
    for parent in folder.parents:
        if parent.name == "snapshots":
            allowed.append(parent.parent / "blobs")
    if not follow_links and not any(target.is_relative_to(place) for place in allowed):
        raise UnsafeFile(
            f"is a symbolic link that leads out of its folder, to {target}.",
            path=link,
            hint="Open with follow_links=True (--follow-links) if you trust it.",
        )
    return target
