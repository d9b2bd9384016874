"""One recipe for ResNets of torchvision and of Flax's example: there, back, and the same outputs."""

import numpy as np
import pytest
import torch
from support.flax_resnet import STAGES, LinenResNet, TorchResNet
from support.rule_proofs import (
    RECIPES,
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    saved_tree,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import convert

FILE = RECIPES / "resnet-flax.toml"
PICTURES = np.random.default_rng(0).standard_normal((2, 33, 33, 3)).astype(np.float32)

every_depth = pytest.mark.parametrize(
    "depth", [18, *(pytest.param(n, marks=pytest.mark.slow) for n in (34, 50, 101, 152))]
)


def by_hand(weights, depth):
    """Return the variables of Flax's model, made name by name."""
    tree = {}

    def conv(name, path):
        tree[f"params/{path}/kernel"] = weights[f"{name}.weight"].transpose(2, 3, 1, 0)

    def norm(name, path):
        for leaf, own in (("weight", "params/{}/scale"), ("bias", "params/{}/bias")):
            tree[own.format(path)] = weights[f"{name}.{leaf}"]
        for leaf, own in (("running_mean", "mean"), ("running_var", "var")):
            tree[f"batch_stats/{path}/{own}"] = weights[f"{name}.{leaf}"]

    conv("conv1", "conv_init")
    norm("bn1", "bn_init")
    tree["params/Dense_0/kernel"], tree["params/Dense_0/bias"] = weights["fc.weight"].T, weights["fc.bias"]
    kind, count = ("ResNetBlock", 2) if depth < 50 else ("BottleneckResNetBlock", 3)
    blocks = [(s + 1, b) for s, size in enumerate(STAGES[depth]) for b in range(size)]
    for number, (stage, block) in enumerate(blocks):
        old, new = f"layer{stage}.{block}", f"{kind}_{number}"
        for n in range(count):
            conv(f"{old}.conv{n + 1}", f"{new}/Conv_{n}")
            norm(f"{old}.bn{n + 1}", f"{new}/BatchNorm_{n}")
        if f"{old}.downsample.0.weight" in weights:
            conv(f"{old}.downsample.0", f"{new}/conv_proj")
            norm(f"{old}.downsample.1", f"{new}/norm_proj")
    return tree


@pytest.fixture
def model(depth):
    return randomised(TorchResNet(depth), seed=depth)


@pytest.fixture
def in_flax(model, tmp_path):
    source = torch_file(model, tmp_path / "torch" / "model.safetensors")
    report = convert(source, tmp_path / "flax.msgpack", to="flax", rules=FILE)
    assert report.exact
    return tmp_path / "flax.msgpack"


@every_depth
def test_the_file_is_that_made_by_hand(depth, model, in_flax):
    assert_same_tree(stored_tree(in_flax), by_hand(arrays(model), depth))


@every_depth
def test_the_outputs_are_those_of_torch(depth, model, in_flax):
    with torch.no_grad():
        wanted = model(torch.from_numpy(PICTURES).permute(0, 3, 1, 2))
    assert_same_outputs(run_linen(LinenResNet(depth), stored_tree(in_flax), PICTURES), wanted)


@every_depth
@pytest.mark.parametrize("shown", ["template", "names"])
def test_it_comes_back_bit_for_bit(depth, shown, model, in_flax, tmp_path):
    """How many blocks a stage has is in no name of Flax's: all of them together show it."""
    source = tmp_path / "torch" / "model.safetensors"
    known = {"like": source} if shown == "template" else {}
    assert convert(in_flax, tmp_path / "back.safetensors", to="torch", rules=FILE, **known).exact
    assert_same_tree(stored(tmp_path / "back.safetensors"), stored(source))


@every_depth
def test_variables_of_flax_become_torchs(depth, model, tmp_path):
    """A file that this project did not write."""
    variables = saved_tree(by_hand(arrays(model), depth), tmp_path / "flax.msgpack")
    convert(variables, tmp_path / "torch.safetensors", to="torch", rules=FILE)
    counters = {name: value for name, value in arrays(model).items() if "num_batches" in name}
    wanted = {**arrays(model), **{name: np.zeros_like(value) for name, value in counters.items()}}
    assert_same_tree(stored(tmp_path / "torch.safetensors"), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18])
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('source = "**.conv{j:int}"\nlayer = "conv"', 'source = "**.conv{j:int}"\nlayer = "conv_transpose"'),
        ('conv2 = "Conv_1", bn2 = "BatchNorm_1"', 'conv2 = "BatchNorm_1", bn2 = "Conv_1"'),
    ],
)
def test_a_wrong_rule_is_seen(depth, right, wrong, model, tmp_path):
    """The control."""
    source = torch_file(model, tmp_path / "torch" / "model.safetensors")
    in_flax = tmp_path / "flax.msgpack"
    rules = changed(FILE, right, wrong, tmp_path)
    convert(source, in_flax, to="flax", rules=rules)
    with pytest.raises(AssertionError):
        assert_same_tree(stored_tree(in_flax), by_hand(arrays(model), depth))
