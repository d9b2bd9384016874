from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest
import tensorstore
from support.errors import refused

import ckptbridge_orbax
from bridge_core import (
    DestinationExists,
    FlatState,
    KeyConflict,
    LimitExceeded,
    StateMetadata,
    SystemFailure,
    UnsupportedFeature,
    UsageError,
    default_registry,
    open_state,
    save_state,
)
from bridge_core.state import DTYPES, load_metadata
from bridge_core.transfer import Budget, FolderWriter
from ckptbridge_orbax.tree_metadata import NODES
from ckptbridge_orbax.writer import write_folder
from ckptbridge_orbax.zarr_metadata import STORED_DTYPES

RNG = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
    def save(tensors, *, layout=None, max_ram=8 << 20, step=None, item=None, **metadata):
        folder = tmp_path / "written"
        folder.mkdir()
        state = FlatState(tensors, layout=layout, metadata=StateMetadata(**metadata))
        write_folder(state, FolderWriter(folder, Budget(2, max_ram)), step=step, item=item)
        return folder

    return save


def stored(folder, name):
    """Return an array as tensorstore reads it, without anything of ours."""
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": f"{name}/"}
    spec = {"driver": "zarr", "kvstore": database, "fill_missing_data_reads": False}
    return tensorstore.open(spec, read=True).result()


