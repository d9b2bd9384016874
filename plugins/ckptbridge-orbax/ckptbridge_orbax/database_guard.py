"""Limits of the memory that the index of a database (OCDBT) needs, before it is read.

The index is a tree of nodes that zstd compresses, and tensorstore unpacks a node of any size: 20 kB become
600 MB, and where memory ends, the process does. An index that may be so large is read by a child process
first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bridge_core import LimitExceeded
from ckptbridge_orbax.file_names import MANIFEST
from ckptbridge_orbax.item_files import ItemFiles
from ckptbridge_orbax.read_failures import read_failures
from ckptbridge_orbax.tensorstore_module import load_tensorstore

__all__ = ["check_database"]

_MAX_MANIFEST = 64 << 10
"""Most bytes of a manifest; Orbax's have some hundred."""
_MOST_COMPRESSION = 43_690
"""zstd unpacks a byte to at most so many: a block of 128 KiB has 3 bytes."""
_MAX_INDEX = 8 << 30
"""Most bytes of memory in which the child process must read the index."""
_SECONDS = 300


def check_database(files: ItemFiles, folder: str, memory: int) -> None:
    """Check that the index of a database can be read.

    Args:
        files: The files of the item.
        folder: Folder of the database in the item; empty for the item's own.
        memory: Bytes of the machine's memory.

    Raises:
        LimitExceeded: It needs more memory than an index has a reason for.
        IntegrityError: The manifest is damaged.
    """
    name = f"{folder}/{MANIFEST}" if folder else MANIFEST
    size = files.stamps[name][2]
    if size > _MAX_MANIFEST:
        raise LimitExceeded(
            f"the file is {size} bytes; at most {_MAX_MANIFEST} bytes are read of a file of this name.",
            path=files.folder.path / name,
        )
    place = f"{files.root}/{folder}/" if folder else f"{files.root}/"
    if _largest_index(place, files) * _MOST_COMPRESSION > memory // 4:
        _try_in_child(place, files.path, min(_MAX_INDEX, memory // 2))


def _largest_index(place: str, files: ItemFiles) -> int:
    """Return the bytes of the compressed index, or more."""
    ts = load_tensorstore()
    with read_failures(files.path):
        base = ts.KvStore.open({"driver": "file", "path": place}).result()
        manifest: dict[str, Any] = ts.ocdbt.dump(base).result()
        versions = manifest["versions"]
        if manifest["version_tree_nodes"] or not versions or versions[-1]["root_height"]:
            return files.nbytes  # it has nodes that only other nodes name
        location = str(versions[-1]["root"].get("location", "0"))
    length = location.rpartition(":")[2]
    return int(length) if length.isdecimal() else files.nbytes


def _try_in_child(place: str, path: str, memory: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = Path(__file__).with_name("list_database.py")
    try:
        child = subprocess.run(
            [sys.executable, "-P", str(script), place, str(memory), str(_SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=2 * _SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LimitExceeded(
            f"the index of the database was not read in {2 * _SECONDS} seconds.", path=path
        ) from None
    except OSError as err:
        raise LimitExceeded(
            f"the index of the database may need much memory, and the process that tries it could not be "
            f"started: {err}.",
            path=path,
        ) from err
    if child.returncode != 0:
        raise LimitExceeded(
            f"the index of the database could not be read with {memory} bytes of memory "
            f"(exit status {child.returncode}).",
            path=path,
        )
