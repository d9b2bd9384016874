"""Folders of transformers: what their files tell, and how the adapter keeps the contract of a library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.errors import refused
from transformers import BertConfig, BertForMaskedLM, BertModel, GPT2Config, GPT2LMHeadModel

from bridge_core import (
    AmbiguousLayerError,
    LimitExceeded,
    MalformedFile,
    MismatchError,
    ShardError,
    UsageError,
    convert,
    default_registry,
    open_state,
    plan_conversion,
    verify,
)
from bridge_core.testing import LibraryContract
from ckptbridge_transformers import templates
from ckptbridge_transformers.folders import files_beside

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


def bert(model=BertForMaskedLM, **options):
    torch.manual_seed(0)
    return model(BertConfig(**SIZES, **options)).eval()


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20)).eval()


@pytest.fixture
def folder(tmp_path):
    bert().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def edit(folder, **entries):
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders that the tests of the contract copy."""
    place = tmp_path_factory.mktemp("made")
    bert().save_pretrained(place / "bert")
    gpt2().save_pretrained(place / "gpt2", max_shard_size="20KB")
    (place / "gpt2" / "tokenizer.json").write_text("{}")
    convert(place / "gpt2", f"{place}/flax/", to="flax")
    return place


class TestTransformers(LibraryContract):
    library = default_registry().libraries["transformers"]
    read = ("config.json",)

    @pytest.fixture(autouse=True)
    def _made(self, made):
        self.made = made

    def folders(self, place: Path):
        shutil.copytree(self.made, place, dirs_exist_ok=True)
        return [(place / "bert", "flax"), (place / "gpt2", "flax"), (place / "flax", "torch")]

    def test_damaged_files_raise_nothing_raw(self, tmp_path, monkeypatch):
        """One Flax model is traced for each config: most of the damage makes no other one."""
        trace, known = templates.abstract_flax, {}

        def traced_once(flax_class, config):
            key = (flax_class, config.to_json_string())
            if key not in known:
                known[key] = trace(flax_class, config)
            return known[key]

        monkeypatch.setattr(templates, "abstract_flax", traced_once)
        super().test_damaged_files_raise_nothing_raw(tmp_path)


class TestDiffusers(LibraryContract):
    library = default_registry().libraries["diffusers"]
    read = ("config.json",)

    def folders(self, place: Path):
        folder = place / "vae"
        folder.mkdir(parents=True)
        values = torch.arange(48.0)
        tensors = {
            "decoder.conv_in.weight": values.reshape(2, 6, 2, 2),
            "decoder.conv_in.bias": values[:2].clone(),
            "decoder.conv_norm_out.weight": values[:6].clone(),
            "decoder.conv_norm_out.bias": values[6:12].clone(),
        }
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        return [(folder, "flax")]


# -- what the config says ---------------------------------------------------------------------------


def test_the_dtype_of_a_cast_stands_in_the_copied_config(folder, tmp_path):
    convert(folder, f"{tmp_path}/out/", to="flax", dtype="bfloat16")
    copied = json.loads((tmp_path / "out" / "config.json").read_text())
    original = json.loads((folder / "config.json").read_text())
    assert "bfloat16" in (copied.get("torch_dtype"), copied.get("dtype"))
    assert {k: v for k, v in copied.items() if "dtype" not in k} == {
        k: v for k, v in original.items() if "dtype" not in k
    }
    convert(tmp_path / "out", f"{tmp_path}/back/", to="torch")
    opened = BertForMaskedLM.from_pretrained(tmp_path / "back", dtype="auto")
    assert {tensor.dtype for tensor in opened.state_dict().values()} == {torch.bfloat16}


