import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.errors import refused
from support.toy_format import MAGIC, ToyFormat, ToyFramework, assert_same, descriptors, registry

from bridge_core import (
    BridgeError,
    DestinationExists,
    FlatState,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    PluginError,
    ShardError,
    SourceNotFound,
    StateMetadata,
    SystemFailure,
    Tensor,
    TruncatedFile,
    UnsupportedFeature,
    UsageError,
    VerificationError,
    as_state,
    convert,
)
from bridge_core.checkpoint.checkpoint_writer import Saved
from bridge_core.checkpoint.open_save import open_state, save_state
from bridge_core.checkpoint.weight_files import find_weights
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.metadata import AuxiliaryTensor, LayerInfo
from bridge_core.transfer.budget import parse_size
from bridge_core.transfer.progress import Progress

REGISTRY = registry()


def small(count=6, dtype="float32"):
    return {("layers", str(i), "weight"): np.arange(4 * i, 4 * i + 4).astype(dtype) for i in range(count)}


def save(state, path, **options):
    return save_state(state, path, registry=REGISTRY, **options)


def load(path, **options):
    return open_state(path, registry=REGISTRY, **options)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


# --- sizes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (7, 7),
        ("7", 7),
        ("5GB", 5 * 10**9),
        ("512MiB", 512 << 20),
        ("2 kb", 2000),
        ("1.5KiB", 1536),
        ("3T", 3 * 10**12),
        ("10B", 10),
    ],
)
def test_sizes_are_read(text, wanted):
    assert parse_size(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-1", "1e9", "5iB", "0", 0, -3, True, 1.5, "0.1B"])
def test_what_is_no_size_is_refused(text):
    with refused(UsageError):
        parse_size(text)


# --- files


def test_a_file_holds_what_was_saved(tmp_path):
    state = FlatState(small(), layout="torch")
    saved = save(state, tmp_path / "a.safetensors", verify=True)
    assert saved.format == "safetensors"
    assert saved.files == (tmp_path / "a.safetensors",)
    assert saved.total_bytes == (tmp_path / "a.safetensors").stat().st_size
    assert set(saved.checksums) == set(state)
    assert names(tmp_path) == ["a.safetensors"]
    with load(tmp_path / "a.safetensors") as back:
        assert back.layout == "torch"
        assert_same(back, state)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("x.toy", {}, "toy"),
        ("x.bin", {}, "toy"),
        ("X.SAFETENSORS", {}, "safetensors"),
        ("weights", {}, "safetensors"),
        ("weights.of.mine", {}, "safetensors"),
        ("x.safetensors", {"format": "toy"}, "toy"),
    ],
)
def test_the_format_follows_the_option_then_the_name(tmp_path, name, options, wanted):
    assert save(small(), tmp_path / name, **options).format == wanted
    with load(tmp_path / name) as back:
        assert_same(back, small())


def test_without_an_extension_the_layouts_framework_decides(tmp_path):
    toys = registry(frameworks=(ToyFramework(),))
    state = FlatState(small(), layout="toyland")
    assert save_state(state, tmp_path / "weights", registry=toys).format == "toy"


def test_an_unknown_format_is_a_usage_error(tmp_path):
    with refused(UsageError, "'gold'", "format"):
        save(small(), tmp_path / "a", format="gold")
    with refused(UsageError, "'gold'", "format"):
        load(tmp_path / "a", format="gold")
    assert names(tmp_path) == []


def test_plain_dicts_with_dotted_names_are_states(tmp_path):
    save({"a.b": np.ones(2), "c": np.zeros(())}, tmp_path / "a.safetensors")
    with load(tmp_path / "a.safetensors") as back:
        assert list(back) == [("a", "b"), ("c",)]


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pt", "a.msgpack"])
@pytest.mark.parametrize("layout", ["torch", "flax", "neutral"])
def test_the_layout_of_a_plain_mapping_is_known_when_it_is_opened(tmp_path, name, layout):
    save_state({"a": {"w": np.ones((2, 3), "f4")}}, tmp_path / name, layout=layout)
    with open_state(tmp_path / name) as back:
        assert back.layout == layout
        assert list(back) == [("a", "w")]


