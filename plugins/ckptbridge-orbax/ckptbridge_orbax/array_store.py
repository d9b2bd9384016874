"""The arrays of an item: which there are, what they declare, and their values by region.

Arrays are in databases of tensorstore's (OCDBT), one for the item or, where the processes' databases were
never merged, one for each process; or each is in a folder of its own.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core import Key, MalformedFile, SystemFailure, UnsupportedFeature
from bridge_core.io import machine_memory, processors
from bridge_core.messages import listed
from bridge_core.state import Array, Region, is_unicode, region_shape
from ckptbridge_orbax.chunk_pieces import crossings, pieces
from ckptbridge_orbax.database_guard import check_database
from ckptbridge_orbax.file_names import ARRAY_FILES, MANIFEST, PROCESS
from ckptbridge_orbax.item_files import ItemFiles
from ckptbridge_orbax.read_failures import read_failures
from ckptbridge_orbax.tensorstore_module import load_tensorstore
from ckptbridge_orbax.zarr_metadata import ZarrArray, parse_array

__all__ = ["ArrayStore", "StoredArray"]

_OPEN_ARRAYS = 512
"""Most arrays that stay open; each needs some KiB."""
_IN_FLIGHT = 1000
"""Descriptions that are read at once."""
_IN_MEMORY = 8 << 20
"""Bytes of the chunks that one read decodes at once; 32 MiB took as long, and three times the memory."""
_NODE_CACHE = 32 << 20
"""Bytes of a database's nodes in memory."""
_MOST_DESCRIPTION = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of a store.

    Args:
        name: Its name.
        array: What its description declares.
        sources: Places of the databases, or of the folder, that hold parts of it.
        parts: How many parts of it are stored.
        places: Part -> index in ``sources``, where there is more than one.
    """

    name: str
    array: ZarrArray
    sources: tuple[int, ...]
    parts: int
    places: Mapping[tuple[int, ...], int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many parts are not stored."""
        return math.prod(self.array.grid) - self.parts


