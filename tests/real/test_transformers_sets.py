"""Whole folders of transformers, single and sharded, with random weights.

What the save_pretrained of either framework writes goes over, and the other's from_pretrained opens it.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from support.bare_process import convert_bare
from support.loading import assert_same_tensors, assert_same_trees, largest_difference

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, MismatchError

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings(
    # transformers 4.57 announces the end of its Flax models, and uses what JAX has renamed.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    # Its Flax models ask for int64 where JAX has int32.
    "ignore:Explicitly requested dtype:UserWarning",
)

IDS = np.random.default_rng(0).integers(1, 96, (2, 11))
BERT = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "use_cache": False,
}
LLAMA = {**BERT, "num_key_value_heads": 1, "tie_word_embeddings": False}
TORCH_SETS = {
    "shards of safetensors": ({"max_shard_size": "8KB"}, "model.safetensors.index.json"),
    "shards of torch": (
        {"max_shard_size": "8KB", "safe_serialization": False},
        "pytorch_model.bin.index.json",
    ),
    "one torch file": ({"safe_serialization": False}, "pytorch_model.bin"),
}
FLAX_SETS = {
    "shards of msgpack": ({"max_shard_size": "8KB"}, "flax_model.msgpack.index.json"),
    "one msgpack file": ({}, "flax_model.msgpack"),
    "one safetensors file": ({"safe_serialization": True}, "model.safetensors"),
}


def cases(written, quick):
    """Every family with every way of writing; all but a few are slow."""
    return [
        pytest.param(family, name, marks=() if (family, name) in quick else pytest.mark.slow)
        for family in ("Bert", "Llama")
        for name in written
    ]


def config_of(family):
    return transformers.BertConfig(**BERT) if family == "Bert" else transformers.LlamaConfig(**LLAMA)


def classes(family):
    """The torch class and the Flax class of a family: a base model, and one with a head."""
    name = "BertModel" if family == "Bert" else "LlamaForCausalLM"
    return getattr(transformers, name), getattr(transformers, f"Flax{name}")


def randomise(model):
    """Give every weight of a torch model random values; scales stay near one, so that nothing vanishes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(std=0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                value += 1
    return model.eval()


def random_tree(shapes):
    rng = np.random.default_rng(1)
    tree = {}
    for key, spec in flatten_dict(shapes).items():
        near_one = key[-1] == "scale" or key[-2].endswith("norm")
        tree[key] = (rng.normal(size=spec.shape) * 0.2 + near_one).astype(spec.dtype)
    return unflatten_dict(tree)


def torch_outputs(model):
    with torch.no_grad():
        return tuple(value.numpy() for value in model.eval()(torch.from_numpy(IDS)).to_tuple())


def flax_outputs(model, params):
    return tuple(np.asarray(v) for v in model(IDS, params=params).to_tuple())


def assert_equal_outputs(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert largest_difference(a, b) < 1e-5


def convert_folder(source, destination, *options):
    """Convert a folder by the command, and take its configuration along."""
    destination.mkdir()
    shutil.copy(source / "config.json", destination)
    return convert_bare(source, f"{destination}/", *options, "--overwrite")


def shards_of(folder, pattern):
    return len(list(Path(folder).glob(pattern)))


@pytest.mark.parametrize(
    ("family", "written"),
    cases(TORCH_SETS, {("Bert", "shards of torch")}),
)
def test_a_set_of_torch_opens_in_flax(family, written, tmp_path):
    torch_class, flax_class = classes(family)
    model = randomise(torch_class(config_of(family)))
    options, first = TORCH_SETS[written]
    model.save_pretrained(tmp_path / "in", **options)
    assert (tmp_path / "in" / first).exists()
    abstract = flax_class(config_of(family), _do_init=False)
    bridge_core.convert(
        tmp_path / "in",
        tmp_path / "out",
        to="flax",
        like=abstract.params_shape_tree,
        max_shard_size="9KB",
    )
    assert shards_of(tmp_path / "out", "flax_model-*.msgpack") > 2
    shutil.copy(tmp_path / "in" / "config.json", tmp_path / "out")
    loaded, params = flax_class.from_pretrained(tmp_path / "out", _do_init=False)
    assert_equal_outputs(flax_outputs(loaded, params), torch_outputs(model))

    kind, pattern = ("safetensors", "model-*") if "torch" in written else ("torch", "pytorch_model-*")
    convert_folder(
        tmp_path / "out", tmp_path / "back", "--to=torch", f"--format={kind}", "--max-shard-size=9KB"
    )
    assert shards_of(tmp_path / "back", pattern) > 2
    assert_same_tensors(torch_class.from_pretrained(tmp_path / "back").state_dict(), model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "written"), cases(FLAX_SETS, {("Bert", "shards of msgpack")}))
def test_a_set_of_flax_opens_in_torch(family, written, tmp_path):
    torch_class, flax_class = classes(family)
    abstract = flax_class(config_of(family), _do_init=False)
    params = random_tree(abstract.params_shape_tree)
    options, first = FLAX_SETS[written]
    abstract.save_pretrained(tmp_path / "in", params=params, **options)
    assert (tmp_path / "in" / first).exists()
    convert_folder(
        tmp_path / "in", tmp_path / "out", "--to=torch", "--format=safetensors", "--max-shard-size=9KB"
    )
    assert shards_of(tmp_path / "out", "model-*.safetensors") > 2
    model, report = torch_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    assert_equal_outputs(torch_outputs(model), flax_outputs(abstract, params))

    convert_folder(tmp_path / "out", tmp_path / "back", "--to=flax", "--max-shard-size=9KB")
    _, returned = flax_class.from_pretrained(tmp_path / "back", _do_init=False)
    assert_same_trees(returned, params)


def test_a_head_joins_a_base_and_leaves_it_in_either_framework():
    config = config_of("Bert")
    headed = randomise(transformers.BertForTokenClassification(config))
    flax_headed = transformers.FlaxBertForTokenClassification(config, _do_init=False)
    shapes = flax_headed.params_shape_tree
    params = bridge_flax.from_neutral(bridge_torch.to_neutral(headed), like=shapes)
    assert_equal_outputs(flax_outputs(flax_headed, params), torch_outputs(headed))

    base = transformers.FlaxBertModel(config, add_pooling_layer=False, _do_init=False)
    with pytest.raises(MismatchError):
        bridge_flax.from_neutral(bridge_torch.to_neutral(headed), like=base.params_shape_tree)
    body = bridge_flax.from_neutral(
        bridge_torch.to_neutral(headed), like=base.params_shape_tree, allow_unexpected=["classifier.**"]
    )
    assert_same_trees(body, params["bert"])

    other = random_tree(shapes)
    grown = bridge_flax.from_neutral(
        bridge_flax.to_neutral(body), like=other, allow_missing=["classifier.**"]
    )
    assert_same_trees(grown["bert"], params["bert"])
    assert_same_trees(grown["classifier"], other["classifier"])

    again = randomise(transformers.BertForTokenClassification(config))
    again.load_state_dict(bridge_torch.from_neutral(bridge_flax.to_neutral(grown), like=again))
    assert_equal_outputs(flax_outputs(flax_headed, grown), torch_outputs(again))


@pytest.mark.parametrize("layer", ["query", "key"])
def test_control_an_untransposed_square_kernel_is_seen(layer):
    config = config_of("Bert")
    model = randomise(transformers.BertModel(config))
    abstract = transformers.FlaxBertModel(config, _do_init=False)
    params = bridge_flax.from_neutral(bridge_torch.to_neutral(model), like=abstract.params_shape_tree)
    held = params["encoder"]["layer"]["1"]["attention"]["self"][layer]
    held["kernel"] = held["kernel"].T
    gaps = map(largest_difference, flax_outputs(abstract, params), torch_outputs(model))
    assert max(gaps) > 1e-3


def test_a_layer_with_axes_of_its_own_is_refused_and_never_mistaken(tmp_path):
    """GPT-2's layers keep their weights the other way round in both, which a bare tree's square ones hide."""
    config = transformers.GPT2Config(vocab_size=96, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    model = randomise(transformers.GPT2Model(config))
    shapes = transformers.FlaxGPT2Model(config, _do_init=False).params_shape_tree
    with pytest.raises(AmbiguousLayerError) as caught:
        bridge_flax.from_neutral(bridge_torch.to_neutral(model), like=shapes)
    assert set(caught.value.candidates) == {"h.0.attn.c_proj.kernel", "h.0.attn.c_proj.bias"}
    returned = bridge_torch.from_neutral(bridge_torch.to_neutral(model))
    assert_same_tensors(returned, model.state_dict())
