"""What transformers' own conversion saved wrongly, warned of for nothing, or paid too much for.

Every test runs the original as well, and shows that it would notice the fault.
"""

from __future__ import annotations

import cProfile
import pstats
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import torch
from flax.traverse_util import flatten_dict
from support.loading import assert_same_tensors
from support.measured import IGNORED, TEXT, bert
from support.models import randomise
from torch import nn

import bridge_core
import bridge_flax
import bridge_torch
from ckptbridge_transformers import flax_template, flax_weights, torch_weights

transformers = pytest.importorskip("transformers", "4.57", reason="the original is in transformers 4 alone")
original = pytest.importorskip("transformers.modeling_flax_pytorch_utils")

pytestmark = IGNORED


# -- saving -----------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """A folder of torch weights, the torch model, the Flax model, and its weights."""
    module, model = bert()
    module.save_pretrained(tmp_path / "torch")
    return tmp_path / "torch", module, model, flax_weights(module, model).weights


def names_in(folder, pattern="*model*"):
    return {path.name for path in Path(folder).glob(pattern)}


def test_safetensors_stay_safetensors_when_sharded(checkpoint, tmp_path):
    folder, module, model, tree = checkpoint
    model.save_pretrained(tmp_path / "old", params=tree, max_shard_size="6KB", safe_serialization=True)
    assert names_in(tmp_path / "old", "*.msgpack")
    assert not names_in(tmp_path / "old", "*.safetensors")

    options = {"to": "flax", "format": "safetensors", "max_shard_size": "6KB"}
    report = bridge_core.convert(folder, tmp_path / "new", **options)
    assert report.format == "safetensors"
    assert len(names_in(tmp_path / "new", "model-*.safetensors")) > 2
    assert not names_in(tmp_path / "new", "*.msgpack*")
    assert_same_tensors(torch_weights(tmp_path / "new", module).weights, module.state_dict())


def test_no_shards_of_an_earlier_save_remain(checkpoint, tmp_path):
    folder, module, model, tree = checkpoint
    model.save_pretrained(tmp_path / "old", params=tree, max_shard_size="4KB")
    model.save_pretrained(tmp_path / "old", params=tree)
    assert names_in(tmp_path / "old", "flax_model.msgpack")
    assert names_in(tmp_path / "old", "flax_model-*-of-*.msgpack")

    new = tmp_path / "new"
    counts = {}
    for size in ("4KB", "6KB", "1GB"):
        bridge_core.convert(folder, new, to="flax", max_shard_size=size, overwrite=True)
        counts[size] = names_in(new)
        assert_same_tensors(torch_weights(new, module).weights, module.state_dict())
    assert len(counts["4KB"]) > len(counts["6KB"]) > 2
    assert counts["1GB"] == {"flax_model.msgpack"}


def test_no_shard_is_empty_when_the_first_tensor_is_too_large(tmp_path):
    tree = {"a": np.ones(2000, np.float32), "b": np.ones(10, np.float32)}
    shards, _ = transformers.modeling_flax_utils.flax_shard_checkpoint(tree, "4KB")
    assert [len(shard) for shard in shards.values()] == [0, 1, 1]

    for kind in ("safetensors", "msgpack"):
        bridge_core.convert(
            tree, tmp_path / kind, to="flax", layout="flax", format=kind, max_shard_size="4KB"
        )
        files = sorted((tmp_path / kind).glob("*-of-*"))
        assert len(files) == 2
        for file in files:
            with bridge_core.open_state(file) as state:
                assert len(state) == 1
    with safetensors.safe_open(tmp_path / "safetensors" / "model-00001-of-00002.safetensors", "np") as file:
        assert list(file.keys()) == ["a"]


# -- cost -------------------------------------------------------------------------------------------


class Initialised(Exception):
    """Random weights were asked for."""


def test_no_weights_are_made_at_random_first(tmp_path, monkeypatch):
    module, model = bert()
    module.save_pretrained(tmp_path)
    init, traced = transformers.FlaxBertModel.init_weights, []

    def watched(*args, **options):
        if not isinstance(jnp.zeros(()), jax.core.Tracer):
            raise Initialised
        traced.append(True)
        return init(*args, **options)

    monkeypatch.setattr(transformers.FlaxBertModel, "init_weights", watched)
    with pytest.raises(Initialised):
        transformers.FlaxBertModel.from_pretrained(tmp_path, from_pt=True)
    traced.clear()

    with torch.device("meta"):
        empty = transformers.BertModel(module.config)
    tree = flax_weights(tmp_path, model).weights
    assert_same_tensors(torch_weights(tree, empty).weights, module.state_dict())
    bridge_core.convert(tmp_path, tmp_path / "flax", to="flax")
    assert traced


