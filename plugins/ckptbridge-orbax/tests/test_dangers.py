"""Hostile checkpoints: nothing outside is read, no process is aborted, and every size is checked first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorstore as ts
from support.arrays import assert_same_bits
from support.bare_process import run_bare
from support.orbax_damage import GOOD, ZARRAY, command_refuses, copy, make_item, read_all, refusal, tree

from bridge_core import BadInputError, LimitExceeded, UnsafeFile, UnsupportedFeature

OCDBT = "orbax-0.12.8/pytree-ocdbt-zarr2-strings"

# Names and links that lead out

OUTSIDE = [
    ("../outside/w",),
    ("a", "/../../outside/w"),
    ("..",),
    ("w/../../outside/w",),
    ("a\0b",),
    ("a//b",),
]


@pytest.mark.parametrize("names", OUTSIDE, ids=map(repr, OUTSIDE))
def test_a_name_that_leads_out_is_refused(tmp_path, command, names):
    make_item(tmp_path / "outside")
    path = make_item(tmp_path / "item", metadata=tree(("v",), ("w",), names))
    assert isinstance(refusal(path), UnsafeFile)
    command(path)


def test_an_absolute_name_is_refused(tmp_path, capsys):
    outside = make_item(tmp_path / "outside") / "w"
    path = make_item(tmp_path / "item", metadata=tree(("v",), (str(outside),)))
    assert isinstance(refusal(path), UnsafeFile)
    command_refuses(path, capsys)


def linked_array(path, outside):
    shutil.rmtree(path / "w")
    (path / "w").symlink_to(outside / "w")


def linked_chunk(path, outside):
    (path / "w/0.0").unlink()
    (path / "w/0.0").symlink_to(outside / "w/0.0")


def linked_zarray(path, outside):
    (path / "w/.zarray").unlink()
    (path / "w/.zarray").symlink_to(outside / "w/.zarray")


def linked_metadata(path, outside):
    (path / "_METADATA").unlink()
    (path / "_METADATA").symlink_to(outside / "_METADATA")


LINKS = [linked_array, linked_chunk, linked_zarray, linked_metadata]


@pytest.mark.parametrize("link", LINKS)
def test_a_link_that_leads_out_is_refused(tmp_path, capsys, link):
    outside = make_item(tmp_path / "outside")
    path = make_item(tmp_path / "item")
    link(path, outside)
    assert isinstance(refusal(path), UnsafeFile)
    command_refuses(path, capsys)


def test_links_are_followed_where_the_caller_asks(tmp_path):
    outside = make_item(tmp_path / "outside")
    path = make_item(tmp_path / "item")
    linked_array(path, outside)
    assert_same_bits(read_all(path, follow_links=True)["w",], GOOD)


@pytest.mark.parametrize("name", ["d", "manifest.ocdbt", "ocdbt.process_0"])
def test_a_link_of_a_database_that_leads_out_is_refused(stored, tmp_path, capsys, name):
    outside = copy(stored / OCDBT, tmp_path / "outside")
    path = copy(stored / OCDBT, tmp_path / "item")
    shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()
    (path / name).symlink_to(outside / name)
    assert isinstance(refusal(path), UnsafeFile)
    command_refuses(path, capsys)


def test_a_link_to_itself(tmp_path):
    path = make_item(tmp_path / "item")
    shutil.rmtree(path / "w")
    (path / "w").symlink_to("w")
    refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["_METADATA", "w/.zarray", "w/0.0"])
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path, name):
    path = make_item(tmp_path / "item")
    (path / name).unlink()
    os.mkfifo(path / name)
    refusal(path)


# Descriptions of arrays

STRUCTURED = [["a", "<f4"], ["b", "<i4"]]
BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}


@pytest.mark.parametrize(
    ("zarray", "kind"),
    [
        ({"shape": [1] * 70, "chunks": [1] * 70}, BadInputError),
        ({"dtype": STRUCTURED}, UnsupportedFeature),
        ({"dtype": "|V2"}, UnsupportedFeature),
        ({"dtype": "|O"}, UnsupportedFeature),
        ({"dtype": "<U4"}, UnsupportedFeature),
        ({"dtype": "<M8[ns]"}, UnsupportedFeature),
        ({"dtype": "float7"}, BadInputError),
        ({"dtype": 4}, BadInputError),
        ({"compressor": {"id": "lzma9"}}, BadInputError),
        ({"compressor": "zstd"}, BadInputError),
        ({"compressor": {"id": "zstd", "level": 1 << 64}}, BadInputError),
        ({"compressor": {**BLOSC, "blocksize": 1 << 70}}, BadInputError),
        ({"compressor": {**BLOSC, "shuffle": -(1 << 70)}}, BadInputError),
        ({"filters": [{"id": "delta"}]}, BadInputError),
        ({"shape": [-3, 4]}, BadInputError),
        ({"shape": [3.5, 4]}, BadInputError),
        ({"shape": [1 << 70, 4]}, BadInputError),
        ({"shape": [1 << 40, 1 << 40]}, BadInputError),
        ({"shape": "34"}, BadInputError),
        ({"shape": [3]}, BadInputError),
        ({"chunks": [0, 4]}, BadInputError),
        ({"chunks": [-1, 4]}, BadInputError),
        ({"chunks": [True, 4]}, BadInputError),
        ({"chunks": [3, 4, 1]}, BadInputError),
        ({"order": "X"}, BadInputError),
        ({"zarr_format": 9}, BadInputError),
        ({"dimension_separator": "\0"}, BadInputError),
        ({"shape": [3, 5]}, BadInputError),
        ({"compressor": {"id": "zstd", "level": 1}}, BadInputError),
        ({"compressor": BLOSC}, BadInputError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_description_that_is_wrong(tmp_path, command, zarray, kind):
    path = make_item(tmp_path / "item", zarray=zarray)
    error = refusal(path)
    assert isinstance(error, kind), type(error)
    assert error.key == ("w",)
    command(path)


ZARR3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [3, 4],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}


def make_zarr3(folder, **changes):
    make_item(folder, metadata=tree(("v",), ("w",), use_zarr3=True))
    for name in ("v", "w"):
        shutil.rmtree(folder / name)
        (folder / name / "c/0").mkdir(parents=True)
        fields = {**ZARR3, **(changes if name == "w" else {})}
        (folder / name / "zarr.json").write_text(json.dumps(fields))
        (folder / name / "c/0/0").write_bytes(GOOD.tobytes())
    return folder


def shards(inner, codecs=None):
    codecs = codecs or ZARR3["codecs"]
    index = [*ZARR3["codecs"], {"name": "crc32c"}]
    configuration = {"chunk_shape": inner, "codecs": codecs, "index_codecs": index}
    return {"name": "sharding_indexed", "configuration": configuration}


def grid(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": [*shape]}}


def test_an_item_of_zarr3_made_by_hand_is_read(tmp_path):
    assert_same_bits(read_all(make_zarr3(tmp_path / "item"))["w",], GOOD)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [1 << 41, 4], "chunk_grid": grid(1 << 41, 4)},
        {"chunk_grid": grid(1 << 41, 4)},
        {"chunk_grid": grid(1 << 62, 1 << 62)},
        {"chunk_grid": grid(0, 4)},
        {"chunk_grid": grid(3)},
        {"chunk_grid": {"name": "rectilinear"}},
        {"chunk_grid": None},
        {"shape": [3, 4, 5]},
        {"shape": [1] * 70, "chunk_grid": grid(*[1] * 70)},
        {"data_type": "float7"},
        {"data_type": "r16"},
        {"data_type": {"name": "struct"}},
        {"data_type": "string"},
        {"node_type": "group"},
        {"zarr_format": 2},
        {"codecs": []},
        {"codecs": [{"name": "lzma9"}]},
        {"codecs": "bytes"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "middle"}}]},
        {"codecs": [*ZARR3["codecs"], {"name": "zstd", "configuration": {"level": 1}}]},
        {"codecs": [*ZARR3["codecs"], {"name": "crc32c"}]},
        {"codecs": [*ZARR3["codecs"], {"name": "zstd", "configuration": {"level": 1 << 64}}]},
        {"fill_value": 1 << 80},
        {"codecs": [shards([1, 4])]},
        {"codecs": [shards([2, 4])]},
        {"codecs": [shards([0, 4])]},
        {"codecs": [shards([3, 4], [shards([3, 4], [shards([3, 4], [shards([3, 4])])])])]},
        {"codecs": [shards([1, 1])], "shape": [1 << 15, 1 << 15], "chunk_grid": grid(1 << 15, 1 << 15)},
        {"storage_transformers": [{"name": "other"}]},
        {"chunk_key_encoding": {"name": "other"}},
        {"must_understand_this": {"must_understand": True}},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_a_description_of_zarr3_that_is_wrong(tmp_path, changes):
    assert refusal(make_zarr3(tmp_path / "item", **changes)).key == ("w",)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"zarr_format": 2}', b"[" * 100_000, json.dumps(ZARRAY).encode() + b"}"],
    ids=lambda content: content[:12].decode("latin-1"),
)
def test_a_description_that_is_not_one(tmp_path, command, content):
    path = make_item(tmp_path / "item", zarray=content or b" ")
    refusal(path)
    command(path)


def test_a_description_of_a_gigabyte_is_not_read(tmp_path):
    path = make_item(tmp_path / "item")
    os.truncate(path / "w/.zarray", 1 << 30)
    assert isinstance(refusal(path), LimitExceeded)


def bomb(megabytes):
    """Return zeros that zstd made small."""
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "memory"},
        "metadata": {
            "shape": [megabytes << 20],
            "chunks": [megabytes << 20],
            "dtype": "|i1",
            "compressor": {"id": "zstd", "level": 1},
        },
        "store_data_equal_to_fill_value": True,
    }
    store = ts.open(spec, create=True).result()
    store.write(np.zeros(megabytes << 20, "i1")).result()
    return bytes(store.kvstore.read("0").result().value)


HUGE = {
    "8 TiB in a chunk": ({"shape": [3, 4], "chunks": [1 << 41, 1]}, {"0.0": b"\0" * 8}),
    "8 TiB in a chunk, and in the array": (
        {"shape": [1 << 41, 1], "chunks": [1 << 41, 1]},
        {"0.0": b"\0" * 8},
    ),
    "8 TiB by two axes": ({"shape": [3, 4], "chunks": [1 << 21, 1 << 20]}, {"0.0": b"\0" * 8}),
    "more than 64 bits": ({"shape": [3, 4], "chunks": [1 << 62, 1 << 62]}, {"0.0": b"\0" * 8}),
    "zstd that becomes 256 MB": (
        {"shape": [2], "chunks": [256 << 20], "dtype": "|i1", "compressor": {"id": "zstd", "level": 1}},
        None,
    ),
}


READING = """
import json, re, resource, sys
from pathlib import Path
from bridge_core import BadInputError, open_state
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
found = {}
for name, path in json.loads(sys.argv[1]).items():
    try:
        with open_state(path) as state:
            found[name] = str([state[key].shape for key in state])
    except BadInputError as err:
        found[name] = type(err).__name__
status = Path("/proc/self/status")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()) if status.exists() else None
print(json.dumps([found, peak and int(peak[1])]))
"""


def test_claims_that_abort_a_process_are_refused(tmp_path):
    """A process of its own for all of them, so that an abort fails this test and not the run."""
    paths = {}
    for number, (name, (zarray, chunks)) in enumerate(HUGE.items()):
        chunks = {"0": bomb(256)} if chunks is None else chunks
        paths[name] = make_item(tmp_path / f"item{number}", zarray=zarray, chunks=chunks)
    arguments = json.dumps({name: str(path) for name, path in paths.items()})
    found, peak = json.loads(in_process(READING, arguments).stdout)
    assert found == dict.fromkeys(HUGE, "LimitExceeded")
    assert peak is None or peak < 200 << 10, f"{peak} KB"


def in_process(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", HUGE)
def test_the_command_refuses_claims_that_abort_a_process(tmp_path, name):
    zarray, chunks = HUGE[name]
    path = make_item(tmp_path / "item", zarray=zarray, chunks=chunks or {"0": bomb(256)})
    done = run_bare("convert", path, tmp_path / "out.safetensors", "--to", "flax", "--model", "none")
    assert done.returncode == 3, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["item"]
