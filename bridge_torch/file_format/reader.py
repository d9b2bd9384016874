"""Opening a torch checkpoint: its container, its pickle, and a lazy tensor for each weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bridge_core import (
    BridgeError,
    FlatState,
    Key,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    StateMetadata,
    Tensor,
    UnsafeFile,
    UnsupportedFeature,
    split_names,
)
from bridge_core.formats import STORED
from bridge_core.io import ChecksummedRange
from bridge_core.messages import count, listed
from bridge_core.state import DTYPES, checked_bools, load_metadata, select_entry
from bridge_torch.file_format.archive import METADATA_RECORD, Archive
from bridge_torch.file_format.left_out import measured, shown_name
from bridge_torch.file_format.legacy import read_legacy, refuse_other
from bridge_torch.file_format.signatures import is_legacy, is_zip
from bridge_torch.file_format.state_dict_entry import Weights, find_weights
from bridge_torch.file_format.storages import Bytes, make_tensor
from bridge_torch.hints import FETCH_AGAIN, SAVE_WEIGHTS, UNTRUSTED
from bridge_torch.safe_pickle import Limits, Storage, Unpickled, unpickle

__all__ = ["open_checkpoint"]

_HEAD = 512
_LAYOUT = "torch"
_MAX_METADATA = 256 << 20
_MAX_EXPANSION = 100
_FREE_EXPANSION = 1 << 30

_NO_CHECKSUMS = "the file has no checksums, so damage inside its tensors cannot be detected"

_Find = Callable[[Storage], Bytes]


def open_checkpoint(
    file: SourceFile, *, allow_zero_crc: bool, limits: Limits, entry: str | None = None
) -> FlatState:
    """Return the state of a zip or a legacy file; see `TorchFormat.open`."""
    head = file.read(0, min(file.size, _HEAD))
    metadata, layout, escaped, notes = StateMetadata(), _LAYOUT, False, tuple[str, ...]()
    if is_zip(head):
        archive = Archive(file, allow_zero_crc=allow_zero_crc)
        if entry is not None and METADATA_RECORD in archive.records:  # the record has names from the root
            return select_entry(open_checkpoint(file, allow_zero_crc=allow_zero_crc, limits=limits), entry)
        pickle = _pickle(archive, limits)
        find = _record_finder(archive)
        layout, metadata, escaped = _own_metadata(archive)
        notes = () if archive.has_checksums else (_NO_CHECKSUMS,)
    elif is_legacy(head):
        pickle, ranges = read_legacy(file, limits)
        find = _listed_finder(ranges)
    else:
        refuse_other(file, head)
    weights = find_weights(pickle, path=file.name, entry=entry)
    metadata = metadata.with_(notes=(*notes, *weights.notes()))
    return _state(file, weights, find, layout, metadata, escaped)


def _pickle(archive: Archive, limits: Limits) -> Unpickled:
    file = archive.file
    record = archive.records.get("data.pkl")
    if "constants.pkl" in archive.records:
        raise UnsupportedFeature(
            "the file is a TorchScript archive, which is not read: it contains code next to the weights.",
            path=file.name,
            hint=f'Save its weights: model = torch.jit.load("{file.path.name}"); {SAVE_WEIGHTS}.',
        )
    if record is None:
        raise MalformedFile(
            f"the file is not a torch checkpoint, but another zip archive: it has no record "
            f"{f'{archive.root}/data.pkl'!r}.",
            path=file.name,
            hint="Give the file that torch.save wrote. If it is inside this archive, unpack it first.",
        )
    data = archive.read(record, limit=limits.pickle_bytes)
    unpickled = unpickle(data, path=file.name, what=record.name, limits=limits)
    if unpickled.length != len(data):
        raise MalformedFile(
            f"record {record.name!r} goes on after its pickle: expected {unpickled.length} bytes, got "
            f"{len(data)} bytes.",
            path=file.name,
            hint=FETCH_AGAIN,
        )
    return unpickled


def _record_finder(archive: Archive) -> _Find:
    """Return the function that finds a storage's bytes in an archive."""
    file = archive.file
    big_endian = False
    order = archive.records.get("byteorder")
    if order is not None:
        text = archive.read(order, limit=16)
        if text not in (b"little", b"big"):
            raise MalformedFile(
                f"record {order.name!r} is damaged: expected b'little' or b'big', got {text!r}.",
                path=file.name,
                hint=FETCH_AGAIN,
            )
        big_endian = text == b"big"

    def find(storage: Storage) -> Bytes:
        record = archive.records.get(f"data/{storage.key}")
        if record is None:
            raise MalformedFile(
                f"record {f'data/{storage.key[:80]}'!r}, which a tensor needs, is not in the archive.",
                path=file.name,
                hint=FETCH_AGAIN,
            )
        expected = storage.numel * _itemsize(storage)
        if record.size != expected:
            raise MalformedFile(
                f"record {record.name!r}: expected {expected} bytes ({storage.numel} elements of "
                f"{storage.dtype}), got {record.size} bytes.",
                path=file.name,
                hint=FETCH_AGAIN,
            )
        if record.method != STORED:
            data = archive.unpack(record)
            return Bytes(file, 0, len(data), big_endian, unpacked=data)
        checked = None
        if archive.is_checked(record):
            checked = ChecksummedRange(
                file, record.offset, record.size, record.crc, lambda _: archive.damaged(record)
            )
        return Bytes(file, record.offset, record.size, big_endian, checked=checked)

    return find