class ArrayStore:
    """The arrays of an item.

    Args:
        files: The files of the item.
        use_ocdbt: Whether the arrays are in a database; None to look for one.
        fill_missing: Whether parts that are not stored are read as the fill value.

    Raises:
        MalformedFile: The database is missing.
        IntegrityError: The database is damaged.
        SystemFailure: A file cannot be read.
    """

    def __init__(self, files: ItemFiles, use_ocdbt: bool | None, fill_missing: bool) -> None:
        self._files = files
        self.fill_missing = fill_missing
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int], Any] | None = OrderedDict()
        self._context: Any = None
        if not is_unicode(files.root):
            raise UnsupportedFeature("the path of the checkpoint is not valid Unicode.", path=files.path)
        self._databases = _databases(files, use_ocdbt)
        """Folders of the databases, relative to the item; empty if each array has a folder."""
        self._names: dict[str, dict[str, list[int]]] = {}
        """Array -> name of its description -> the databases that hold it."""
        self._parts: dict[str, list[tuple[str, int]]] = {}
        self._list()

    @property
    def names(self) -> Collection[str]:
        """Names of all arrays."""
        return self._names.keys()

    def __contains__(self, name: str) -> bool:
        """Return whether there is an array of this name."""
        return name in self._names

    def arrays(self, keys: Mapping[str, Key]) -> dict[str, StoredArray]:
        """Read and check the descriptions of arrays, many at once.

        Args:
            keys: Names of arrays, and for errors the tensors that they are.

        Raises:
            BadInputError: As `parse_array`, or two databases describe an array differently.
        """
        memory = machine_memory()
        arrays: dict[str, StoredArray] = {}
        parsed: dict[tuple[bytes, str], ZarrArray] = {}  # the layers of a model have equal descriptions
        places: list[tuple[str, str, int]] = []
        for name, key in keys.items():
            kinds = self._names[name]
            if len(kinds) > 1:
                raise MalformedFile(
                    "the array has descriptions of zarr 2 and of zarr 3.", path=self._files.path, key=key
                )
            ((description, sources),) = kinds.items()
            places += [(name, description, source) for source in sources]
        for start in range(0, len(places), _IN_FLIGHT):
            batch = places[start : start + _IN_FLIGHT]
            for (name, description, source), text in zip(batch, self._texts(batch, keys), strict=True):
                driver, path = ARRAY_FILES[description], self._files.path
                array = parsed.get((text, driver))
                if array is None:
                    array = parse_array(text, driver, path=path, key=keys[name], memory=memory)
                    self._require_dtype(array, keys[name])
                    parsed[text, driver] = array
                before = arrays.get(name)
                if before is not None and before.array.metadata != array.metadata:
                    raise MalformedFile("two processes describe it differently.", path=path, key=keys[name])
                others = before.sources if before else ()
                arrays[name] = StoredArray(name, array, (*others, source), 0)
        return {name: self._with_parts(stored, keys[name]) for name, stored in arrays.items()}

    def read(self, stored: StoredArray, region: Region, key: Key) -> Array:
        """Read a region into a new C-contiguous array; only the parts that it touches are decoded.

        Raises:
            BadInputError, SystemFailure: As `read_failures`.
        """
        with read_failures(self._files.path, key):
            out = np.empty(region_shape(region), stored.array.spec.dtype)
        self.read_into(stored, region, out, key)
        return out

    def read_into(self, stored: StoredArray, region: Region, out: Array, key: Key) -> None:
        """Read a region into a C-contiguous array of its shape; errors as in `read`."""
        if not out.size:
            return
        array, itemsize = stored.array, stored.array.spec.dtype.itemsize
        if not stored.places:
            # tensorstore would read all chunks of a region before it has decoded the first ones.
            for inner, outer in pieces(region, array.chunk_shape, itemsize, _IN_MEMORY):
                self._fill(stored, stored.sources[0], inner, _view(out, outer), key)
            return
        for index, inner, outer in crossings(region, array.stored_shape):
            place = stored.places.get(index)
            if place is None:
                raise _missing_part(stored, index, self._files.path, key)
            self._fill(stored, place, inner, _view(out, outer), key)

    def close(self) -> None:
        """Forget what is open; later reads fail."""
        with self._lock:
            self._open = None
            self._context = None

    def _fill(self, stored: StoredArray, source: int, region: Region, out: Array, key: Key) -> None:
        ts = load_tensorstore()
        opened, context = self._opened(stored, source, key)
        with read_failures(self._files.path, key):
            # tensorstore ends the process if it cannot allocate a result; numpy raises an error.
            view = opened[region].translate_to[(0,) * len(region)] if region else opened
            ts.array(out, context=context).write(view).result()

    def _opened(self, stored: StoredArray, source: int, key: Key) -> tuple[Any, Any]:
        with self._lock:
            if self._open is None:
                raise SystemFailure(
                    "the checkpoint was closed, and cannot be read any more.",
                    path=self._files.path,
                    key=key,
                    hint="Read inside the 'with' block of open_state, or call close() later.",
                )
            name = (stored.name, source)
            opened = self._open.get(name)
            if opened is None:
                with read_failures(self._files.path, key):
                    opened = self._open_array(stored, source)
                self._open[name] = opened
                if len(self._open) > _OPEN_ARRAYS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(name)
            return opened, self._context

    def _require_dtype(self, array: ZarrArray, key: Key) -> None:
        name = array.spec.dtype.name
        try:
            load_tensorstore().dtype(name)
        except (TypeError, ValueError):
            raise UnsupportedFeature(
                f"the installed version of tensorstore does not have the dtype {name!r}.",
                path=self._files.path,
                key=key,
                hint="Run: pip install --upgrade tensorstore",
            ) from None

    def _open_array(self, stored: StoredArray, source: int) -> Any:
        array = stored.array
        prefix = f"{stored.name}/" if stored.name else ""  # names are prefixes: "w" is also that of "w2"
        spec = {
            "driver": array.driver,
            "kvstore": {**self._kvstore(source), "path": prefix}
            if self._databases
            else {"driver": "file", "path": f"{self._files.root}/{prefix}"},
            # What was checked is what is read.
            "metadata": dict(array.metadata),
            "assume_metadata": True,
            "recheck_cached_data": False,
            "fill_missing_data_reads": self.fill_missing and array.has_fill,
        }
        opened = load_tensorstore().open(spec, open=True, read=True, context=self._resources()).result()
        if opened.dtype.numpy_dtype != array.spec.dtype or tuple(opened.shape) != array.spec.shape:
            raise ValueError(f"FAILED_PRECONDITION: tensorstore reads it as {opened.dtype.name}")
        return opened

    def _resources(self) -> Any:
        """Return tensorstore's context: no cache of values, and few threads."""
        if self._context is None:
            threads = max(1, min(4, processors()))
            self._context = load_tensorstore().Context(
                {
                    "cache_pool": {"total_bytes_limit": 0},
                    "cache_pool#ocdbt": {"total_bytes_limit": _NODE_CACHE},
                    "data_copy_concurrency": {"limit": threads},
                    "file_io_concurrency": {"limit": threads},
                }
            )
        return self._context

    def _kvstore(self, source: int) -> dict[str, Any]:
        place = "/".join(filter(None, (self._files.root, self._databases[source])))
        base = {"driver": "file", "path": f"{place}/"}
        return {"driver": "ocdbt", "base": base, "cache_pool": "cache_pool#ocdbt"}

    def _database(self, source: int) -> Any:
        ts = load_tensorstore()
        return ts.KvStore.open(self._kvstore(source), context=self._resources()).result()

    def _list(self) -> None:
        for source, folder in enumerate(self._databases):
            check_database(self._files, folder, machine_memory())
            with read_failures(self._files.path):
                names = [bytes(name) for name in self._database(source).list().result()]
            self._enter(sorted(name.decode("utf-8", "surrogateescape") for name in names), source)
        if not self._databases:
            self._enter(self._files.stamps, 0)

    def _enter(self, names: Iterable[str], source: int) -> None:
        """Sort the names of a database or of the files: descriptions, and parts of arrays."""
        rest = []
        for name in names:
            folder, _, last = name.rpartition("/")
            if last in ARRAY_FILES:
                self._names.setdefault(folder, {}).setdefault(last, []).append(source)
            else:
                rest.append(name)
        for name in rest:
            owner = name
            while owner:
                owner = owner.rpartition("/")[0]
                if owner in self._names:
                    self._parts.setdefault(owner, []).append((name[len(owner) :].lstrip("/"), source))
                    break

    def _with_parts(self, stored: StoredArray, key: Key) -> StoredArray:
        array = stored.array
        places: dict[tuple[int, ...], int] = {}
        for name, source in self._parts.get(stored.name, ()):
            index = array.part_index(name)
            if index is None or source not in stored.sources:
                continue
            if index in places:
                raise MalformedFile(
                    f"two processes stored the part {array.part_name(index)!r} of it.",
                    path=self._files.path,
                    key=key,
                    hint="Finish the checkpoint with Orbax, which merges the processes' databases.",
                )
            places[index] = source
        several = len(set(places.values())) > 1
        sources = tuple(dict.fromkeys(places.values())) if places and not several else stored.sources
        return StoredArray(stored.name, array, sources, len(places), places if several else {})

    def _texts(self, batch: Sequence[tuple[str, str, int]], keys: Mapping[str, Key]) -> list[bytes]:
        """Return descriptions."""
        names = ["/".join(filter(None, (name, description))) for name, description, _ in batch]
        if not self._databases:
            return [self._files.read(name, _MOST_DESCRIPTION) for name in names]
        databases = {source: self._database(source) for source in {source for _, _, source in batch}}
        with read_failures(self._files.path):
            reads = [databases[b[2]].read(name) for b, name in zip(batch, names, strict=True)]
        texts = []
        for (name, _, _), read in zip(batch, reads, strict=True):
            with read_failures(self._files.path, keys[name]):
                texts.append(bytes(read.result().value))
        return texts


