"""The entries of a folder that is replaced, carried over into the new folder."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from bridge_core.errors import DestinationExists

__all__ = ["carry_over", "refuse_new_entries"]


def carry_over(old: Path, new: Path, keep: Callable[[Path], bool], shown: Path) -> None:
    """Give a new folder the entries of the old one that ``keep`` selects, files as hard links where possible.

    Args:
        old: The folder that is to be replaced; it is not changed.
        new: The folder that is to replace it.
        keep: Returns for each entry of the old folder whether it is carried over.
        shown: What errors call the old folder.

    Raises:
        DestinationExists: The new folder has an entry of that name already, or an entry is a mount point, a
            FIFO, a socket or a device.
        OSError: The system refuses.
    """
    device = old.stat().st_dev
    for entry in old.iterdir():
        target = new / entry.name
        if not keep(entry):
            continue
        if os.path.lexists(target):
            raise DestinationExists(
                f"the folder has an entry {entry.name!r} that the new weights would replace.",
                path=shown,
                hint="Move it away, or write to another folder.",
            )
        _carry_entry(entry, target, device, shown)


def refuse_new_entries(old: Path, new: Path, keep: Callable[[Path], bool], shown: Path) -> None:
    """Refuse to replace a folder that got an entry to keep after `carry_over`, which would be lost.

    Raises:
        DestinationExists: Another writer added an entry.
        OSError: The system refuses.
    """
    added = [entry.name for entry in old.iterdir() if not os.path.lexists(new / entry.name) and keep(entry)]
    if added:
        raise DestinationExists(
            f"another writer added {added[0]!r} to the folder in the meantime, so it is not replaced.",
            path=shown,
            hint="Write again.",
        )


def _carry_entry(entry: Path, target: Path, device: int, shown: Path) -> None:
    status = entry.lstat()
    if status.st_dev != device:
        raise _cannot_carry(entry, "a mount point", shown)
    if stat.S_ISDIR(status.st_mode):
        target.mkdir(mode=0o700)
        for child in entry.iterdir():
            _carry_entry(child, target / child.name, device, shown)
        shutil.copystat(entry, target)
    elif stat.S_ISLNK(status.st_mode):
        target.symlink_to(entry.readlink())
    elif stat.S_ISREG(status.st_mode):
        try:
            target.hardlink_to(entry)
        except (OSError, NotImplementedError):
            shutil.copy2(entry, target)
    else:
        raise _cannot_carry(entry, "a FIFO, socket or device", shown)


def _cannot_carry(entry: Path, what: str, shown: Path) -> DestinationExists:
    return DestinationExists(
        f"the entry {entry.name!r} of the folder is {what}, which cannot be carried over.",
        path=shown,
        hint="Move it away, or write to another folder.",
    )
