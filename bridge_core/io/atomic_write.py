"""Writing so that nothing is lost: a temporary neighbour, synced and checked, then one rename.

`replacing_file` and `replacing_folder` are the only places where the bridge makes destinations. Whatever
happens before the rename, the old destination stands as it was and the temporary is removed; what a
killed process left behind is removed by the next writer to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.errors import (
    BridgeError,
    DestinationExists,
    DestinationIsFolder,
    SystemFailure,
    UsageError,
)
from bridge_core.io.syscalls import EXCHANGE, NO_REPLACE, rename_with
from bridge_core.io.system_errors import system_failures

__all__ = ["TEMP_MARK", "read_all", "replacing_file", "replacing_folder", "sync_file", "write_all"]

TEMP_MARK = ".ckptbridge-"
"""Stands in the name of every temporary: ``.<name>.ckptbridge-<random>``."""

_ASIDE = "old-"
"""Follows the mark where the name is an old folder's, which must come back if the new one never came."""

_LONGEST_NAME = 200
"""Bytes of a destination's name that a temporary's name can repeat; file systems allow 255 in all."""


@contextlib.contextmanager
def replacing_file(
    destination: Path, *, overwrite: bool, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Give a temporary file that becomes ``destination`` when the block ends well.

    A destination that is a symbolic link is replaced at its target, so the link stays; other hard links
    to the old file keep the old content. A file that is open for reading while it is replaced stays
    whole for its readers.

    Args:
        destination: The file to be.
        overwrite: Whether one that stands there already may be replaced.
        check: Called with the temporary after it is synced, before the rename; raises to refuse it.

    Raises:
        DestinationExists: It exists, or is a folder.
        SystemFailure: Disk, permission or quota.
        UsageError: It is no file name.
    """
    final = _final(destination)
    with _os_errors(destination):
        _sweep(final)
        _refuse_existing(final, destination, overwrite=overwrite, folder=False)
        mode = _mode_of(final)
    with _temporary(final, destination, None if mode is None else 0o600, _create_file) as temporary:
        yield temporary
        with _os_errors(destination):
            sync_file(temporary)
        if check is not None:
            check(temporary)
        with _os_errors(destination):
            if mode is not None:
                temporary.chmod(mode)
            if overwrite:
                temporary.replace(final)
            else:
                _rename_new(temporary, final)
        _sync_place(final, destination)


@contextlib.contextmanager
def replacing_folder(
    destination: Path,
    *,
    overwrite: bool,
    check: Callable[[Path], None] | None = None,
    keep: Callable[[Path], bool] | None = None,
) -> Iterator[Path]:
    """Give a temporary folder that becomes ``destination`` when the block ends well.

    An existing folder is exchanged with the new one in one step, where the system can, and then
    removed: a folder is replaced whole, so that no stale shard stays behind. What ``keep`` names is
    carried over first, as hard links where the system allows them.

    Args:
        destination: The folder to be.
        overwrite: Whether one that stands there and is not empty may be replaced.
        check: Called with the temporary before the rename; raises to refuse it.
        keep: Says of each entry of the old folder whether the new one shall have it too.

    Raises:
        DestinationExists: It exists and holds something, or is a file, or holds what cannot be kept.
        SystemFailure: Disk, permission or quota.
        UsageError: It is no folder name.
    """
    final = _final(destination)
    with _os_errors(destination):
        _sweep(final)
        _refuse_existing(final, destination, overwrite=overwrite, folder=True)
        mode = _mode_of(final)
    with _temporary(final, destination, None if mode is None else 0o700, _create_folder) as temporary:
        yield temporary
        with _os_errors(destination):
            if keep is not None and final.is_dir():
                from bridge_core.io.folder_entries import carry_over

                carry_over(final, temporary, keep, destination)
            _sync_tree(temporary)
        if check is not None:
            check(temporary)
        with _os_errors(destination):
            if mode is not None:
                temporary.chmod(mode)
            _swap_folder(temporary, final, overwrite=overwrite)
        _sync_place(final, destination)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at ``offset``, however short the single writes are."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        written = os.pwrite(fd, view[done:], offset + done)
        if written == 0:
            raise OSError(errno.EIO, "a write made no progress")
        done += written


def read_all(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from ``offset`` of a file that was written here."""
    done = 0
    while done < len(buffer):
        got = os.preadv(fd, [buffer[done:]], offset + done)
        if got == 0:
            raise OSError(errno.EIO, "a file ends before what was written to it")
        done += got


def sync_file(path: Path) -> None:
    """Force a file to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _temporary(
    final: Path, shown: Path, mode: int | None, create: Callable[[Path, int | None], None]
) -> Iterator[Path]:
    """Make a neighbour of ``final``, locked as long as the block runs, and remove it afterwards."""
    lock: int | None = None
    temporary = final
    try:
        with _os_errors(shown):
            while lock is None:
                temporary = _neighbour(final)
                create(temporary, mode)
                lock = _lock(temporary)
                if lock is None:
                    _remove(temporary)
        yield temporary
    finally:
        if temporary != final:
            _remove(temporary)
        if lock is not None:
            os.close(lock)


def _create_file(path: Path, mode: int | None) -> None:
    # The system applies the umask; asking for it would change it for every thread.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o666 if mode is None else mode))


def _create_folder(path: Path, mode: int | None) -> None:
    path.mkdir(mode=0o777 if mode is None else mode)


def _lock(path: Path) -> int | None:
    """Hold a lock on a new temporary; None if a sweeper took it for a dead writer's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise
        return None
    held = False
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(fd), path.lstat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError:
            held = True  # where there are no locks, no sweeper can take one either
        return fd if held else None
    finally:
        if not held:
            os.close(fd)


def _neighbour(final: Path, kind: str = "") -> Path:
    return final.parent / f"{_prefix(final)}{kind}{os.urandom(8).hex()}"


def _prefix(final: Path) -> str:
    name = final.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}{TEMP_MARK}"


