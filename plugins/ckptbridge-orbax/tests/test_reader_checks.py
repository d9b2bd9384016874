"""What a checkpoint declares is checked before tensorstore sees it, and its errors become ours."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.errors import refused
from support.orbax_arrays import write_item

from bridge_core import (
    BadInputError,
    IntegrityError,
    LimitExceeded,
    MalformedFile,
    PermissionDenied,
    SystemFailure,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)
from bridge_core.io import SourceFolder
from ckptbridge_orbax import OrbaxFormat
from ckptbridge_orbax.database_guard import _try_in_child
from ckptbridge_orbax.item_files import ItemFiles
from ckptbridge_orbax.read_failures import read_failures
from ckptbridge_orbax.zarr_metadata import parse_array

ZARR2 = {
    "zarr_format": 2,
    "shape": [4, 6],
    "chunks": [2, 6],
    "dtype": "<f4",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "dimension_separator": ".",
    "compressor": {"id": "zstd", "level": 1},
}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
ZARR3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 6],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 6]}},
    "chunk_key_encoding": {"name": "default"},
    "codecs": [BYTES],
    "fill_value": 0.0,
}


def grid(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def shard(*shape, **settings):
    known = {"chunk_shape": list(shape), "codecs": [BYTES], "index_codecs": [BYTES]}
    return {"name": "sharding_indexed", "configuration": {**known, **settings}}


def parse(document, driver, memory=1 << 40):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_array(text, driver, path="item", key=("w",), memory=memory)


def test_descriptions_that_are_right():
    two, three = parse(ZARR2, "zarr"), parse(ZARR3, "zarr3")
    assert str(two.spec) == str(three.spec) == "float32[4, 6]"
    assert two.chunk_shape == three.chunk_shape == (2, 6)
    assert (two.grid, two.has_fill, three.has_fill) == ((2, 1), False, True)
    assert [array.part_name((1, 0)) for array in (two, three)] == ["1.0", "c/1/0"]
    assert [two.part_index(name) for name in ("1.0", "2.0", "1", "1.x", "-1.0")] == [(1, 0), *[None] * 4]
    assert [three.part_index(name) for name in ("c/1/0", "1/0", "c.1.0")] == [(1, 0), None, None]
    sharded = parse({**ZARR3, "codecs": [shard(1, 3)]}, "zarr3")
    assert (sharded.chunk_shape, sharded.stored_shape) == ((1, 3), (2, 6))
    flat = {**ZARR2, "shape": [], "chunks": []}
    assert parse(flat, "zarr").part_index("0") == ()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("<f4", "float32"), (">f8", "float64"), ("|b1", "bool"), ("|i1", "int8"), ("<c8", "complex64")]
    + [(name, name) for name in ("bfloat16", "float8_e4m3fn", "int4", "float4_e2m1fn")],
)
def test_dtypes_of_zarr_2(dtype, name):
    assert parse({**ZARR2, "dtype": dtype}, "zarr").spec.dtype.name == name


@pytest.mark.parametrize(
    "dtype",
    ["|V2", "|O", "<U4", "<M8[ns]", "|f4", "<b2", "<f3", "<f16", "uint4", "float32", [["a", "<f4"]], 4, None],
)
def test_dtypes_that_are_not_supported(dtype):
    with refused(UnsupportedFeature, key=("w",)):
        parse({**ZARR2, "dtype": dtype}, "zarr")
    with refused(UnsupportedFeature, key=("w",)):
        parse({**ZARR3, "data_type": dtype if dtype != "float32" else "string"}, "zarr3")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"zarr_format": 3}, MalformedFile),
        ({"shape": [4, -6]}, MalformedFile),
        ({"shape": [4, 6.0]}, MalformedFile),
        ({"shape": [True, 6]}, MalformedFile),
        ({"shape": [4]}, MalformedFile),
        ({"shape": "46"}, MalformedFile),
        ({"chunks": [0, 6]}, MalformedFile),
        ({"shape": [1 << 64, 6]}, LimitExceeded),
        ({"shape": [1 << 40, 1 << 40]}, MalformedFile),
        ({"shape": [1] * 33, "chunks": [1] * 33}, UnsupportedFeature),
        ({"chunks": [1 << 40, 6], "shape": [1 << 40, 6]}, LimitExceeded),
        ({"chunks": [1 << 26, 6]}, LimitExceeded),
        ({"filters": [{"id": "delta"}]}, UnsupportedFeature),
        ({"order": "K"}, UnsupportedFeature),
        ({"compressor": {"id": "lzma"}}, UnsupportedFeature),
        ({"compressor": "zstd"}, MalformedFile),
        ({"dimension_separator": "x"}, UnsupportedFeature),
    ],
    ids=lambda value: str(value)[:40],
)
def test_descriptions_of_zarr_2_that_are_refused(change, kind):
    with refused(kind, key=("w",)):
        parse({**ZARR2, **change}, "zarr")


@pytest.mark.parametrize("name", [*ZARR2])
def test_a_description_without_a_field(name):
    optional = ("filters", "order", "dimension_separator")
    document = {field: value for field, value in ZARR2.items() if field != name}
    if name in optional:
        parse(document, "zarr")
    else:
        with pytest.raises(BadInputError):
            parse(document, "zarr")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"zarr_format": 2}, MalformedFile),
        ({"node_type": "group"}, MalformedFile),
        ({"chunk_grid": {"name": "rectangular", "configuration": {}}}, UnsupportedFeature),
        ({"chunk_grid": grid(2)}, MalformedFile),
        ({"chunk_grid": grid(1 << 26, 6)}, LimitExceeded),
        ({"chunk_key_encoding": {"name": "own"}}, UnsupportedFeature),
        ({"codecs": []}, MalformedFile),
        ({"codecs": [{"name": "own"}]}, UnsupportedFeature),
        ({"codecs": [BYTES] * 9}, MalformedFile),
        ({"codecs": [shard(4, 4)]}, MalformedFile),
        ({"codecs": [shard(2, 6, codecs=[shard(2, 6, codecs=[shard(2, 6)])])]}, LimitExceeded),
        ({"codecs": [shard(2, 6, index_codecs=[{"name": "zstd"}])]}, UnsupportedFeature),
        ({"codecs": [shard(1, 1)], "chunk_grid": grid(1 << 25, 1), "shape": [1 << 25, 1]}, LimitExceeded),
        ({"storage_transformers": [{"name": "x"}]}, UnsupportedFeature),
        ({"extension": {"name": "x"}}, UnsupportedFeature),
    ],
    ids=lambda value: str(value)[:40],
)
def test_descriptions_of_zarr_3_that_are_refused(change, kind):
    with refused(kind, key=("w",)):
        parse({**ZARR3, **change}, "zarr3")


def test_a_chunk_may_need_half_of_the_memory():
    large = {**ZARR2, "shape": [1 << 20, 64], "chunks": [1 << 20, 64]}
    assert parse(large, "zarr", memory=1 << 29).spec.nbytes == 1 << 28
    with refused(LimitExceeded, 1 << 28, 1 << 27, key=("w",)):
        parse(large, "zarr", memory=1 << 28)


def test_an_array_that_is_far_larger_than_its_files(tmp_path):
    write_item(tmp_path, {("w",): np.ones((4, 6), np.float32)}, ocdbt=False, driver="zarr3")
    fields = (tmp_path / "_METADATA").read_text().replace('_equal_to_fill_value": true', '": true')
    (tmp_path / "_METADATA").write_text(fields)
    description = json.loads((tmp_path / "w/zarr.json").read_text())
    (tmp_path / "w/zarr.json").write_text(json.dumps({**description, "shape": [1 << 40, 6]}))
    with refused(LimitExceeded, key=("w",)):
        OrbaxFormat().open_folder(SourceFolder(tmp_path))


def test_a_claim_that_aborts_tensorstore_is_refused_and_the_process_goes_on(tmp_path):
    write_item(tmp_path, {("w",): np.ones((4, 6), np.float32)}, ocdbt=False)
    shape = [1 << 20, 1 << 21]
    description = {**json.loads((tmp_path / "w/.zarray").read_text()), "shape": shape, "chunks": shape}
    (tmp_path / "w/.zarray").write_text(json.dumps(description))
    code = (
        "import sys, pathlib\n"
        "from bridge_core import BadInputError\n"
        "from bridge_core.io import SourceFolder\n"
        "from ckptbridge_orbax import OrbaxFormat\n"
        "try: OrbaxFormat().open_folder(SourceFolder(pathlib.Path(sys.argv[1])))['w'][:1]\n"
        "except BadInputError as err: print(err.code)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, LimitExceeded.code), done.stderr


# The files of an item


def test_links_and_special_files(tmp_path):
    outside, item = tmp_path / "outside", tmp_path / "item"
    outside.mkdir()
    item.mkdir()
    (outside / "secret").write_text("x")
    (item / "a").mkdir()
    (item / "a/inner").symlink_to(item / "target")
    (item / "target").write_text("x")
    files = ItemFiles(SourceFolder(item))
    assert set(files.stamps) == {"a/inner", "target"}
    assert files.read("a/inner", 10) == b"x"
    (item / "b").symlink_to(outside)
    with refused(UnsafeFile, "outside"):
        ItemFiles(SourceFolder(item))
    assert "b/secret" in ItemFiles(SourceFolder(item, follow_links=True))
    (item / "b").unlink()
    (item / "a/circle").symlink_to(item / "a")
    with refused(MalformedFile, "circle"):
        ItemFiles(SourceFolder(item))
    (item / "a/circle").unlink()
    os.mkfifo(item / "a/pipe")
    with refused(MalformedFile, "pipe"):
        ItemFiles(SourceFolder(item))


def test_entries_that_do_not_know_their_inode_as_on_windows(tmp_path, monkeypatch):
    class Entry:
        def __init__(self, entry):
            self.name, self.path = entry.name, entry.path
            self.is_dir, self.is_file, self.is_symlink = entry.is_dir, entry.is_file, entry.is_symlink
            self._stat = entry.stat

        def stat(self):
            return os.stat_result((*self._stat()[:1], 0, 0, *self._stat()[3:]))

    scandir = os.scandir

    @contextlib.contextmanager
    def entries_without_inodes(path):
        with scandir(path) as entries:
            yield map(Entry, entries)

    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/0").write_text("x")
    monkeypatch.setattr(os, "scandir", entries_without_inodes)
    ItemFiles(SourceFolder(tmp_path)).check_unchanged()


def test_folders_in_folders_end(tmp_path):
    deep = tmp_path
    for _ in range(70):
        deep = deep / "d"
    deep.mkdir(parents=True)
    with refused(LimitExceeded, 64):
        ItemFiles(SourceFolder(tmp_path))


def test_a_description_that_is_too_large_is_not_read(tmp_path):
    write_item(tmp_path, {("w",): np.ones(2, np.float32)}, ocdbt=False)
    with (tmp_path / "w/.zarray").open("a") as file:
        file.write(" " * (1 << 20))
    with refused(LimitExceeded, ".zarray"):
        OrbaxFormat().open_folder(SourceFolder(tmp_path))


def test_a_dtype_that_the_installed_tensorstore_does_not_have(tmp_path, monkeypatch):
    import tensorstore as ts

    write_item(tmp_path, {("w",): np.ones(2, np.float32)})

    class Older:
        def __getattr__(self, name):
            return getattr(ts, name)

        def dtype(self, name):
            raise TypeError(f"No TensorStore data type with name {name}")

    monkeypatch.setattr("ckptbridge_orbax.array_store.load_tensorstore", Older)
    with refused(UnsupportedFeature, "float32", hint="tensorstore", key=("w",)):
        OrbaxFormat().open_folder(SourceFolder(tmp_path))


# Errors of tensorstore


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("DATA_LOSS: Error decoding: CRC-32C checksum verification failed"), IntegrityError),
        (ValueError("FAILED_PRECONDITION: ZSTD_decompressStream() failed"), IntegrityError),
        (ValueError("Error decoding manifest: Zstd"), IntegrityError),
        (ValueError("FAILED_PRECONDITION: Truncated Zstd-compressed stream"), TruncatedFile),
        (ValueError("OUT_OF_RANGE: Requested byte range [0, 663) is not valid"), TruncatedFile),
        (ValueError('NOT_FOUND: chunk {0, 0} stored at "x" is missing'), MalformedFile),
        (NotImplementedError("UNIMPLEMENTED: own codec"), UnsupportedFeature),
        (
            ValueError("PERMISSION_DENIED: Failed to open: x [OS error 13: Permission denied EACCES]"),
            PermissionDenied,
        ),
        (ValueError("UNKNOWN: Failed to read: x [OS error 5: Input/output error EIO]"), SystemFailure),
        (ValueError("UNKNOWN: Failed to read: x [os_error_code='5']"), SystemFailure),
        (OverflowError("int too big to convert"), IntegrityError),
        (RuntimeError("INTERNAL: something"), SystemFailure),
        (OSError(5, "Input/output error"), SystemFailure),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, Exception) else value.__name__,
)
def test_errors_of_tensorstore(error, kind):
    with refused(kind, "item"), read_failures("item", ("w",)):
        raise error
    if isinstance(error, ValueError) and issubclass(kind, BadInputError):
        with refused(kind, key=("w",)), read_failures("item", ("w",)):
            raise error


def test_an_error_of_ours_is_not_changed():
    with refused(LimitExceeded, "mine"), read_failures("item"):
        raise LimitExceeded("mine")


# The index of a database


def bomb(folder, megabytes):
    """Write a database whose index is small, and large once it is unpacked."""
    import tensorstore as ts

    base = {"driver": "file", "path": f"{folder}/"}
    config = {
        "max_inline_value_bytes": 1 << 20,
        "max_decoded_node_bytes": (1 << 31) - 1,
        "compression": {"id": "zstd", "level": 1},
    }
    database = ts.KvStore.open({"driver": "ocdbt", "base": base, "config": config}).result()
    with ts.Transaction(atomic=True) as transaction:
        store = database.with_transaction(transaction)
        for number in range(megabytes):
            store[f"w{number}/0"] = b"\0" * (1 << 20)


@pytest.mark.slow
def test_an_index_that_needs_too_much_memory(tmp_path, monkeypatch):
    write_item(tmp_path, {("w",): np.ones(2, np.float32)})
    for file in ((tmp_path / "manifest.ocdbt"), *(tmp_path / "d").iterdir()):
        file.unlink()
    bomb(tmp_path, 600)
    assert sum(file.stat().st_size for file in (tmp_path / "d").iterdir()) < 32 << 10
    monkeypatch.setattr("ckptbridge_orbax.array_store.machine_memory", lambda: 1 << 30)
    with refused(LimitExceeded, 1 << 29):
        OrbaxFormat().open_folder(SourceFolder(tmp_path))


@pytest.mark.slow
def test_the_child_reads_an_index_that_is_not_large(tmp_path):
    write_item(tmp_path, {("w",): np.ones(2, np.float32)})
    _try_in_child(f"{tmp_path}/", str(tmp_path), 1 << 30)


def test_an_index_that_may_need_much_memory_and_does_not(tmp_path, monkeypatch):
    write_item(tmp_path, {("w",): np.ones(2, np.float32)})
    tried = []
    monkeypatch.setattr("ckptbridge_orbax.array_store.machine_memory", lambda: 1 << 20)
    monkeypatch.setattr(
        "ckptbridge_orbax.database_guard._try_in_child", lambda place, path, memory: tried.append(place)
    )
    assert list(OrbaxFormat().open_folder(SourceFolder(tmp_path))) == [("w",)]
    assert tried == [f"{tmp_path}/"]
