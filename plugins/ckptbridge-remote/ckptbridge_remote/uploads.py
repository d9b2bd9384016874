"""Uploading a local file in parts, with bounded memory."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bridge_core.errors import IntegrityError
from bridge_core.io import system_failures
from ckptbridge_remote.obstore_module import load_obstore

__all__ = ["part_size", "upload_file"]

_PART = 16 << 20
_IN_FLIGHT = 4 * _PART
"""Bytes of parts that are sent at the same time; one part more is being read."""
_MOST_PARTS = 10_000
"""Parts that a file may have in S3, in Google Cloud Storage and in most stores like them."""
_POLL = 0.2
_ABORTING = 30.0
"""Seconds that an interrupt waits for the parts in flight, and for their removal."""


def part_size(nbytes: int) -> int:
    """Return the size of the parts of a file.

    >>> part_size(1000) >> 20, part_size(10**12) >> 20
    (16, 96)
    """
    needed = -(-nbytes // _MOST_PARTS)
    return max(_PART, -(-needed // (1 << 20)) << 20)


def upload_file(store: Any, key: str, path: Path) -> int:
    """Upload a file; where it fails or is interrupted, the parts that were sent are removed.

    Args:
        store: A store of obstore.
        key: The name of the object.
        path: The local file.

    Returns:
        Its size.

    Raises:
        SystemFailure: The local file cannot be read.
        IntegrityError: It changed while it was read.
    """
    obstore = load_obstore()
    with system_failures(path, "reading"):
        file = path.open("rb")
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        part = part_size(size)
        interrupted: list[bool] = []
        contents = _parts(file, path, size, part, interrupted)
        if size <= part:
            content = b"".join(contents)
            _run(lambda: obstore.put(store, key, content, use_multipart=False), interrupted)
        else:
            options = {"chunk_size": part, "max_concurrency": max(1, _IN_FLIGHT // part)}
            _run(lambda: obstore.put(store, key, contents, use_multipart=True, **options), interrupted)
    return size


def _parts(file: BinaryIO, path: Path, size: int, part: int, interrupted: list[bool]) -> Iterator[bytes]:
    left = size
    while left:
        if interrupted:
            raise KeyboardInterrupt  # obstore then removes the parts that it has sent
        with system_failures(path, "reading"):
            content = file.read(min(part, left))
        if not content:
            break
        left -= len(content)
        yield content
    with system_failures(path, "reading"):
        more = file.read(1)
    if left or more:
        raise IntegrityError("the file changed while it was uploaded.", path=path)


def _run(upload: Callable[[], object], interrupted: list[bool]) -> None:
    """Call ``upload`` on a thread, since a call of obstore does not answer Ctrl-C before it ends."""
    errors: list[BaseException] = []
    running = _thread.allocate_lock()
    running.acquire()

    def run() -> None:
        try:
            upload()
        except BaseException as error:
            errors.append(error)
        finally:
            running.release()

    threading.Thread(target=run, name="ckptbridge-upload", daemon=True).start()
    try:
        while not running.acquire(timeout=_POLL):
            pass
    except BaseException:
        interrupted.append(True)
        running.acquire(timeout=_ABORTING)
        raise
    if errors:
        raise errors[0]
