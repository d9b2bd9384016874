"""torch's file format before 1.6, and everything else that is found under a torch name.

A legacy file is five pickles one after the other, then the storages, each behind its length. Nothing in it
says where a storage stands: the positions are found by walking.
"""

from __future__ import annotations

from typing import NoReturn

from bridge_core import (
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)
from bridge_core.formats import describe_foreign
from bridge_core.state import DTYPES
from bridge_torch.file_format.signatures import LEGACY_MAGIC, is_tar
from bridge_torch.file_format.storages import Bytes
from bridge_torch.safe_pickle import Limits, Storage, Unpickled, unpickle, unsafe_names

__all__ = ["read_legacy", "refuse_other"]

_PROTOCOL = 1001
_FIRST_WINDOW = 64 << 10


def read_legacy(file: SourceFile, limits: Limits) -> tuple[Unpickled, dict[str, Bytes]]:
    """Read the pickles of a legacy file, and find its storages.

    Returns:
        The pickle of what was saved, and storage key -> bytes.

    Raises:
        TruncatedFile: It ends within a pickle or a storage.
        UnsafeFile: A pickle names code, and holds nothing else.
        MalformedFile: It is a pickle of something else, or damaged.
        KeyConflict: A storage stands twice.
        UnsupportedFeature: A storage has no dtype; torch cannot read such a file either.
    """
    magic = _pickle_at(file, 0, "the first pickle", limits)
    if magic.value != LEGACY_MAGIC:
        if magic.foreign:
            raise unsafe_names(magic.foreign, holds_module=magic.holds_module, path=file.name)
        raise MalformedFile(
            "is a pickle, but torch.save did not write it.",
            path=file.name,
            hint="Load it where it was made and save its weights with torch.save.",
        )
    offset = magic.length
    protocol = _pickle_at(file, offset, "the format version", limits)
    if protocol.value != _PROTOCOL:
        raise UnsupportedFeature(f"is a legacy file of another version than {_PROTOCOL}.", path=file.name)
    offset += protocol.length
    offset += _pickle_at(file, offset, "the system description", limits).length
    root = _pickle_at(file, offset, "the object", limits)
    offset += root.length
    keys = _pickle_at(file, offset, "the list of storages", limits)
    offset += keys.length
    if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
        raise MalformedFile("has no list of storages where one was expected.", path=file.name)
    return root, _walk(file, offset, keys.value, root.storages)


def _walk(file: SourceFile, offset: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, Bytes]:
    if len(set(keys)) != len(keys):
        raise KeyConflict("lists a storage twice.", path=file.name)
    unlisted = [key for key in storages if key not in set(keys)]
    if unlisted:
        raise MalformedFile(
            f"does not hold storage {unlisted[0][:80]!r}, which a tensor needs.", path=file.name
        )
    found: dict[str, Bytes] = {}
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise MalformedFile(f"holds storage {key[:80]!r}, which no tensor needs.", path=file.name)
        if storage.dtype not in DTYPES:
            raise UnsupportedFeature(
                f"storage {key[:80]!r} is of type {storage.dtype}, which a legacy file cannot tell apart.",
                path=file.name,
                hint="Save it in torch's zip format.",
            )
        numel = int.from_bytes(file.read(offset, 8), "little")
        if numel != storage.numel:
            raise MalformedFile(
                f"storage {key[:80]!r} has {numel} elements; its tensors expect {storage.numel}.",
                path=file.name,
            )
        nbytes = numel * DTYPES[storage.dtype].itemsize
        offset += 8
        if offset + nbytes > file.size:
            raise TruncatedFile(
                f"is {file.size} bytes long; storage {key[:80]!r} reaches through byte {offset + nbytes}.",
                path=file.name,
            )
        found[key] = Bytes(file, offset, nbytes)
        offset += nbytes
    if offset != file.size:
        raise MalformedFile(f"has {file.size - offset} bytes after its last storage.", path=file.name)
    return found


def _pickle_at(file: SourceFile, offset: int, what: str, limits: Limits) -> Unpickled:
    """Read one of several pickles; its length shows only by reading it."""
    window = _FIRST_WINDOW
    while True:
        length = min(window, file.size - offset)
        try:
            return unpickle(file.read(offset, length), path=file.name, what=what, limits=limits)
        except TruncatedFile:
            if offset + length >= file.size:
                raise
            if length > limits.pickle_bytes:
                raise LimitExceeded(
                    f"{what} is longer than {limits.pickle_bytes} bytes.", path=file.name
                ) from None
        window *= 8


def refuse_other(file: SourceFile, head: bytes) -> NoReturn:
    """Say what a file is that is not a torch checkpoint.

    Raises:
        TruncatedFile: It is empty, or ends within the first bytes of a pickle.
        UnsafeFile: It is a tar file of torch 0.1.
        MalformedFile: It is anything else.
    """
    if not head:
        raise TruncatedFile("is empty.", path=file.name)
    if len(head) <= 2 and head[:1] == b"\x80":
        raise TruncatedFile(
            f"is {len(head)} {'byte' if len(head) == 1 else 'bytes'} long and ends within its first pickle.",
            path=file.name,
            hint="Fetch the file again.",
        )
    if is_tar(head):
        raise UnsafeFile(
            "is a tar file as torch 0.1 wrote them, which cannot be read without running code.",
            path=file.name,
            hint="Load it with an old torch where you trust it, and save it again.",
        )
    if foreign := describe_foreign(file):
        raise MalformedFile(f"is not a torch checkpoint, but {foreign}.", path=file.name)
    raise MalformedFile(f"is not a torch checkpoint; it begins with {head[:16]!r}.", path=file.name)