def many(layers):
    """A torch model of so many layers, and a Flax tree for it."""
    module = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))})
    module.base_model_prefix = "model"
    leaf = np.ones((2, 2), np.float32)
    return module, {"layers": {str(i): {"kernel": leaf, "bias": leaf[0]} for i in range(layers)}}


def calls_of(work, layers):
    module, tree = many(layers)
    profile = cProfile.Profile()
    profile.enable()
    work(module, tree)
    profile.disable()
    return pstats.Stats(profile).total_calls


def test_work_is_in_proportion_to_the_keys():
    """Four times the keys take the original nearer to sixteen times the calls."""

    def growth(work):
        calls_of(work, 5)
        return calls_of(work, 240) / calls_of(work, 60)

    assert growth(lambda module, tree: original.load_flax_weights_in_pytorch_model(module, tree)) > 8
    assert growth(lambda m, tree: bridge_torch.from_neutral(bridge_flax.to_neutral(tree), like=m)) < 5
    assert growth(lambda m, tree: bridge_flax.from_neutral(bridge_torch.to_neutral(m), like=tree)) < 5


_LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import jax, numpy, torch, transformers
from ckptbridge_transformers import flax_weights

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

def load(folder, how):
    if how == "original":
        return transformers.FlaxBertModel.from_pretrained(folder, from_pt=True)
    config = transformers.BertConfig.from_pretrained(folder)
    return flax_weights(folder, transformers.FlaxBertModel(config, _do_init=False)).weights

small, large, how = sys.argv[1:]
load(small, how)
before = status("VmRSS")
kept = load(large, how)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a peak")
def test_memory_stays_below_twice_the_file(tmp_path):
    for name, width in (("small", 16), ("large", 1536)):
        config = transformers.BertConfig(
            **{**TEXT, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
        )
        randomise(transformers.BertModel(config)).save_pretrained(tmp_path / name)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > 100e6

    def peak(how):
        arguments = [sys.executable, "-c", _LOAD, str(tmp_path / "small"), str(tmp_path / "large"), how]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout) / size

    assert peak("original") > 2
    assert peak("ours") < 2


# -- false alarms -----------------------------------------------------------------------------------

GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
BART = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
}
GOOD = {
    "BertForMaskedLM": ("BertConfig", TEXT),
    "BertForPreTraining": ("BertConfig", TEXT),
    "RobertaForMaskedLM": ("RobertaConfig", TEXT),
    "GPT2LMHeadModel": ("GPT2Config", GPT2),
    "LlamaForCausalLM": ("LlamaConfig", TEXT),
    "BartForConditionalGeneration": ("BartConfig", BART),
    "ViTForImageClassification": ("ViTConfig", {**TEXT, "image_size": 8, "patch_size": 4}),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "bottleneck"},
    ),
}
WARNED_OF = ("BertForMaskedLM", "RobertaForMaskedLM", "GPT2LMHeadModel", "BartForConditionalGeneration")
"""Tied weights, which the original fills and then calls newly initialized."""
QUICK = ("BertForMaskedLM", "LlamaForCausalLM")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in GOOD],
)
def test_nothing_is_missing_after_a_good_load(name, tmp_path, monkeypatch):
    config_class, options = GOOD[name]
    config = getattr(transformers, config_class)(**options)
    module = randomise(getattr(transformers, name)(config))
    for counter in (v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")):
        counter.zero_()  # a Flax tree has no place for it
    model = getattr(transformers, f"Flax{name}")(config, _do_init=False)
    module.save_pretrained(tmp_path / "single")
    module.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    for source in (module, tmp_path / "single", tmp_path / "shards", tmp_path / "pytorch_model.bin"):
        loaded = flax_weights(source, model)
        assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
        assert flatten_dict(loaded.weights).keys() == flatten_dict(flax_template(model).tree).keys()
        back = torch_weights(loaded.weights, module)
        assert (back.missing, back.unexpected, back.mismatched) == ((), (), ())
        assert_same_tensors(back.weights, module.state_dict())
        same = torch_weights(source, module)
        assert (same.missing, same.unexpected, same.mismatched) == ((), (), ())
    report = bridge_core.convert(tmp_path / "single", tmp_path / "flax", to="flax")
    assert report.exact
    assert (report.guessed, report.filled) == ((), ())

    warnings = []
    monkeypatch.setattr(original.logger, "warning", warnings.append)
    original.load_flax_weights_in_pytorch_model(module, loaded.weights)
    if name in WARNED_OF:
        assert any("newly initialized" in text.replace("\n", " ") for text in warnings)
        assert_same_tensors(module.state_dict(), back.weights)
