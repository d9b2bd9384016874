"""torch checkpoints as a `Format`: read and written by numpy alone, torch is never imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bridge_core import (
    BridgeError,
    Capabilities,
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
    WriteTarget,
    as_key,
    split_name,
)
from bridge_core.formats import ShardNames
from bridge_core.io import ChecksummedRange
from bridge_core.state import DTYPES, checked_bools, dump_metadata, flat_names, load_metadata
from bridge_torch.file_format.archive import STORED, Archive, is_zip
from bridge_torch.file_format.archive_writer import METADATA_RECORD, lay_out
from bridge_torch.file_format.legacy import is_legacy, is_tar, read_legacy, refuse_other
from bridge_torch.file_format.state_dict_entry import Weights, find_weights
from bridge_torch.file_format.storages import Bytes, make_tensor
from bridge_torch.safe_pickle.unpickler import Limits, unpickle
from bridge_torch.safe_pickle.values import Storage
from bridge_torch.safe_pickle.writer import TYPED_STORAGES, UNTYPED, Slot

__all__ = ["TorchFormat"]

_HEAD = 512
_SNIFFED = 64 << 10
_MAX_METADATA = 256 << 20
_MAX_EXPANSION = 100
_FREE_EXPANSION = 1 << 30

_Find = Callable[[Storage], Bytes]


class TorchFormat:
    """``torch.save`` files: zip archives and legacy files in, zip archives out.

    Args:
        allow_zero_crc: Take a CRC of zero for "not computed", as some writers leave it.
        limits: What a file's pickle may claim.
    """

    name = "torch"
    extensions: tuple[str, ...] = (".pt", ".bin", ".pth", ".ckpt")
    layout: str | None = "torch"
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=frozenset(TYPED_STORAGES) | UNTYPED,
    )
    names: ShardNames | None = ShardNames(
        single="pytorch_model.bin",
        shard="pytorch_model-{index:05d}-of-{count:05d}.bin",
        index="pytorch_model.bin.index.json",
        ties="shared",
    )

    def __init__(self, *, allow_zero_crc: bool = False, limits: Limits | None = None) -> None:
        self._allow_zero_crc = allow_zero_crc
        self._limits = limits or Limits()

    def sniff(self, file: SourceFile) -> bool:
        """Tell whether the file is a torch zip archive, a legacy file, or a bare pickle."""
        head = file.read(0, min(file.size, _SNIFFED))
        if not is_zip(head):
            return is_legacy(head) or is_tar(head[:_HEAD])
        if b"/data.pkl" in head:
            return True
        try:
            return "data.pkl" in Archive(file, allow_zero_crc=True).records
        except BridgeError:
            tail = min(file.size, _SNIFFED)
            return b"/data.pkl" in file.read(file.size - tail, tail)

    def open(self, file: SourceFile) -> FlatState:
        """Open a checkpoint; only its directory and pickle are read.

        The state dict is found in the usual wrappers. Names split at dots. Keys that are the same view of
        one storage share one tensor object and stand in ``metadata.ties``.

        Raises:
            UnsafeFile: It names code, or records outside its root.
            MalformedFile: It is damaged, or no torch checkpoint.
            TruncatedFile: It ends early.
            IntegrityError: A CRC differs; for tensors, when they are read whole.
            LimitExceeded: It claims more than any checkpoint needs.
            UnsupportedFeature: Sparse or quantised tensors, foreign dtypes, TorchScript, pickle protocol 4.
            KeyConflict: A record or a name stands twice.
        """
        head = file.read(0, min(file.size, _HEAD))
        metadata, layout, escaped = StateMetadata(), self.layout, False
        if is_zip(head):
            archive = Archive(file, allow_zero_crc=self._allow_zero_crc)
            root = self._root(archive)
            find = _record_finder(archive)
            layout, metadata, escaped = _own_metadata(archive, self.layout)
        elif is_legacy(head):
            root, found = read_legacy(file, self._limits)
            find = _listed_finder(found)
        else:
            refuse_other(file, head)
        weights = find_weights(root, path=file.name)
        return _state(file, weights, find, layout, metadata, escaped)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a zip archive that `torch.load` opens with ``weights_only=True``, mapped or not.

        Tied keys that share one tensor object share one storage.

        Raises:
            UnsupportedFeature: torch has no such dtype, or a name is no text; all of them are listed.
            KeyConflict: Two keys join to one name, or a part of a torch name holds a dot.
        """
        specs = state.specs()
        known = self.capabilities.dtypes
        foreign = [f"{'.'.join(k)} ({s.dtype.name})" for k, s in specs.items() if s.dtype.name not in known]
        if foreign:
            raise UnsupportedFeature(
                f"torch files cannot hold these dtypes: {', '.join(foreign)}.",
                hint="Cast them, or write a format that has them.",
            )
        names, escaped = _names(state)
        damaged = [ascii(name) for name in names.values() if not _is_text(name)]
        if damaged:
            raise UnsupportedFeature(f"torch files cannot hold names that are no text: {', '.join(damaged)}.")
        owners = _owners(state)
        numbers: dict[Key, str] = {}
        slots: dict[Key, Slot] = {}
        for key, spec in specs.items():
            owner = owners.get(key, key)
            storage = numbers.setdefault(owner, str(len(numbers)))
            slots[key] = Slot(names[key], spec, storage, owner)
        text = dump_metadata(state.layout, state.metadata, escaped_names=escaped)
        plain = state.layout in (None, self.layout) and text == dump_metadata(state.layout, StateMetadata())
        target.fill(state, lay_out(state, slots, None if plain else text))

    def _root(self, archive: Archive) -> object:
        file = archive.file
        record = archive.records.get("data.pkl")
        if "constants.pkl" in archive.records:
            raise UnsupportedFeature(
                "is a TorchScript archive, which holds code beside weights.",
                path=file.name,
                hint="Load it with torch.jit.load and save module.state_dict().",
            )
        if record is None:
            raise MalformedFile(
                f"is a zip file without {archive.root}/data.pkl, so torch.save did not write it.",
                path=file.name,
            )
        data = archive.read(record, limit=self._limits.pickle_bytes)
        unpickled = unpickle(data, path=file.name, what=record.name, limits=self._limits)
        if unpickled.length != len(data):
            raise MalformedFile(f"{record.name} goes on after its pickle.", path=file.name)
        return unpickled.value