def _sweep(final: Path) -> None:
    """Remove what killed writers to this destination left; a living writer holds a lock."""
    prefix = _prefix(final)
    with os.scandir(final.parent) as entries:
        stale = [final.parent / entry.name for entry in entries if entry.name.startswith(prefix)]
    for path in stale:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.name.startswith(prefix + _ASIDE) and not final.exists():
                    path.rename(final)
                else:
                    _remove(path)
            finally:
                os.close(fd)


def _remove(path: Path) -> None:
    """Remove a file or a folder, wholly even if the user interrupts."""
    try:
        _remove_once(path)
    except KeyboardInterrupt:
        _remove_once(path)
        raise


def _remove_once(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def _swap_folder(temporary: Path, final: Path, *, overwrite: bool) -> None:
    if not overwrite or not final.exists():
        try:
            temporary.rename(final)  # replaces an empty folder, and no other
        except OSError as err:
            if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not overwrite:
                raise FileExistsError(errno.EEXIST, "exists", str(final)) from None
        else:
            return
    if rename_with(temporary, final, EXCHANGE):
        return
    aside = _neighbour(final, _ASIDE)
    try:
        final.rename(aside)
        temporary.rename(final)
    except BaseException:
        if aside.exists() and not final.exists():
            aside.rename(final)
        raise
    _remove(aside)


def _rename_new(temporary: Path, final: Path) -> None:
    """Rename without replacing what another writer put there meanwhile."""
    if rename_with(temporary, final, NO_REPLACE):
        return
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as err:
        if err.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if final.exists():  # the file system has neither way; what remains is nearly as good
            raise FileExistsError(errno.EEXIST, "exists", str(final)) from None
        temporary.replace(final)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        _sync_folder(Path(place))


def _mode_of(final: Path) -> int | None:
    """Permission bits of what stands there; None where nothing does and the usual ones apply."""
    try:
        return stat.S_IMODE(final.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None


def _sync_place(final: Path, shown: Path) -> None:
    try:
        _sync_folder(final.parent)
    except OSError as err:
        raise SystemFailure(
            f"is in place, but the system cannot confirm that it is on the disk: {err.strerror or err}.",
            path=shown,
        ) from err


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _final(destination: Path) -> Path:
    try:
        final = Path(os.path.realpath(destination))
    except ValueError as err:
        raise UsageError(f"is no path: {err}.", path=repr(str(destination))) from None
    if not final.name:
        raise UsageError("is the root of the file system.", path=destination)
    return final


def _refuse_existing(final: Path, shown: Path, *, overwrite: bool, folder: bool) -> None:
    if not final.exists():
        return
    if final.is_dir() != folder:
        what = "a folder" if final.is_dir() else "no folder"
        wanted = "a folder" if folder else "a file"
        kind = DestinationIsFolder if final.is_dir() else DestinationExists
        raise kind(f"is {what}; {wanted} would be written there.", path=shown)
    if not folder and not final.is_file():
        raise DestinationExists("is no regular file.", path=shown)
    if not overwrite and (not folder or any(final.iterdir())):
        raise _exists(shown)


def _exists(shown: Path) -> DestinationExists:
    return DestinationExists("exists already.", path=shown, hint="Use --overwrite to replace it.")


@contextlib.contextmanager
def _os_errors(destination: Path) -> Iterator[None]:
    with system_failures(destination, "writing"):
        try:
            yield
        except BridgeError:
            raise
        except FileExistsError:
            raise _exists(destination) from None
        except FileNotFoundError as err:
            raise SystemFailure("its folder does not exist.", path=destination) from err