def test_a_layout_that_is_unknown_or_another_one_is_refused(tmp_path):
    state = FlatState({"a.w": np.ones(2, "f4")}, layout="torch")
    with refused(UsageError, "'torch'", "'flax'", "layout="):
        save_state(state, tmp_path / "a.npz", layout="flax")
    with refused(UsageError, "'tf'", "framework"):
        save_state(state, tmp_path / "a.npz", layout="tf")
    assert names(tmp_path) == []
    save_state(state, tmp_path / "a.npz", layout="torch")
    save_state(state, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_key_of_other_things_than_strings_is_refused(tmp_path):
    with refused(UsageError, "('layers', 0.5)"):
        save({("layers", 0.5): np.ones(2)}, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (5, "int"),
        (None, "None"),
        ("a.safetensors", "str"),
        ([("a", 1)], "list"),
        ({0.5: np.ones(2)}, "0.5"),
        ({None: np.ones(2)}, "None"),
    ],
)
def test_what_is_no_state_is_refused(tmp_path, value, named):
    with refused(UsageError, named):
        save(value, tmp_path / "a.safetensors")
    assert names(tmp_path) == []


def test_an_empty_path_does_not_stand_for_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(small(), "model.safetensors")
    with refused(UsageError, "path is empty", hint="'.'"):
        load("")
    with refused(UsageError, "path is empty", hint="'.'"):
        save(small(), "", overwrite=True)
    assert names(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("path", [b"a.npz", 3, None, ["a.npz"]])
def test_what_is_not_a_path_is_refused(path):
    for use in (open_state, lambda path: convert(small(), path, to="neutral")):
        with refused(UsageError, "pathlib.Path", repr(path)):
            use(path)


def test_an_address_of_no_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (open_state, lambda path: convert(small(), path, to="neutral")):
        with refused(UsageError, "ftp://example.org/a.npz", hint="s3"):
            use("ftp://user:secret@example.org/a.npz")
    assert not names(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "openai/whisper-tiny", "some/llama-3.1"])
def test_the_name_of_a_model_on_a_hub_is_refused_with_its_url(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with refused(SourceNotFound, name, hint=f"hf://{name}"):
        open_state(name)
    with refused(SourceNotFound, f"{name}.safetensors") as caught:
        open_state(f"{name}.safetensors")
    assert "hf://" not in (caught.value.hint or "")


def test_dtypes_the_format_lacks_are_refused_all_at_once_before_anything_is_made(tmp_path):
    state = {"a": np.ones(2), "b": np.ones(2, "f4"), "c": np.zeros(3)}
    with refused(UnsupportedFeature, "toy", "float64", "2 tensors", "a, c", hint=("--dtype", "safetensors")):
        save(state, tmp_path / "out.toy", progress=lambda _: pytest.fail("wrote"))
    with pytest.raises(UnsupportedFeature):
        save(state, tmp_path / "out/", format="toy")
    assert names(tmp_path) == []


def test_an_empty_state_can_be_saved(tmp_path):
    save({}, tmp_path / "a.safetensors")
    save({}, tmp_path / "folder/", max_shard_size=10)
    assert names(tmp_path / "folder") == ["model.safetensors"]
    with load(tmp_path / "folder") as back:
        assert len(back) == 0


def test_an_existing_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("precious")
    path.chmod(0o640)
    with refused(DestinationExists, path, hint="--overwrite"):
        save(small(), path)
    assert path.read_text() == "precious"
    save(small(), path, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o640
    with load(path) as back:
        assert_same(back, small())


def test_new_files_get_the_usual_mode(tmp_path):
    mask = os.umask(0o027)
    try:
        save(small(), tmp_path / "a.safetensors")
        save(small(), tmp_path / "f", max_shard_size=40)
    finally:
        os.umask(mask)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "f").iterdir()} == {0o640}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nowhere/a.safetensors", SystemFailure),
        ("nowhere/deep/", SystemFailure),
        ("file/a.safetensors", SystemFailure),
        ("nul\0", UsageError),
        ("x" * 300, SystemFailure),
        ("/", UsageError),
    ],
)
def test_impossible_destinations_are_clear_errors(tmp_path, path, error):
    (tmp_path / "file").write_text("")
    with pytest.raises(error):
        save(small(), path if path == "/" else f"{tmp_path}/{path}", overwrite=True)
    assert names(tmp_path) == ["file"]