def test_a_class_that_is_asked_for_stands_in_the_copied_config(folder, tmp_path):
    with refused(MismatchError, "pooler", "cls"):
        convert(folder, f"{tmp_path}/out/", to="torch", model="BertModel")
    report = convert(
        folder,
        f"{tmp_path}/out/",
        to="flax",
        model="FlaxBertModel",
        allow_unexpected=["cls.**"],
        allow_missing=["pooler.**"],
    )
    assert {drop.key[0] for drop in report.dropped} == {"cls"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertModel"]
    back = convert(tmp_path / "out", f"{tmp_path}/back/", to="torch", allow_missing=["pooler.**"])
    assert back.verified
    wanted = bert().bert.state_dict()
    assert_same(load_file(tmp_path / "back" / "model.safetensors"), wanted)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_without_architectures_the_bare_model_is_meant(tmp_path):
    bert(BertModel).save_pretrained(tmp_path / "bert")
    edit(tmp_path / "bert", architectures=None)
    plan = plan_conversion(tmp_path / "bert", to="flax")
    assert plan.notes[0].startswith("BertModel of transformers")
    assert {step.evidence for step in plan.steps} <= {"module", "structure"}


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ({"architectures": ["NoSuchModel"]}, ["config.json", "'architectures'", "'NoSuchModel'"]),
        ({"architectures": ["os.system"]}, ["config.json", "'architectures'", "'os.system'"]),
        ({"architectures": ["BertConfig"]}, ["config.json", "'architectures'", "'BertConfig'"]),
        ({"architectures": ["AutoModel"]}, ["config.json", "'architectures'", "'AutoModel'"]),
        ({"model_type": "no-such-type"}, ["config.json", "no-such-type"]),
        ({"hidden_size": 15}, ["BertForMaskedLM", "15"]),
        ({"num_hidden_layers": "two"}, ["'str'"]),
    ],
    ids=str,
)
def test_a_config_that_means_no_model_is_refused(folder, entries, named):
    edit(folder, **entries)
    with refused(UsageError, *named, hint=('model="none"', "--model none")):
        plan_conversion(folder, to="flax")


def test_a_class_that_transformers_does_not_have_is_refused_with_the_nearest(folder):
    edit(folder, architectures=["BertForMaskedML"])
    with refused(UsageError, "'BertForMaskedML'", hint="--model BertForMaskedLM"):
        plan_conversion(folder, to="flax")
    with refused(UsageError, "model='FlaxBertModle'", hint="--model FlaxBertModel"):
        plan_conversion(folder, to="flax", model="FlaxBertModle")


def test_remote_code_is_never_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    edit(folder, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    assert plan_conversion(folder, to="flax").ok
    edit(folder, model_type="evil")
    with refused(UsageError, "config.json", "custom code"):
        plan_conversion(folder, to="flax")


def test_a_config_that_is_no_json_or_too_large_is_refused(folder):
    (folder / "config.json").write_text("{")
    with refused(MalformedFile, "config.json"):
        plan_conversion(folder, to="flax")
    with (folder / "config.json").open("wb") as file:
        file.truncate(17 << 20)
    with refused(LimitExceeded, "config.json", f"{17 << 20} bytes"):
        plan_conversion(folder, to="flax")


def test_a_flax_class_that_cannot_be_built_is_told_and_not_needed(folder, monkeypatch):
    import transformers

    def broken(*args, **options):
        raise NotImplementedError("not for this config")

    monkeypatch.setattr(transformers.FlaxBertForMaskedLM, "__init__", broken)
    plan = plan_conversion(folder, to="flax")
    assert any("FlaxBertForMaskedLM cannot be built" in note for note in plan.notes)
    assert ("bert", "pooler", "dense", "kernel") not in plan.target_specs()
    key = ("bert", "encoder", "layer", "0", "output", "dense", "kernel")
    assert plan.target_specs()[key].shape == (24, 16)


# -- files ------------------------------------------------------------------------------------------


def test_files_of_the_model_and_no_others_belong_beside(tmp_path):
    kept = (
        "LICENSE",
        "README.md",
        "config.json",
        "merges.txt",
        "spiece.model",
        "tokenizer.json",
        "vocab.json",
    )
    others = (
        *("model.safetensors", "model.safetensors.index.json", "model.safetensors.index.fp16.json"),
        *(
            "pytorch_model.bin",
            "flax_model.msgpack",
            "trainer_state.json",
            "modeling_mine.py",
            ".hidden.json",
        ),
    )
    for name in (*kept, *others):
        (tmp_path / name).touch()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "folder.json").mkdir()
    assert files_beside(tmp_path) == kept


def test_one_file_of_a_folder_is_known_when_asked(folder, tmp_path):
    weights = folder / "model.safetensors"
    report = convert(weights, tmp_path / "one.msgpack", to="flax", model="auto")
    assert report.exact
    assert report.sidecar_files == ()
    assert not verify(weights, tmp_path / "one.msgpack", model="auto").differing


def test_buffers_that_the_model_makes_are_left_out_with_the_reason(folder, tmp_path):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    report = convert(folder, f"{tmp_path}/out/", to="flax")
    dropped = {drop.key[-1]: drop.reason for drop in report.dropped if drop.tied_to is None}
    assert list(dropped) == ["position_ids"]
    assert "the model makes by itself" in dropped["position_ids"]
    tensors["bert.embeddings.extra"] = torch.arange(20)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    with refused(MismatchError, "bert.embeddings.extra") as caught:
        convert(folder, f"{tmp_path}/other/", to="flax")
    assert caught.value.unexpected == ("bert.embeddings.extra",)


