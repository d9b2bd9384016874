"""Pretrained CREPE (a torch zip file: Conv2d, BatchNorm2d, Linear) in Linen and NNX, and back."""

from collections import OrderedDict
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from support.bare_process import convert_bare
from support.commands import assert_names
from support.crepe_models import FRAMES, LinenCrepe, NnxCrepe, TorchCrepe, abstract_nnx
from support.loading import assert_same_tensors, assert_same_trees, largest_difference, load_flax, load_torch

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, Rule

FILE = Path(__file__).parents[1] / "data" / "torchcrepe" / "tiny.pth"
FLAX_FILES = ["flax_model.msgpack", "model.safetensors"]
MOSTLY_SLOW = [FLAX_FILES[0], pytest.param(FLAX_FILES[1], marks=pytest.mark.slow)]
TORCH_FILES = ["back.pth", "back.safetensors"]
SQUARE = ("conv3", "conv4")
"""Layers with as many inputs as outputs, so that no shape tells a convolution from a transposed one."""


@pytest.fixture(scope="module")
def weights():
    return torch.load(FILE, weights_only=True)


@pytest.fixture(scope="module")
def counted(weights):
    """The weights as if they had been trained on: every norm has seen another number of batches."""
    norms = [key for key in weights if key.endswith("num_batches_tracked")]
    return OrderedDict(weights) | {key: torch.tensor(2**40 + n) for n, key in enumerate(norms)}


@pytest.fixture(scope="module")
def frames():
    """Random audio, scaled as the tracker scales it."""
    sound = np.random.default_rng(0).normal(size=FRAMES.shape).astype("float32")
    return (sound - sound.mean(1, keepdims=True)) / sound.std(1, keepdims=True)


@pytest.fixture(scope="module")
def wanted(weights, frames):
    model = TorchCrepe().eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        return tuple(value.numpy() for value in model(torch.from_numpy(frames)))


@pytest.fixture(scope="module")
def template():
    return bridge_flax.template(LinenCrepe(), FRAMES)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """What the command makes of the file, in both of Flax's formats."""
    folder = tmp_path_factory.mktemp("crepe")
    return {name: convert_bare(FILE, folder / name, "--to=flax", "--accept-guesses") for name in FLAX_FILES}


def assert_equal_outputs(found, wanted):
    logits, pitches = found
    assert largest_difference(logits, wanted[0]) < 1e-5
    assert largest_difference(pitches, wanted[1]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAX_FILES)
def test_the_converted_file_gives_torchs_outputs_in_linen(converted, name, frames, wanted):
    assert_equal_outputs(LinenCrepe().apply(load_flax(converted[name]), frames), wanted)


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_the_converted_file_gives_torchs_outputs_in_nnx(converted, name, frames, wanted):
    with bridge_core.open_state(converted[name]) as state:
        model = bridge_flax.from_neutral(bridge_flax.to_neutral(state), like=abstract_nnx())
        assert isinstance(model, NnxCrepe)
        assert_equal_outputs(model(frames), wanted)


def test_module_types_settle_everything_without_a_guess(weights, template, frames, wanted):
    neutral = bridge_torch.to_neutral(weights)
    variables = bridge_flax.from_neutral(neutral, like=template)
    assert_equal_outputs(LinenCrepe().apply(variables, frames), wanted)
    assert_equal_outputs(bridge_flax.from_neutral(neutral, like=abstract_nnx())(frames), wanted)


def test_a_torch_module_on_the_meta_device_settles_everything_too(template, frames, wanted, tmp_path):
    report = bridge_core.convert(FILE, tmp_path / "w.msgpack", to="flax", model=TorchCrepe().to("meta"))
    assert report.evidence == {"module": 38}
    assert not report.guessed
    assert_equal_outputs(LinenCrepe().apply(load_flax(tmp_path / "w.msgpack"), frames), wanted)


def test_shapes_alone_leave_the_square_layers_open(weights, template):
    tree = jax.eval_shape(lambda: LinenCrepe().init(jax.random.key(0), np.zeros(FRAMES.shape, "float32")))
    with pytest.raises(AmbiguousLayerError) as caught:
        bridge_flax.from_neutral(bridge_torch.to_neutral(weights), like=tree)
    assert {name.rpartition(".")[0] for name in caught.value.candidates} == set(SQUARE)


@pytest.mark.parametrize("name", MOSTLY_SLOW)
@pytest.mark.parametrize("back", TORCH_FILES)
def test_files_come_back_bit_for_bit(converted, name, back, weights, tmp_path):
    returned = load_torch(convert_bare(converted[name], tmp_path / back, "--to=torch"))
    assert_same_tensors(returned, weights)


