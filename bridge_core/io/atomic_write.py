"""Writing so that nothing is lost: a temporary neighbour, synced and checked, then one rename.

`replacing_file` and `replacing_folder` are the only places where the bridge makes destinations. Until the
rename the old destination is untouched; if anything fails before it, the temporary is removed. What a killed
process left behind is removed by the next writer to the same destination.
"""

from __future__ import annotations

import contextlib
import errno
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
from bridge_core.io import syscalls, temporaries
from bridge_core.io.syscalls import rename_new, sync_file, sync_folder
from bridge_core.io.system_errors import system_failures

__all__ = ["read_all", "replacing_file", "replacing_folder", "write_all"]

_ATTEMPTS = 10
"""How often a folder is put in place of one that other writers replace at the same time."""


@contextlib.contextmanager
def replacing_file(
    destination: Path, *, overwrite: bool, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Yield a temporary file that becomes ``destination`` if the block raises nothing.

    A destination that is a symbolic link is replaced at its target, so the link stays; other hard links to
    the old file keep the old content. A reader that has the old file open goes on reading the old content;
    Windows refuses to replace an open file.

    Args:
        destination: The file to write.
        overwrite: Whether an existing file may be replaced.
        check: Called with the temporary after it is synced, before the rename; raises to refuse it.

    Raises:
        DestinationExists: The destination exists and ``overwrite`` is off, or is a folder or a special file.
        SystemFailure: The system refuses: the disk is full, a permission or the folder is missing.
        UsageError: The destination is not a valid file name.
    """
    final = _final(destination)
    with _os_errors(destination):
        temporaries.sweep(final)
        _refuse_existing(final, destination, overwrite=overwrite, folder=False)
        mode = _mode_of(final)

    def create(path: Path) -> None:
        # The system applies the umask; asking for it would change it for every thread.
        os.close(syscalls.create_file(path, 0o666 if mode is None else 0o600))

    with _temporary(final, destination, create) as temporary:
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
                rename_new(temporary, final)
        _sync_parent(final, destination)


@contextlib.contextmanager
def replacing_folder(
    destination: Path,
    *,
    overwrite: bool,
    check: Callable[[Path], None] | None = None,
    keep: Callable[[Path], bool] | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``destination`` if the block raises nothing.

    An existing folder is exchanged with the new one in one step, where the system can, and then removed, so
    that no stale shard remains. The entries that ``keep`` selects are carried over first, as hard links where
    the system allows them.

    Args:
        destination: The folder to write.
        overwrite: Whether an existing folder that is not empty may be replaced.
        check: Called with the temporary before the rename; raises to refuse it.
        keep: Returns for each entry of the old folder whether it is carried over into the new one.

    Raises:
        DestinationExists: The destination is a folder that is not empty and ``overwrite`` is off, or is a
            file, or has an entry that cannot be carried over.
        SystemFailure: The system refuses: the disk is full, a permission or the parent folder is missing.
        UsageError: The destination is not a valid folder name.
    """
    final = _final(destination)
    with _os_errors(destination):
        temporaries.sweep(final)
        _refuse_existing(final, destination, overwrite=overwrite, folder=True)
        mode = _mode_of(final)

    def create(path: Path) -> None:
        path.mkdir(mode=0o777 if mode is None else 0o700)

    with _temporary(final, destination, create) as temporary:
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
            if keep is not None and final.is_dir():
                from bridge_core.io.folder_entries import refuse_new_entries

                refuse_new_entries(final, temporary, keep, destination)
            _put_folder(temporary, final, overwrite=overwrite)
        _sync_parent(final, destination)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at byte ``offset``, however short the single writes are.

    Raises:
        OSError: A write failed, or wrote nothing.
    """
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        written = syscalls.pwrite(fd, view[done:], offset + done)
        if written == 0:
            raise OSError(errno.EIO, "a write made no progress")
        done += written


def read_all(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill ``buffer`` from byte ``offset`` of a file that was written before.

    Raises:
        OSError: A read failed, or the file ends too early.
    """
    done = 0
    while done < len(buffer):
        got = syscalls.preadv(fd, [buffer[done:]], offset + done)
        if got == 0:
            raise OSError(errno.EIO, "a file ends before what was written to it")
        done += got


@contextlib.contextmanager
def _temporary(final: Path, shown: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        with _os_errors(shown):
            temporary = stack.enter_context(temporaries.temporary(final, create))
        yield temporary


def _put_folder(new: Path, final: Path, *, overwrite: bool) -> None:
    if not overwrite or not final.exists():
        try:
            _rename_folder(new, final)
        except FileExistsError:
            if not overwrite:
                raise
        else:
            return
    if syscalls.exchange(new, final):
        return
    for _ in range(_ATTEMPTS):
        if _replaced_in_two_steps(new, final):
            return
    raise OSError(errno.EBUSY, "other writers replace the folder at the same time", str(final))


def _replaced_in_two_steps(new: Path, final: Path) -> bool:
    """Move the old folder away and the new one to its place; return False if another writer was faster."""
    old = temporaries.neighbour(final, temporaries.OLD)
    try:
        with contextlib.suppress(FileNotFoundError):  # another writer is between its two steps
            final.rename(old)
        try:
            _rename_folder(new, final)
        except FileExistsError:
            return False
        return True
    finally:
        if final.exists():
            temporaries.remove(old)
        elif old.exists():
            old.rename(final)


def _rename_folder(new: Path, final: Path) -> None:
    """Rename a folder; an empty one at ``final`` is replaced, which Windows does not do by itself.

    Raises:
        FileExistsError: ``final`` is a folder that is not empty.
    """
    try:
        new.rename(final)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            final.rmdir()
        except OSError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        new.rename(final)


def _sync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(folder))


def _mode_of(final: Path) -> int | None:
    """Return the permission bits of an existing destination; None for a new one, where the umask decides."""
    try:
        return stat.S_IMODE(final.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None


def _sync_parent(final: Path, shown: Path) -> None:
    try:
        sync_folder(final.parent)
    except OSError as err:
        what = "the result is in place, but the system cannot confirm that it is on the disk"
        raise SystemFailure.of(err, what, path=shown) from err


def _final(destination: Path) -> Path:
    try:
        final = Path(os.path.realpath(destination))
    except ValueError as err:
        raise UsageError(f"the path is not a valid file name: {err}.", path=repr(str(destination))) from None
    if not final.name:
        raise UsageError(
            "expected a file or folder to write, got the root of the file system.", path=destination
        )
    return final


def _refuse_existing(final: Path, shown: Path, *, overwrite: bool, folder: bool) -> None:
    if not final.exists():
        return
    if final.is_dir() and not folder:
        raise DestinationIsFolder(
            "the destination is a folder, but one file is to be written.",
            path=shown,
            hint="Give a file name, or pass max_shard_size= (--max-shard-size) to write a folder.",
        )
    if folder and not final.is_dir():
        raise DestinationExists(
            "the destination is a file, but a folder is to be written.",
            path=shown,
            hint="Give the name of a folder.",
        )
    if not folder and not final.is_file():
        raise DestinationExists(
            "the destination is a FIFO, socket or device, not a regular file.",
            path=shown,
            hint="Give another file name.",
        )
    if not overwrite and (not folder or any(final.iterdir())):
        raise _exists(shown)


def _exists(shown: Path) -> DestinationExists:
    return DestinationExists(
        "the destination exists.", path=shown, hint="Pass overwrite=True (--overwrite) to replace it."
    )


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
            raise SystemFailure.of(
                err,
                "cannot write: its folder does not exist",
                path=destination,
                hint="Create the folder first, or correct the path.",
            ) from err