def test_the_longest_names_work(tmp_path):
    path = tmp_path / ("x" * 255)
    save(small(), path)
    save(small(), path, overwrite=True)
    assert names(tmp_path) == [path.name]


def test_a_fifo_as_destination_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with refused(DestinationExists, tmp_path / "pipe"):
        save(small(), tmp_path / "pipe", overwrite=True)


# --- folders


def test_a_folder_gets_one_file_if_all_fits(tmp_path):
    saved = save(small(), tmp_path / "f", max_shard_size="1MB")
    assert names(tmp_path / "f") == ["model.safetensors"]
    assert saved.files == (tmp_path / "f" / "model.safetensors",)


@pytest.mark.parametrize("make", [lambda d: f"{d}/new/", lambda d: (d / "new").mkdir() or d / "new"])
def test_a_slash_or_an_existing_folder_means_a_folder(tmp_path, make):
    save(small(), make(tmp_path))
    assert names(tmp_path / "new") == ["model.safetensors"]


def test_shards_and_their_index_are_named_and_read_back(tmp_path):
    saved = save(small(5), tmp_path / "f", max_shard_size=32, verify=True)
    assert [path.name for path in saved.files] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    assert saved.total_bytes == sum(path.stat().st_size for path in saved.files)
    assert names(tmp_path) == ["f"]
    document = json.loads((tmp_path / "f" / "model.safetensors.index.json").read_text())
    assert document["metadata"]["total_size"] == 5 * 16
    assert list(document["weight_map"]) == [f"layers.{i}.weight" for i in range(5)]
    for source in (tmp_path / "f", tmp_path / "f" / "model.safetensors.index.json"):
        with load(source) as back:
            assert list(back) == list(small(5))
            assert_same(back, small(5))


