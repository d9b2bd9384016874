"""Single requests for ranges of files, and what their answers show of a file."""

from __future__ import annotations

from typing import Any

from bridge_core.io import RangeAnswer, RemoteEntry
from ckptbridge_remote.obstore_module import load_obstore
from ckptbridge_remote.store_errors import status_of

__all__ = ["file_at", "read_range", "version_of"]


def file_at(store: Any, key: str, name: str) -> RemoteEntry:
    """Return a file by asking for its first byte.

    HEAD shows less: a URL may be signed for GET only, an error has no body that states its cause, and whether
    ranges are answered remains unknown.

    Args:
        store: A store of obstore.
        key: The path of the file in it.
        name: Its name.
    """
    try:
        answer = load_obstore().get(store, key, options={"range": (0, 1)})
    except Exception as error:
        if status_of(error) != 416:
            raise
        return RemoteEntry(name, 0)  # there is no first byte
    answer.bytes()
    return RemoteEntry(name, answer.meta["size"], version_of(answer.meta))


def read_range(store: Any, key: str, start: int, nbytes: int) -> RangeAnswer:
    """Return a range of a file; obstore refuses another range, but not fewer bytes.

    Args:
        store: A store of obstore.
        key: The path of the file in it.
        start: The first byte.
        nbytes: How many bytes.
    """
    answer = load_obstore().get(store, key, options={"range": (start, start + nbytes)})
    return RangeAnswer(answer.bytes(), version_of(answer.meta))


def version_of(meta: Any) -> str:
    """Return what changes with the content: the ETag, or else the time of the last change."""
    if meta["e_tag"]:
        return str(meta["e_tag"])
    seconds = int(meta["last_modified"].timestamp())  # 0 if the answer has none
    return f"modified {seconds}" if seconds else ""
