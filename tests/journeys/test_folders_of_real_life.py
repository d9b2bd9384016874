"""Folders as downloads, training runs and other tools leave them: each is converted right, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import assert_names
from support.errors import refused

import bridge_core
from bridge_core import (
    FlatState,
    MalformedFile,
    MismatchError,
    ShardError,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
    UsageError,
    convert,
    open_state,
    plan_conversion,
    save_state,
)

INDEX = "model.safetensors.index.json"
ONE, TWO, THREE = (f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(16)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
ZEROS = bytes(5000)


def weights(layer):
    values = np.random.default_rng(ord(layer)).normal(size=(5, 3)).astype("f4")
    return {f"{layer}.weight": values[:4], f"{layer}.bias": values.reshape(-1)[:4]}


def index(*shards):
    """Return the text of an index in which each shard has one layer: a, b, c."""
    named = zip("abc", shards, strict=False)
    return json.dumps({"weight_map": {key: shard for layer, shard in named for key in weights(layer)}})


def make(folder, files):
    """Write files: the letter of a layer is a file of weights, ``->`` a link, None a folder."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("->"):
            path.symlink_to(content[2:])
        elif len(content) > 1:
            path.write_text(content)
        else:
            torch = any(suffix in name for suffix in (".bin", ".pt", ".ckpt", ".distcp"))
            form = "torch" if torch else "msgpack" if ".msgpack" in name else "safetensors"
            save_state(FlatState(weights(content), layout="torch"), path, format=form)
    return folder


SET = {ONE: "a", TWO: "b", THREE: "c", INDEX: index(ONE, TWO, THREE)}
LLAMA = {"consolidated.00.pth": "a", "consolidated.01.pth": "a", "params.json": "{}"}

