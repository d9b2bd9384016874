"""torch checkpoints as a `Format`: read and written by numpy alone, torch is never imported."""

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
        allow_zero_crc: Take any CRC of zero for "not computed"; otherwise only where all of a file are zero.
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
        self._limits = limits

    def sniff(self, file: SourceFile) -> bool:
        """Tell whether the file is a torch zip archive, a legacy file, or a bare pickle."""
        head = file.read(0, min(file.size, _SNIFFED))
        if not is_zip(head):
            return is_legacy(head) or is_tar(head[:_HEAD])
        return _PICKLE in head or _PICKLE in _directory(file)

    def open(self, file: SourceFile) -> FlatState:
        """Open a checkpoint; only its directory and pickle are read, and no code of it is run.

        The state dict is found in the usual wrappers. Names split at dots. Keys that are the same view of
        one storage share one tensor object and stand in ``metadata.ties``. Pickles of protocols 0 to 5 are
        read. What else the file holds is left out and named in ``metadata.notes``, objects of any class
        among it. An archive whose CRCs are all zero has none.

        Raises:
            UnsafeFile: The weights are objects of unknown classes, or records lead outside its root.
            MalformedFile: It is damaged, or not a torch checkpoint.
            TruncatedFile: It ends early.
            IntegrityError: A CRC differs; for tensors, when they are read whole.
            LimitExceeded: It claims more than any checkpoint needs.
            UnsupportedFeature: Sparse or quantised tensors, foreign dtypes, TorchScript, unknown opcodes.
            KeyConflict: A record or a name stands twice.
        """
        return self._open(file, None)

    def open_entry(self, file: SourceFile, entry: str) -> FlatState:
        """Open an entry of a checkpoint in place of the usual one, which may be below it.

        Args:
            file: The open file.
            entry: Its names joined by dots, from the root or from the usual state dict on; also what names
                of tensors begin with.

        Raises:
            UsageError: There is no such entry, or it does not hold tensors by name.
            BadInputError: As `open`.
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
            UnsupportedFeature: torch has no such dtype, or a name is not text; all of them are listed.
            KeyConflict: Two keys join to one name, or a part of a torch name holds a dot.
        """
        from bridge_torch.file_format.writer import lay_out

        target.fill(state, lay_out(state, self.capabilities.dtypes))


def _directory(file: SourceFile) -> bytes:
    """Return the directory of a zip file, or the end of a file that is damaged."""
    from bridge_core.formats import read_directory

    try:
        return read_directory(file)[0]
    except BridgeError:
        length = min(file.size, _SNIFFED)
        return file.read(file.size - length, length)
