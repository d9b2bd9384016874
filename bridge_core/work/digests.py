"""Digests: SHA-256 of files and of JSON documents."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from bridge_core.io import Location, open_location
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["file_digest", "json_digest", "specs_digest"]

_BLOCK = 4 << 20


def json_digest(document: Any) -> str:
    """Return the SHA-256 of a JSON document, the same for every order of its names.

    >>> json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    True
    """
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256()
    pieces: list[str] = []
    for piece in encoder.iterencode(document):
        pieces.append(piece)
        if len(pieces) == 4096:  # the text of a large plan is never in memory as one
            digest.update("".join(pieces).encode())
            pieces.clear()
    digest.update("".join(pieces).encode())
    return digest.hexdigest()


def specs_digest(specs: Mapping[Key, TensorSpec]) -> str:
    """Return the SHA-256 of keys, dtypes and shapes, in their order."""
    digest = hashlib.sha256()
    for key, spec in specs.items():
        line = f"{join_key(key, escape=True)}\0{spec.dtype.name}\0{list(spec.shape)}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def file_digest(
    place: Location, *, stop: threading.Event | None = None, report: Callable[[int], None] | None = None
) -> str:
    """Return the SHA-256 of a file, read in blocks of 4 MiB.

    Args:
        place: The file.
        stop: Event that ends the work with `KeyboardInterrupt`; None for none.
        report: Called with the bytes of each block; None for no report.

    Raises:
        SystemFailure: The system failed to read it.
    """
    digest = hashlib.sha256()
    with open_location(place) as file:
        for start in range(0, file.size, _BLOCK):
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            nbytes = min(_BLOCK, file.size - start)
            digest.update(file.read(start, nbytes))
            if report is not None:
                report(nbytes)
    return digest.hexdigest()
