import json
import os
import shutil
import warnings

import numpy as np
import pytest
from support.errors import refused
from support.toy_format import assert_same, descriptors, registry

from bridge_core import (
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    ShardError,
    SourceIsFolder,
    StateMetadata,
    TruncatedFile,
    UnsafeFile,
    as_state,
)
from bridge_core.checkpoint.open_save import open_state, save_state
from bridge_core.formats import shard_index, sharded

REGISTRY = registry()
INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def load(path, **options):
    return open_state(path, registry=REGISTRY, **options)


def write(path, *names, format=None):
    state = {name: np.full(4, number, "f4") for number, name in enumerate(names)}
    save_state(state, path, registry=REGISTRY, format=format, overwrite=True)


@pytest.fixture
def folder(tmp_path):
    """A set as another tool writes it: a and b in one shard, c in the other."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / ONE, "a", "b")
    write(folder / TWO, "c")
    index(folder, {"a": ONE, "b": ONE, "c": TWO})
    return folder


def index(folder, weight_map, **metadata):
    document = {"metadata": metadata, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(document))


def refused_set(folder, error, *named, key=None, **options):
    """Opening fails with this very class, names these things, and leaves no descriptor open."""
    before = descriptors()
    with refused(error, folder, *named, key=key):
        load(folder / INDEX, **options)
    assert descriptors() == before


def test_a_sound_set_opens_in_the_order_of_its_index(folder):
    index(folder, {"c": TWO, "a": ONE, "b": ONE}, total_size=48.0, producer="someone")
    with load(folder) as state:
        assert list(state) == [("c",), ("a",), ("b",)]
        assert state[("b",)].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "name",
    ["../x", "sub/x", "/etc/passwd", "sub\\x", "..\\x", "x\0y", "C:x", "C:\\x", "\\\\host\\x", "..", ".", ""],
)
def test_shards_are_plain_names_beside_the_index(folder, name):
    write(folder.parent / "x.safetensors", "a")
    index(folder, {"a": ONE, "b": ONE, "c": name})
    refused_set(folder, UnsafeFile, repr(name))


@pytest.mark.parametrize("target", ["../outside.safetensors", "{root}/outside.safetensors", "hop"])
def test_a_linked_shard_that_leads_out_needs_the_option(folder, target):
    outside = folder.parent / "outside.safetensors"
    shutil.move(folder / TWO, outside)
    (folder / "hop").symlink_to(outside)
    (folder / TWO).symlink_to(target.format(root=folder.parent))
    refused_set(folder, UnsafeFile, TWO)
    with load(folder, follow_links=True) as state:
        assert state[("c",)].tolist() == [0, 0, 0, 0]


def test_a_linked_shard_within_the_folder_is_fine(folder):
    shutil.move(folder / TWO, folder / "real")
    (folder / TWO).symlink_to("real")
    with load(folder) as state:
        assert len(state) == 3


def cache(folder, blobs):
    """Move a set into a Hugging Face cache."""
    snapshot = folder.parent / "models--x" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    return snapshot


def test_a_hugging_face_cache_opens_without_the_option(folder):
    snapshot = cache(folder, folder.parent / "models--x-blobs")
    refused_set(snapshot, UnsafeFile, "leads out")
    shutil.move(folder.parent / "models--x-blobs", folder.parent / "models--x" / "blobs")
    for link in snapshot.iterdir():
        number = link.readlink().name
        link.unlink()
        link.symlink_to(f"../../blobs/{number}")
    for place in (snapshot, snapshot / INDEX):
        with load(place) as state:
            assert len(state) == 3


def test_a_cache_whose_blobs_lead_elsewhere_is_no_cache(folder):
    snapshot = cache(folder, folder.parent / "elsewhere")
    (folder.parent / "models--x" / "blobs").symlink_to("../elsewhere")
    for link in snapshot.iterdir():
        number = link.readlink().name
        link.unlink()
        link.symlink_to(f"../../blobs/{number}")
    refused_set(snapshot, UnsafeFile, "leads out")


def test_missing_shards_are_all_named(folder):
    (folder / TWO).unlink()
    (folder / ONE).unlink()
    refused_set(folder, ShardError, "2 of 2 shards", "model-{00001..00002}-of-00002.safetensors")


def test_a_dangling_link_is_a_missing_shard(folder):
    (folder / TWO).unlink()
    (folder / TWO).symlink_to("nothing")
    refused_set(folder, ShardError, "1 of 2 shards", TWO)


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_a_shard_that_is_no_file_is_refused_without_blocking(folder, kind):
    (folder / TWO).unlink()
    (folder / TWO).mkdir() if kind == "folder" else os.mkfifo(folder / TWO)
    refused_set(folder, SourceIsFolder if kind == "folder" else MalformedFile, TWO)


def test_tensors_that_a_shard_lacks_are_all_named(folder):
    index(folder, {"a": ONE, "b": ONE, "c": TWO, "x.1": TWO, "x.2": ONE})
    refused_set(folder, ShardError, "2 tensors", "x.{1..2}")


def test_a_tensor_that_stands_in_another_shard_than_the_index_says_is_an_error(folder):
    index(folder, {"a": ONE, "b": TWO, "c": TWO})
    refused_set(folder, ShardError, "1 tensor", ": b.")


def test_a_tensor_in_two_shards_is_a_conflict(folder):
    write(folder / TWO, "b", "c")
    refused_set(folder, KeyConflict, "2 shards", ONE, TWO, key="b")


def test_one_file_under_two_names_is_a_conflict(folder):
    (folder / TWO).unlink()
    os.link(folder / ONE, folder / TWO)
    index(folder, {"a": ONE, "b": TWO})
    refused_set(folder, KeyConflict, "2 shards", ONE, TWO)


def test_tensors_that_the_index_does_not_name_are_an_error(folder):
    write(folder / TWO, "c", "d")
    refused_set(folder, ShardError, "1 tensor", ": d.")


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("{}", MalformedFile, "'weight_map'"),
        ('{"weight_map": null}', MalformedFile, "'weight_map'"),
        ('{"weight_map": []}', MalformedFile, "got []"),
        ('{"weight_map": "x"}', MalformedFile, "got 'x'"),
        ('{"weight_map": {}}', MalformedFile, "got {}"),
        ('{"weight_map": {"a": 1}}', MalformedFile, "got 1"),
        ('{"weight_map": {"a": null}}', MalformedFile, "got None"),
        ('{"weight_map": {"a": ["x"]}}', MalformedFile, "got ['x']"),
        ('{"weight_map": {"a": "x", "a": "y"}}', KeyConflict, "'a'"),
        ('{"weight_map": {"a": "x"}, "metadata": 1}', MalformedFile, "'metadata'"),
        ('{"weight_map": {"a": "x"}, "metadata": {"ckptbridge": 1}}', MalformedFile, "'metadata.ckptbridge'"),
        ('{"weight_map": {"a": "x"}, "metadata": {"ckptbridge": "{"}}', MalformedFile, "JSON"),
        ('{"weight_map": {"a": "x"}', MalformedFile, "JSON"),
        ('{"weight_map": {"a": "x"}}' + "]", MalformedFile, "JSON"),
        ('{"a":' * 10000, MalformedFile, "JSON"),
        ('{"weight_map": "\udcff"}', MalformedFile, "JSON"),
        ("\ufeff{}", MalformedFile, "JSON"),
    ],
)
def test_a_malformed_index_is_refused(folder, text, error, named):
    (folder / INDEX).write_bytes(text.encode(errors="surrogateescape"))
    refused_set(folder, error, named)


@pytest.mark.parametrize(
    "size", ["NaN", "Infinity", "-1", '"48"', "true", "1.5", "1e999", "[48]", "9" * 5000]
)
def test_a_total_that_is_no_number_of_bytes_is_refused(folder, size):
    (folder / INDEX).write_text(f'{{"weight_map": {{"a": "{ONE}"}}, "metadata": {{"total_size": {size}}}}}')
    is_json = size not in ("NaN", "Infinity", "9" * 5000)
    refused_set(folder, MalformedFile, "'total_size'" if is_json else "JSON")


def test_a_wrong_total_is_only_worth_a_warning(folder):
    index(folder, {"a": ONE, "b": ONE, "c": TWO}, total_size=49)
    with pytest.warns(UserWarning, match=r"49 bytes.* 48\."), load(folder) as state:
        assert len(state) == 3
    index(folder, {"a": ONE, "b": ONE, "c": TWO}, total_size=48)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder).close()


@pytest.mark.parametrize("which", [ONE, TWO])
def test_a_shard_of_another_format_is_an_error(folder, which):
    write(folder / which, *(["a", "b"] if which == ONE else ["c"]), format="toy")
    refused_set(folder, ShardError, which, "safetensors", "got toy")


def test_shards_of_two_formats_are_an_error_under_any_name(folder):
    write(folder / TWO, "c", format="toy")
    shutil.move(folder / INDEX, folder / "any.json")
    with refused(ShardError, TWO, "safetensors", "got toy"):
        load(folder / "any.json")


def test_shards_in_two_layouts_are_an_error(folder):
    state = as_state({"c": np.ones(4)}, layout="flax")
    save_state(state, folder / TWO, registry=REGISTRY, overwrite=True)
    state = as_state({"a": np.ones(4), "b": np.ones(4)}, layout="torch")
    save_state(state, folder / ONE, registry=REGISTRY, overwrite=True)
    refused_set(folder, ShardError, "flax", "torch")


def test_a_shard_that_is_a_git_lfs_pointer_is_named(folder):
    (folder / TWO).write_text("version https://git-lfs.github.com/spec/v1\n")
    with refused(MalformedFile, TWO, "git-lfs", "git lfs pull"):
        load(folder)


def test_a_truncated_shard_is_truncated(folder):
    os.truncate(folder / TWO, (folder / TWO).stat().st_size - 1)
    with refused(TruncatedFile, TWO):
        load(folder)


def test_an_empty_shard_is_truncated(folder):
    os.truncate(folder / TWO, 0)
    with refused(TruncatedFile, TWO, "empty"):
        load(folder)


def test_an_index_that_lists_itself_is_an_error(folder):
    index(folder, {"a": ONE, "b": ONE, "c": INDEX})
    refused_set(folder, ShardError, INDEX, "itself")
    (folder / TWO).unlink()
    os.link(folder / INDEX, folder / TWO)
    index(folder, {"a": ONE, "b": ONE, "c": TWO})
    refused_set(folder, ShardError, TWO, "itself")


def test_an_index_as_a_shard_of_another_index_is_an_error(folder):
    shutil.copy(folder / INDEX, folder / "other.json")
    index(folder, {"a": ONE, "b": ONE, "c": "other.json"})
    with refused(MalformedFile, "other.json", "JSON"):
        load(folder)


def test_an_oversized_index_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(shard_index, "_LARGEST_INDEX", 10)
    refused_set(folder, LimitExceeded, "10 bytes")


def test_a_tie_to_nothing_is_refused(folder):
    marker = json.dumps({"version": 1, "ties": {"x": "y"}})
    index(folder, {"a": ONE, "b": ONE, "c": TWO}, ckptbridge=marker)
    refused_set(folder, MalformedFile, "'y'", key=("x",))


def test_aliases_that_save_model_dropped_are_no_extra_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(4)}, tmp_path / ONE, metadata={"z": "a"})
    save_file({"c": torch.ones(4)}, tmp_path / TWO)
    index(tmp_path, {"a": ONE, "c": TWO}, total_size=32)
    with load(tmp_path) as state:
        assert dict(state.metadata.ties) == {("z",): ("a",)}
        assert state[("z",)].tolist() == [1, 1, 1, 1]


def test_hundreds_of_shards_open_and_close(tmp_path):
    state = {f"layers.{i}.w": np.full(2, i, "f4") for i in range(300)}
    save_state(state, tmp_path / "f", registry=REGISTRY, max_shard_size=8)
    before = descriptors()
    with load(tmp_path / "f") as back:
        assert descriptors() == before + 300
        assert back[("layers", "299", "w")].tolist() == [299, 299]
    assert descriptors() == before


@pytest.mark.parametrize("pad", range(0, 8))
def test_no_header_length_makes_safetensors_look_like_another_format(tmp_path, pad):
    """Lengths whose first bytes are those of a pickle, a zip, or a msgpack map."""
    for low in (0x80, 0x81, 0x8F, 0xDE, 0xDF, ord("P"), ord("{")):
        for high in (2 + pad % 4, ord("K"), ord('"'), 0xA0 + pad):
            length = high << 8 | low
            header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
            path = tmp_path / "file"
            path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"x")
            with open_state(path) as state:
                assert state[("a",)].tolist() == [ord("x")]


def test_a_shard_that_changes_is_noticed(folder):
    with load(folder) as state:
        state.check_unchanged()
        write(folder / TWO, "c")
        with refused(IntegrityError, TWO):
            state.check_unchanged()


# --- sets that transformers wrote, and ours read by transformers


@pytest.fixture(scope="module")
def bert():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    return transformers.BertForMaskedLM(config).eval()


def numpy_of(state_dict):
    return {tuple(name.split(".")): tensor.detach().numpy() for name, tensor in state_dict.items()}


def assert_holds(state, model):
    """The state holds the model's weights, tied ones at least once."""
    wanted = numpy_of(model.state_dict())
    tied = {("cls", "predictions", "decoder", "weight"), ("cls", "predictions", "decoder", "bias")}
    for key in tied - set(state):
        del wanted[key]
    assert_same(dict(state), wanted)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "torch"])
