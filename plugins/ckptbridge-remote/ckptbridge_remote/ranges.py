"""Single requests for ranges of files, and what their answers show of a file."""

from __future__ import annotations

from typing import Any

from bridge_core.errors import IntegrityError, RemoteFailure
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
    _body_of(answer, 1)
    return RemoteEntry(name, answer.meta["size"], version_of(answer.meta))


def read_range(store: Any, key: str, start: int, nbytes: int, size: int | None) -> RangeAnswer:
    """Return a range of a file; obstore refuses another range, but not fewer or more bytes.

    Args:
        store: A store of obstore.
        key: The path of the file in it.
        start: The first byte.
        nbytes: How many bytes.
        size: Bytes of the file when it was opened.

    Raises:
        IntegrityError: The file has another size now.
        RemoteFailure: The server sends more than the range.
    """
    answer = load_obstore().get(store, key, options={"range": (start, start + nbytes)})
    if size is not None and answer.meta["size"] != size:  # some servers give no version, or one of seconds
        raise IntegrityError(
            "the file changed at the server while it was read: it has "
            f"{answer.meta['size']} bytes instead of {size}.",
            hint="Run the command again when nothing else writes to it.",
        )
    return RangeAnswer(_body_of(answer, nbytes), version_of(answer.meta))


def _body_of(answer: Any, most: int) -> Any:
    """Return the bytes of an answer; obstore would take all that a server sends into memory."""
    chunks = iter(answer.stream(min_chunk_size=most + 1))  # so that the bytes of a range are one chunk
    content = next(chunks, b"")
    if len(content) > most:
        raise RemoteFailure(f"expected at most {most} bytes of the range, and the server sends more.")
    return content


def version_of(meta: Any) -> str:
    """Return what changes with the content: the ETag, or else the time of the last change."""
    if meta["e_tag"]:
        return str(meta["e_tag"])
    seconds = int(meta["last_modified"].timestamp())  # 0 if the answer has none
    return f"modified {seconds}" if seconds else ""