@pytest.mark.parametrize("name", MOSTLY_SLOW)
def test_counted_batches_come_back_through_a_flax_file(counted, name, tmp_path):
    torch.save(counted, tmp_path / "counted.pth")
    middle = convert_bare(tmp_path / "counted.pth", tmp_path / name, "--to=flax", "--accept-guesses")
    assert_same_tensors(load_torch(convert_bare(middle, tmp_path / "back.pth", "--to=torch")), counted)


class Wrapped(nn.Module):
    """The tracker inside another module, so that all of its names have a prefix."""

    @nn.compact
    def __call__(self, frames):
        return LinenCrepe(name="tracker")(frames)


def test_counted_batches_come_back_through_a_prefix(counted, tmp_path):
    torch.save(counted, tmp_path / "counted.pth")
    inside = bridge_flax.template(Wrapped(), FRAMES)
    middle, back = tmp_path / "inside.msgpack", tmp_path / "back.safetensors"
    report = bridge_core.convert(tmp_path / "counted.pth", middle, to="flax", like=inside)
    assert_names(report.notes[0], "'tracker'", "added")
    report = bridge_core.convert(middle, back, to="torch", like=tmp_path / "counted.pth", model=inside)
    assert_names(report.notes[0], "'tracker'", "removed")
    assert_same_tensors(load_torch(back), counted)


def test_counted_batches_go_on_from_one_flax_file_to_the_next(counted, tmp_path):
    torch.save(counted, tmp_path / "counted.pth")
    path = convert_bare(tmp_path / "counted.pth", tmp_path / "0.msgpack", "--to=flax", "--accept-guesses")
    first = load_flax(path)
    path = convert_bare(path, tmp_path / "1.safetensors", "--to=neutral")
    path = convert_bare(path, tmp_path / "2.msgpack", "--to=flax")
    assert_same_trees(load_flax(path), first)
    assert_same_tensors(load_torch(convert_bare(path, tmp_path / "back.pth", "--to=torch")), counted)


@pytest.mark.parametrize("made", ["linen", "nnx"])
def test_live_models_come_back_bit_for_bit(weights, template, made):
    neutral = bridge_torch.to_neutral(weights)
    if made == "linen":
        returned = bridge_flax.to_neutral(bridge_flax.from_neutral(neutral, like=template), module=template)
    else:
        returned = bridge_flax.to_neutral(bridge_flax.from_neutral(neutral, like=abstract_nnx()))
    assert_same_tensors(bridge_torch.from_neutral(returned), weights)
    inside = bridge_torch.from_neutral(returned, like=TorchCrepe().to("meta"))
    assert_same_tensors(inside, weights)
    assert list(inside) == list(weights)


def test_the_tree_from_the_file_is_the_tree_from_the_live_dict(converted, weights, template):
    live = bridge_flax.from_neutral(bridge_torch.to_neutral(weights), like=template)
    for path in converted.values():
        assert_same_trees(load_flax(path), live)


def swap_channels(tree, layer):
    """What the kernel is if its last two axes are taken for one another."""
    kernel = np.asarray(tree["params"][layer]["kernel"])
    layers = {**tree["params"], layer: {**tree["params"][layer], "kernel": np.swapaxes(kernel, -1, -2)}}
    return {**tree, "params": layers}


@pytest.mark.parametrize("layer", SQUARE)
def test_control_an_untransposed_square_kernel_is_seen(converted, layer, frames, wanted):
    tree = swap_channels(load_flax(converted[FLAX_FILES[0]]), layer)
    logits, _ = LinenCrepe().apply(tree, frames)
    assert largest_difference(logits, wanted[0]) > 0.1


def test_control_a_wrong_kind_is_seen(weights, frames, wanted):
    neutral = bridge_torch.to_neutral(weights, rules=[Rule.layer("conv3", "conv_transpose")])
    tree = bridge_flax.from_neutral(neutral, accept_guesses=True)
    logits, _ = LinenCrepe().apply(tree, frames)
    assert largest_difference(logits, wanted[0]) > 0.1


def test_control_statistics_in_each_others_place_are_seen(converted, frames, wanted):
    tree = load_flax(converted[FLAX_FILES[0]])
    held = tree["batch_stats"]["conv2_BN"]
    held["mean"], held["var"] = np.abs(held["var"]), np.abs(held["mean"])
    logits, _ = LinenCrepe().apply(tree, frames)
    assert largest_difference(logits, wanted[0]) > 0.1