def test_sets_written_by_transformers_are_read_bit_for_bit(tmp_path, bert, safe):
    bert.save_pretrained(tmp_path, safe_serialization=safe, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    with open_state(tmp_path) as state:
        assert state.layout == "torch"
        assert_holds(state, bert)
    with open_state(tmp_path, format="safetensors" if safe else "torch") as state:
        assert_holds(state, bert)


@pytest.mark.parametrize("format", ["safetensors", "torch"])
def test_transformers_loads_our_sets_bit_for_bit(tmp_path, bert, format):
    import torch

    bert.config.save_pretrained(tmp_path)
    state = as_state(numpy_of(bert.state_dict()), layout="torch")
    tensors = dict(state.tensors())
    kept = ("bert", "embeddings", "word_embeddings", "weight")
    tied = ("cls", "predictions", "decoder", "weight")
    tensors[tied] = tensors[kept]
    state = state.replace(tensors=tensors, metadata=state.metadata.with_(ties={tied: kept}))
    save_state(state, tmp_path, format=format, max_shard_size="20KB", overwrite=True, verify=True)
    assert (tmp_path / "config.json").exists()
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    loaded, info = type(bert).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for key, value in bert.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


@pytest.fixture(scope="module")
def flax_bert(bert):
    pytest.importorskip("flax")
    import transformers

    if not hasattr(transformers, "FlaxBertForMaskedLM"):
        pytest.skip("this transformers has no Flax models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.FlaxBertForMaskedLM(bert.config)


def flat(params):
    from flax.traverse_util import flatten_dict

    return {key: np.asarray(value) for key, value in flatten_dict(params).items()}


@pytest.mark.slow
def test_flax_sets_written_by_transformers_are_read_bit_for_bit(tmp_path, flax_bert):
    flax_bert.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("flax_model-*-of-*.msgpack"))) > 2
    with open_state(tmp_path) as state:
        assert state.layout == "flax"
        assert_same(dict(state), flat(flax_bert.params))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_our_flax_sets_bit_for_bit(tmp_path, flax_bert):
    flax_bert.config.save_pretrained(tmp_path)
    state = as_state(flat(flax_bert.params), layout="flax")
    save_state(state, tmp_path, max_shard_size="20KB", overwrite=True, verify=True)
    assert len(list(tmp_path.glob("flax_model-*-of-*.msgpack"))) > 2
    loaded = type(flax_bert).from_pretrained(tmp_path)
    assert_same(flat(loaded.params), flat(flax_bert.params))


def test_the_state_of_a_shard_is_the_part_of_the_state_with_its_ties_and_texts():
    a, b, e = (np.full(4, number, "f4") for number in range(3))
    ties = {("d",): ("a",), ("c",): ("d",), ("f",): ("b",)}
    metadata = StateMetadata(ties=ties, extra={"format": "pt"}, separators={"": "/"}, notes=("a note",))
    state = as_state({"a": a, "b": b, "c": a, "d": a, "e": e, "f": b}).replace(metadata=metadata)
    shards = sharded.partition(state, 40, REGISTRY.format("safetensors").names)
    assert ["".join(key[0] for key in keys) for keys in shards] == ["acd", "bf", "e"]
    for keys in shards:
        shard, chosen = sharded.shard_state(state, keys), state.select(keys)
        assert list(shard) == list(chosen) == keys
        assert all(shard.tensor(key) is state.tensor(key) for key in keys)
        assert shard.metadata.ties == chosen.metadata.ties
        assert shard.metadata.extra == {"format": "pt"}
        assert not shard.metadata.notes
        assert shard.metadata.separator("torch") == "/"
