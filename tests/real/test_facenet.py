"""Pretrained MTCNN (torch's legacy files: Conv2d, PReLU with a slope a channel, Linear) in Linen and NNX."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx
from support.bare_process import convert_bare, run_bare
from support.commands import assert_refused
from support.errors import refused
from support.face_models import NETS, LinenNet, NnxNet, TorchNet, images
from support.loading import assert_same_tensors, largest_difference, load_flax, load_torch

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, Rule

DATA = Path(__file__).parents[1] / "data" / "facenet"
FLAX_FILES = ["flax_model.msgpack", pytest.param("model.safetensors", marks=pytest.mark.slow)]

every_net = pytest.mark.parametrize("name", list(NETS))
every_net_quickly_one = pytest.mark.parametrize(
    "name", [name if name == "onet" else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)


@pytest.fixture
def weights(name):
    return torch.load(DATA / f"{name}.pt", weights_only=True)


@pytest.fixture
def pictures(name):
    net = NETS[name]
    return np.random.default_rng(1).uniform(-1, 1, (2, net.side, net.side, 3)).astype("float32")


@pytest.fixture
def wanted(name, weights, pictures):
    """What torch computes, with channels last."""
    model = TorchNet(NETS[name]).eval()
    model.load_state_dict(weights)
    with torch.no_grad():
        values = model(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    return tuple(np.moveaxis(value.numpy(), 1, -1) for value in values)


@pytest.fixture
def template(name):
    return bridge_flax.template(LinenNet(NETS[name]), images(NETS[name]))


def abstract_nnx(name):
    return nnx.eval_shape(lambda: NnxNet(NETS[name], nnx.Rngs(0)))


def largest_gap(found, wanted):
    return max(largest_difference(a, b) for a, b in zip(found, wanted, strict=True))


@every_net_quickly_one
def test_the_live_dict_gives_torchs_outputs_in_linen_and_nnx(name, weights, template, pictures, wanted):
    neutral = bridge_torch.to_neutral(weights)
    variables = bridge_flax.from_neutral(neutral, like=template)
    assert largest_gap(LinenNet(NETS[name]).apply(variables, pictures), wanted) < 1e-5
    module = bridge_flax.from_neutral(neutral, like=abstract_nnx(name))
    assert isinstance(module, NnxNet)
    assert largest_gap(module(pictures), wanted) < 1e-5


@every_net_quickly_one
@pytest.mark.parametrize("file", FLAX_FILES)
def test_the_file_converts_without_a_framework_and_comes_back(
    name, file, weights, pictures, wanted, tmp_path
):
    made = convert_bare(DATA / f"{name}.pt", tmp_path / file, "--to=flax", "--accept-guesses")
    assert largest_gap(LinenNet(NETS[name]).apply({"params": load_flax(made)}, pictures), wanted) < 1e-5
    with bridge_core.open_state(made) as state:
        module = bridge_flax.from_neutral(bridge_flax.to_neutral(state), like=abstract_nnx(name))
        assert largest_gap(module(pictures), wanted) < 1e-5
    for back in ("back.pt", "back.safetensors"):
        assert_same_tensors(load_torch(convert_bare(made, tmp_path / back, "--to=torch")), weights)


@every_net
def test_the_template_settles_what_the_file_leaves_open(name, template, weights, tmp_path):
    source = DATA / f"{name}.pt"
    with pytest.raises(AmbiguousLayerError) as caught:
        bridge_core.convert(source, tmp_path / "w.msgpack", to="flax")
    slopes = {key for key, value in weights.items() if key.startswith("prelu")}
    assert slopes <= set(caught.value.candidates)
    report = bridge_core.convert(source, tmp_path / "w.msgpack", to="flax", like=template)
    assert not report.guessed
    assert not report.dropped
    kinds = Counter(step.kind for step in bridge_core.plan_conversion(source, to="flax", like=template).steps)
    assert kinds["prelu"] == len(slopes)


@every_net_quickly_one
def test_it_stays_undecided_in_neutral_form_and_comes_back(name, weights, tmp_path):
    neutral = convert_bare(DATA / f"{name}.pt", tmp_path / "n.safetensors", "--to=neutral")
    with bridge_core.open_state(neutral) as state:
        info = state.metadata.layers["prelu1",]
        assert info.kind is None
        assert info.candidates == ("torch.norm", "torch.prelu", "parameter")
        assert_same_tensors(bridge_torch.from_neutral(state), weights)
    assert_same_tensors(load_torch(convert_bare(neutral, tmp_path / "back.pt", "--to=torch")), weights)
    done = run_bare("convert", neutral, tmp_path / "w.msgpack", "--to=flax")
    assert_refused(done, AmbiguousLayerError, "prelu", "--like")
    assert not (tmp_path / "w.msgpack").exists()


@every_net
@pytest.mark.parametrize("made", ["linen", "nnx"])
def test_live_models_come_back_bit_for_bit(name, made, weights, template):
    neutral = bridge_torch.to_neutral(weights)
    if made == "linen":
        returned = bridge_flax.to_neutral(bridge_flax.from_neutral(neutral, like=template), module=template)
    else:
        returned = bridge_flax.to_neutral(bridge_flax.from_neutral(neutral, like=abstract_nnx(name)))
    with torch.device("meta"):
        like = TorchNet(NETS[name])
    assert_same_tensors(bridge_torch.from_neutral(returned, like=like), weights)


@every_net
def test_control_swapped_slopes_and_a_flipped_kernel_are_seen(name, weights, template, pictures, wanted):
    variables = bridge_flax.from_neutral(bridge_torch.to_neutral(weights), like=template)
    params = variables["params"]
    slopes = {"negative_slope": np.flip(params["prelu2"]["negative_slope"])}
    kernel = {**params["conv2"], "kernel": np.flip(params["conv2"]["kernel"], (0, 1))}
    for wrong in ({**params, "prelu2": slopes}, {**params, "conv2": kernel}):
        assert largest_gap(LinenNet(NETS[name]).apply({"params": wrong}, pictures), wanted) > 1e-3


@every_net
def test_control_a_wrong_kind_is_seen(name, weights, pictures, wanted):
    square = {"pnet": None, "rnet": None, "onet": "conv3"}[name]
    if square is None:
        with refused(bridge_core.RuleError, "conv2", "conv_transpose"):
            bridge_torch.to_neutral(weights, rules=[Rule.layer("conv2", "conv_transpose")])
        return
    neutral = bridge_torch.to_neutral(weights, rules=[Rule.layer(square, "conv_transpose")])
    params = bridge_flax.from_neutral(neutral, accept_guesses=True)
    assert largest_gap(LinenNet(NETS[name]).apply({"params": params}, pictures), wanted) > 1e-3
