"""The destination of a work list: what is begun, complete and missing there.

A folder of receipts in the destination is the only thing that the processes share: each file of weights
appears at once and complete, and its receipt after it. Nothing is locked, since everybody writes equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from bridge_core.checkpoint import MANIFEST_NAME, WORK_FOLDER, Destination
from bridge_core.errors import (
    BadInputError,
    BridgeError,
    ConversionError,
    DestinationExists,
    SourceNotFound,
    SystemFailure,
)
from bridge_core.messages import listed, log
from bridge_core.work.manifest import Manifest, read_manifest
from bridge_core.work.receipts import Receipt, read_receipt, receipt_name
from bridge_core.work.work_list import ListedFile, WorkList, read_work_list
from bridge_core.work.written_file import TensorSum, WrittenFile

__all__ = ["WorkFolder"]

_LIST = "list.json"
_LARGEST_LIST = 64 << 20
_LARGEST_RECEIPT = 256 << 20


class WorkFolder:
    """The destination of one work list.

    Args:
        destination: The folder.
        work: The list.
        is_weights: Returns whether a name is a usual one of weights, shards and indexes.
    """

    def __init__(self, destination: Destination, work: WorkList, is_weights: Callable[[str], bool]) -> None:
        self._destination = destination
        self._receipts = destination.folder(WORK_FOLDER)
        self._work = work
        self._is_weights = is_weights

    def begin(self) -> Manifest | None:
        """Note that the list is worked on here; return the manifest if it is finished already.

        Raises:
            DestinationExists: The folder holds other weights, or the work of another list.
        """
        manifest = self.finished()
        if manifest is None and not self._begun_before():
            self._receipts.put(_LIST, lambda path: _write(path, self._work.to_text().encode()))
            self._has_begun()  # another list may have begun at the same time
        return manifest

    def refuse_others(self) -> None:
        """Refuse a destination that holds anything else.

        Raises:
            DestinationExists: The folder holds other weights, or the work of another list.
        """
        if self.finished() is None:
            self._begun_before()

    def _begun_before(self) -> bool:
        """Return whether the list was begun here; refuse other weights if it was not."""
        if self._has_begun():
            return True
        others = [name for name in self._destination.names() if self._is_weights(name)]
        # Another process may have begun, and written its first file, between the two looks.
        if others and not self._has_begun():
            raise DestinationExists(
                f"the destination holds weights: {listed(others)}. A conversion in parts replaces none.",
                path=self._destination.name,
                hint="Give another folder, or remove these files.",
            )
        return False

    def require_begun(self) -> None:
        """Refuse to finish what nobody began here.

        Raises:
            DestinationExists: The folder holds the work of another list.
            ConversionError: It holds no work.
        """
        if not self._has_begun():
            raise ConversionError(
                "no part of the work list was written here.",
                path=self._destination.name,
                hint="Run its parts first: ckptbridge work run FILE --part 1.",
            )

    def _has_begun(self) -> bool:
        """Return whether this list was begun here.

        Raises:
            DestinationExists: Another one was.
        """
        try:
            text = self._receipts.read(_LIST, _LARGEST_LIST)
        except SourceNotFound:
            return False
        name = f"{self._receipts.name}/{_LIST}"
        try:
            begun = read_work_list(text, path=name)
        except BadInputError as err:
            raise DestinationExists(
                f"the destination holds the work of a conversion whose list cannot be read: {err.message}",
                path=self._destination.name,
                hint=self._way_out,
            ) from err
        if begun.id == self._work.id:
            return True
        try:
            begun.require_same(self._work)
            problem = "its source path, destination or options are others"
        except BridgeError as err:
            problem = err.message.rstrip(".")
        raise DestinationExists(
            f"the destination holds the work of another conversion: {problem}.",
            path=self._destination.name,
            hint=self._way_out,
        )

    @property
    def _way_out(self) -> str:
        return (
            f"Go on with the same command, source and versions; or to begin anew, delete the folder "
            f"{self._receipts.name} and the files that were written; or give another destination."
        )

    def receipt(self, file: ListedFile) -> Receipt | None:
        """Return the receipt of a file that is complete; None if it has to be written.

        Args:
            file: The file.
        """
        name = receipt_name(file.name)
        try:
            text = self._receipts.read(name, _LARGEST_RECEIPT)
        except SourceNotFound:
            return None
        receipt = read_receipt(text, path=f"{self._receipts.name}/{name}")
        if receipt is None or receipt.file.name != file.name:
            return None
        return receipt if receipt.fits(self._work, self._destination.size(file.name)) else None

    def receipts(self) -> dict[str, Receipt]:
        """Return the receipts of the files that are complete, by the files' names."""
        names = set(self._receipts.names())
        files = [file for file in self._work.files if receipt_name(file.name) in names]
        known = {file.name: self.receipt(file) for file in files}
        return {name: receipt for name, receipt in known.items() if receipt is not None}

    def put(
        self,
        file: ListedFile,
        fill: Callable[[Path], tuple[Mapping[str, TensorSum], Mapping[str, int]]],
    ) -> Receipt:
        """Write a file, then its receipt.

        Args:
            file: The file.
            fill: Writes it to a local path and checks it; returns its tensors, and name -> number of values
                outside the range of their dtype.
        """
        receipts: list[Receipt] = []

        def write(path: Path) -> None:
            tensors, overflows = fill(path)
            written = WrittenFile.of(path, tensors, name=file.name)
            receipts.append(Receipt.of(self._work, written, overflows))

        self._destination.put(file.name, write)
        text = receipts[-1].to_text().encode()
        try:
            self._receipts.put(receipt_name(file.name), lambda path: _write(path, text))
        except SystemFailure:
            if self.finished() is None:
                raise
        if self.finished() is not None:  # another process wrote this file too, and the work was finished
            self.tidy()
        log("work", "wrote %s and its receipt", file.name)
        return receipts[-1]

    def put_other(self, name: str, fill: Callable[[Path], None]) -> WrittenFile:
        """Write a file that has no receipt: a sidecar file or the index.

        Args:
            name: Its name.
            fill: Writes it to a local path.
        """
        written: list[WrittenFile] = []

        def write(path: Path) -> None:
            fill(path)
            written.append(WrittenFile.of(path, name=name))

        self._destination.put(name, write)
        return written[-1]

    def put_text(self, name: str, text: bytes) -> WrittenFile:
        """Write a file with a content that is known, such as the index."""
        self._destination.put(name, lambda path: _write(path, text))
        return WrittenFile(name, len(text), hashlib.sha256(text).hexdigest())

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, and remove the list, the receipts and what killed runs left."""
        for file in self._work.files:
            self._destination.sweep(file.name)
        self.put_text(MANIFEST_NAME, manifest.to_text().encode())
        self.tidy()

    def tidy(self) -> None:
        """Remove what only unfinished work needs, the list last: a killed run can be repeated."""
        for name in sorted(self._receipts.names(), key=lambda name: name == _LIST):
            self._receipts.remove(name)
        self._receipts.remove_if_empty()

    def finished(self) -> Manifest | None:
        """Return the manifest if this list was finished here, and all its files have their sizes."""
        try:
            text = self._destination.read(MANIFEST_NAME, _LARGEST_RECEIPT)
            manifest = read_manifest(text, path=f"{self._destination.name}/{MANIFEST_NAME}")
        except (SourceNotFound, BadInputError):
            return None
        if manifest.list_id != self._work.id:
            return None
        sizes = self._destination.sizes()
        complete = all(sizes.get(file.name) == file.size for file in manifest.files)
        return manifest if complete else None


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
