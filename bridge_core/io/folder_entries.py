"""What a folder keeps when it is replaced: its entries, carried over into the new one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from bridge_core.errors import DestinationExists

__all__ = ["carry_over"]


def carry_over(old: Path, new: Path, keep: Callable[[Path], bool], shown: Path) -> None:
    """Give the new folder the entries of the old one that are to be kept."""
    device = old.stat().st_dev
    for entry in old.iterdir():
        target = new / entry.name
        if not keep(entry):
            continue
        if os.path.lexists(target):
            raise DestinationExists(f"holds {entry.name!r}, which would be lost.", path=shown)
        _carry_entry(entry, target, device, shown)


def _carry_entry(entry: Path, target: Path, device: int, shown: Path) -> None:
    status = entry.lstat()
    if status.st_dev != device:
        raise DestinationExists(
            f"holds {entry.name!r}, which is mounted there and cannot be kept.", path=shown
        )
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
        except OSError:
            shutil.copy2(entry, target)
    else:
        raise DestinationExists(
            f"holds {entry.name!r}, which is neither file nor folder and cannot be kept.", path=shown
        )