def _databases(files: ItemFiles, use_ocdbt: bool | None) -> tuple[str, ...]:
    if use_ocdbt is False:
        return ()
    if MANIFEST in files:
        return ("",)
    processes = [name for name in files.top_folders if name.startswith(PROCESS)]
    complete = tuple(name for name in processes if f"{name}/{MANIFEST}" in files)
    if complete:
        lost = [name for name in processes if name not in complete]
        if lost:
            raise MalformedFile(
                f"the file {MANIFEST} is missing in {listed(lost)}.",
                path=files.path,
                hint="Copy or download the checkpoint again.",
            )
        return complete
    if use_ocdbt or (files.has_folder("d") and not any(f"d/{name}" in files for name in ARRAY_FILES)):
        # An OCDBT without a manifest opens as an empty one.
        raise MalformedFile(
            f"the file {MANIFEST} is missing, which lists the arrays.",
            path=files.path,
            hint="Copy or download the checkpoint again.",
        )
    return ()


def _view(array: Array, region: Region) -> Array:
    index: tuple[Any, ...] = (*region, ...)  # with the ellipsis, no axes give an array, not a scalar
    view: Array = array[index]
    return view


def _missing_part(stored: StoredArray, index: tuple[int, ...], path: str, key: Key) -> MalformedFile:
    return MalformedFile(
        f"the part {stored.array.part_name(index)!r} of the array is not stored.", path=path, key=key
    )