def test_a_format_without_usual_names_cannot_fill_a_folder(tmp_path):
    class Nameless(ToyFormat):
        name, names, extensions = "nameless", None, (".nameless",)

        def sniff(self, file):
            return False

    with refused(UsageError, "nameless", "usual file names", hint="max_shard_size"):
        save_state(
            small(), tmp_path / "f", max_shard_size=8, format="nameless", registry=registry(Nameless())
        )


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    folder = tmp_path / "f"
    save(small(5), folder, max_shard_size=32)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DestinationExists):
        save(small(2), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert names(tmp_path) == ["f"]


def test_replacing_a_folder_removes_all_old_weights_and_keeps_the_rest(tmp_path):
    folder = tmp_path / "f"
    save(small(5), folder, max_shard_size=32)
    stale = [
        "toy_model.toy",
        "toy_model-00001-of-00002.toy",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors",
        "toy_model.toy.index.json",
    ]
    for name in stale:
        (folder / name).write_bytes(b"old")
    (folder / "config.json").write_text("{}")
    (folder / "my.safetensors").write_bytes(b"mine")
    (folder / "sub").mkdir(mode=0o700)
    (folder / "sub" / "model.safetensors").write_bytes(b"another model")
    (folder / "sub" / "link").symlink_to("../config.json")
    (folder / "dangling").symlink_to("nothing")
    save(small(2), folder, overwrite=True)
    assert names(folder) == ["config.json", "dangling", "model.safetensors", "my.safetensors", "sub"]
    assert (folder / "my.safetensors").read_bytes() == b"mine"
    assert (folder / "sub" / "model.safetensors").read_bytes() == b"another model"
    assert (folder / "sub" / "link").read_text() == "{}"
    assert (folder / "sub").stat().st_mode & 0o777 == 0o700
    assert (folder / "dangling").readlink() == Path("nothing")
    assert names(tmp_path) == ["f"]
    with load(folder) as back:
        assert_same(back, small(2))


def test_what_cannot_be_kept_in_a_replaced_folder_stops_it(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    with refused(DestinationExists, "'pipe'"):
        save(small(), folder, overwrite=True)
    assert names(folder) == ["pipe"]
    (folder / "pipe").unlink()
    (folder / "model.safetensors").mkdir()
    with refused(DestinationExists, "model.safetensors"):
        save(small(), folder, overwrite=True)
    assert names(folder) == ["model.safetensors"]
    assert names(tmp_path) == ["f"]


def test_a_file_where_a_folder_is_to_be_is_refused(tmp_path):
    (tmp_path / "f").write_text("x")
    with refused(DestinationExists, tmp_path / "f", "folder"):
        save(small(), tmp_path / "f", max_shard_size=32, overwrite=True)
    assert (tmp_path / "f").read_text() == "x"


def test_a_state_can_be_saved_over_its_own_source(tmp_path):
    folder = tmp_path / "f"
    save(small(5), folder, max_shard_size=32)
    with load(folder) as state:
        save(state, folder, max_shard_size=48, overwrite=True, verify=True)
        assert_same(state, small(5))
    assert names(folder)[0] == "model-00001-of-00002.safetensors"
    with load(folder) as back:
        assert_same(back, small(5))


@pytest.mark.parametrize("part", ["model-00002-of-00003.safetensors", "model.safetensors.index.json", "link"])
def test_one_file_of_a_source_in_several_is_never_replaced(tmp_path, part):
    save(small(), tmp_path / "set", max_shard_size=32)
    (tmp_path / "set" / "link").symlink_to("model-00001-of-00003.safetensors")
    before = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    with load(tmp_path / "set") as source, refused(DestinationExists, tmp_path / "set" / part, "shards"):
        save(source, tmp_path / "set" / part, overwrite=True, format="safetensors")
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == before


# --- metadata


def rich():
    tensors = small(4)
    tied = as_state(tensors).tensor(("layers", "0", "weight"))
    tensors[("layers", "0", "weight")] = tied
    tensors[("head", "weight")] = tied
    tensors[("odd", "na.me", "w")] = np.ones(3, "f4")
    metadata = StateMetadata(
        layers={("layers", "1"): LayerInfo("linear", "rule", ("weight",))},
        ties={("head", "weight"): ("layers", "0", "weight")},
        auxiliary_tensors={("bn", "n"): AuxiliaryTensor.of(np.array(7))},
        empty=(("layers", "9"),),
        tree_form={"flax": "variables"},
        extra={"note": "hello"},
    )
    return FlatState(tensors, layout="neutral", metadata=metadata)


@pytest.mark.parametrize("format", ["safetensors", "toy"])
def test_a_sharded_set_keeps_all_metadata_and_odd_names(tmp_path, format):
    state = rich()
    save(state, tmp_path / "f", format=format, max_shard_size=40, verify=True)
    assert len(names(tmp_path / "f")) > 2
    with load(tmp_path / "f") as back:
        assert_same(back, state)
        assert back.layout == "neutral"
        got, wanted = back.metadata, state.metadata
        assert (got.layers, got.ties, got.empty, got.tree_form) == (
            wanted.layers, wanted.ties, wanted.empty, wanted.tree_form
        )  # fmt: skip
        assert got.auxiliary_tensors[("bn", "n")].array() == 7
        assert back.tensor(("head", "weight")) is back.tensor(("layers", "0", "weight"))
        if format == "safetensors":
            assert got.extra["note"] == "hello"


@pytest.mark.parametrize(("format", "listed"), [("safetensors", False), ("toy", True)])
def test_the_index_lists_exactly_the_names_that_stand_in_the_shards(tmp_path, format, listed):
    save(rich(), tmp_path / "f", format=format, max_shard_size=40)
    (index,) = (tmp_path / "f").glob("*.index.json")
    document = json.loads(index.read_text())
    assert ("head.weight" in document["weight_map"]) is listed
    assert document["metadata"]["total_size"] == 4 * 16 + 12


def test_two_keys_that_flatten_to_one_name_are_refused(tmp_path):
    state = {("a", "b.c"): np.ones(4), ("a.b", "c"): np.ones(4)}
    with refused(KeyConflict, "a.b.c"):
        save(state, tmp_path / "f", max_shard_size=40)
    assert names(tmp_path) == []


def shards_of(state, limit, tmp_path, format="safetensors"):
    save(state, tmp_path / "out", max_shard_size=limit, format=format)
    files = sorted(path for path in (tmp_path / "out").iterdir() if path.suffix != ".json")
    result = []
    for path in files:
        with load(path) as part:
            result.append(sorted(".".join(key) for key in part))
    return result


def of(**sizes):
    return {name: np.zeros(size, "u1") for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({"a": 100, "b": 10, "c": 10}, [["a"], ["b", "c"]]),
        ({"a": 10, "b": 100, "c": 10}, [["a"], ["b"], ["c"]]),
        ({"a": 10, "b": 10, "c": 10}, [["a", "b"], ["c"]]),
        ({"a": 20, "b": 20}, [["a"], ["b"]]),
        ({"a": 0, "b": 100, "c": 0, "d": 1}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_shards_fill_in_order_and_none_is_empty(tmp_path, sizes, wanted):
    assert shards_of(of(**sizes), 20, tmp_path) == wanted


@pytest.mark.parametrize("format", ["safetensors", "toy"])
def test_tied_tensors_go_with_the_kept_one(tmp_path, format):
    state = as_state(of(a=15, b=15, c=4, d=15))
    tensors = dict(state.tensors())
    tied = {"first": tensors[("d",)], **{k[0]: v for k, v in tensors.items()}, "last": tensors[("a",)]}
    ties = {("first",): ("d",), ("last",): ("a",)}
    state = FlatState(tied, layout="toy", metadata=StateMetadata(ties=ties))
    assert shards_of(state, 20, tmp_path, format) == [["a", "last"], ["b", "c"], ["d", "first"]]


# --- finding weights in folders


def put(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith(".json"):
            continue
        save(
            {name: np.ones(1, "f4")}, path, format="toy" if name.endswith((".toy", ".bin")) else "safetensors"
        )
    for name in files:
        if name.endswith(".json"):
            shard = next(n for n in files if "-of-" in n)
            (folder / name).write_text(json.dumps({"weight_map": {shard: shard}}))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["model.safetensors", "toy_model.toy"], "model.safetensors"),
        (["toy_model.toy", "model.fp16.safetensors"], "toy_model.toy"),
        (["model.fp16.safetensors"], "model.fp16.safetensors"),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model.safetensors"),
        (["diffusion_pytorch_model.fp16.safetensors"], "diffusion_pytorch_model.fp16.safetensors"),
        (["model.safetensors", "diffusion_pytorch_model.safetensors"], "model.safetensors"),
        (
            ["model.safetensors.index.json", "model-00001-of-00001.safetensors", "model.safetensors"],
            "model.safetensors.index.json",
        ),
        (
            ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
            "model.safetensors.index.fp16.json",
        ),
        (["odd.name"], "odd.name"),
        (["odd.bin", "training_args.bin", "optimizer.bin", ".hidden.toy"], "odd.bin"),
        (["strange.index.json", "part-1-of-2.safetensors"], "strange.index.json"),
    ],
)
def test_weights_are_found_by_their_usual_names_in_order(tmp_path, files, wanted):
    put(tmp_path, *files)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("# Model")
    (tmp_path / "sub").mkdir()
    assert find_weights(tmp_path, registry=REGISTRY) == tmp_path / wanted


def test_a_wanted_layout_or_format_goes_first(tmp_path):
    save(FlatState(small(), layout="torch"), tmp_path / "model.safetensors")
    save(FlatState(small(), layout="toy"), tmp_path / "toy_model.toy")
    for options, wanted in [
        ({}, "model.safetensors"),
        ({"layout": "torch"}, "model.safetensors"),
        ({"layout": "toy"}, "toy_model.toy"),
        ({"layout": "flax"}, "model.safetensors"),
        ({"format": "toy"}, "toy_model.toy"),
    ]:
        assert find_weights(tmp_path, registry=REGISTRY, **options).name == wanted, options


@pytest.mark.parametrize(
    ("files", "error", "named"),
    [
        ([], MalformedFile, ["does not hold weights", "model.safetensors", "toy_model.toy"]),
        (["a.toy", "b.safetensors"], MalformedFile, ["2 files", "a.toy, b.safetensors"]),
        (["model-00001-of-00002.safetensors"], ShardError, ["model-00001-of-00002", "*.index.json"]),
        (["__0_0.distcp"], MalformedFile, ["distributed torch checkpoint", "dcp_to_torch_save"]),
        (["manifest.ocdbt", "_METADATA"], MalformedFile, ["Orbax", "flax.serialization"]),
        (
            ["model.fp16.safetensors", "model.bf16.safetensors"],
            UsageError,
            ["2 variants", "model.bf16.safetensors, model.fp16.safetensors"],
        ),
        (
            [
                "model.fp16.safetensors",
                "model.safetensors.index.bf16.json",
                "model-00001-of-00001.safetensors",
            ],
            UsageError,
            ["2 variants", "model.fp16.safetensors", "model.safetensors.index.bf16.json"],
        ),
    ],
)
def test_a_folder_that_leaves_a_doubt_is_an_error(tmp_path, files, error, named):
    put(tmp_path, *files)
    (tmp_path / "notes.txt").write_text("text")
    with refused(error, tmp_path, *named):
        load(tmp_path)


def test_an_empty_folder_is_called_empty_before_any_name_is_listed(tmp_path):
    with refused(MalformedFile, tmp_path) as caught:
        load(tmp_path)
    text = caught.value.message
    assert text.index("does not hold weights: it is empty") < text.index("model.safetensors")


# --- what a file is


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\n  <html>", "web page"),
        (b"GGUF\3\0\0\0" + bytes(16), "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(16), "HDF5"),
        (b"\x93NUMPY\1\0" + bytes(16), "numpy array"),
        (b"PK\3\4" + bytes(40), "zip"),
        (b"\x1f\x8b" + bytes(40), "gzip"),
        (b"\x80\2}q\0." + bytes(10), "pickle"),
        (bytes(257) + b"ustar" + bytes(300), "tar"),
        (bytes(40) + bytes.fromhex("57fb808b247547db"), "TensorFlow"),
        (b"just some text that is long enough", "'just some text that is long enough'"),
        (b'["a", "list"]' + b" " * 20, '["a", "list"]'),
        (b'{"weight_map": []}', "weight_map"),
        (b'{"architectures": ["X"]}', "'weight_map' is missing"),
    ],
)
@pytest.mark.parametrize("name", ["file", "model.toy"])
def test_what_is_no_weights_is_told_apart(tmp_path, content, says, name):
    (tmp_path / name).write_bytes(content)
    if name == "model.toy" and (says in ("zip", "pickle", "tar") or content[:1] in (b"j", b"[")):
        says = "is no toy"  # its own format says what is wrong
    with refused(MalformedFile, tmp_path / name, says):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "size"),
    [("file", b"", "0 bytes"), ("a.toy", b"", "0 bytes"), ("file", b"1234567", "7 bytes")],
)
def test_files_too_short_for_anything_are_truncated(tmp_path, name, content, size):
    (tmp_path / name).write_bytes(content)
    with refused(TruncatedFile, tmp_path / name, size):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("pipe", MalformedFile),
        ("/dev/zero", MalformedFile),
        ("missing", SourceNotFound),
        ("file/inside", SourceNotFound),
        ("nul\0name", UsageError),
        ("socket", MalformedFile),
    ],
)
def test_what_is_no_file_is_refused_without_blocking(tmp_path, name, error):
    import socket

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with refused(error):
            load(name if name.startswith("/") else f"{tmp_path}/{name}")