CONVERTED = {
    "one save in two formats": (
        {
            "open_clip_model.safetensors": "a",
            "open_clip_pytorch_model.bin": "b",
            "open_clip_config.json": "{}",
        },
        "",
        "a",
        [("open_clip_model.safetensors", "open_clip_pytorch_model.bin")],
    ),
    "one save in two formats of one name": (
        {"v1-5.ckpt": "b", "v1-5.safetensors": "a"},
        "",
        "a",
        [("v1-5.safetensors", "v1-5.ckpt")],
    ),
    "an index and its shards": (SET, "", "abc", ()),
    "the index itself": (SET, INDEX, "abc", ()),
    "a part that is the only one": ({"consolidated.00.pth": "a", "params.json": "{}"}, "", "a", ()),
    "the same by name": ({"consolidated.00.pth": "a"}, "consolidated.00.pth", "a", ()),
    "one shard of one": ({"model-00001-of-00001.safetensors": "a"}, "", "a", ()),
    "mistral's other form": (
        {**SET, "consolidated.safetensors": "b"},
        "",
        "abc",
        [(INDEX, "consolidated.safetensors")],
    ),
    "mistral's other form by name": (
        {**SET, "consolidated.safetensors": "b"},
        "consolidated.safetensors",
        "b",
        (),
    ),
    "a hub's folder": (
        {
            "model.safetensors": "a",
            "pytorch_model.bin": "a",
            "tf_model.h5": HDF5,
            "flax_model.msgpack": b"x",
            "onnx/model.onnx": b"x",
            "original/consolidated.00.pth": "a",
            "training_args.bin": "b",
            "optimizer.pt": "b",
            "config.json": "{}",
        },
        "",
        "a",
        [("model.safetensors", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5")],
    ),
    "shards of another format": (
        {
            "model.safetensors": "a",
            "pytorch_model-00001-of-00002.bin": "b",
            "pytorch_model-00002-of-00002.bin": "c",
            "pytorch_model.bin.index.json": index("pytorch_model-00001-of-00002.bin"),
        },
        "",
        "a",
        [("model.safetensors", "pytorch_model-")],
    ),
    "an adapter beside the model": (
        {"model.safetensors": "a", "adapter_model.safetensors": "b", "adapter_config.json": "{}"},
        "",
        "a",
        [("adapter", "model.safetensors", "adapter_model.safetensors")],
    ),
    "an index whose shards are gone": (
        {"model.safetensors": "a", INDEX: index(ONE, TWO)},
        "",
        "a",
        [("model.safetensors", INDEX, "2")],
    ),
    "an index that names the single file": (
        {"model.safetensors": "a", INDEX: index("model.safetensors")},
        "",
        "a",
        (),
    ),
    "one of two saves by name": ({**SET, "model.safetensors": "b"}, "model.safetensors", "b", ()),
    "shards of another set": (
        {**SET, "model-00002-of-00002.safetensors": "a"},
        "",
        "abc",
        [("model-00002-of-00002.safetensors",)],
    ),
    "shards of a variant": (
        {**SET, "model.fp16-00002-of-00003.safetensors": "a", "model.safetensors.index.fp16.json": "{}"},
        "",
        "abc",
        [("model.fp16-00002-of-00003.safetensors",)],
    ),
    "a second download": (
        {"model.safetensors": "a", "model.safetensors.part": b"x"},
        "",
        "a",
        [("model.safetensors.part",)],
    ),
    "what other systems leave": (
        {"model.safetensors": "a", "._model.safetensors": b"\0\5", ".DS_Store": b"x", "Thumbs.db": b"x"},
        "",
        "a",
        (),
    ),
    "another case of letters": ({"Model.SafeTensors": "a"}, "", "a", ()),
    "a name in two cases": (
        {"model.safetensors": "a", "Model.safetensors": "b"},
        "",
        "a",
        [("Model.safetensors",)],
    ),
    "links that lead nowhere": (
        {"model.safetensors": "a", "pytorch_model.bin": "->../blobs/x", "loop": "->loop", "unet": None},
        "",
        "a",
        (),
    ),
    "one of several checkpoints": ({"epoch_1.pt": "a", "epoch_2.pt": "b"}, "epoch_1.pt", "a", ()),
    "one of several epochs": ({"model_ep0.pt": "a", "model_ep1.pt": "b"}, "model_ep0.pt", "a", ()),
    "ranks that are no parts": (
        {"lora_rank8.safetensors": "a", "lora_rank16.safetensors": "b"},
        "lora_rank8.safetensors",
        "a",
        (),
    ),
    "deepspeed's file of one device": (
        {"mp_rank_00_model_states.pt": "a", "zero_pp_rank_0_mp_rank_00_optim_states.pt": "b"},
        "",
        "a",
        (),
    ),
}

REFUSED = {
    "two slices": (LLAMA, "", ShardError, "consolidated.{00..01}", "convert_llama_weights_to_hf"),
    "one of two slices": (
        LLAMA,
        "consolidated.00.pth",
        ShardError,
        "consolidated.00.pth",
        "consolidated.01.pth",
    ),
    "the second slice alone": (
        {"consolidated.01.pth": "a"},
        "",
        ShardError,
        "consolidated.01.pth",
        "convert_llama_weights_to_hf",
    ),
    "the second slice alone by name": (
        {"consolidated.01.pth": "a"},
        "consolidated.01.pth",
        ShardError,
        "consolidated.01.pth",
        "convert_llama_weights_to_hf",
    ),
    "a slice for one device": ({"model0-mp8.safetensors": "a"}, "", ShardError, "model0-mp8"),
    "a shard": (
        SET,
        TWO,
        ShardError,
        *(TWO, "2 of 3", INDEX, "allow_missing=True"),
    ),
    "a shard that lies alone": (
        {TWO: "b"},
        TWO,
        ShardError,
        *(TWO, "2 of 3", "*.index.json"),
    ),
    "a folder of shards": ({ONE: "a", TWO: "b"}, "", ShardError, "model-", "index.json"),
    "a shard of msgpack": (
        {"flax_model-00001-of-00002.msgpack": "a"},
        "flax_model-00001-of-00002.msgpack",
        ShardError,
        "1 of 2",
    ),
    "two devices": (
        {"mp_rank_00_model_states.pt": "a", "mp_rank_01_model_states.pt": "b"},
        "mp_rank_00_model_states.pt",
        ShardError,
        "mp_rank_01_model_states.pt",
        "DeepSpeed",
    ),
    "two devices in folders": (
        {"mp_rank_00/model_optim_rng.pt": "a", "mp_rank_01/model_optim_rng.pt": "b"},
        "mp_rank_00/model_optim_rng.pt",
        ShardError,
        "mp_rank_01",
        "Megatron",
    ),
    "the folder of two devices": (
        {"mp_rank_00/model_optim_rng.pt": "a", "mp_rank_01/model_optim_rng.pt": "b"},
        "",
        MalformedFile,
        "mp_rank_{00..01}",
    ),
    "zero, stage 3": (
        {"zero_pp_rank_0_mp_rank_00_model_states.pt": "a"},
        "",
        ShardError,
        "zero_to_fp32",
    ),
    "a rank of DCP": ({"__0_0.distcp": "a"}, "__0_0.distcp", ShardError, "dcp_to_torch_save"),
    "ranks of FSDP": (
        {"pytorch_model_fsdp_rank0.bin": "a", "pytorch_model_fsdp_rank1.bin": "b"},
        "pytorch_model_fsdp_rank0.bin",
        ShardError,
        "fsdp_rank1.bin",
    ),
    "ranks with a usual name": (
        {"model.rank0.safetensors": "a", "model.rank1.safetensors": "b"},
        "",
        ShardError,
        "model.rank{0..1}",
    ),
    "several variants": (
        {"model.fp16.safetensors": "a", "model.bf16.safetensors": "b"},
        "",
        UsageError,
        "model.fp16.safetensors",
        "model.bf16.safetensors",
    ),
    "parts by name": (
        {"w.part1.safetensors": "a", "w.part2.safetensors": "b"},
        "",
        ShardError,
        "w.part{1..2}",
    ),
    "several checkpoints": (
        {"epoch_1.pt": "a", "epoch_2.pt": "b"},
        "",
        MalformedFile,
        "epoch_1.pt",
    ),
    "two formats of two names": (
        {"best.safetensors": "a", "last.pt": "b"},
        "",
        MalformedFile,
        "best.safetensors",
        "last.pt",
    ),
    "what macOS keeps beside a file": (
        {"._model.safetensors": b"\0\x05\x16\x07" + bytes(200)},
        "._model.safetensors",
        MalformedFile,
        "AppleDouble",
        "'._'",
    ),
    "the folder of a cache": (
        {"snapshots/0/model.safetensors": "a", "blobs/1": "x", "refs/main": "0\n"},
        "",
        MalformedFile,
        "snapshots/0",
    ),
    "an adapter": (
        {"adapter_model.safetensors": "a", "adapter_config.json": "{}"},
        "",
        UnsupportedFeature,
        "adapter",
        "merge_and_unload",
    ),
    "an adapter by name": (
        {"adapter_model.bin": "a"},
        "adapter_model.bin",
        UnsupportedFeature,
        "adapter",
        "merge_and_unload",
    ),
    "two saves": (
        {**SET, "model.safetensors": "a"},
        "",
        ShardError,
        *("model.safetensors", INDEX, "3 of"),
    ),
    "two saves, one damaged": (
        {"model.safetensors": "a", ONE: "a", INDEX: index(ONE, TWO)},
        "",
        ShardError,
        *("model.safetensors", INDEX, "1 of", "2"),
    ),
    "a file and an index that leads out of the folder": (
        {"model.safetensors": "a", INDEX: index("../other.safetensors")},
        "",
        UnsafeFile,
        *(INDEX, "../other.safetensors"),
    ),
    "a save beside shards": (
        {"model.safetensors": "a", ONE: "b", TWO: "c"},
        "",
        ShardError,
        *("model.safetensors", "model-{00001..00002}-of-00003.safetensors"),
    ),
    "an index that leaves out a shard": (
        {**SET, INDEX: index(ONE, TWO)},
        "",
        ShardError,
        *(INDEX, THREE),
    ),
    "the same by name": ({**SET, INDEX: index(ONE, TWO)}, INDEX, ShardError, INDEX, THREE),
    "an index of too few shards": (
        {ONE: "a", TWO: "b", INDEX: index(ONE, TWO)},
        "",
        ShardError,
        *(INDEX, "2", "3", "allow_missing=True"),
    ),
    "an unfinished file": (
        {"model.safetensors.incomplete": "a"},
        "",
        MalformedFile,
        "model.safetensors.incomplete",
    ),
    "an unfinished shard": (
        {ONE: "a", f"{TWO}.crdownload": "b", THREE: "c", INDEX: index(ONE, TWO, THREE)},
        "",
        ShardError,
        *(INDEX, TWO, f"{TWO}.crdownload"),
    ),
    "an unfinished shard of the hub": (
        {ONE: "a", ".cache/huggingface/download/x.1.incomplete": b"", INDEX: index(ONE, TWO)},
        "",
        ShardError,
        ".cache/huggingface/download/x.1.incomplete",
    ),
    "a file downloaded in place": (
        {"model.safetensors": "a", "model.safetensors.aria2": b"x"},
        "",
        TruncatedFile,
        "model.safetensors.aria2",
    ),
    "the same file by name": (
        {"model.safetensors": "a", "model.safetensors.aria2": b"x"},
        "model.safetensors",
        TruncatedFile,
        "model.safetensors.aria2",
    ),
    "a shard downloaded in place": (
        {**SET, f"{TWO}.aria2": b"x"},
        "",
        ShardError,
        f"{TWO}.aria2",
    ),
    "a pointer": ({"w.bin": POINTER}, "", MalformedFile, "w.bin", "git lfs pull"),
    "a pointer by a usual name": (
        {"model.safetensors": POINTER},
        "",
        MalformedFile,
        "model.safetensors",
        "git lfs pull",
    ),
    "zeros": ({"model.safetensors": ZEROS}, "", MalformedFile, "model.safetensors", "zero bytes"),
    "a shard of zeros": ({**SET, TWO: ZEROS}, "", MalformedFile, TWO, "zero bytes"),
    "a head of zeros": ({"model.bin": ZEROS + b"x"}, "model.bin", MalformedFile, "model.bin", "zero bytes"),
    "an empty file": ({"model.safetensors": b""}, "", TruncatedFile, "model.safetensors", "empty"),
    "an empty file of another name": ({"w.bin": b""}, "", MalformedFile, "w.bin", "empty"),
    "nothing": ({}, "", MalformedFile, "model.safetensors", "flax_model.msgpack"),
    "a tokenizer": (
        {"tokenizer.json": "{}", "config.json": "{}"},
        "",
        MalformedFile,
        "model.safetensors",
        "flax_model.msgpack",
    ),
    "an AppleDouble": (
        {"._model.safetensors": b"\0\5"},
        "",
        MalformedFile,
        "model.safetensors",
        "flax_model.msgpack",
    ),
    "a loop": ({"model.safetensors": "->model.safetensors"}, "", MalformedFile, "model.safetensors", "link"),
    "a link to a blob that is gone": (
        {"model.safetensors": "->../../blobs/0"},
        "",
        MalformedFile,
        "model.safetensors",
        "link",
    ),
    "a folder with the name of a file": (
        {"model.safetensors": None},
        "",
        MalformedFile,
        "model.safetensors",
        "folder",
    ),
    "a pipeline": (
        {"unet/diffusion_pytorch_model.safetensors": "a", "vae/diffusion_pytorch_model.safetensors": "a"},
        "",
        MalformedFile,
        "unet",
        "vae",
    ),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_a_folder_is_read_right_and_what_is_not_read_is_told(case, tmp_path):
    files, source, layers, notes = CONVERTED[case]
    report = convert(make(tmp_path / "m", files) / source, tmp_path / "out.safetensors", to="flax")
    made = load_file(tmp_path / "out.safetensors")
    wanted = {key: value for layer in layers for key, value in weights(layer).items()}
    assert set(made) == {key.replace("weight", "kernel") for key in wanted}
    for key, value in wanted.items():
        assert made[key.replace("weight", "kernel")].tobytes() == value.T.tobytes(), key
    assert len(report.notes) == len(notes)
    for note, named in zip(report.notes, notes, strict=True):
        assert_names(note, *named)


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_is_refused_in_every_mode_and_nothing_is_written(case, tmp_path):
    files, source, error, *named = REFUSED[case]
    place = make(tmp_path / "m", files) / source
    for to, options in (("flax", {}), ("flax", {"accept_guesses": True}), ("neutral", {})):
        with refused(error, tmp_path / "m", *named):
            convert(place, tmp_path / "out.safetensors", to=to, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_a_shard_can_be_looked_at_and_is_converted_where_others_may_be_missing(tmp_path):
    folder = make(tmp_path / "m", SET)
    with open_state(folder / TWO) as state:
        assert set(state) == {("b", "weight"), ("b", "bias")}
        (note,) = state.metadata.notes
        assert_names(note, TWO, "2 of 3")
    report = convert(folder / TWO, tmp_path / "b.safetensors", to="flax", allow_missing=True)
    assert report.notes == (note,)
    assert load_file(tmp_path / "b.safetensors")["b.kernel"].tobytes() == weights("b")["b.weight"].T.tobytes()
    with open_state(folder / TWO) as state:
        assert plan_conversion(state, to="flax").ok
    with refused(ShardError, TWO, "2 of 3"):
        bridge_core.to_neutral(folder / TWO, framework="torch")


def test_shards_that_are_absent_may_be_allowed(tmp_path):
    folder = make(tmp_path / "m", {ONE: "a", TWO: "b", INDEX: index(ONE, TWO)})
    plan = plan_conversion(folder, to="flax", allow_missing="c.**")
    (note,) = plan.notes
    assert_names(note, "2", "3", "'model-N-of-3.safetensors'")
    like = {
        f"{layer}.{name}": value
        for layer in "abc"
        for name, value in (("kernel", np.ones((3, 4), "f4")), ("bias", np.ones(4, "f4")))
    }
    assert plan_conversion(folder, to="flax", like=like, allow_missing="c.**").ok
    with refused(MismatchError) as caught:
        plan_conversion(folder, to="flax", like=like, allow_missing="d.**")
    assert set(caught.value.keys) == set(caught.value.missing) == {"c.kernel", "c.bias"}


@pytest.mark.parametrize("to", ["torch", "flax"])
def test_no_option_makes_a_model_of_a_slice(tmp_path, to):
    folder = make(tmp_path / "m", LLAMA)
    with refused(ShardError, "consolidated.00.pth", "consolidated.01.pth"):
        plan_conversion(folder / "consolidated.00.pth", to=to, allow_missing=True, accept_guesses=True)
    with open_state(folder / "consolidated.00.pth") as state:
        assert "consolidated.01.pth" in state.metadata.notes[0]


def test_an_adapter_goes_from_file_to_file_of_its_framework(tmp_path):
    folder = make(tmp_path / "m", {"adapter_model.bin": "a"})
    report = convert(folder, tmp_path / "a.safetensors", to="torch")
    assert "adapter" in report.notes[0]
    assert load_file(tmp_path / "a.safetensors")["a.weight"].tobytes() == weights("a")["a.weight"].tobytes()


def test_inspect_shows_what_was_passed_over(tmp_path):
    from click.testing import CliRunner

    from bridge_core.cli import main

    folder = make(tmp_path / "m", {"model.safetensors": "a", "pytorch_model.bin": "a"})
    found = CliRunner().invoke(main, ["inspect", str(folder)])
    (line,) = (line for line in found.output.splitlines() if line.startswith("note: "))
    assert_names(line, "model.safetensors", "pytorch_model.bin")
    found = CliRunner().invoke(main, ["inspect", str(folder), "--json"])
    assert "pytorch_model.bin" in json.loads(found.output)["notes"][0]
