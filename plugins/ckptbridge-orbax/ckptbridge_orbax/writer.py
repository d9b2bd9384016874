"""Writing Orbax checkpoints: arrays in a database, a transaction at a time, then what describes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_core import FlatState, Key, TensorSpec, UnsupportedFeature
from bridge_core.errors import about_tensor
from bridge_core.formats import FolderTarget
from bridge_core.io import open_to_write, processors, system_failures, write_all
from bridge_core.state import is_unicode
from ckptbridge_orbax.array_names import array_name
from ckptbridge_orbax.chunking import cut
from ckptbridge_orbax.file_names import COMMITTED, DEFAULT_ITEM, STEP, TREE
from ckptbridge_orbax.tensorstore_module import load_tensorstore
from ckptbridge_orbax.write_failures import write_failures
from ckptbridge_orbax.written_metadata import checkpoint_text, tree_text
from ckptbridge_orbax.written_names import check_item, check_state, check_step
from ckptbridge_orbax.zarr_spec import array_metadata, array_spec, write_context

__all__ = ["write_folder"]

_TRANSACTION = 8 << 20
"""Bytes of values that a transaction holds in memory until it is committed, unless there are many in all."""

_MOST_TRANSACTIONS = 256
"""How many transactions a checkpoint needs if the memory allows larger ones: each makes a file or two."""


@dataclass(frozen=True)
class _Array:
    """An array to write.

    Args:
        key: The tensor's key.
        spec: Its shape and dtype.
        box: Shape of the boxes, which consist of entire chunks.
        metadata: The metadata of zarr.
    """

    key: Key
    spec: TensorSpec
    box: tuple[int, ...]
    metadata: dict[str, Any]


def write_folder(
    state: FlatState, target: FolderTarget, step: int | None = None, item: str | None = None
) -> None:
    """Write a state; `OrbaxFormat.write_folder` documents the errors.

    A step without a named item gets the item that Orbax makes if the user names none.
    """
    if item is None and step is not None:
        item = DEFAULT_ITEM
    if item is not None:
        check_item(item)
    check_step(step)
    check_state(state)
    tree = tree_text(state)
    checkpoint = checkpoint_text(item, target.replaces)
    most = target.block_nbytes // 2  # a box, a transaction, and what it becomes are in memory at once
    total = sum(spec.nbytes for spec in state.specs().values())
    transaction = max(_TRANSACTION, min(total // _MOST_TRANSACTIONS, most))
    arrays = _arrays(state, min(most, transaction))
    if arrays:
        folder = target.path if item is None else target.path / item
        database = _Database(state, target, folder, transaction)
        target.run(database.write, _jobs(arrays, transaction))
    prefixes = [""] if item is None else [f"{item}/", ""]
    _write_file(target, prefixes[0] + TREE, tree)
    _write_file(target, STEP, checkpoint)
    for prefix in prefixes:
        _write_file(target, prefix + COMMITTED, b"Checkpoint commit was successful")


def _arrays(state: FlatState, box_nbytes: int) -> list[_Array]:
    arrays = []
    for key, spec in state.specs().items():
        chunk, box = cut(spec.shape, spec.dtype.itemsize, box_nbytes)
        arrays.append(_Array(key, spec, box, array_metadata(spec, chunk)))
    return arrays


def _jobs(arrays: Iterable[_Array], nbytes: int) -> Iterator[list[_Array]]:
    """Group arrays, in their order, so that a group of small ones is one transaction."""
    group: list[_Array] = []
    size = 0
    for array in arrays:
        if group and size + array.spec.nbytes > nbytes:
            yield group
            group, size = [], 0
        group.append(array)
        size += array.spec.nbytes
    if group:
        yield group


class _Database:
    """The database that arrays are written to, by several threads.

    Args:
        state: The state that is written.
        target: Where it is written to.
        folder: The folder with the database.
        transaction_nbytes: Bytes of the values after which a transaction is committed.
    """

    def __init__(self, state: FlatState, target: FolderTarget, folder: Path, transaction_nbytes: int) -> None:
        self._state = state
        self._target = target
        self._folder = folder
        with system_failures(folder, "writing"):
            folder.mkdir(exist_ok=True)
            self._resolved = folder.resolve(strict=True).as_posix()  # tensorstore refuses ".." in a path
        if not is_unicode(self._resolved):
            raise UnsupportedFeature(
                "the path is not valid UTF-8; tensorstore, which writes the arrays, needs one that is.",
                path=folder,
                hint="Write to another folder.",
            )
        self._transaction_nbytes = transaction_nbytes
        self._tensorstore = load_tensorstore()
        self._context = self._tensorstore.Context(write_context(min(4, processors())))

    def write(self, arrays: Iterable[_Array]) -> None:
        """Write arrays one after the other; what was written is in the database when this returns."""
        transaction = _Transaction(self._tensorstore, self._folder)
        try:
            for array in arrays:
                self._write_array(array, transaction)
            transaction.commit()
        except BaseException:
            transaction.abort()
            raise

    def _write_array(self, array: _Array, transaction: _Transaction) -> None:
        store = self._open(array, transaction, exists=False)
        number = transaction.number
        for region, values in self._target.boxes(self._state, array.key, array.box):
            if transaction.number != number:
                store = self._open(array, transaction, exists=True)
                number = transaction.number
            with write_failures(self._folder):
                # Complete once the values are copied: they are valid until the next box is read.
                store[region].write(values).result()
            transaction.held += values.nbytes
            if transaction.held >= self._transaction_nbytes:
                transaction.commit()

    def _open(self, array: _Array, transaction: _Transaction, *, exists: bool) -> Any:
        spec = array_spec(self._resolved, array_name(array.key), array.metadata, exists=exists)
        with about_tensor(array.key), write_failures(self._folder):
            return self._tensorstore.open(
                spec,
                create=not exists,
                open=exists,
                read=False,
                write=True,
                transaction=transaction.current,
                context=self._context,
            ).result()


class _Transaction:
    """The transaction of one thread; the next one begins when it is committed.

    Args:
        tensorstore: The library.
        folder: The folder, for errors.
    """

    def __init__(self, tensorstore: Any, folder: Path) -> None:
        self._tensorstore = tensorstore
        self._folder = folder
        self.number = 0
        """How many were committed."""
        self.held = 0
        """Bytes of the values in it."""
        self.current: Any = tensorstore.Transaction(atomic=True)

    def commit(self) -> None:
        """Write what it holds, and wait until that is done."""
        with write_failures(self._folder):
            self.current.commit_async().result()
        self.current = self._tensorstore.Transaction(atomic=True)
        self.number += 1
        self.held = 0

    def abort(self) -> None:
        """Forget what it holds."""
        self.current.abort()


def _write_file(target: FolderTarget, name: str, content: bytes) -> None:
    path = target.file(name).path
    with system_failures(path, "writing"):
        fd = open_to_write(path)
        try:
            write_all(fd, content, 0)
        finally:
            os.close(fd)