def test_a_link_that_leads_in_a_circle_is_a_clear_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BridgeError):
        load(tmp_path / "loop")


class Claims(ToyFormat):
    name, extensions = "claims", (".claims",)


class Throws(ToyFormat):
    name, extensions = "throws", (".throws",)

    def sniff(self, file):
        if file.path.suffix == ".sniff":
            raise ZeroDivisionError("oops")
        return file.path.suffix == ".throws"

    def open(self, file):
        raise {b"m": MemoryError, b"o": OSError}.get(file.read(0, 1), IndexError)("oops")


def test_a_file_that_two_formats_claim_needs_the_option(tmp_path):
    save(small(), tmp_path / "a.toy")
    two = registry(Claims())
    with refused(MalformedFile, tmp_path / "a.toy", "claims, toy", hint=("format=", "--format")):
        open_state(tmp_path / "a.toy", registry=two)
    with open_state(tmp_path / "a.toy", registry=two, format="toy") as back:
        assert_same(back, small())


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.sniff", "x", PluginError),
        ("a.throws", "x", MalformedFile),
        ("a.throws", "m", LimitExceeded),
        ("a.throws", "o", SystemFailure),
    ],
)
def test_what_a_formats_code_raises_reaches_nobody_raw(tmp_path, name, content, error):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=r"throws|memory|oops"):
        open_state(tmp_path / name, registry=registry(Throws()))