def _record_finder(archive: Archive) -> _Find:
    """Return what finds a storage's bytes in an archive."""
    file = archive.file
    big_endian = False
    order = archive.records.get("byteorder")
    if order is not None:
        text = archive.read(order, limit=16)
        if text not in (b"little", b"big"):
            raise MalformedFile(f"has the byte order {text!r}; little or big was expected.", path=file.name)
        big_endian = text == b"big"

    def find(storage: Storage) -> Bytes:
        record = archive.records.get(f"data/{storage.key}")
        if record is None:
            raise MalformedFile(
                f"needs record {f'data/{storage.key[:80]}'!r}, which is not there.", path=file.name
            )
        expected = storage.numel * _itemsize(storage)
        if record.size != expected:
            raise MalformedFile(
                f"record {record.name!r} has {record.size} bytes; {storage.numel} x {storage.dtype} "
                f"take {expected}.",
                path=file.name,
            )
        if record.method != STORED:
            data = archive.unpack(record)
            return Bytes(file, 0, len(data), big_endian, unpacked=data)
        offset = archive.where(record)
        checked = None
        if archive.is_checked(record):
            checked = ChecksummedRange(
                file, offset, record.size, record.crc, lambda _: archive.damaged(record.name)
            )
        return Bytes(file, offset, record.size, big_endian, checked=checked)

    return find


def _listed_finder(found: dict[str, Bytes]) -> _Find:
    return lambda storage: found[storage.key]


def _itemsize(storage: Storage) -> int:
    return 1 if storage.dtype == "untyped" else DTYPES[storage.dtype].itemsize


def _own_metadata(archive: Archive, layout: str | None) -> tuple[str | None, StateMetadata, bool]:
    record = archive.records.get(METADATA_RECORD)
    if record is None:
        return layout, StateMetadata(), False
    text = archive.read(record, limit=_MAX_METADATA)
    own, metadata, escaped = load_metadata(text, path=archive.file.name)
    return own or layout, metadata, escaped


def _state(
    file: SourceFile,
    weights: Weights,
    find: _Find,
    layout: str | None,
    metadata: StateMetadata,
    escaped: bool,
) -> FlatState:
    foreign = [
        f"{name} (torch.{ref.dtype})" for name, ref in weights.tensors.items() if ref.dtype not in DTYPES
    ]
    if foreign:
        raise UnsupportedFeature(f"holds dtypes that are not read: {', '.join(foreign)}.", path=file.name)
    sources: dict[str, Bytes] = {}
    views: dict[tuple[object, ...], tuple[Key, Tensor]] = {}
    tensors: dict[Key, Tensor] = {}
    ties: dict[Key, Key] = {}
    total = 0
    for name, ref in weights.tensors.items():
        key = split_name(name, escaped=True) if escaped else as_key(name)
        _check_key(ref.storage.key, file)
        if key in tensors:
            raise KeyConflict("two weights have this name.", path=file.name, key=key)
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
        raise LimitExceeded(f"is {file.size} bytes long and claims {total} bytes of tensors.", path=file.name)
    recorded = {k: v for k, v in metadata.ties.items() if k in tensors and v in tensors}
    notes = {**metadata.provenance, **weights.provenance()}
    metadata = metadata.with_(ties={**ties, **recorded}, provenance=notes)
    return FlatState(tensors, layout=layout, metadata=metadata, close=file.close)


def _check_key(key: str, file: SourceFile) -> None:
    if "/" in key or "\\" in key or "\0" in key or key in ("", ".", ".."):
        raise UnsafeFile(f"has a storage that leads elsewhere: {key[:200]!r}.", path=file.name)


def _names(state: FlatState) -> tuple[dict[Key, str], bool]:
    """Return the flat names: plain in torch's own layout, and escaped in others where needed."""
    names, escaped = flat_names(state)
    plain = state.layout in (None, "torch")
    odd = [repr(key) for key in state if not key or (plain and any("." in part for part in key))]
    if odd:
        raise KeyConflict(
            f"torch names its tensors by parts joined with dots; these keys do not fit: {', '.join(odd)}.",
            hint="Rename them, or write a format that keeps nested names.",
        )
    return names, escaped


def _owners(state: FlatState) -> dict[Key, Key]:
    """Return, for tied keys that share one tensor object, the key that stands first in the state."""
    tied = {key for pair in state.metadata.ties.items() for key in pair}
    first: dict[int, Key] = {}
    return {key: first.setdefault(id(state.tensor(key)), key) for key in state if key in tied}


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
