"""Taking files out of the page cache, and finding out whether they are out of it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

_DROP_ALL = Path("/proc/sys/vm/drop_caches")
_PROBES = 64


def drop(paths: Iterable[Path]) -> float:
    """Take files and the files of folders out of the cache.

    Each file is asked for by itself, which any user may do and which leaves the rest of the machine alone.
    Where that does not help, the whole cache is dropped, if this user may.

    Returns:
        How much of them is still there, from 0 to 1, by samples.
    """
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    for file in files:
        with _opened(file) as fd:
            os.fsync(fd)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    left = _cached(files)
    if left > 0.02:
        with contextlib.suppress(OSError):
            os.sync()
            _DROP_ALL.write_text("3\n")
            left = _cached(files)
    return left


def _cached(files: Iterable[Path]) -> float:
    """Sample pages without waiting for the disk: those that can be read at once are cached.

    Where the system cannot say, as on macOS and Windows, all are taken for cached.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return 1.0
    hits = tries = 0
    buffer = bytearray(1)
    for file in files:
        size = file.stat().st_size
        with _opened(file) as fd:
            for i in range(min(_PROBES, -(-size // 4096))):
                tries += 1
                # Backwards, since reading ahead would bring in what is asked for next.
                position = (size - 1) * (_PROBES - 1 - i) // _PROBES
                try:
                    hits += os.preadv(fd, [buffer], position, os.RWF_NOWAIT)
                except OSError as err:
                    if err.errno != errno.EAGAIN:
                        return 1.0  # the file system cannot tell
    return hits / max(1, tries)


@contextlib.contextmanager
def _opened(path: Path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)
