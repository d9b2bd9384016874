"""torch's file format before 1.6, and the refusal of files that torch did not write.

A legacy file is five pickles one after the other, then the storages, each after its number of elements. The
file has no table of offsets: they follow from the sizes of the storages before.
"""

from __future__ import annotations

from collections import Counter
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
from bridge_core.messages import count
from bridge_core.state import DTYPES
from bridge_torch.file_format.signatures import LEGACY_MAGIC, appearance, is_tar
from bridge_torch.file_format.storages import Bytes
from bridge_torch.hints import FETCH_AGAIN, SAVE_WEIGHTS
from bridge_torch.safe_pickle import (
    Limits,
    Storage,
    Unpickled,
    unpickle,
    unsafe_names,
)

__all__ = ["read_legacy", "refuse_other"]

_PROTOCOL = 1001
_FIRST_WINDOW = 64 << 10


def read_legacy(file: SourceFile, limits: Limits) -> tuple[Unpickled, dict[str, Bytes]]:
    """Return what a legacy file holds, and where its storages are.

    Returns:
        The pickle of what was saved, and storage key -> bytes.

    Raises:
        TruncatedFile: The file ends within a pickle or a storage.
        UnsafeFile: The root of a pickle is not a dict, and its values need code that it names.
        MalformedFile: The file is a pickle of something else, or damaged.
        KeyConflict: One storage is listed twice.
        UnsupportedFeature: A storage has no dtype; torch cannot read such a file either.
    """
    magic = _pickle_at(file, 0, "the first pickle", limits)
    if magic.value != LEGACY_MAGIC:
        if magic.foreign:
            raise unsafe_names(magic.foreign, holds_module=magic.holds_module, path=file.name)
        raise MalformedFile(
            "the file is not a torch checkpoint, but a pickle that torch.save did not write.",
            path=file.name,
            hint=f"Load it where it was made, and save its weights: {SAVE_WEIGHTS}.",
        )
    offset = magic.length
    protocol = _pickle_at(file, offset, "the format version", limits)
    if protocol.value != _PROTOCOL:
        version = protocol.value if isinstance(protocol.value, int) else type(protocol.value).__name__
        raise UnsupportedFeature(
            f"the legacy file has an unknown version: expected {_PROTOCOL}, got {version}.",
            path=file.name,
            hint="Load it with torch.load and save it again with torch.save.",
        )
    offset += protocol.length
    offset += _pickle_at(file, offset, "the system description", limits).length
    root = _pickle_at(file, offset, "the object", limits)
    offset += root.length
    keys = _pickle_at(file, offset, "the list of storages", limits)
    offset += keys.length
    if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
        raise MalformedFile(
            "the list of storages is damaged: expected a list of strings after the object.",
            path=file.name,
            hint=FETCH_AGAIN,
        )
    return root, _walk(file, offset, keys.value, root.storages)


def _walk(file: SourceFile, offset: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, Bytes]:
    if len(set(keys)) != len(keys):
        twice = next(key for key, number in Counter(keys).items() if number > 1)
        raise KeyConflict(f"storage {twice[:80]!r} is listed twice.", path=file.name, hint=FETCH_AGAIN)
    unlisted = [key for key in storages if key not in set(keys)]
    if unlisted:
        raise MalformedFile(
            f"storage {unlisted[0][:80]!r}, which a tensor needs, is not in the file.",
            path=file.name,
            hint=FETCH_AGAIN,
        )
    ranges: dict[str, Bytes] = {}
    for key in keys:
        storage = storages.get(key)
        if storage is None:
            raise MalformedFile(
                f"storage {key[:80]!r} is in the file, but no tensor uses it.",
                path=file.name,
                hint=FETCH_AGAIN,
            )
        if storage.dtype not in DTYPES:
            raise UnsupportedFeature(
                f"storage {key[:80]!r} has no dtype in this legacy file (its storage class is "
                f"{storage.dtype}), so its tensors cannot be read.",
                path=file.name,
                hint="Save them again with torch.save, without _use_new_zipfile_serialization=False.",
            )
        numel = int.from_bytes(file.read(offset, 8), "little")
        if numel != storage.numel:
            raise MalformedFile(
                f"storage {key[:80]!r} at byte {offset}: expected {storage.numel} elements, got {numel}.",
                path=file.name,
                hint=FETCH_AGAIN,
            )
        nbytes = numel * DTYPES[storage.dtype].itemsize
        offset += 8
        if offset + nbytes > file.size:
            raise TruncatedFile(
                f"the file is cut off: storage {key[:80]!r} ends at byte {offset + nbytes}, and the file is "
                f"{file.size} bytes.",
                path=file.name,
                hint="Fetch the file again.",
            )
        ranges[key] = Bytes(file, offset, nbytes)
        offset += nbytes
    if offset != file.size:
        raise MalformedFile(
            f"the file goes on after its last storage: expected {offset} bytes, got {file.size} bytes.",
            path=file.name,
            hint=FETCH_AGAIN,
        )
    return ranges


def _pickle_at(file: SourceFile, offset: int, what: str, limits: Limits) -> Unpickled:
    """Return the pickle at an offset; how long it is shows only when it is read."""
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
                    f"{what} is longer than the limit of {limits.pickle_bytes} bytes.", path=file.name
                ) from None
        window *= 8


def refuse_other(file: SourceFile, head: bytes) -> NoReturn:
    """Raise the error for a file that is not a torch checkpoint.

    Args:
        file: The open file.
        head: Its first 512 bytes.

    Raises:
        TruncatedFile: It is empty, or ends within the first bytes of a pickle.
        UnsafeFile: It is a tar file of torch 0.1.
        MalformedFile: It is anything else.
    """
    if not head:
        raise TruncatedFile("the file is empty (0 bytes).", path=file.name, hint="Fetch the file again.")
    if len(head) <= 2 and head[:1] == b"\x80":
        raise TruncatedFile(
            f"the file is cut off after {count(len(head), 'byte')}, within its first pickle.",
            path=file.name,
            hint="Fetch the file again.",
        )
    if is_tar(head):
        raise UnsafeFile(
            "the file is a tar archive of torch 0.1, which cannot be read without running its code.",
            path=file.name,
            hint=f"If you trust it, load it with torch.load and save it again: {SAVE_WEIGHTS}.",
        )
    if foreign := describe_foreign(file):
        raise MalformedFile(f"the file is not a torch checkpoint, but {foreign}.", path=file.name)
    raise MalformedFile(
        "the file is not a torch checkpoint: expected a zip archive or a pickle that torch.save wrote, got "
        f"{appearance(head)}.",
        path=file.name,
        hint=f"Load the model where it was made, and save its weights: {SAVE_WEIGHTS}.",
    )