@pytest.mark.parametrize(
    ("stored", "keys", "asked", "wanted"),
    [
        ("torch", "toy", None, "torch"),
        (None, "toy", None, "toyland"),
        (None, "other", None, None),
        ("torch", "toy", "neutral", "neutral"),
    ],
)
def test_the_layout_is_the_askers_then_the_files_then_the_owners(tmp_path, stored, keys, asked, wanted):
    toys = registry(frameworks=(ToyFramework(),))
    save(FlatState({f"{keys}.w": np.ones(2)}, layout=stored), tmp_path / "a.safetensors")
    with open_state(tmp_path / "a.safetensors", registry=toys, layout=asked) as state:
        assert state.layout == wanted


def test_reading_from_a_closed_state_is_a_clear_error(tmp_path):
    save(small(), tmp_path / "f", max_shard_size=32)
    before = descriptors()
    with load(tmp_path / "f") as state:
        assert descriptors() == before + 3
    assert descriptors() == before
    with refused(SystemFailure, "closed"):
        state[("layers", "0", "weight")]


def test_a_file_that_cannot_be_opened_leaves_no_descriptor(tmp_path):
    (tmp_path / "a.toy").write_bytes(MAGIC + bytes(100))
    before = descriptors()
    with pytest.raises(MalformedFile):
        load(tmp_path / "a.toy")
    assert descriptors() == before