def _listed_finder(ranges: dict[str, Bytes]) -> _Find:
    return lambda storage: ranges[storage.key]


def _itemsize(storage: Storage) -> int:
    return 1 if storage.dtype == "untyped" else DTYPES[storage.dtype].itemsize


def _own_metadata(archive: Archive) -> tuple[str, StateMetadata, bool]:
    record = archive.records.get(METADATA_RECORD)
    if record is None:
        return _LAYOUT, StateMetadata(), False
    text = archive.read(record, limit=_MAX_METADATA)
    own, metadata, escaped = load_metadata(text, path=archive.file.name)
    return own or _LAYOUT, metadata, escaped


def _state(
    file: SourceFile,
    weights: Weights,
    find: _Find,
    layout: str,
    metadata: StateMetadata,
    escaped: bool,
) -> FlatState:
    unread: dict[str, list[str]] = {}
    for name, ref in weights.tensors.items():
        if ref.dtype not in DTYPES:
            unread.setdefault(ref.dtype, []).append(name)
    if unread:
        texts = (f"torch.{dtype} ({listed(map(shown_name, names))})" for dtype, names in unread.items())
        raise UnsupportedFeature(
            f"the file has {count(sum(map(len, unread.values())), 'tensor')} of a dtype that is not read: "
            f"{', '.join(texts)}.",
            path=file.name,
            hint="Cast each with tensor.to(torch.float32), or dequantize it, and save the state dict again.",
        )
    sources: dict[str, Bytes] = {}
    views: dict[tuple[object, ...], tuple[Key, Tensor]] = {}
    tensors: dict[Key, Tensor] = {}
    ties: dict[Key, Key] = {}
    total = 0
    keys = split_names(weights.tensors, escaped=escaped)
    for key, (name, ref) in zip(keys, weights.tensors.items(), strict=True):
        _check_key(ref.storage.key, file)
        if key in tensors:
            raise KeyConflict(
                "two weights have this name.", path=file.name, key=key, hint="Rename one and save again."
            )
        source = sources.get(ref.storage.key)
        if source is None:
            source = sources[ref.storage.key] = find(ref.storage)
        view = (ref.storage.key, ref.dtype, ref.offset, ref.shape, ref.strides, ref.conj, ref.neg)
        if view in views and 0 not in ref.shape:
            ties[key], tensors[key] = views[view]
            continue
        try:
            tensor = make_tensor(replace(ref, dtype="uint8") if ref.dtype == "bool" else ref, source)
        except BridgeError as err:
            err.path, err.key = file.name, name
            raise
        if ref.dtype == "bool":
            tensor = checked_bools(tensor, path=file.name, key=key)
        views[view] = key, tensor
        tensors[key] = tensor
        total += tensor.spec.nbytes
    if total > _MAX_EXPANSION * file.size + _FREE_EXPANSION:
        raise LimitExceeded(
            f"the file of {file.size} bytes expands to {total} bytes of tensors, more than "
            f"{_MAX_EXPANSION} times its size and {_FREE_EXPANSION >> 30} GiB.",
            path=file.name,
            hint="If expanded tensors are meant, save tensor.contiguous() of each.",
        )
    provenance = {**metadata.provenance, **weights.provenance()}
    left_out = measured(weights.left_out, file.size)
    metadata = metadata.with_(ties={**ties, **metadata.ties}, provenance=provenance, left_out=left_out)
    return FlatState(tensors, layout=layout, metadata=metadata, close=file.close)


def _check_key(key: str, file: SourceFile) -> None:
    if "/" in key or "\\" in key or "\0" in key or key in ("", ".", ".."):
        raise UnsafeFile(
            f"the name of a storage is not a plain file name: {key[:200]!r}.",
            path=file.name,
            hint=UNTRUSTED,
        )
