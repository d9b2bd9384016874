"""Copies sidecar files, such as a config next to the weights, and compares the copies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bridge_core.errors import VerificationError
from bridge_core.io import SourceFile, create_file as new_file, open_to_write, system_failures, write_all

__all__ = ["check_copy", "checked_filler", "copy_file", "create_file", "fill_file"]

_BLOCK = 1 << 20


def create_file(path: Path, data: bytes) -> None:
    """Write a new file; the destination must not exist."""
    fd = new_file(path)
    try:
        write_all(fd, data, 0)
    finally:
        os.close(fd)


def copy_file(source: SourceFile | bytes, path: Path) -> None:
    """Copy a file in blocks of 1 MiB, or write the content that is given in its place.

    Raises:
        SystemFailure: Writing failed.
    """
    if isinstance(source, bytes):
        create_file(path, source)
        return
    create_file(path, b"")
    fill_file(source, path)


def fill_file(source: SourceFile | bytes, path: Path) -> None:
    """Copy a file, or the content that is given, to an empty file that exists.

    Raises:
        SystemFailure: Writing failed.
    """
    fd = open_to_write(path)
    try:
        with system_failures(path, "writing"):
            if isinstance(source, bytes):
                write_all(fd, source, 0)
                return
            for start in range(0, source.size, _BLOCK):
                write_all(fd, source.read(start, min(_BLOCK, source.size - start)), start)
    finally:
        os.close(fd)


def check_copy(source: SourceFile | bytes, path: Path, *, read_again: bool) -> None:
    """Check that a source did not change while it was copied, and that the copy is right.

    Args:
        source: What was copied.
        path: The copy.
        read_again: Whether to compare the bytes of the copy.

    Raises:
        VerificationError: The copy's bytes differ from the source's.
        IntegrityError: The source changed.
    """
    if read_again and not _same_bytes(source, path):
        raise VerificationError(
            "the copy's bytes, read back, differ from the source's.",
            path=path,
            hint="Convert again; if it happens again, check the disk.",
        )
    if isinstance(source, SourceFile):
        source.check_unchanged()


def checked_filler(source: SourceFile | bytes, *, read_again: bool) -> Callable[[Path], None]:
    """Return a function that copies a source to an empty file and checks the copy.

    Args:
        source: What it copies.
        read_again: As in `check_copy`.
    """

    def fill(path: Path) -> None:
        fill_file(source, path)
        check_copy(source, path, read_again=read_again)

    return fill


def _same_bytes(source: SourceFile | bytes, path: Path) -> bool:
    if isinstance(source, bytes):
        return path.read_bytes() == source
    with SourceFile(path) as copy:
        if copy.size != source.size:
            return False
        blocks = ((at, min(_BLOCK, source.size - at)) for at in range(0, source.size, _BLOCK))
        return all(copy.read(*block) == source.read(*block) for block in blocks)
