"""ResNets: torchvision's and those of JAX give the same outputs, with weights that a recipe converted."""

import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from stubs import imported, stub_torchvision
from support.rule_proofs import RECIPES, assert_same_outputs, randomised, stored_tree, torch_file

from bridge_core import convert

pytestmark = pytest.mark.proof

PICTURES = np.random.default_rng(0).standard_normal((2, 65, 65, 3)).astype(np.float32)
"""Every size is odd on the way down, so that SAME pads as torch does."""

depths = pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
packages = pytest.mark.parametrize("package", ["jax-resnet", "flaxmodels", "haiku"])


def torch_model(depth):
    stub_torchvision()
    model = getattr(imported("torchvision.models"), f"resnet{depth}")(num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return randomised(model)


def run(model, variables, **options):
    """Run a Linen model that has these variables, and no others."""
    wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), PICTURES, **options))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(dict(wanted), sep="/").items()}
    assert shapes == {name: value.shape for name, value in variables.items()}
    tree = unflatten_dict(variables, sep="/")
    with jax.default_matmul_precision("highest"):
        return model.apply(tree, PICTURES, mutable=False, **options)


def run_jax_resnet(depth, variables):
    return run(getattr(imported("jax_resnet"), f"ResNet{depth}")(n_classes=5), variables)


def run_flaxmodels(depth, variables):
    library = imported("flaxmodels")
    options = {"output": "logits", "pretrained": None, "normalize": False, "num_classes": 5}
    return run(getattr(library, f"ResNet{depth}")(**options), variables, train=False)


def run_haiku(depth, variables):
    haiku = imported("haiku")
    variables = {name.removeprefix("params/"): value for name, value in variables.items()}

    def forward(pictures, training):
        return getattr(haiku.nets, f"ResNet{depth}")(5)(pictures, is_training=training)

    network = haiku.transform_with_state(forward)
    trees = jax.eval_shape(lambda: network.init(jax.random.key(0), PICTURES, True))
    given = []
    for tree in trees:
        names = [(module, leaf) for module, leaves in tree.items() for leaf in leaves]
        given.append({module: {} for module in tree})
        for module, leaf in names:
            value = variables.pop(f"{module}/{leaf}")
            assert (value.shape, value.dtype) == (tree[module][leaf].shape, tree[module][leaf].dtype)
            given[-1][module][leaf] = value
    assert not variables
    with jax.default_matmul_precision("highest"):
        return network.apply(*given, None, PICTURES, False)[0]


RUN = {"jax-resnet": run_jax_resnet, "flaxmodels": run_flaxmodels, "haiku": run_haiku}


def outputs_of(model, depth, package, folder, rules):
    source = torch_file(model, folder / "torch" / "model.safetensors")
    convert(source, folder / "made.msgpack", to="flax", layout="torch", rules=rules)
    with torch.no_grad():
        wanted = model(torch.from_numpy(PICTURES.transpose(0, 3, 1, 2)))
    return RUN[package](depth, stored_tree(folder / "made.msgpack")), wanted


@depths
@packages
def test_the_outputs_are_those_of_torchvision(package, depth, tmp_path):
    rules = RECIPES / f"resnet-{package}.toml"
    assert_same_outputs(*outputs_of(torch_model(depth), depth, package, tmp_path, rules))


@packages
def test_a_wrong_rule_is_seen(package, tmp_path):
    """The control: scales and biases of norms, or two convolutions of one shape, change places."""
    right, wrong = {
        "jax-resnet": ('conv2 = "ConvBlock_1.Conv_0"', 'conv2 = "ConvBlock_1.Conv_9"'),
        "flaxmodels": ('bn1 = "BatchNorm_0", conv2 = "Conv_1"', 'bn1 = "BatchNorm_9", conv2 = "Conv_1"'),
        "haiku": ('weight = "scale", bias = "offset"', 'weight = "offset", bias = "scale"'),
    }[package]
    text = (RECIPES / f"resnet-{package}.toml").read_text()
    rules = tmp_path / "wrong.toml"
    rules.write_text(text.replace(right, wrong))
    assert right in text
    with pytest.raises(AssertionError):
        assert_same_outputs(*outputs_of(torch_model(18), 18, package, tmp_path, rules))