# --- proof of what was written


class Wrong(ToyFormat):
    """Writes something else than it was given."""

    name, extensions = "wrong", (".wrong",)

    def __init__(self, change):
        self._change = change

    def sniff(self, file):
        return False

    def write(self, state, target):
        super().write(self._change(state), target)


def without_ties(state):
    return FlatState(state, layout=state.layout)


def tied_pair():
    tensor = as_state({"a": np.ones(4, "f4")}).tensor(("a",))
    return FlatState({"a": tensor, "b": tensor}, metadata=StateMetadata(ties={("b",): ("a",)}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.select(list(s)[1:]), "1 tensor missing: a"),
        (lambda s: s.union({"z": np.ones(1, "f4")}), "1 tensor not in the state: z"),
        (lambda s: FlatState({k: v.astype("f2") for k, v in s.items()}), "another shape or dtype: a, b"),
        (lambda s: FlatState({k: v.reshape(2, 2) for k, v in s.items()}), "another shape or dtype: a, b"),
        (without_ties, "1 tied key: b"),
    ],
)
@pytest.mark.parametrize("path", ["out.wrong", "out/"])
def test_a_file_that_holds_something_else_is_never_put_in_place(tmp_path, change, says, path):
    wrong = registry(Wrong(change))
    (tmp_path / "out").mkdir()
    with refused(VerificationError, says) as caught:
        save_state(tied_pair(), f"{tmp_path}/{path}", registry=wrong, format="wrong")
    assert ".ckptbridge-" not in str(caught.value)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


