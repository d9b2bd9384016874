"""Opening input files safely: one descriptor, regular files only, and proof that nothing changed.

All readers go through `SourceFile`. It reads by position (`pread`), so that a file truncated under a
reader is an error and never a SIGBUS, and several threads can share it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any

from bridge_core.errors import IntegrityError, MalformedFile, SystemFailure, TruncatedFile

__all__ = ["SourceFile"]

_MAX_READ = 1 << 30


class SourceFile:
    """A regular file opened once for positional reading.

    Args:
        path: The file. Symbolic links in a path that the user gave are followed, once, before opening.
        name: What errors call the file; by default its path.

    Raises:
        MalformedFile: It is a folder, FIFO, socket or device, or does not exist.
        SystemFailure: The system refuses to open it.
    """

    def __init__(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or str(path)
        try:
            real = self.path.resolve(strict=True)
            self._fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise MalformedFile("there is no such file.", path=self.name) from None
        except IsADirectoryError:
            raise MalformedFile("is a folder; a file was expected.", path=self.name) from None
        except (OSError, RuntimeError, ValueError) as err:
            raise SystemFailure(f"cannot be opened: {err}.", path=self.name) from err
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise MalformedFile("is no regular file (a folder, FIFO or device).", path=self.name)
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino)
        self._stamp = _stamp(status)
        self._open = True

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

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly ``nbytes`` bytes from ``offset``.

        Raises:
            TruncatedFile: The range leaves the file; checked before any memory is taken.
        """
        if nbytes < 0 or offset < 0 or offset + nbytes > self.size:
            raise TruncatedFile(
                f"is {self.size} bytes long; bytes {offset} through {offset + nbytes} were expected.",
                path=self.name,
            )
        buffer = bytearray(nbytes)
        self.read_into(offset, buffer)
        return bytes(buffer)

    def check_unchanged(self) -> None:
        """Prove that the bytes read belong to one version of the file.

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

    def __del__(self) -> None:
        """Close when forgotten."""
        if getattr(self, "_open", False):
            self.close()


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
