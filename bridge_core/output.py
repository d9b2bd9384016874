"""Writing so that nothing is lost: a temporary neighbour, synced and checked, then one rename.

`replacing_file` and `replacing_folder` are the only places where the bridge creates files. Whatever happens
before the rename, the old destination stands as it was and the temporary is removed; what a killed
process left behind is removed by the next writer to the same place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.errors import DestinationExists, SystemFailure

__all__ = ["TEMP_MARK", "replacing_file", "replacing_folder", "sync_file", "write_all"]

TEMP_MARK = ".ckptbridge-"
"""Stands in the name of every temporary: ``.<name>.ckptbridge-<random>``."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def replacing_file(
    destination: Path, *, overwrite: bool, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Give a temporary file that becomes ``destination`` when the block ends well.

    A destination that is a symbolic link is replaced at its target, so the link stays; other hard links
    to the old file keep the old content.

    Args:
        destination: The file to be.
        overwrite: Whether one that stands there already may be replaced.
        check: Called with the temporary after it is synced, before the rename; raises to refuse it.

    Raises:
        DestinationExists: It exists, or is a folder.
        SystemFailure: Disk, permission or quota.
    """
    final = Path(os.path.realpath(destination))
    _refuse_existing(final, destination, overwrite=overwrite, folder=False)
    with _os_errors(destination):
        _sweep(final)
        temporary, lock = _create(final)
    try:
        yield temporary
        with _os_errors(destination):
            sync_file(temporary)
        if check is not None:
            check(temporary)
        with _os_errors(destination):
            temporary.chmod(_mode_of(final))
            if overwrite:
                temporary.replace(final)
            else:
                _rename_new(temporary, final)
            _sync_folder(final.parent)
    except FileExistsError:
        raise _exists(destination) from None
    finally:
        os.close(lock)
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(
    destination: Path, *, overwrite: bool, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Give a temporary folder that becomes ``destination`` when the block ends well.

    An existing folder is exchanged with the new one in one step, where the system can, and then
    removed: a folder is replaced whole, so that no stale shard stays behind.

    Args:
        destination: The folder to be.
        overwrite: Whether one that stands there and is not empty may be replaced.
        check: Called with the temporary before the rename; raises to refuse it.

    Raises:
        DestinationExists: It exists and holds something, or is a file.
        SystemFailure: Disk, permission or quota.
    """
    final = Path(os.path.realpath(destination))
    _refuse_existing(final, destination, overwrite=overwrite, folder=True)
    with _os_errors(destination):
        _sweep(final)
        temporary = final.parent / f".{final.name}{TEMP_MARK}{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o700)
        lock = _lock(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield temporary
        with _os_errors(destination):
            for file in temporary.rglob("*"):
                if file.is_file():
                    sync_file(file)
            _sync_folder(temporary)
        if check is not None:
            check(temporary)
        with _os_errors(destination):
            temporary.chmod(0o777 & ~_umask() if not final.exists() else stat.S_IMODE(final.stat().st_mode))
            _swap_folder(temporary, final)
            _sync_folder(final.parent)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at ``offset``, however short the single writes are."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        written = os.pwrite(fd, view[done:], offset + done)
        if written == 0:
            raise OSError(errno.EIO, "a write made no progress")
        done += written


def sync_file(path: Path) -> None:
    """Force a file to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(final: Path) -> tuple[Path, int]:
    temporary = final.parent / f".{final.name}{TEMP_MARK}{secrets.token_hex(8)}"
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return temporary, _lock(temporary, os.O_RDWR)


def _lock(path: Path, flags: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _sweep(final: Path) -> None:
    """Remove what killed writers to this destination left; a living writer holds a lock."""
    for stale in final.parent.glob(f".{_literal(final.name)}{TEMP_MARK}*"):
        with contextlib.suppress(OSError):
            fd = os.open(stale, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stale.is_dir():
                    shutil.rmtree(stale)
                else:
                    stale.unlink()
            finally:
                os.close(fd)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _swap_folder(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.rename(final)
        return
    if not _exchange(temporary, final):
        aside = final.parent / f".{final.name}{TEMP_MARK}{secrets.token_hex(8)}"
        final.rename(aside)
        try:
            temporary.rename(final)
        except OSError:
            aside.rename(final)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _rename_new(temporary: Path, final: Path) -> None:
    """Rename without replacing what another writer put there meanwhile."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:
        if final.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(final)) from None
        temporary.replace(final)


def _mode_of(final: Path) -> int:
    try:
        return stat.S_IMODE(final.stat().st_mode)
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_existing(final: Path, shown: Path, *, overwrite: bool, folder: bool) -> None:
    if not final.exists():
        return
    if final.is_dir() != folder:
        what = "a folder" if final.is_dir() else "no folder"
        wanted = "a folder" if folder else "a file"
        raise DestinationExists(f"is {what}; {wanted} would be written there.", path=shown)
    if not folder and not final.is_file():
        raise DestinationExists("is no regular file.", path=shown)
    if not overwrite and (not folder or any(final.iterdir())):
        raise _exists(shown)


def _exists(shown: Path) -> DestinationExists:
    return DestinationExists("exists already.", path=shown, hint="Use --overwrite to replace it.")


@contextlib.contextmanager
def _os_errors(destination: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError as err:
        raise SystemFailure("its folder does not exist.", path=destination) from err
    except OSError as err:
        raise SystemFailure(f"cannot be written: {err.strerror or err}.", path=destination) from err