class Flips(ToyFormat):
    name, extensions = "flips", (".flips",)

    def sniff(self, file):
        return False

    def write(self, state, target):
        super().write(state, target)
        with target.path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")


@pytest.mark.parametrize("options", [{}, {"max_shard_size": 32}])
def test_verify_finds_one_changed_byte(tmp_path, options):
    flips = registry(Flips())
    with refused(VerificationError, "layers."):
        save_state(small(), tmp_path / "a", registry=flips, format="flips", verify=True, **options)
    assert names(tmp_path) == []
    save_state(small(), tmp_path / "a", registry=flips, format="flips", **options)


class Unreadable(Flips):
    name, extensions = "unreadable", (".unreadable",)

    def write(self, state, target):
        ToyFormat.write(self, state, target)
        os.truncate(target.path, 100)


def test_a_file_that_cannot_be_read_again_is_never_put_in_place(tmp_path):
    with refused(VerificationError, tmp_path / "a.unreadable", "read back"):
        save_state(small(), tmp_path / "a.unreadable", registry=registry(Unreadable()))
    assert names(tmp_path) == []


# --- progress


@pytest.mark.parametrize("options", [{}, {"max_shard_size": 4000}])
def test_progress_counts_every_byte_once_and_never_back(tmp_path, options):
    state = {f"w{i}": np.full(300 + i, i, "f4") for i in range(20)}
    seen = []
    active = threading.Semaphore(1)

    def note(progress):
        assert active.acquire(blocking=False), "two calls at once"
        time.sleep(0.002)  # invites the others in
        seen.append(progress)
        active.release()

    save(state, tmp_path / "a", workers=4, progress=note, **options)
    total = sum(v.nbytes for v in state.values())
    assert all(isinstance(p, Progress) and p.total == total for p in seen)
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert done[-1] == total
    assert {p.key for p in seen} == {(name,) for name in state}


class Twice(ToyFormat):
    """Reads every tensor a second time, as formats without ties do for tied ones."""

    name, extensions = "twice", (".twice",)

    def sniff(self, file):
        return False

    def write(self, state, target):
        super().write(state, target)
        for key in state:
            list(target.blocks(state, key))


def test_progress_ends_at_the_total_where_values_are_packed_tied_or_written_twice(tmp_path):
    packed = {"a": np.zeros(64, DTYPES["float4_e2m1fn"])}
    for name, state in [("p.safetensors", packed), ("t.safetensors", tied_pair()), ("x.twice", tied_pair())]:
        seen = []
        save_state(state, tmp_path / name, progress=seen.append, registry=registry(Twice()))
        assert seen[-1].done == seen[-1].total
        assert max(p.done for p in seen) == seen[-1].total


def test_the_report_is_frozen():
    saved = Saved((), "toy", 0, {})
    with pytest.raises(AttributeError):
        saved.format = "x"


def test_a_lazy_source_is_read_a_block_at_a_time(tmp_path):
    sizes = []

    class Watching:
        spec = as_state({"a": np.zeros((4096, 1024), "f4")}).spec(("a",))

        def read(self, region):
            part = np.zeros(tuple(s.stop - s.start for s in region), "f4")
            sizes.append(part.nbytes)
            return part

    assert isinstance(Watching(), Tensor)
    save({"a": Watching()}, tmp_path / "a.safetensors", workers=2, max_ram="6MB")
    assert sum(sizes) == 4096 * 1024 * 4
    assert max(sizes) * 2 * 2 <= 6_000_000  # two workers, and room for what the ops make of a block
