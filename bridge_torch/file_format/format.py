"""torch checkpoints as a `Format`, read and written without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import BridgeError, Capabilities, FlatState, SourceFile, WriteTarget
from bridge_core.formats import ShardNames
from bridge_torch.file_format.signatures import is_legacy, is_tar, is_zip
from bridge_torch.storage_classes import TYPED_STORAGES, UNTYPED

if TYPE_CHECKING:
    from bridge_torch.safe_pickle import Limits

__all__ = ["TorchFormat"]

_HEAD = 512
_SNIFFED = 64 << 10
_PICKLE = b"/data.pkl"


class TorchFormat:
    """``torch.save`` files: zip archives and legacy files in, zip archives out.

    Args:
        allow_zero_crc: Treat any CRC-32 of zero as "not computed"; by default only where all are zero.
        limits: Bounds of a file's pickle; None for those of `Limits`.
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
        self._limits = limits

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file is a torch zip archive, a legacy file, a tar file or a bare pickle."""
        head = file.read(0, min(file.size, _HEAD))
        if not is_zip(head):
            return is_legacy(head) or is_tar(head)
        if not file.is_remote:  # at a server the directory, which is read in any case, takes one request less
            head = file.read(0, min(file.size, _SNIFFED))
        return _PICKLE in head or _PICKLE in _directory(file)

    def open(self, file: SourceFile) -> FlatState:
        """Return the state of a checkpoint; only its directory and pickle are read, and no code of it is run.

        The state dict is the root, or the first entry with one of the usual names that holds tensors. Names
        split at dots. Keys that are the same view of one storage share one tensor object and are in
        ``metadata.ties``. Pickles of protocols 0 to 5 are read. All else in the file is left out and named in
        ``metadata.notes``, objects of any class included. The file stays open until the state is closed.

        Raises:
            UnsafeFile: The weights are objects of unknown classes, or names of records lead out of the
                archive.
            MalformedFile: The file is damaged, or not a torch checkpoint.
            TruncatedFile: It ends early.
            IntegrityError: A CRC-32 differs; for tensors, when all of one is read.
            LimitExceeded: It takes more memory, depth or entries than any checkpoint needs.
            UnsupportedFeature: It has sparse or quantised tensors, dtypes that are not read, TorchScript or
                unknown opcodes.
            KeyConflict: Two records, or two weights, have one name.
        """
        return self._open(file, None)

    def open_entry(self, file: SourceFile, entry: str) -> FlatState:
        """Return the state of one entry of a checkpoint, or of the usual entry below it.

        Args:
            file: The open file.
            entry: The names that lead to it, joined by dots, from the root or else from the usual state
                dict; or the first parts that names of tensors share.

        Raises:
            UsageError: There is no such entry, or it is not a dict of tensors.
            BadInputError: As for `open`.
        """
        return self._open(file, entry)

    def _open(self, file: SourceFile, entry: str | None) -> FlatState:
        from bridge_torch.file_format.reader import open_checkpoint
        from bridge_torch.safe_pickle import Limits

        limits = self._limits or Limits()
        return open_checkpoint(file, allow_zero_crc=self._allow_zero_crc, limits=limits, entry=entry)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a zip archive that `torch.load` opens with ``weights_only=True``, mapped or not.

        Tied keys that share one tensor object share one storage.

        Raises:
            UnsupportedFeature: torch has no such dtype, or a name is not valid Unicode.
            KeyConflict: Two keys join to one name, or a part of a torch name contains a dot.
        """
        from bridge_torch.file_format.writer import lay_out

        target.fill(state, lay_out(state, self.capabilities.dtypes))


def _directory(file: SourceFile) -> bytes:
    """Return the directory of a zip file; of a damaged one, its last 64 KiB."""
    from bridge_core.formats import read_directory

    try:
        return read_directory(file)[0]
    except BridgeError:
        length = min(file.size, _SNIFFED)
        return file.read(file.size - length, length)