def test_masks_of_old_releases_are_left_out_and_a_bias_of_that_name_is_not(tmp_path):
    gpt2().save_pretrained(tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "model.safetensors"
    tensors = load_file(path)
    mask = torch.ones(1, 1, 20, 20).tril()
    old = {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file({**tensors, **old}, path, metadata={"format": "pt"})
    assert {".".join(drop.key) for drop in plan_conversion(tmp_path / "gpt2", to="flax").dropped} >= set(old)
    save_file({**tensors, "transformer.h.0.attention.bias": mask[0, 0, 0]}, path, metadata={"format": "pt"})
    with refused(MismatchError, "transformer.h.0.attention.bias") as caught:
        plan_conversion(tmp_path / "gpt2", to="flax")
    assert caught.value.unexpected == ("transformer.h.0.attention.bias",)


def test_an_untied_head_keeps_its_own_values(tmp_path):
    model = bert(tie_word_embeddings=False)
    assert not torch.equal(model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path / "bert")
    convert(tmp_path / "bert", f"{tmp_path}/flax/", to="flax")
    convert(tmp_path / "flax", f"{tmp_path}/back/", to="torch")
    assert_same(load_file(tmp_path / "back" / "model.safetensors"), dict(model.state_dict()))


def test_a_neutral_folder_leads_to_both_frameworks(folder, tmp_path):
    convert(folder, f"{tmp_path}/neutral/", to="neutral")
    report = convert(tmp_path / "neutral", f"{tmp_path}/flax/", to="flax")
    assert report.sidecar_files
    convert(folder, f"{tmp_path}/direct/", to="flax")
    with open_state(tmp_path / "flax") as one, open_state(tmp_path / "direct") as other:
        assert one.specs() == other.specs()
        assert all(np.array_equal(one[key], other[key]) for key in one)


# -- files and configs as they are --------------------------------------------------------------------


def test_a_file_beside_its_config_is_read_as_its_folder_is(folder, tmp_path):
    file = folder / "model.safetensors"
    plan = plan_conversion(file, to="flax")
    assert plan.describe() == plan_conversion(folder, to="flax").describe()
    assert plan.notes[0].startswith("BertForMaskedLM of transformers")
    assert {step.evidence for step in plan.steps} <= {"module", "structure"}
    report = convert(file, tmp_path / "a.msgpack", to="flax")
    assert report.sidecar_files == ()
    convert(folder, tmp_path / "b.msgpack", to="flax")
    assert (tmp_path / "a.msgpack").read_bytes() == (tmp_path / "b.msgpack").read_bytes()
    report = convert(file, f"{tmp_path}/out/", to="flax")
    assert (tmp_path / "out" / "config.json") in report.sidecar_files


def test_a_shard_is_not_held_to_the_config_of_the_whole(folder, tmp_path):
    convert(folder, f"{tmp_path}/shards/", to="torch", max_shard_size="8KB")
    shard = min((tmp_path / "shards").glob("model-00001-*"))
    with refused(ShardError, "shard 1 of"):
        plan_conversion(shard, to="flax")
    plan = plan_conversion(shard, to="flax", allow_missing=True, accept_guesses=True)
    assert [note.startswith("model-00001") for note in plan.notes] == [True]


def test_a_type_that_transformers_does_not_know_is_told_and_needs_no_option(folder, tmp_path):
    edit(
        folder, model_type="mamba-of-mine", architectures=["MambaOfMine"], time_step_limit=[0.0, float("inf")]
    )
    assert "Infinity" in (folder / "config.json").read_text()
    plan = plan_conversion(folder, to="flax", accept_guesses=True)
    assert ["mamba-of-mine" in note for note in plan.notes] == [True]
    assert {step.evidence for step in plan.steps} <= {"structure", "guess", "unclaimed"}
    convert(folder, f"{tmp_path}/out/", to="flax", accept_guesses=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["time_step_limit"][1] == float("inf")
    with refused(UsageError, "config.json", "mamba-of-mine"):
        plan_conversion(folder, to="flax", model="BertForMaskedLM")


def test_infinity_in_the_config_of_a_known_type_is_read(folder):
    edit(folder, some_limit=[0.0, float("inf")])
    assert plan_conversion(folder, to="flax").notes[0].startswith("BertForMaskedLM")


def test_a_pointer_in_place_of_the_config_is_named(folder):
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with refused(MalformedFile, "config.json", "git lfs pull"):
        plan_conversion(folder, to="flax")
    with refused(AmbiguousLayerError, "config.json", "git lfs pull"):
        plan_conversion(folder / "model.safetensors", to="flax")
    assert plan_conversion(folder / "model.safetensors", to="flax", accept_guesses=True).ok