def same(left, right):
    left = np.asarray(left)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def random(name, shape):
    dtype = DTYPES[name]
    if name == "bool" or name.startswith(("int4", "int2", "float4")):
        return RNG.integers(0, 2, shape).astype(dtype)
    return np.frombuffer(RNG.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def tree_of(folder):
    return json.loads((folder / "_METADATA").read_text())


def test_every_dtype_and_shape_is_stored_bit_for_bit(save):
    shapes = {"scalar": (), "empty": (0, 3), "one": (1,), "odd": (5, 7, 3)}
    tensors = {(name, what): random(name, shape) for name in STORED_DTYPES for what, shape in shapes.items()}
    folder = save(tensors)
    for key, array in tensors.items():
        assert same(stored(folder, ".".join(key)).read().result(), array), key


def test_large_arrays_are_stored_in_chunks_over_several_transactions(save):
    large = RNG.integers(0, 255, (2048, 12_000), np.uint8)
    stacked = random("float32", (3, 1024, 1024))
    folder = save({"large": large, "stacked": stacked}, max_ram=64 << 20)
    assert same(stored(folder, "large").read().result(), large)
    assert same(stored(folder, "stacked").read().result(), stacked)
    assert same(stored(folder, "large")[:, 1500:3000].read().result(), large[:, 1500:3000])
    assert stored(folder, "large").chunk_layout.read_chunk.shape[1] == 1500
    assert stored(folder, "stacked").chunk_layout.read_chunk.shape[0] == 1


def test_small_arrays_share_a_few_files(save):
    folder = save({("layers", str(i), "w"): np.full((8, 8), i, np.float32) for i in range(300)})
    assert sorted(path.name for path in folder.iterdir()) == [
        "_CHECKPOINT_METADATA",
        "_METADATA",
        "commit_success.txt",
        "d",
        "manifest.ocdbt",
    ]
    assert len(list((folder / "d").iterdir())) < 10


def test_the_tree_is_written_as_orbax_writes_it(save):
    folder = save({("a", "b"): np.zeros(2), ("gemma/layer_0/attn", "w"): np.ones(2)}, empty=(("e",),))
    node = {"key": "a", "key_type": 2}, {"key": "b", "key_type": 2}
    document = tree_of(folder)
    assert document["tree_metadata"]["('a', 'b')"] == {
        "key_metadata": list(node),
        "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
    }
    assert document["tree_metadata"]["('e',)"]["value_metadata"] == {
        "value_type": "Dict",
        "skip_deserialize": True,
    }
    assert {name: document[name] for name in document if name != "tree_metadata"} == {
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    assert same(stored(folder, "gemma/layer_0/attn.w").read().result(), np.ones(2))
    assert isinstance(json.loads((folder / "_CHECKPOINT_METADATA").read_text())["item_handlers"], str)


def test_lists_and_empty_nodes_are_what_they_were(save):
    nodes = {"l": "Sequence", "renamed": "Sequence", "opt.1": "None", "e": "Tuple", "x": "Other"}
    folder = save(
        {("l", "0"): np.zeros(1), ("l", "1"): np.zeros(1), ("renamed", "1"): np.zeros(1)},
        empty=(("opt", "1"), ("e",), ("x",), ("l",), ("plain",)),
        extra={NODES: json.dumps(nodes)},
    )
    document = tree_of(folder)
    tree = document["tree_metadata"]
    assert [part["key_type"] for part in tree["('l', '0')"]["key_metadata"]] == [2, 1]
    assert [part["key_type"] for part in tree["('renamed', '1')"]["key_metadata"]] == [2, 2]
    kinds = {path: entry["value_metadata"]["value_type"] for path, entry in tree.items()}
    assert (kinds["('opt', '1')"], kinds["('e',)"], kinds["('x',)"]) == ("None", "Tuple", "Dict")
    assert kinds["('plain',)"] == "Dict"
    assert "('l',)" not in kinds
    assert document["custom_metadata"] is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"l": 1}', "[" * 100_000])
def test_a_damaged_record_of_nodes_is_ignored(save, text):
    tree = tree_of(save({("l", "0"): np.zeros(1)}, extra={NODES: text}))["tree_metadata"]
    assert [part["key_type"] for part in tree["('l', '0')"]["key_metadata"]] == [2, 2]


def test_metadata_is_stored_where_the_tree_does_not_show_it(save):
    metadata = {"ties": {("a",): ("b",)}, "tree_form": {"flax": "params"}, "extra": {"note": "né"}}
    folder = save({"a": np.zeros(1), "b": np.zeros(1)}, layout="flax", empty=(("e",),), **metadata)
    custom = tree_of(folder)["custom_metadata"]
    layout, loaded, escaped = load_metadata(custom["ckptbridge"])
    assert (layout, loaded, escaped) == (
        "flax",
        StateMetadata(ties={("a",): ("b",)}, tree_form={"flax": "params"}),
        False,
    )
    assert custom["note"] == "né"
    assert same(stored(folder, "a").read().result(), np.zeros(1))


@pytest.mark.parametrize("layout", ["torch", "neutral", None])
def test_another_layout_is_stored(save, layout):
    custom = tree_of(save({"a": np.zeros(1)}, layout=layout))["custom_metadata"]
    assert custom is None if layout is None else load_metadata(custom["ckptbridge"])[0] == layout


def with_orbax():
    """Return the registry with the plugin, installed or not."""
    registry = default_registry()
    installed = "orbax" in registry.folder_formats
    return registry if installed else registry.extend(ckptbridge_orbax, name="orbax")


def test_ties_and_lists_survive_the_way_through_the_core(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    registry = with_orbax()
    array = np.ones(2, np.float32)
    metadata = StateMetadata(ties={("b", "1"): ("b", "0")}, extra={NODES: '{"b": "Sequence"}'})
    state = FlatState({("b", "0"): array, ("b", "1"): array}, layout="flax", metadata=metadata)
    trees = []
    for name in ("sub/../first", "second"):
        save_state(state, name, format="orbax", registry=registry, verify=True)
        state = open_state(name, registry=registry)
        assert state.metadata.ties == metadata.ties
        trees.append(tree_of(tmp_path / name))
    assert trees[0] == trees[1]


def test_an_item_is_a_folder_in_the_step(save):
    folder = save({"a": np.arange(3)}, step=7, item="params")
    assert sorted(path.name for path in folder.iterdir()) == [
        "_CHECKPOINT_METADATA",
        "commit_success.txt",
        "params",
    ]
    assert (folder / "params" / "commit_success.txt").exists()
    assert list(json.loads((folder / "_CHECKPOINT_METADATA").read_text())["item_handlers"]) == ["params"]
    assert same(stored(folder / "params", "a").read().result(), np.arange(3))


def test_a_step_remembers_the_items_that_stay(tmp_path):
    registry = with_orbax()
    options = {"format": "orbax", "registry": registry, "step": 7}
    step = tmp_path / "run" / "7"
    save_state({"a": np.arange(3)}, tmp_path / "run", item="params", **options)
    document = json.loads((step / "_CHECKPOINT_METADATA").read_text())
    known = {**document["item_handlers"], "meta": "json", "gone": "json"}
    document = {**document, "item_handlers": known, "metrics": {"loss": 1.5}, "commit_timestamp_nsecs": 1}
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(document))
    (step / "meta").mkdir()
    save_state({"b": np.arange(4)}, tmp_path / "run", item="state", overwrite=True, **options)
    written = json.loads((step / "_CHECKPOINT_METADATA").read_text())
    assert list(written["item_handlers"]) == ["params", "meta", "state"]
    assert written["item_handlers"]["meta"] == "json"
    assert (written["metrics"], written["commit_timestamp_nsecs"]) == ({"loss": 1.5}, 1)
    assert np.array_equal(open_state(tmp_path / "run", entry="params", registry=registry)["a"], np.arange(3))


def test_a_step_is_not_written_next_to_a_folder_of_the_same_step(tmp_path):
    options = {"format": "orbax", "layout": "flax", "registry": with_orbax(), "step": 3}
    save_state({("a",): ONE}, tmp_path / "run", **options)
    (tmp_path / "run" / "3").rename(tmp_path / "run" / "checkpoint_3")
    with refused(DestinationExists, "run", "step 3", hint="--to-step"):
        save_state({("a",): ONE}, tmp_path / "run", **options)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["checkpoint_3"]


def test_a_step_without_a_named_item_has_the_default_one(save):
    assert same(stored(save({"a": np.arange(3)}, step=0) / "default", "a").read().result(), np.arange(3))


def test_a_state_without_tensors_needs_no_database(save):
    folder = save({}, empty=(("e",),))
    assert sorted(path.name for path in folder.iterdir()) == [
        "_CHECKPOINT_METADATA",
        "_METADATA",
        "commit_success.txt",
    ]
    assert tree_of(folder)["use_ocdbt"] is False


ONE = np.zeros(1)


@pytest.mark.parametrize(
    ("kind", "tensors", "metadata"),
    [
        (KeyConflict, {("a", "b"): ONE, ("a.b",): ONE}, {}),
        (KeyConflict, {("a",): ONE, ("a", "b"): ONE}, {}),
        (KeyConflict, {("a",): ONE}, {"empty": (("a",),)}),
        (KeyConflict, {(): ONE}, {}),
        (KeyConflict, {("a",): ONE}, {"extra": {"ckptbridge": "text"}}),
        (UnsupportedFeature, {("a",): ONE}, {"extra": {"note": "\ud800"}}),
        (UnsupportedFeature, {("a", ""): ONE}, {}),
        (UnsupportedFeature, {("a", ".."): ONE}, {}),
        (UnsupportedFeature, {("../a",): ONE}, {}),
        (UnsupportedFeature, {("/a",): ONE}, {}),
        (UnsupportedFeature, {("a//b",): ONE}, {}),
        (UnsupportedFeature, {("a/.zarray",): ONE}, {}),
        (UnsupportedFeature, {("a\0",): ONE}, {}),
        (UnsupportedFeature, {("a\ud800",): ONE}, {}),
        (UnsupportedFeature, {("a",): ONE}, {"empty": (("e", ""),)}),
        (LimitExceeded, {("a",) * 200: ONE}, {}),
        (LimitExceeded, {("a" * 5000,): ONE}, {}),
        (UnsupportedFeature, {("a",): np.zeros((1,) * 33)}, {}),
        (UnsupportedFeature, {("a",): np.zeros(2, ml_dtypes.uint4)}, {}),
        (UnsupportedFeature, {("a",): np.zeros(2, ml_dtypes.float8_e4m3)}, {}),
    ],
    ids=str,
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(save, tmp_path, kind, tensors, metadata):
    with refused(kind):
        save(tensors, **metadata)
    assert list((tmp_path / "written").iterdir()) == []


@pytest.mark.parametrize(
    "item",
    ["", ".", "..", "a/b", "a\\b", "_METADATA", "a\0", "x.orbax-checkpoint-tmp", ".x", "ocdbt.process_0"],
)
def test_an_item_that_is_not_a_folder_name_is_refused(save, tmp_path, item):
    with refused(UsageError, hint="--to-item"):
        save({"a": ONE}, item=item)
    assert list((tmp_path / "written").iterdir()) == []


def test_a_step_that_could_not_be_read_is_refused(save, tmp_path):
    with refused(UsageError, hint="--to-step"):
        save({"a": ONE}, step=10**18)
    assert list((tmp_path / "written").iterdir()) == []


def test_a_write_that_fails_is_an_error_with_the_number_of_the_system(save, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    tensors = {f"w{i}": RNG.random((1024, 512)) for i in range(4)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        with refused(SystemFailure, tmp_path / "written") as caught:
            save(tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("after", [0, 1])
def test_what_a_source_raises_ends_the_writing(save, after):
    class Failing:
        spec = FlatState({"a": np.zeros((4 << 10, 4 << 10), np.float32)}).spec("a")
        reads = 0

        def read(self, region):
            self.reads += 1
            if self.reads > after:
                raise ZeroDivisionError
            return np.zeros([s.stop - s.start for s in region], np.float32)

    with pytest.raises(ZeroDivisionError):
        save({"a": Failing()})


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from bridge_core import FlatState, TensorSpec
from bridge_core.state import LazyTensor
from bridge_core.transfer import Budget, FolderWriter
from ckptbridge_orbax.writer import write_folder

def write(name, rows):
    spec = TensorSpec((rows, 4096), np.dtype("float32"))
    values = np.random.default_rng(0).random((64, 4096), np.float32)
    read = lambda region: np.resize(values, [s.stop - s.start for s in region])
    folder = Path(sys.argv[1], name)
    folder.mkdir()
    write_folder(FlatState({("w",): LazyTensor(spec, read)}), FolderWriter(folder, Budget(2, 16 << 20)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small = write("small", 2048)
print((write("large", 10240) - small) >> 10)
"""


def test_a_tensor_larger_than_the_memory_takes_no_more_memory(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 32, "MiB more than for a tensor of 32 MiB; the tensor has 160 MiB"
